"""Which scans hold the same measurement? Sketches of content that survive scaling, rounding, shifting and cutting.

A scan is taken for a text, and compared as near-duplicate texts are [1]_: its words are short windows in time, each
told by which regions rise and which fall from one point to the next. Neither the scale of a region nor the last
digits of its values matter to that, and a scan that begins later or ends earlier still has the words between. A
sketch keeps the words with the smallest hashes: those that two scans share estimate how much of them is common.
Filtering, resampling in time and another atlas change the words, as does a copy that lacks one of the 16 regions they
look at; such copies are not found.

References
----------
.. [1] Broder AZ (1997). On the resemblance and containment of documents. Compression and Complexity of Sequences
   1997, 21-29. doi:10.1109/SEQUEN.1997.666900
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

__all__ = ["N_WORDS", "ScanRecord", "SharedContent", "content_sketch", "shared_content"]

N_WORDS = 32  # of a sketch
N_ROIS = 16  # that a word looks at, spread evenly
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
    chosen = np.linspace(0, bold.shape[1] - 1, min(N_ROIS, bold.shape[1])).astype(int)
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
