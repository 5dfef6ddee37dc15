"""Tables that are no readable resting-state scans: what people hand over by mistake, and what tests hand over on purpose.

>>> table = NO_SCANS["white noise"](bold, np.random.default_rng(0))

Each function takes a readable scan (n_timepoints, n_rois) and a generator, and returns a table of that shape, unless
the shape is what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Maker = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NO_SCANS: dict[str, Maker] = {}


def _named(name: str) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        NO_SCANS[name] = make
        return make

    return register


def _z(bold: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and SD 1."""
    centred = bold - bold.mean(0)
    deviation = centred.std(0)
    return centred / np.where(deviation > 0, deviation, 1)


def _time(bold: np.ndarray) -> np.ndarray:
    """Numbers of the time points, as a column: (n_timepoints, 1)."""
    return np.arange(len(bold), dtype=float)[:, None]


def _autoregressive(shape: tuple[int, ...], weight: float, rng: np.random.Generator) -> np.ndarray:
    """Independent columns of noise with this correlation from one time point to the next."""
    series = rng.standard_normal(shape)
    for row in range(1, len(series)):
        series[row] = weight * series[row - 1] + np.sqrt(1 - weight**2) * series[row]
    return series


def _response(onsets: np.ndarray) -> np.ndarray:
    """Smooth columns of events forwards in time, as blood flow does."""
    t = np.arange(12)
    return ndimage.convolve1d(onsets, t**3 * np.exp(-t) / 6, axis=0, mode="constant", origin=-5)


# Noise


@_named("white noise")
def _white(bold, rng):
    return rng.standard_normal(bold.shape)


@_named("white noise around the means of a scan")
def _white_around_means(bold, rng):
    return bold.mean(0) + bold.std(0) * rng.standard_normal(bold.shape)


@_named("uniform noise")
def _uniform(bold, rng):
    return rng.random(bold.shape)


@_named("white noise with the correlations of a scan")
def _white_with_correlations(bold, rng):
    return rng.standard_normal((len(bold), len(bold))) @ _z(bold) / np.sqrt(len(bold))


@_named("noise with heavy tails")
def _heavy_tails(bold, rng):
    return rng.standard_t(2, bold.shape)


@_named("autoregressive noise, 0.5")
def _ar_half(bold, rng):
    return _autoregressive(bold.shape, 0.5, rng)


@_named("autoregressive noise, 0.9")
def _ar_strong(bold, rng):
    return _autoregressive(bold.shape, 0.9, rng)


@_named("noise with the spectrum of a scan in each column")
def _own_spectrum(bold, rng):
    spectrum = np.fft.rfft(bold - bold.mean(0), axis=0)
    return np.fft.irfft(spectrum * np.exp(2j * np.pi * rng.random(spectrum.shape)), len(bold), axis=0)


@_named("pink noise")
def _pink(bold, rng):
    spectrum = np.fft.rfft(rng.standard_normal(bold.shape), axis=0)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(_time(spectrum), 1)), len(bold), axis=0)


@_named("noise that alternates from volume to volume")
def _alternating(bold, rng):
    return _autoregressive(bold.shape, -0.9, rng)


@_named("white noise with one common signal")
def _noise_with_global(bold, rng):
    return rng.standard_normal(bold.shape) + _autoregressive((len(bold), 1), 0.8, rng)


@_named("autoregressive noise with one common signal")
def _slow_noise_with_global(bold, rng):
    return _autoregressive(bold.shape, 0.7, rng) + _autoregressive((len(bold), 1), 0.8, rng)


@_named("random walks")
def _walks(bold, rng):
    return rng.standard_normal(bold.shape).cumsum(0)


@_named("noise of a phantom: drift and white noise")
def _phantom(bold, rng):
    return 1000 + rng.standard_normal(bold.shape) + rng.normal(0, 2, bold.shape[1]) * _time(bold) / len(bold)


# Nothing that varies, few values


@_named("constant")
def _constant(bold, rng):
    return np.full(bold.shape, 7.0)


@_named("a mask of zeros and ones")
def _binary(bold, rng):
    return (rng.random(bold.shape) < 0.5).astype(float)


@_named("a scan above its median or not")
def _above_median(bold, rng):
    return (bold > np.median(bold, axis=0)).astype(float)


@_named("a scan of four values")
def _four_values(bold, rng):
    return np.clip(np.round(_z(bold)), -1, 2)


@_named("a scan of eight values")
def _eight_values(bold, rng):
    low, high = bold.min(0), bold.max(0)
    return np.round((bold - low) / np.where(high > low, high - low, 1) * 7)


