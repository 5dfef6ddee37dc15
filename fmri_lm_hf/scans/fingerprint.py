"""Are the columns of the scans the ROIs that the atlas says? A check over a whole dataset, before people use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..descriptors.column_check import ColumnCheck, Symmetry, symmetry
from ..descriptors.group_connectivity import GroupConnectivity
from ..models.atlas import Atlas

__all__ = ["Fingerprint", "fingerprint"]

FEWEST_SCANS = 5  # that a scan is compared with
FEWEST_POINTS = 20  # observed, for a connectivity that says anything


@dataclass(frozen=True)
class Fingerprint:
    """What the connectivity of a dataset says about its columns.

    Attributes
    ----------
    n_scans : int
        Scans that were looked at.
    sides : Symmetry
        Of their mean connectivity.
    problems : dict of str to str
        What seems wrong, by scan_id: columns shifted, reversed or repeated.
    """

    n_scans: int
    sides: Symmetry
    problems: dict[str, str]


def fingerprint(rows: Iterable[Mapping[str, Any]], atlas: Atlas) -> Fingerprint:
    """Compare the connectivity of each scan with that of the others, and left with right in their mean.

    Parameters
    ----------
    rows : iterable of mappings
        `scan_id`, `bold`, `roi_mask`, `sample_mask`. All are held in memory as connectivity: give a sample of a
        large dataset.
    atlas : Atlas
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    group = GroupConnectivity(atlas.n_rois)
    for row in rows:
        kept, usable = (np.asarray(row[name], dtype=bool) for name in ("sample_mask", "roi_mask"))
        if kept.sum() < FEWEST_POINTS or usable.sum() < 3:
            continue
        bold = np.asarray(row["bold"], dtype=float)[kept][:, usable]
        with np.errstate(invalid="ignore", divide="ignore"):
            connectivity = np.nan_to_num(np.corrcoef(bold.T)).astype(np.float32)
        found[row["scan_id"]] = connectivity, usable
        group.add(connectivity, usable)
    problems = {}
    for scan_id, (connectivity, usable) in found.items():
        if len(found) <= FEWEST_SCANS:
            break
        others = group.mean_without(connectivity, usable)
        problem = ColumnCheck(others, atlas).problem(connectivity, usable)
        if problem is not None:
            problems[scan_id] = problem.replace("the training scans", "the other scans")
    return Fingerprint(len(found), symmetry(group.mean, atlas), problems)
