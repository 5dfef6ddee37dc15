"""Check by its connectivity that the columns of a scan are the ROIs that the atlas names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..models.atlas import Atlas
from ..models.atlas_names import mirrored_name
from .connectivity import LARGEST_CORRELATION

SHIFTS = (-3, -2, -1, 1, 2, 3)  # a lost or an added column moves those after it by a few
MARGIN = 0.1  # by which the similarity of another order has to be higher than that of the given one
# Standard errors of a correlation over all pairs of ROIs. The similarity of the better order has to exceed chance,
# which is high in a scan of a dozen ROIs, whose pairs depend on each other (0.74 for 12, 0.05 for 160).
BEYOND_CHANCE = 6.0
MOST_COPIES = 0.01  # share of the ROIs that may be copies of others
MIN_PAIRS = 10  # of mirrored ROIs
EXCHANGED = -0.1  # correlation of the sides' differences with the group's; single real scans have 0.05 to 0.31
MIN_EXCESS = 0.05  # of the correlation of mirrored ROIs over that of other pairs across the midline
MIN_SYMMETRY = 0.2


class ColumnCheck:
    """Compares the connectivity of single scans with the mean of a group, in the given and in other column orders.

    A scan with shifted or reversed columns becomes more similar to the group when its columns are put back. With left
    and right exchanged, it stays nearly as similar, but its sides differ in the opposite way. This is weak evidence in
    a single scan: of 12 real scans of two sites (94 ROIs), 8 are found when exchanged (`benchmarks/robustness.py`). A
    fault that all scans share is not found here, but by `symmetry`.

    Parameters
    ----------
    group : numpy.ndarray of shape (n_rois, n_rois)
        Mean connectivity of many scans; NaN or 0 where it is not known.
    atlas : Atlas
    group_name : str
        What messages call the scans of the group.
    """

    def __init__(self, group: np.ndarray, atlas: Atlas, group_name: str = "the training scans") -> None:
        self.atlas, self.group_name = atlas, group_name
        given = np.arange(len(group))
        self.orders = {"as given": given, "reversed": given[::-1]}
        self.orders |= {f"shifted by {shift:+d}": np.roll(given, shift) for shift in SHIFTS}
        self._pairs = np.triu(np.ones((len(group), len(group)), dtype=bool), 1)
        group = np.nan_to_num(group).astype(np.float32)
        # Row k: the expected connectivity of a scan with its columns in order k. All orders are then compared in one
        # matrix product, since a corpus build checks every scan.
        self._expected = np.stack([group[np.ix_(order, order)][self._pairs] for order in self.orders.values()])
        self._spread = _spread(self._expected)

        left, right = mirrored_pairs(atlas).T
        middle = np.setdiff1d(given, [*left, *right])
        self._has_sides = len(left) >= MIN_PAIRS
        # Connections of the left ROIs, and in the same places their mirror images.
        self._of_left = np.ix_(left, [*left, *right, *middle])
        self._of_right = np.ix_(right, [*right, *left, *middle])
        # Within a side, (i, j) and (j, i) are one connection; across the midline they mirror each other. One of the two
        # counts, or the differences would come in pairs that are equal, or opposite.
        once = np.triu(np.ones((len(left), len(left)), dtype=bool), 1)
        self._counted = np.hstack([once, once, np.ones((len(left), len(middle)), dtype=bool)])
        self._sides_differ = group[self._of_left] - group[self._of_right]

    def similarity(self, connectivity: np.ndarray, usable: np.ndarray) -> dict[str, float]:
        """Correlate a scan with the group over all pairs of usable ROIs, for each order of the columns.

        Parameters
        ----------
        connectivity : numpy.ndarray of shape (n_usable, n_usable)
        usable : numpy.ndarray of shape (n_rois,), bool
        """
        pairs, expected, spread = _whole(connectivity, usable)[self._pairs], self._expected, self._spread
        if not usable.all():
            known = (usable[:, None] & usable)[self._pairs]
            pairs, expected = pairs[known], expected[:, known]
            spread = _spread(expected)
        pairs = pairs - pairs.mean()  # centring one of the two is enough for the products
        correlation = expected @ pairs / (spread * max(float(np.linalg.norm(pairs)), 1e-12))
        return dict(zip(self.orders, map(float, correlation), strict=True))

    def side_similarity(self, connectivity: np.ndarray, usable: np.ndarray) -> tuple[float, int]:
        """Correlate scan and group in the differences between left and right.

        Parameters
        ----------
        connectivity : numpy.ndarray of shape (n_usable, n_usable)
        usable : numpy.ndarray of shape (n_rois,), bool

        Returns
        -------
        float
            Correlation, over pairs of ROIs, of the difference between a connection and its mirror image. The mean is
            not subtracted, since the order of the two is arbitrary.
        int
            Number of pairs, a pair and its mirror image counted once.
        """
        whole = _whole(connectivity, usable)
        counted = self._counted
        if not usable.all():
            known = usable[:, None] & usable
            counted = counted & known[self._of_left] & known[self._of_right]
        of_scan = (whole[self._of_left] - whole[self._of_right])[counted]
        of_group = self._sides_differ[counted]
        norm = float(np.linalg.norm(of_scan) * np.linalg.norm(of_group))
        return float(of_scan @ of_group) / max(norm, 1e-12), int(counted.sum())

    def problem(self, connectivity: np.ndarray, usable: np.ndarray) -> str | None:
        """Describe the problem with the columns of a scan; None if there seems to be none."""
        copies = np.flatnonzero((np.triu(connectivity, 1) > LARGEST_CORRELATION).any(axis=0))
        if len(copies) > MOST_COPIES * len(usable):
            names = np.array(self.atlas.roi_names)[usable][copies[:3]]
            return (
                f"{len(copies)} of {len(usable)} ROIs are copies of others ({', '.join(names)}...): columns are "
                "repeated. Extract the scan again."
            )
        similarity = self.similarity(connectivity, usable)
        best = max(similarity, key=lambda order: similarity[order])
        n_pairs = usable.sum() * (usable.sum() - 1) / 2
        if similarity[best] <= max(similarity["as given"] + MARGIN, BEYOND_CHANCE / np.sqrt(n_pairs)):
            return self._exchange(connectivity, usable) if self._has_sides else None
        return (
            f"The columns seem to be {best}: with them put back, connectivity correlates with that of "
            f"{self.group_name} at {similarity[best]:.2f}, as given at {similarity['as given']:.2f}. Check the order "
            "of the ROIs."
        )

    def _exchange(self, connectivity: np.ndarray, usable: np.ndarray) -> str | None:
        similarity, n_pairs = self.side_similarity(connectivity, usable)
        if similarity >= min(EXCHANGED, -BEYOND_CHANCE / np.sqrt(max(n_pairs, 1))):
            return None
        return (
            "Left and right seem to be exchanged: the difference between the sides correlates with that of "
            f"{self.group_name} at {similarity:.2f}. Check the order of the ROIs, and the orientation of the image."
        )


def _whole(connectivity: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Fill connectivity up to all ROIs, (n_rois, n_rois), with zeros for unusable ones."""
    if usable.all():
        return connectivity
    whole = np.zeros((len(usable), len(usable)), dtype=np.float32)
    whole[np.ix_(usable, usable)] = connectivity
    return whole


