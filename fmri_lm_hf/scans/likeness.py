"""Do two scans come from one person? Connectivity tells people apart, whatever they are called [1]_.

References
----------
.. [1] Finn ES et al. (2015). Functional connectome fingerprinting: identifying individuals using patterns of brain
   connectivity. Nature Neuroscience 18, 1664-1671. doi:10.1038/nn.4135
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..descriptors.fisher_z import fisher_z_connectivity

__all__ = ["LikePair", "connectivity_profile", "like_pairs"]

N_ROIS = 64  # of a profile, spread evenly
FEWEST_SCANS = 20  # that tell what is usual
N_COMPONENTS = 3  # directions in which most scans differ (motion, the global signal), no mark of a person
SURE = 8.0  # robust z; of the pairs of different people of a simulated cohort none exceeds 5

LikePair = tuple[int, int, float]


def connectivity_profile(bold: Any, roi_mask: Any = None, sample_mask: Any = None) -> np.ndarray:
    """Fisher z of every pair of up to 64 regions of a scan (n_timepoints, n_rois); NaN where it is not known."""
    bold = np.asarray(bold)
    n_rois = bold.shape[1]
    chosen = np.linspace(0, n_rois - 1, min(N_ROIS, n_rois)).astype(int)
    mask = None if roi_mask is None else np.asarray(roi_mask, dtype=bool)[chosen]
    upper = np.triu_indices(len(chosen), 1)
    n_observed = len(bold) if sample_mask is None else np.count_nonzero(sample_mask)
    if n_observed < 3:
        return np.full(len(upper[0]), np.nan, dtype=np.float32)
    return fisher_z_connectivity(bold[:, chosen], mask, sample_mask)[upper]


def like_pairs(
    profiles: np.ndarray, sites: Sequence[Any], subjects: Sequence[Any], places: Sequence[int]
) -> list[LikePair]:
    """Scans of different subject ids that are as alike as only scans of one person are.

    What a site's scans have in common is taken off, and the directions in which most scans differ; two scans are
    alike as what remains correlates. A pair is listed if each of the two is most like the other of all scans under
    another id, and they are alike beyond 8 robust standard deviations of all such pairs. Of 150 simulated people with
    two sessions of 160 points 143 are listed, of 90 with sessions of 100 points 61, and never two people. A pair that
    is not listed may be one person's all the same: of 20 people, who are too few to tell what is usual, none is.

    Parameters
    ----------
    profiles : numpy.ndarray of shape (n_scans, n_pairs)
        As `connectivity_profile` gives them.
    sites, subjects : sequences of length n_scans
    places : sequence of int
        The scans to compare with all others.

    Returns
    -------
    list of (int, int, float)
        Two places, the first one of `places`, and the robust z. None where there are fewer than 20 scans.
    """
    names = np.asarray(subjects, str)
    if len(profiles) < FEWEST_SCANS or len(np.unique(names)) < 3 or not np.isfinite(profiles).any():
        return []
    own = _individual(profiles, np.asarray([str(site) for site in sites]))
    centre, scale = _usual(own, names)
    best, likeness = _most_like(own, names, np.arange(len(own)))
    z = (likeness - centre) / scale
    chosen = set(places)
    return [
        (place, int(best[place]), float(z[place]))
        for place in sorted(chosen)
        if z[place] > SURE
        and best[best[place]] == place
        and not (best[place] in chosen and best[place] < place)
    ]


def _individual(profiles: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """What tells the people of a site apart, each row of length 1 (or 0)."""
    from sklearn.utils.extmath import randomized_svd

    known = np.isfinite(profiles)
    rest = np.where(known, profiles, 0).astype(np.float32)
    for site in np.unique(sites):
        here = sites == site
        rest[here] -= rest[here].sum(0) / np.maximum(known[here].sum(0), 1)
    rest[~known] = 0
    directions = randomized_svd(rest, min(N_COMPONENTS, *rest.shape), random_state=0)[2]
    rest -= (rest @ directions.T) @ directions
    return rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-12)


def _alike(own: np.ndarray, names: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Fisher z of the correlation of some scans with all; NaN with those of the same subject."""
    alike = np.arctanh(np.clip(own[rows] @ own.T, -0.9999, 0.9999))
    alike[names[rows][:, None] == names[None]] = np.nan
    return alike


def _usual(own: np.ndarray, names: np.ndarray) -> tuple[float, float]:
    """Median and robust SD of how alike scans of different subjects are, from up to 512 of them."""
    some = np.unique(np.linspace(0, len(own) - 1, 512).astype(int))
    alike = _alike(own, names, some)
    centre = float(np.nanmedian(alike))
    return centre, 1.4826 * float(np.nanmedian(np.abs(alike - centre))) + 1e-12


def _most_like(own: np.ndarray, names: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    best, likeness = [], []
    for start in range(0, len(rows), 512):  # all pairs of a large cohort do not fit into memory
        alike = np.nan_to_num(_alike(own, names, rows[start : start + 512]), nan=-np.inf)
        best.append(alike.argmax(1))
        likeness.append(alike.max(1))
    return np.concatenate(best), np.concatenate(likeness)
