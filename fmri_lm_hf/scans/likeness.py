"""Detect leakage that identifiers do not show: copies of a scan, and scans of one person under two ids.

- `content_sketch` and `shared_content` find the same measurement, also scaled, rounded, shifted or cut.
- `ScanRecord` stores with a model the scans it was trained on; only holders of the scans can read it.
- `connectivity_profile` and `like_pairs` find two scans of one person: connectivity identifies people [1]_.

References
----------
.. [1] Finn ES et al. (2015). Functional connectome fingerprinting: identifying individuals using patterns of brain
   connectivity. Nature Neuroscience 18, 1664-1671. doi:10.1038/nn.4135
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..descriptors.connectivity import fisher_z_connectivity

N_WORDS = 32  # of a sketch
N_SKETCHED_ROIS = 16  # ROIs of a word, spread evenly
WORD_BITS = 192  # rises and falls in a word: 12 steps in time of 16 regions, more of fewer
MIN_SHARED_WORDS = 3  # more than chance explains
N_RECORDED_WORDS = 6  # of each scan that a record keeps
RECORDED_BYTES = 4  # of each of them
MIN_RECORDED_WORDS = 2  # that identify a scan in a record

N_PROFILED_ROIS = 64  # ROIs of a profile, spread evenly
MIN_SCANS = 20  # to estimate the usual likeness
N_COMMON_COMPONENTS = 3  # directions in which most scans differ (motion, the global signal), no mark of a person
MIN_Z = 8.0  # robust z; of the pairs of different people of a simulated cohort none exceeds 5


# Copies of a scan


def content_sketch(bold: Any) -> np.ndarray:
    """Sketch the content of a scan by the smallest hashes of its windows ("words"), a MinHash.

    Parameters
    ----------
    bold : array of shape (n_timepoints, n_rois)

    Returns
    -------
    numpy.ndarray of uint64
        Sorted; at most `N_WORDS`. Fewer for a scan of fewer than 44 points (or of more points and few regions), and if
        regions move alike; none for a scan of fewer than 4 points, or in which no two regions differ.

    Examples
    --------
    >>> bold = np.random.default_rng(0).normal(size=(100, 20))
    >>> copy = (3 * bold[10:] + 7).astype("float16")
    >>> len(np.intersect1d(content_sketch(bold), content_sketch(copy))) > 20
    True
    """
    bold = np.asarray(bold, dtype=np.float32)
    if bold.ndim != 2:
        raise ValueError(f"A scan of shape {bold.shape} found, expected (n_timepoints, n_rois).")
    if len(bold) < 4:
        return np.empty(0, dtype=np.uint64)
    chosen = np.linspace(0, bold.shape[1] - 1, min(N_SKETCHED_ROIS, bold.shape[1])).astype(int)
    rises = (np.diff(bold[:, chosen], axis=0) > 0).astype("<u8")  # (n_timepoints - 1, n_chosen)
    length = min(-(-WORD_BITS // len(chosen)), 64, len(rises))
    n_windows = len(rises) - length + 1
    # Each region's rises and falls through a window are the bits of a number: (n_windows, n_chosen). They survive any
    # scaling and any rounding that keeps the order of neighbours, and a cut only removes windows.
    windows = np.zeros((n_windows, len(chosen)), dtype="<u8")
    for step in range(length):
        windows |= rises[step : step + n_windows] << np.uint64(step)
    # If most regions move alike, a window shows a global wave, and another scan may have the same one.
    n_different = 1 + (np.diff(np.sort(windows, axis=1), axis=1) != 0).sum(1)
    distinct = windows[2 * n_different > max(len(chosen), 2)]
    words = {hashlib.blake2b(window.tobytes(), digest_size=8).digest() for window in distinct}
    # The smallest hashes are a random sample of the words, which is the same for every copy.
    return np.sort(np.frombuffer(b"".join(words), dtype="<u8").astype(np.uint64))[:N_WORDS]


@dataclass(frozen=True)
class SharedContent:
    """Two scans that share content.

    Attributes
    ----------
    first, second : int
        Their indices, in order.
    share : float
        Estimate of the Jaccard index of their words; 1 for copies.
    """

    first: int
    second: int
    share: float


def shared_content(sketches: Sequence[np.ndarray]) -> list[SharedContent]:
    """Find all pairs of scans that share content.

    Parameters
    ----------
    sketches : sequence of numpy.ndarray
        From `content_sketch`.

    Returns
    -------
    list of SharedContent
        In order of `first` and `second`.
    """
    holders: dict[int, list[int]] = defaultdict(list)
    for index, sketch in enumerate(sketches):
        for word in sketch.tolist():
            holders[word].append(index)
    pairs = {pair for indices in holders.values() for pair in combinations(indices, 2)}
    found = []
    for first, second in sorted(pairs):
        union = np.union1d(sketches[first], sketches[second])[:N_WORDS]
        common = np.intersect1d(sketches[first], sketches[second])
        # A scan of a few points has few words, which then all have to be shared.
        if len(common) >= min(MIN_SHARED_WORDS, len(sketches[first]), len(sketches[second])):
            found.append(SharedContent(first, second, float(np.isin(union, common).mean())))
    return found


@dataclass(frozen=True)
class ScanRecord:
    """A record of the scans that a model was trained on, without identifiers.

    It stores salted hashes of a few words of each scan. Holders of a scan can find it in the record; others learn the
    number of scans only. No identifier is stored, not even as a hash: identifiers are short, and trying all of them
    undoes the hash. The salt comes from the scans, so that equal sets of scans give equal records, while records of two
    models with some common scans have nothing in common.

    Attributes
    ----------
    salt : str
        Hexadecimal.
    digests : tuple of str
        For each scan, sorted, the hashes of up to `N_RECORDED_WORDS` words.
    """

    salt: str
    digests: tuple[str, ...]

    @classmethod
    def of(cls, sketches: Iterable[np.ndarray]) -> ScanRecord:
        """Make the record of scans from their sketches; scans with empty sketches are left out."""
        kept = sorted(sketch[:N_RECORDED_WORDS].astype("<u8").tobytes() for sketch in sketches if len(sketch))
        salt = hashlib.blake2b(b"".join(kept), digest_size=8).hexdigest()
        sketched = (np.frombuffer(content, dtype="<u8") for content in kept)
        return cls(salt, tuple(sorted("".join(_salted(words, salt)) for words in sketched)))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ScanRecord:
        """Restore a record from `to_dict`."""
        return cls(str(record["salt"]), tuple(map(str, record["digests"])))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return {"salt": self.salt, "digests": list(self.digests)}

    def holds(self, sketches: Sequence[np.ndarray]) -> list[bool]:
        """Tell for each of these scans whether it is in the record.

        Two of the recorded words of a scan have to match: this finds nine in ten of the copies of half the length.
        """
        length = 2 * RECORDED_BYTES  # hexadecimal digits of a word
        recorded = [
            {digest[start : start + length] for start in range(0, len(digest), length)} for digest in self.digests
        ]
        scans_of = defaultdict(list)
        for number, words in enumerate(recorded):
            for word in words:
                scans_of[word].append(number)
        found = []
        for sketch in sketches:
            hits = Counter(number for word in _salted(sketch, self.salt) for number in scans_of.get(word, ()))
            needed = {number: min(MIN_RECORDED_WORDS, len(recorded[number])) for number in hits}
            found.append(any(count >= needed[number] for number, count in hits.items()))
        return found


def _salted(words: np.ndarray, salt: str) -> list[str]:
    return [
        hashlib.blake2b(
            int(word).to_bytes(8, "little"), digest_size=RECORDED_BYTES, salt=bytes.fromhex(salt)
        ).hexdigest()
        for word in words
    ]


# Scans of one person


def connectivity_profile(bold: Any, roi_mask: Any = None, sample_mask: Any = None) -> np.ndarray:
    """Compute Fisher z of each pair of up to 64 regions of a scan (n_timepoints, n_rois); NaN if unknown."""
    bold = np.asarray(bold)
    n_rois = bold.shape[1]
    chosen = np.linspace(0, n_rois - 1, min(N_PROFILED_ROIS, n_rois)).astype(int)
    mask = None if roi_mask is None else np.asarray(roi_mask, dtype=bool)[chosen]
    upper = np.triu_indices(len(chosen), 1)
    n_observed = len(bold) if sample_mask is None else np.count_nonzero(sample_mask)
    if n_observed < 3:
        return np.full(len(upper[0]), np.nan, dtype=np.float32)
    return fisher_z_connectivity(bold[:, chosen], mask, sample_mask)[upper]


def like_pairs(
    profiles: np.ndarray, sites: Sequence[Any], subjects: Sequence[Any], places: Sequence[int]
) -> list[tuple[int, int, float]]:
    """Find scans under different subject ids that are as alike as two scans of one person.

    The mean of each site and the directions in which most scans differ are removed; likeness is the correlation of the
    residuals. A pair is listed if each scan is the best match of the other among all scans with another id, and if
    their likeness exceeds that of all such pairs by 8 robust standard deviations. Of 150 simulated people with two
    sessions of 160 points this finds 143, of 90 with sessions of 100 points 61, and never two different people. A pair
    that is not listed may still be of one person: of 20 people, too few to estimate the usual likeness, it finds none.

    Parameters
    ----------
    profiles : numpy.ndarray of shape (n_scans, n_pairs)
        From `connectivity_profile`.
    sites, subjects : sequences of length n_scans
    places : sequence of int
        Indices of the scans to compare with all others.

    Returns
    -------
    list of (int, int, float)
        Two indices, the first from `places`, and the robust z. Empty for fewer than 20 scans.
    """
    names = np.asarray(subjects, str)
    if len(profiles) < MIN_SCANS or len(np.unique(names)) < 3 or not np.isfinite(profiles).any():
        return []
    own = _individual(profiles, np.asarray([str(site) for site in sites]))
    # Median and robust SD of the likeness of different subjects, from up to 512 of the scans.
    usual = _likeness(own, names, np.unique(np.linspace(0, len(own) - 1, 512).astype(int)))
    centre = float(np.nanmedian(usual))
    scale = 1.4826 * float(np.nanmedian(np.abs(usual - centre))) + 1e-12
    best, z = np.empty(len(own), dtype=int), np.empty(len(own))
    # In blocks of rows: of 50,000 scans, the matrix of all pairs would take 10 GB.
    for start in range(0, len(own), 512):
        rows = np.arange(start, min(start + 512, len(own)))
        likeness = np.nan_to_num(_likeness(own, names, rows), nan=-np.inf)
        best[rows], z[rows] = likeness.argmax(1), (likeness.max(1) - centre) / scale
    chosen = set(places)
    return [
        (i, int(best[i]), float(z[i]))
        for i in sorted(chosen)
        if z[i] > MIN_Z and best[best[i]] == i and not (best[i] in chosen and best[i] < i)
    ]


def _individual(profiles: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Remove from profiles what the scans of a site, or most scans, have in common; scale rows to length 1 (or 0)."""
    from sklearn.utils.extmath import randomized_svd  # slow to load

    known = np.isfinite(profiles)
    residuals = np.where(known, profiles, 0).astype(np.float32)
    for site in np.unique(sites):
        here = sites == site
        residuals[here] -= residuals[here].sum(0) / np.maximum(known[here].sum(0), 1)
    residuals[~known] = 0
    directions = randomized_svd(residuals, min(N_COMMON_COMPONENTS, *residuals.shape), random_state=0)[2]
    residuals -= (residuals @ directions.T) @ directions
    return residuals / np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)


def _likeness(own: np.ndarray, names: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compute Fisher z of the correlation of some scans with all; NaN for scans of the same subject."""
    likeness = np.arctanh(np.clip(own[rows] @ own.T, -0.9999, 0.9999))
    likeness[names[rows][:, None] == names[None]] = np.nan
    return likeness