def _spread(expected: np.ndarray) -> np.ndarray:
    """Compute the root of the sum of squares of each row (n_orders, n_pairs) around its mean."""
    # From the mean of squares: subtracting the mean would copy a matrix of 8 rows and up to 80,000 columns.
    deviation = np.maximum((expected**2).mean(axis=1) - expected.mean(axis=1) ** 2, 1e-12)
    return np.sqrt(deviation * expected.shape[1])


@dataclass(frozen=True)
class Symmetry:
    """Similarity of the two sides of the brain in the connectivity of a group.

    Attributes
    ----------
    n_pairs : int
        Pairs of mirrored ROIs.
    homotopic : float
        Mean correlation of mirrored ROIs.
    heterotopic : float
        Mean correlation of other pairs across the midline.
    left_right : float
        Correlation of the connections within the left side with those within the right.
    """

    n_pairs: int
    homotopic: float
    heterotopic: float
    left_right: float

    @property
    def problem(self) -> str | None:
        """Evidence against the order of the columns; None without any."""
        if self.n_pairs < MIN_PAIRS:
            return None
        evidence = []
        if self.homotopic < self.heterotopic + MIN_EXCESS:
            evidence.append(
                f"mirrored ROIs correlate at {self.homotopic:.2f}, other pairs across the midline at "
                f"{self.heterotopic:.2f}"
            )
        if self.left_right < MIN_SYMMETRY:
            evidence.append(f"connections on the left correlate with those on the right at {self.left_right:.2f}")
        if not evidence:
            return None
        return f"The columns may not be the ROIs that the atlas names: {' and '.join(evidence)}. Check their order."


def mirrored_pairs(atlas: Atlas) -> np.ndarray:
    """Find the pairs of ROIs whose names differ in the side alone, (n_pairs, 2)."""
    where = {name: i for i, name in enumerate(atlas.roi_names)}
    pairs = [(i, where.get(mirrored_name(name) or "", -1)) for name, i in where.items()]
    return np.array([(i, j) for i, j in pairs if j > i], dtype=int).reshape(-1, 2)


def symmetry(group: np.ndarray, atlas: Atlas) -> Symmetry:
    """Measure the symmetry of a group's connectivity (n_rois, n_rois); NaN if the atlas names no mirrored ROIs."""
    pairs = mirrored_pairs(atlas)
    if len(pairs) < 3:
        return Symmetry(len(pairs), *[float("nan")] * 3)
    left, right = pairs.T
    across = group[np.ix_(left, right)]
    others = ~np.eye(len(pairs), dtype=bool)
    upper = np.triu_indices(len(pairs), 1)
    within = [group[np.ix_(side, side)][upper] for side in (left, right)]
    return Symmetry(
        len(pairs),
        float(np.diag(across).mean()),
        float(across[others].mean()),
        float(np.corrcoef(within)[0, 1]),
    )
