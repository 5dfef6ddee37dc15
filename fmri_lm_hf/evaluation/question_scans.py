"""Scans of the benchmark of questions: with the numbers that answers are judged against, and what must not be answered.

Scans are made or found elsewhere (`simulation.question_scans`, `demo.real_scans`); a benchmark takes any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..models.atlas import Atlas
from ..questions.measures import ScanMeasures


@dataclass(frozen=True, eq=False)
class QuestionScan:
    """A scan that questions are asked about.

    Parameters
    ----------
    scan : dict
        What an entrant gets: ``scan_id``, ``bold`` (n_timepoints, n_rois), ``t_r`` (seconds), ``roi_mask`` (n_rois,)
        and ``atlas``, an `Atlas`.
    """

    scan: dict[str, Any]

    @cached_property
    def measures(self) -> ScanMeasures:
        """The numbers that answers are judged against."""
        return measures_of(self.scan)

    @property
    def atlas(self) -> Atlas:
        return self.scan["atlas"]


@dataclass(frozen=True)
class ScanSet:
    """The scans of one run of the benchmark.

    Parameters
    ----------
    seed : int
    scans : mapping of str to sequence of QuestionScan
        By the name that questions give the atlas, two or more each: an answer about one is also held against another.
    noise : mapping of str to QuestionScan
        Noise in the shape of a scan, by atlas; a program should decline to read it.
    """

    seed: int
    scans: Mapping[str, Sequence[QuestionScan]]
    noise: Mapping[str, QuestionScan] = field(default_factory=dict)

    def __post_init__(self):
        alone = [atlas for atlas, scans in self.scans.items() if len(scans) < 2]
        if alone:
            raise ValueError(
                f"One scan of {', '.join(alone)} found, expected two or more of each atlas: an answer about one is "
                "held against another."
            )


def measures_of(scan: Mapping[str, Any]) -> ScanMeasures:
    """Measure a scan as entrants get it; the numbers of the last scans are kept."""
    mask = scan.get("roi_mask")
    key = id(scan["bold"]), None if mask is None else np.asarray(mask).tobytes(), scan["atlas"]
    if key not in _KEPT:
        if len(_KEPT) >= 256:
            _KEPT.pop(next(iter(_KEPT)))
        # with the array itself: while it is kept, no other array can have its id
        measures = ScanMeasures.of(scan["bold"], scan["t_r"], scan["atlas"], mask)
        _KEPT[key] = (measures, scan["bold"])
    return _KEPT[key][0]


_KEPT: dict[tuple[int, bytes | None, Atlas], tuple[ScanMeasures, np.ndarray]] = {}


def swapped(scan: QuestionScan) -> QuestionScan:
    """Give each network the ROIs of the next one: the same signals under other names, so that the truth changes."""
    atlas = scan.atlas
    names = atlas.network_names
    following = dict(zip(names, (*names[1:], names[0]), strict=True))
    renamed = replace(atlas, networks=tuple(following[name] for name in atlas.networks))
    return QuestionScan({**scan.scan, "scan_id": f"{scan.scan['scan_id']}-swapped", "atlas": renamed})


def average_scan(scans: Sequence[QuestionScan]) -> QuestionScan:
    """Join scans in time, each ROI standardised in each: the correlations are the average ones of the scans.

    Parameters
    ----------
    scans : sequence of QuestionScan
        Of one atlas; with the repetition time of the first.
    """
    parts = []
    for scan in scans:
        bold = np.asarray(scan.scan["bold"], dtype=np.float64)
        deviation = bold.std(axis=0)
        parts.append((bold - bold.mean(axis=0)) / np.where(deviation > 0, deviation, 1))
    mask = np.any([scan.scan["roi_mask"] for scan in scans], axis=0)
    joined = {"bold": np.concatenate(parts).astype(np.float32), "roi_mask": mask, "scan_id": "average"}
    return QuestionScan({**scans[0].scan, **joined})
