"""Do two scans come from one person? Connectivity tells people apart, whatever they are called [1]_.

References
----------
.. [1] Finn ES et al. (2015). Functional connectome fingerprinting: identifying individuals using patterns of brain
   connectivity. Nature Neuroscience 18, 1664-1671. doi:10.1038/nn.4135
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..descriptors.connectivity import fisher_z_connectivity

# Which scans hold the same measurement? Sketches of content that survive scaling, rounding, shifting and cutting.

N_WORDS = 32  # of a sketch
N_SKETCHED_ROIS = 16  # that a word looks at, spread evenly
WORD_BITS = 192  # rises and falls in a word: 12 steps in time of 16 regions, more of fewer
FEWEST_SHARED = 3  # words in common that chance does not explain
N_RECORDED = 6  # words of each scan that a record keeps
RECORDED_BYTES = 4  # of each of them
FEWEST_RECORDED = 2  # recorded words that make a scan a recorded one


def content_sketch(bold: Any) -> np.ndarray:
    """The content of a scan as the smallest hashes of its words.

    Parameters
    ----------
    bold : array of shape (n_timepoints, n_rois)

    Returns
    -------
    numpy.ndarray of uint64
        Sorted; at most `N_WORDS`. Fewer for a scan of less than 44 points (or of more points and few regions), and
        where regions move alike; none for a scan of less than 4 points, or of which no two regions differ.

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
    # each region's rises and falls through a window as the bits of a number: (n_windows, n_chosen)
    windows = np.zeros((n_windows, len(chosen)), dtype="<u8")
    for step in range(length):
        windows |= rises[step : step + n_windows] << np.uint64(step)
    # where most regions move alike, one wave of the whole brain could be that of another scan
    n_different = 1 + (np.diff(np.sort(windows, axis=1), axis=1) != 0).sum(1)
    telling = windows[2 * n_different > max(len(chosen), 2)]
    words = {hashlib.blake2b(window.tobytes(), digest_size=8).digest() for window in telling}
    return np.sort(np.frombuffer(b"".join(words), dtype="<u8").astype(np.uint64))[:N_WORDS]


@dataclass(frozen=True)
class SharedContent:
    """Two scans that share content.

    Attributes
    ----------
    first, second : int
        Their places, in order.
    share : float
        Estimate of how much of all that is in either is in both; 1 for copies.
    """

    first: int
    second: int
    share: float


def shared_content(sketches: Sequence[np.ndarray]) -> list[SharedContent]:
    """All pairs of scans that share content.

    Parameters
    ----------
    sketches : sequence of numpy.ndarray
        As `content_sketch` gives them.

    Returns
    -------
    list of SharedContent
        In order of `first` and `second`.
    """
    holders: dict[int, list[int]] = defaultdict(list)
    for place, sketch in enumerate(sketches):
        for word in sketch.tolist():
            holders[word].append(place)
    pairs = {pair for places in holders.values() if len(places) > 1 for pair in combinations(places, 2)}
    found = []
    for first, second in sorted(pairs):
        union = np.union1d(sketches[first], sketches[second])[:N_WORDS]
        common = np.intersect1d(sketches[first], sketches[second])
        # a scan of a few points has few words: then all of them have to be the other's
        needed = min(FEWEST_SHARED, len(sketches[first]), len(sketches[second]))
        if len(common) >= needed:
            found.append(SharedContent(first, second, float(np.isin(union, common).mean())))
    return found


@dataclass(frozen=True)
class ScanRecord:
    """Which scans something was made from, for those who hold the scans, and for nobody else.

    A record keeps salted hashes of a few words of each scan. Who holds a scan can find it in the record; who does
    not learns how many scans there are. No name is in it, not even as a hash: identifiers are short, and every hash
    of one can be undone by trying all. The salt comes from the scans themselves, so that the same scans make the
    same record, and the records of two models that share some of their scans have nothing in common.

    Attributes
    ----------
    salt : str
        Hexadecimal.
    digests : tuple of str
        For each scan, sorted, the hashes of up to `N_RECORDED` words.
    """

    salt: str
    digests: tuple[str, ...]

    @classmethod
    def of(cls, sketches: Iterable[np.ndarray]) -> ScanRecord:
        """The record of scans, from their sketches; a scan without content leaves no trace."""
        told = sorted(sketch[:N_RECORDED].astype("<u8").tobytes() for sketch in sketches if len(sketch))
        salt = hashlib.blake2b(b"".join(told), digest_size=8).hexdigest()
        words = (np.frombuffer(each, dtype="<u8") for each in told)
        return cls(salt, tuple(sorted("".join(_salted(each, salt)) for each in words)))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ScanRecord:
        """A record as `to_dict` wrote it."""
        return cls(str(record["salt"]), tuple(map(str, record["digests"])))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"salt": self.salt, "digests": list(self.digests)}

    def holds(self, sketches: Sequence[np.ndarray]) -> list[bool]:
        """Whether each of these scans is among the recorded ones.

        Two of a scan's recorded words have to be found: of copies that are half as long, nine in ten are.
        """
        length = 2 * RECORDED_BYTES
        recorded: dict[str, list[int]] = defaultdict(list)
        n_words = []
        for number, digest in enumerate(self.digests):
            words = [digest[start : start + length] for start in range(0, len(digest), length)]
            n_words.append(len(words))
            for word in words:
                recorded[word].append(number)
        held = []
        for sketch in sketches:
            hits: dict[int, int] = defaultdict(int)
            for word in _salted(sketch, self.salt):
                for number in recorded.get(word, ()):
                    hits[number] += 1
            held.append(any(count >= min(FEWEST_RECORDED, n_words[number]) for number, count in hits.items()))
        return held


def _salted(words: np.ndarray, salt: str) -> list[str]:
    return [
        hashlib.blake2b(
            int(word).to_bytes(8, "little"), digest_size=RECORDED_BYTES, salt=bytes.fromhex(salt)
        ).hexdigest()
        for word in words
    ]


N_PROFILED_ROIS = 64  # of a profile, spread evenly
FEWEST_SCANS = 20  # that tell what is usual
N_COMPONENTS = 3  # directions in which most scans differ (motion, the global signal), no mark of a person
SURE = 8.0  # robust z; of the pairs of different people of a simulated cohort none exceeds 5

LikePair = tuple[int, int, float]


def connectivity_profile(bold: Any, roi_mask: Any = None, sample_mask: Any = None) -> np.ndarray:
    """Fisher z of every pair of up to 64 regions of a scan (n_timepoints, n_rois); NaN where it is not known."""
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
