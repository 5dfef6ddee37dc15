"""Tables that are no readable resting-state scans: what people hand over by mistake, and tests on purpose.

>>> table = NO_SCANS["white noise"](bold, np.random.default_rng(0))

Each function takes a readable scan (n_timepoints, n_rois) and a generator, and returns a table of that shape, unless
the shape is what is wrong with it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .damaged_scans import DAMAGED, Maker, autoregressive, named, standardised, time_points

NO_SCANS: dict[str, Maker] = {}


def _response(onsets: np.ndarray) -> np.ndarray:
    """Smooth columns of events forwards in time, as blood flow does."""
    t = np.arange(12)
    return ndimage.convolve1d(onsets, t**3 * np.exp(-t) / 6, axis=0, mode="constant", origin=-5)


# Noise


@named(NO_SCANS, "white noise")
def _white(bold, rng):
    return rng.standard_normal(bold.shape)


@named(NO_SCANS, "white noise around the means of a scan")
def _white_around_means(bold, rng):
    return bold.mean(0) + bold.std(0) * rng.standard_normal(bold.shape)


@named(NO_SCANS, "uniform noise")
def _uniform(bold, rng):
    return rng.random(bold.shape)


@named(NO_SCANS, "white noise with the correlations of a scan")
def _white_with_correlations(bold, rng):
    return rng.standard_normal((len(bold), len(bold))) @ standardised(bold) / np.sqrt(len(bold))


@named(NO_SCANS, "noise with heavy tails")
def _heavy_tails(bold, rng):
    return rng.standard_t(2, bold.shape)


@named(NO_SCANS, "autoregressive noise, 0.5")
def _ar_half(bold, rng):
    return autoregressive(bold.shape, 0.5, rng)


@named(NO_SCANS, "autoregressive noise, 0.9")
def _ar_strong(bold, rng):
    return autoregressive(bold.shape, 0.9, rng)


@named(NO_SCANS, "noise with the spectrum of a scan in each column")
def _own_spectrum(bold, rng):
    spectrum = np.fft.rfft(bold - bold.mean(0), axis=0)
    return np.fft.irfft(spectrum * np.exp(2j * np.pi * rng.random(spectrum.shape)), len(bold), axis=0)


@named(NO_SCANS, "pink noise")
def _pink(bold, rng):
    spectrum = np.fft.rfft(rng.standard_normal(bold.shape), axis=0)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(time_points(spectrum), 1)), len(bold), axis=0)


@named(NO_SCANS, "noise that alternates from volume to volume")
def _alternating(bold, rng):
    return autoregressive(bold.shape, -0.9, rng)


@named(NO_SCANS, "white noise with one common signal")
def _noise_with_global(bold, rng):
    return rng.standard_normal(bold.shape) + autoregressive((len(bold), 1), 0.8, rng)


@named(NO_SCANS, "autoregressive noise with one common signal")
def _slow_noise_with_global(bold, rng):
    return autoregressive(bold.shape, 0.7, rng) + autoregressive((len(bold), 1), 0.8, rng)


@named(NO_SCANS, "random walks")
def _walks(bold, rng):
    return rng.standard_normal(bold.shape).cumsum(0)


@named(NO_SCANS, "noise of a phantom: drift and white noise")
def _phantom(bold, rng):
    return 1000 + rng.standard_normal(bold.shape) + rng.normal(0, 2, bold.shape[1]) * time_points(bold) / len(bold)


# Nothing that varies, few values


@named(NO_SCANS, "constant")
def _constant(bold, rng):
    return np.full(bold.shape, 7.0)


@named(NO_SCANS, "a mask of zeros and ones")
def _binary(bold, rng):
    return (rng.random(bold.shape) < 0.5).astype(float)


@named(NO_SCANS, "a scan above its median or not")
def _above_median(bold, rng):
    return (bold > np.median(bold, axis=0)).astype(float)


@named(NO_SCANS, "a scan of four values")
def _four_values(bold, rng):
    return np.clip(np.round(standardised(bold)), -1, 2)


@named(NO_SCANS, "a scan of eight values")
def _eight_values(bold, rng):
    low, high = bold.min(0), bold.max(0)
    return np.round((bold - low) / np.where(high > low, high - low, 1) * 7)


@named(NO_SCANS, "atlas labels, the same in each volume, with rounding errors")
def _labels(bold, rng):
    return np.arange(bold.shape[1]) + 1e-3 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "one volume again and again, with noise")
def _one_volume(bold, rng):
    return bold[:1] + 1e-3 * bold.std(0) * rng.standard_normal(bold.shape)


@named(NO_SCANS, "not a number in most columns")
def _not_a_number(bold, rng):
    table = bold.astype(float)
    table[:, rng.random(bold.shape[1]) < 0.7] = np.nan
    return table


@named(NO_SCANS, "infinity in most columns")
def _infinity(bold, rng):
    table = bold.astype(float)
    table[len(bold) // 2, rng.random(bold.shape[1]) < 0.7] = np.inf
    return table


@named(NO_SCANS, "zero in all but four columns")
def _four_columns(bold, rng):
    return np.where(np.arange(bold.shape[1]) < 4, bold, 0.0)


@named(NO_SCANS, "dead from the middle on")
def _dead(bold, rng):
    return np.where(time_points(bold) < len(bold) / 2, bold, bold[len(bold) // 2])


# Waves, trends and steps


@named(NO_SCANS, "one sine in all columns")
def _one_sine(bold, rng):
    return np.sin(2 * np.pi * 0.04 * time_points(bold)) * rng.uniform(0.5, 2, bold.shape[1])


@named(NO_SCANS, "one sine with a phase for each column")
def _sine_phases(bold, rng):
    return np.sin(2 * np.pi * (0.04 * time_points(bold) + rng.random(bold.shape[1])))


@named(NO_SCANS, "a sine of its own in each column")
def _own_sines(bold, rng):
    return np.sin(2 * np.pi * (rng.uniform(0.02, 0.2, bold.shape[1]) * time_points(bold) + rng.random(bold.shape[1])))


@named(NO_SCANS, "a sine of its own in each column, with noise")
def _own_sines_with_noise(bold, rng):
    return _own_sines(bold, rng) + 0.3 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "a square wave in all columns")
def _square(bold, rng):
    return np.sign(np.sin(2 * np.pi * time_points(bold) / 20 + 0.1)) + 0.05 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "a sum of three sines")
def _three_sines(bold, rng):
    waves = np.sin(2 * np.pi * time_points(bold) * np.array([0.03, 0.05, 0.11]))
    return waves @ rng.standard_normal((3, bold.shape[1]))


@named(NO_SCANS, "a chirp")
def _chirp(bold, rng):
    return np.sin(2 * np.pi * 0.1 * time_points(bold) ** 2 / len(bold)) + 0.01 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "ramps")
def _ramps(bold, rng):
    return time_points(bold) * rng.uniform(0.5, 2, bold.shape[1]) + 0.5 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "parabolas")
def _parabolas(bold, rng):
    return (time_points(bold) / len(bold) - rng.random(bold.shape[1])) ** 2 + 0.01 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "an exponential decay")
def _decay(bold, rng):
    return np.exp(-8 * time_points(bold) / len(bold)) * rng.uniform(1, 2, bold.shape[1]) + 1e-3 * rng.standard_normal(
        bold.shape
    )


@named(NO_SCANS, "a scan under a trend a hundred times as large")
def _under_trend(bold, rng):
    return standardised(bold) + 300 * time_points(bold) / len(bold) * rng.uniform(0.5, 2, bold.shape[1])


@named(NO_SCANS, "one step")
def _step(bold, rng):
    return (time_points(bold) > len(bold) / 3) * rng.uniform(1, 3, bold.shape[1]) + 0.1 * rng.standard_normal(
        bold.shape
    )


@named(NO_SCANS, "stairs")
def _stairs(bold, rng):
    levels = rng.standard_normal((len(bold) // 25 + 1, bold.shape[1]))
    return levels.repeat(25, axis=0)[: len(bold)] + 0.05 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "blocks of a task")
def _blocks(bold, rng):
    task = _response((time_points(bold) % 20 < 10).astype(float))
    return task * rng.uniform(0.5, 2, bold.shape[1]) + 0.3 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "a design matrix of events")
def _events(bold, rng):
    return _response((rng.random(bold.shape) < 0.05).astype(float))


@named(NO_SCANS, "onsets of events")
def _onsets(bold, rng):
    return (rng.random(bold.shape) < 0.05).astype(float)


@named(NO_SCANS, "spikes")
def _spikes(bold, rng):
    return 100 * (rng.random(bold.shape) < 0.02) + 0.01 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "interpolated from five points")
def _five_points(bold, rng):
    times, known = np.arange(len(bold)), np.linspace(0, len(bold) - 1, 5).astype(int)
    return np.stack([np.interp(times, known, column[known]) for column in bold.T], axis=1)


@named(NO_SCANS, "smoothed over a tenth of its length")
def _too_smooth(bold, rng):
    return ndimage.gaussian_filter1d(bold.astype(float), len(bold) / 20, axis=0)


# Tables of something else


@named(NO_SCANS, "a connectivity matrix")
def _matrix(bold, rng):
    return np.corrcoef(bold.T)


@named(NO_SCANS, "a covariance matrix")
def _covariance(bold, rng):
    return np.cov(standardised(bold).T * rng.uniform(0.5, 2, (bold.shape[1], 1)))


@named(NO_SCANS, "distances between ROIs")
def _distances(bold, rng):
    points = rng.uniform(-70, 70, (bold.shape[1], 3))
    return np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(len(points))


@named(NO_SCANS, "timestamps")
def _timestamps(bold, rng):
    return 1.7e9 + 2.0 * time_points(bold) + rng.random(bold.shape)


@named(NO_SCANS, "identifiers")
def _identifiers(bold, rng):
    return rng.integers(100_000, 999_999, bold.shape).astype(float)


@named(NO_SCANS, "running numbers")
def _numbers(bold, rng):
    return np.arange(bold.size, dtype=float).reshape(bold.shape)


@named(NO_SCANS, "coordinates in turn")
def _coordinates(bold, rng):
    return np.round(rng.uniform(-70, 70, bold.shape))


@named(NO_SCANS, "phenotypes of people")
def _phenotypes(bold, rng):
    n = len(bold)
    kinds = [rng.integers(18, 80, n), rng.integers(0, 2, n), rng.normal(100, 15, n), rng.normal(70, 10, n).round(1)]
    return np.stack([kinds[k % 4] * 1.0 + (k // 4) * 0.1 * rng.standard_normal(n) for k in range(bold.shape[1])], 1)


@named(NO_SCANS, "phenotypes sorted by age")
def _sorted_phenotypes(bold, rng):
    table = _phenotypes(bold, rng)
    return table[np.argsort(table[:, 0])]


@named(NO_SCANS, "scores of a questionnaire")
def _questionnaire(bold, rng):
    ability = rng.standard_normal((len(bold), 1))
    return np.clip(np.round(3 + ability + rng.standard_normal(bold.shape)), 1, 5)


@named(NO_SCANS, "an electroencephalogram")
def _eeg(bold, rng):
    t = time_points(bold) / 250
    alpha = np.sin(2 * np.pi * 10 * t + rng.uniform(0, 2 * np.pi, bold.shape[1]))
    return _pink(bold, rng) / _pink(bold, rng).std() + alpha


@named(NO_SCANS, "a heartbeat with noise")
def _heartbeat(bold, rng):
    beat = np.sin(2 * np.pi * 0.37 * time_points(bold)) + 0.4 * np.sin(2 * np.pi * 0.24 * time_points(bold))
    return beat * rng.uniform(0.5, 1.5, bold.shape[1]) + 0.2 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "diffusion-weighted volumes")
def _diffusion(bold, rng):
    weighted = np.arange(len(bold)) % 12 != 0
    loss = np.where(weighted[:, None], rng.uniform(0.3, 0.6, bold.shape), 1.0)
    return 1000 * rng.uniform(0.8, 1.2, bold.shape[1]) * loss + 5 * rng.standard_normal(bold.shape)


@named(NO_SCANS, "diffusion-weighted volumes, shell by shell")
def _shells(bold, rng):
    shell = np.array([1.0, 0.6, 0.4, 0.25])[np.arange(len(bold)) * 4 // len(bold)]
    return shell[:, None] * rng.uniform(800, 1200, bold.shape[1]) * rng.normal(1, 0.05, bold.shape)


@named(NO_SCANS, "echoes of one volume")
def _echoes(bold, rng):
    decay = np.exp(-0.5 * (np.arange(len(bold)) % 5))
    return decay[:, None] * rng.uniform(800, 1200, bold.shape[1]) + rng.standard_normal(bold.shape)


@named(NO_SCANS, "six movement parameters over and over")
def _movement(bold, rng):
    return np.tile(rng.standard_normal((len(bold), 6)).cumsum(0), (1, bold.shape[1] // 6 + 1))[:, : bold.shape[1]]


NO_SCANS.update(DAMAGED)
