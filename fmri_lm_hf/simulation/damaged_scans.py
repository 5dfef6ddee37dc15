"""Scans that are damaged or out of order: the part of `no_scans` that is made from a scan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Maker = Callable[[np.ndarray, np.random.Generator], np.ndarray]

DAMAGED: dict[str, Maker] = {}


def named(tables: dict[str, Maker], name: str) -> Callable[[Maker], Maker]:
    """Register a function that makes a table."""

    def register(make: Maker) -> Maker:
        tables[name] = make
        return make

    return register


def standardised(bold: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and SD 1."""
    centred = bold - bold.mean(0)
    deviation = centred.std(0)
    return centred / np.where(deviation > 0, deviation, 1)


def time_points(bold: np.ndarray) -> np.ndarray:
    """Numbers of the time points, as a column: (n_timepoints, 1)."""
    return np.arange(len(bold), dtype=float)[:, None]


def autoregressive(shape: tuple[int, ...], weight: float, rng: np.random.Generator) -> np.ndarray:
    """Independent columns of noise with this correlation from one time point to the next."""
    series = rng.standard_normal(shape)
    for row in range(1, len(series)):
        series[row] = weight * series[row - 1] + np.sqrt(1 - weight**2) * series[row]
    return series


# A scan out of order


@named(DAMAGED, "volumes in random order")
def _time_shuffled(bold, rng):
    return bold[rng.permutation(len(bold))]


@named(DAMAGED, "volumes of each ROI in an order of its own")
def _each_shuffled(bold, rng):
    return rng.permuted(bold, axis=0)


@named(DAMAGED, "each ROI shifted in time by an amount of its own")
def _each_shifted(bold, rng):
    return np.stack([np.roll(column, rng.integers(len(bold))) for column in bold.T], axis=1)


@named(DAMAGED, "sorted values in each column")
def _sorted(bold, rng):
    return np.sort(bold, axis=0)


@named(DAMAGED, "volumes sorted by their mean")
def _sorted_volumes(bold, rng):
    return bold[np.argsort(standardised(bold).mean(1))]


@named(DAMAGED, "cumulative sums of a scan")
def _sums(bold, rng):
    return standardised(bold).cumsum(0)


@named(DAMAGED, "a half and its mirror image")
def _mirrored(bold, rng):
    half = bold[: (len(bold) + 1) // 2]
    return np.concatenate([half, half[::-1]])[: len(bold)]


@named(DAMAGED, "the same twenty volumes over and over")
def _repeated(bold, rng):
    return np.tile(bold[:20], (len(bold) // 20 + 1, 1))[: len(bold)]


@named(DAMAGED, "the same half twice")
def _half_twice(bold, rng):
    return np.tile(bold[: (len(bold) + 1) // 2], (2, 1))[: len(bold)]


@named(DAMAGED, "each volume four times")
def _held(bold, rng):
    return bold[: len(bold) // 4 + 1].repeat(4, axis=0)[: len(bold)]


@named(DAMAGED, "a half scan, a half of noise")
def _half_noise(bold, rng):
    return np.where(
        time_points(bold) < len(bold) / 2, bold, bold.mean(0) + bold.std(0) * rng.standard_normal(bold.shape)
    )


@named(DAMAGED, "ROIs in random order")
def _rois_shuffled(bold, rng):
    return bold[:, rng.permutation(bold.shape[1])]


@named(DAMAGED, "ROIs in another random order for each half")
def _rois_shuffled_twice(bold, rng):
    half = len(bold) // 2
    return np.concatenate([_rois_shuffled(bold[:half], rng), _rois_shuffled(bold[half:], rng)])


@named(DAMAGED, "ROIs in random order for each volume")
def _rois_shuffled_each_volume(bold, rng):
    return rng.permuted(bold, axis=1)


@named(DAMAGED, "rows and columns swapped")
def _transposed(bold, rng):
    # of as many volumes as ROIs, so that nothing but the values can tell
    n = min(bold.shape)
    return bold[:n, :n].T


# ROIs that are not of their own


@named(DAMAGED, "one ROI in all columns")
def _one_roi(bold, rng):
    return np.repeat(bold[:, :1], bold.shape[1], axis=1)


@named(DAMAGED, "two ROIs in turn")
def _two_rois(bold, rng):
    return bold[:, np.arange(bold.shape[1]) % 2]


@named(DAMAGED, "the global signal, with a little noise")
def _nearly_equal(bold, rng):
    signal = standardised(bold).mean(1, keepdims=True)
    return signal / signal.std() + 0.05 * rng.standard_normal(bold.shape)


@named(DAMAGED, "mixtures of three signals")
def _three_signals(bold, rng):
    return autoregressive((len(bold), 3), 0.8, rng) @ rng.standard_normal((3, bold.shape[1]))


@named(DAMAGED, "a few ROIs over and over")
def _few_rois(bold, rng):
    return bold[:, np.arange(bold.shape[1]) * 8 // bold.shape[1]]


# Damaged values


@named(DAMAGED, "wrapped around at 8 bits")
def _wrapped(bold, rng):
    return np.mod(np.round(standardised(bold) * 120), 256)


@named(DAMAGED, "an overflow of 16-bit integers")
def _overflow(bold, rng):
    return (
        (np.round(standardised(bold) * 30_000).astype(np.int64) & 0xFFFF)
        .astype(np.uint16)
        .astype(np.int16)
        .astype(float)
    )


@named(DAMAGED, "clipped at half a standard deviation")
def _clipped(bold, rng):
    return np.clip(standardised(bold), -0.5, 0.5)


@named(DAMAGED, "saturated")
def _saturated(bold, rng):
    return np.minimum(standardised(bold), 0.3)


@named(DAMAGED, "half of the values cut off at zero")
def _rectified(bold, rng):
    return np.maximum(standardised(bold), 0)


@named(DAMAGED, "squares of the signals")
def _squared(bold, rng):
    return standardised(bold) ** 2


@named(DAMAGED, "exponentials of the signals")
def _exponential(bold, rng):
    return np.exp(2 * standardised(bold))


@named(DAMAGED, "differences from volume to volume, signs alone")
def _signs(bold, rng):
    return np.sign(np.diff(bold, axis=0, prepend=bold[:1]))


@named(DAMAGED, "ranks over ROIs within a volume, by name")
def _rank_numbers(bold, rng):
    return np.tile(rng.permutation(bold.shape[1]).astype(float), (len(bold), 1)) + rng.integers(0, 2, bold.shape)


@named(DAMAGED, "times a trillion")
def _huge(bold, rng):
    return bold * 1e12


@named(DAMAGED, "times a trillionth")
def _tiny(bold, rng):
    return standardised(bold) * 1e-30


@named(DAMAGED, "too large for single precision")
def _beyond_float32(bold, rng):
    return standardised(bold).astype(np.float64) * 1e39


# Too little


@named(DAMAGED, "ten volumes")
def _ten_volumes(bold, rng):
    return bold[:10]


@named(DAMAGED, "one volume")
def _single(bold, rng):
    return bold[:1]


@named(DAMAGED, "one column")
def _single_column(bold, rng):
    return bold[:, :1]


@named(DAMAGED, "an empty table")
def _empty(bold, rng):
    return bold[:0]