@_named("atlas labels, the same in each volume, with rounding errors")
def _labels(bold, rng):
    return np.arange(bold.shape[1]) + 1e-3 * rng.standard_normal(bold.shape)


@_named("one volume again and again, with noise")
def _one_volume(bold, rng):
    return bold[:1] + 1e-3 * bold.std(0) * rng.standard_normal(bold.shape)


@_named("not a number in most columns")
def _not_a_number(bold, rng):
    table = bold.astype(float)
    table[:, rng.random(bold.shape[1]) < 0.7] = np.nan
    return table


@_named("infinity in most columns")
def _infinity(bold, rng):
    table = bold.astype(float)
    table[len(bold) // 2, rng.random(bold.shape[1]) < 0.7] = np.inf
    return table


@_named("zero in all but four columns")
def _four_columns(bold, rng):
    return np.where(np.arange(bold.shape[1]) < 4, bold, 0.0)


@_named("dead from the middle on")
def _dead(bold, rng):
    return np.where(_time(bold) < len(bold) / 2, bold, bold[len(bold) // 2])


# Waves, trends and steps


@_named("one sine in all columns")
def _one_sine(bold, rng):
    return np.sin(2 * np.pi * 0.04 * _time(bold)) * rng.uniform(0.5, 2, bold.shape[1])


@_named("one sine with a phase for each column")
def _sine_phases(bold, rng):
    return np.sin(2 * np.pi * (0.04 * _time(bold) + rng.random(bold.shape[1])))


@_named("a sine of its own in each column")
def _own_sines(bold, rng):
    return np.sin(2 * np.pi * (rng.uniform(0.02, 0.2, bold.shape[1]) * _time(bold) + rng.random(bold.shape[1])))


@_named("a sine of its own in each column, with noise")
def _own_sines_with_noise(bold, rng):
    return _own_sines(bold, rng) + 0.3 * rng.standard_normal(bold.shape)


@_named("a square wave in all columns")
def _square(bold, rng):
    return np.sign(np.sin(2 * np.pi * _time(bold) / 20 + 0.1)) + 0.05 * rng.standard_normal(bold.shape)


@_named("a sum of three sines")
def _three_sines(bold, rng):
    waves = np.sin(2 * np.pi * _time(bold) * np.array([0.03, 0.05, 0.11]))
    return waves @ rng.standard_normal((3, bold.shape[1]))


@_named("a chirp")
def _chirp(bold, rng):
    return np.sin(2 * np.pi * 0.1 * _time(bold) ** 2 / len(bold)) + 0.01 * rng.standard_normal(bold.shape)


@_named("ramps")
def _ramps(bold, rng):
    return _time(bold) * rng.uniform(0.5, 2, bold.shape[1]) + 0.5 * rng.standard_normal(bold.shape)


@_named("parabolas")
def _parabolas(bold, rng):
    return (_time(bold) / len(bold) - rng.random(bold.shape[1])) ** 2 + 0.01 * rng.standard_normal(bold.shape)


@_named("an exponential decay")
def _decay(bold, rng):
    return np.exp(-8 * _time(bold) / len(bold)) * rng.uniform(1, 2, bold.shape[1]) + 1e-3 * rng.standard_normal(
        bold.shape
    )


@_named("a scan under a trend a hundred times as large")
def _under_trend(bold, rng):
    return _z(bold) + 300 * _time(bold) / len(bold) * rng.uniform(0.5, 2, bold.shape[1])


@_named("one step")
def _step(bold, rng):
    return (_time(bold) > len(bold) / 3) * rng.uniform(1, 3, bold.shape[1]) + 0.1 * rng.standard_normal(bold.shape)


@_named("stairs")
def _stairs(bold, rng):
    levels = rng.standard_normal((len(bold) // 25 + 1, bold.shape[1]))
    return levels.repeat(25, axis=0)[: len(bold)] + 0.05 * rng.standard_normal(bold.shape)


@_named("blocks of a task")
def _blocks(bold, rng):
    task = _response((_time(bold) % 20 < 10).astype(float))
    return task * rng.uniform(0.5, 2, bold.shape[1]) + 0.3 * rng.standard_normal(bold.shape)


@_named("a design matrix of events")
def _events(bold, rng):
    return _response((rng.random(bold.shape) < 0.05).astype(float))


@_named("onsets of events")
def _onsets(bold, rng):
    return (rng.random(bold.shape) < 0.05).astype(float)


@_named("spikes")
def _spikes(bold, rng):
    return 100 * (rng.random(bold.shape) < 0.02) + 0.01 * rng.standard_normal(bold.shape)


@_named("interpolated from five points")
def _five_points(bold, rng):
    times, known = np.arange(len(bold)), np.linspace(0, len(bold) - 1, 5).astype(int)
    return np.stack([np.interp(times, known, column[known]) for column in bold.T], axis=1)


@_named("smoothed over a tenth of its length")
def _too_smooth(bold, rng):
    return ndimage.gaussian_filter1d(bold.astype(float), len(bold) / 20, axis=0)


# A scan out of order


@_named("volumes in random order")
def _time_shuffled(bold, rng):
    return bold[rng.permutation(len(bold))]


@_named("volumes of each ROI in an order of its own")
def _each_shuffled(bold, rng):
    return rng.permuted(bold, axis=0)


@_named("each ROI shifted in time by an amount of its own")
def _each_shifted(bold, rng):
    return np.stack([np.roll(column, rng.integers(len(bold))) for column in bold.T], axis=1)


@_named("sorted values in each column")
def _sorted(bold, rng):
    return np.sort(bold, axis=0)


@_named("volumes sorted by their mean")
def _sorted_volumes(bold, rng):
    return bold[np.argsort(_z(bold).mean(1))]


@_named("cumulative sums of a scan")
def _sums(bold, rng):
    return _z(bold).cumsum(0)


@_named("a half and its mirror image")
def _mirrored(bold, rng):
    half = bold[: (len(bold) + 1) // 2]
    return np.concatenate([half, half[::-1]])[: len(bold)]


@_named("the same twenty volumes over and over")
def _repeated(bold, rng):
    return np.tile(bold[:20], (len(bold) // 20 + 1, 1))[: len(bold)]


@_named("the same half twice")
def _half_twice(bold, rng):
    return np.tile(bold[: (len(bold) + 1) // 2], (2, 1))[: len(bold)]


@_named("each volume four times")
def _held(bold, rng):
    return bold[: len(bold) // 4 + 1].repeat(4, axis=0)[: len(bold)]


@_named("a half scan, a half of noise")
def _half_noise(bold, rng):
    return np.where(_time(bold) < len(bold) / 2, bold, _white_around_means(bold, rng))


@_named("ROIs in random order")
def _rois_shuffled(bold, rng):
    return bold[:, rng.permutation(bold.shape[1])]


@_named("ROIs in another random order for each half")
def _rois_shuffled_twice(bold, rng):
    half = len(bold) // 2
    return np.concatenate([_rois_shuffled(bold[:half], rng), _rois_shuffled(bold[half:], rng)])


@_named("ROIs in random order for each volume")
def _rois_shuffled_each_volume(bold, rng):
    return rng.permuted(bold, axis=1)


@_named("rows and columns swapped")
def _transposed(bold, rng):
    # of as many volumes as ROIs, so that nothing but the values can tell
    n = min(bold.shape)
    return _z(bold)[:n, :n].T


# ROIs that are not of their own


@_named("one ROI in all columns")
def _one_roi(bold, rng):
    return np.repeat(bold[:, :1], bold.shape[1], axis=1)


@_named("two ROIs in turn")
def _two_rois(bold, rng):
    return bold[:, np.arange(bold.shape[1]) % 2]


@_named("the global signal, with a little noise")
def _nearly_equal(bold, rng):
    signal = _z(bold).mean(1, keepdims=True)
    return signal / signal.std() + 0.05 * rng.standard_normal(bold.shape)


@_named("mixtures of three signals")
def _three_signals(bold, rng):
    return _autoregressive((len(bold), 3), 0.8, rng) @ rng.standard_normal((3, bold.shape[1]))


@_named("a few ROIs over and over")
def _few_rois(bold, rng):
    return bold[:, np.arange(bold.shape[1]) * 8 // bold.shape[1]]


# Tables of something else


@_named("a connectivity matrix")
def _matrix(bold, rng):
    return np.corrcoef(bold.T)


@_named("a covariance matrix")
def _covariance(bold, rng):
    return np.cov(_z(bold).T * rng.uniform(0.5, 2, (bold.shape[1], 1)))


@_named("distances between ROIs")
def _distances(bold, rng):
    points = rng.uniform(-70, 70, (bold.shape[1], 3))
    return np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(len(points))


@_named("timestamps")
def _timestamps(bold, rng):
    return 1.7e9 + 2.0 * _time(bold) + rng.random(bold.shape)


@_named("identifiers")
def _identifiers(bold, rng):
    return rng.integers(100_000, 999_999, bold.shape).astype(float)


@_named("running numbers")
def _numbers(bold, rng):
    return np.arange(bold.size, dtype=float).reshape(bold.shape)


@_named("coordinates in turn")
def _coordinates(bold, rng):
    return np.round(rng.uniform(-70, 70, bold.shape))


@_named("phenotypes of people")
def _phenotypes(bold, rng):
    n = len(bold)
    kinds = [rng.integers(18, 80, n), rng.integers(0, 2, n), rng.normal(100, 15, n), rng.normal(70, 10, n).round(1)]
    return np.stack([kinds[k % 4] * 1.0 + (k // 4) * 0.1 * rng.standard_normal(n) for k in range(bold.shape[1])], 1)


@_named("phenotypes sorted by age")
def _sorted_phenotypes(bold, rng):
    table = _phenotypes(bold, rng)
    return table[np.argsort(table[:, 0])]


@_named("scores of a questionnaire")
def _questionnaire(bold, rng):
    ability = rng.standard_normal((len(bold), 1))
    return np.clip(np.round(3 + ability + rng.standard_normal(bold.shape)), 1, 5)


@_named("an electroencephalogram")
def _eeg(bold, rng):
    t = _time(bold) / 250
    alpha = np.sin(2 * np.pi * 10 * t + rng.uniform(0, 2 * np.pi, bold.shape[1]))
    return _pink(bold, rng) / _pink(bold, rng).std() + alpha


@_named("a heartbeat with noise")
def _heartbeat(bold, rng):
    beat = np.sin(2 * np.pi * 0.37 * _time(bold)) + 0.4 * np.sin(2 * np.pi * 0.24 * _time(bold))
    return beat * rng.uniform(0.5, 1.5, bold.shape[1]) + 0.2 * rng.standard_normal(bold.shape)


@_named("diffusion-weighted volumes")
def _diffusion(bold, rng):
    weighted = np.arange(len(bold)) % 12 != 0
    loss = np.where(weighted[:, None], rng.uniform(0.3, 0.6, bold.shape), 1.0)
    return 1000 * rng.uniform(0.8, 1.2, bold.shape[1]) * loss + 5 * rng.standard_normal(bold.shape)


@_named("diffusion-weighted volumes, shell by shell")
def _shells(bold, rng):
    shell = np.array([1.0, 0.6, 0.4, 0.25])[np.arange(len(bold)) * 4 // len(bold)]
    return shell[:, None] * rng.uniform(800, 1200, bold.shape[1]) * rng.normal(1, 0.05, bold.shape)


@_named("echoes of one volume")
def _echoes(bold, rng):
    decay = np.exp(-0.5 * (np.arange(len(bold)) % 5))
    return decay[:, None] * rng.uniform(800, 1200, bold.shape[1]) + rng.standard_normal(bold.shape)


@_named("six movement parameters over and over")
def _movement(bold, rng):
    return np.tile(rng.standard_normal((len(bold), 6)).cumsum(0), (1, bold.shape[1] // 6 + 1))[:, : bold.shape[1]]


# Damaged values


@_named("wrapped around at 8 bits")
def _wrapped(bold, rng):
    return np.mod(np.round(_z(bold) * 120), 256)


@_named("an overflow of 16-bit integers")
def _overflow(bold, rng):
    return (np.round(_z(bold) * 30_000).astype(np.int64) & 0xFFFF).astype(np.uint16).astype(np.int16).astype(float)


@_named("clipped at half a standard deviation")
def _clipped(bold, rng):
    return np.clip(_z(bold), -0.5, 0.5)


@_named("saturated")
def _saturated(bold, rng):
    return np.minimum(_z(bold), 0.3)


@_named("half of the values cut off at zero")
def _rectified(bold, rng):
    return np.maximum(_z(bold), 0)


@_named("squares of the signals")
def _squared(bold, rng):
    return _z(bold) ** 2


@_named("exponentials of the signals")
def _exponential(bold, rng):
    return np.exp(2 * _z(bold))


@_named("differences from volume to volume, signs alone")
def _signs(bold, rng):
    return np.sign(np.diff(bold, axis=0, prepend=bold[:1]))


@_named("ranks over ROIs within a volume, by name")
def _rank_numbers(bold, rng):
    return np.tile(rng.permutation(bold.shape[1]).astype(float), (len(bold), 1)) + rng.integers(0, 2, bold.shape)


@_named("times a trillion")
def _huge(bold, rng):
    return bold * 1e12


@_named("times a trillionth")
def _tiny(bold, rng):
    return _z(bold) * 1e-30


@_named("too large for single precision")
def _beyond_float32(bold, rng):
    return _z(bold).astype(np.float64) * 1e39


# Too little


@_named("ten volumes")
def _ten_volumes(bold, rng):
    return bold[:10]


@_named("one volume")
def _single(bold, rng):
    return bold[:1]


@_named("one column")
def _single_column(bold, rng):
    return bold[:, :1]


@_named("an empty table")
def _empty(bold, rng):
    return bold[:0]
