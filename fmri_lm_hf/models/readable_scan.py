"""Whether a table is a readable resting-state scan, by what such a scan is: a program that needs no model.

A resting-state scan has slow fluctuations, which many ROIs share, those of one network more than others, and which do
not repeat. Noise, waves, matrices, scans out of order and damaged values lack one of these. Thresholds lie well outside
of what real and simulated scans measure (`benchmarks/misuse.py`).

Three things cannot be told from a table: a scan in reversed time (its correlations and spectra are the same), a scan
whose volumes are all measured at other times than its TR says, and ROIs in a wrong order that keeps networks together.
This file travels with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .scan_measures import ScanTable

MIN_TIMEPOINTS, MIN_SECONDS, MIN_ROIS = 25, 30.0, 4
MIN_DISTINCT = 12  # values of a column; a scan rounded to a tenth of its SD has about 50
MAX_AT_END = 0.1  # share of the largest or the smallest value in a column
MAX_EQUAL = 0.3  # share of the commonest value in a column, and of volumes that repeat the one before
MAX_SKEW = 0.22  # of quantiles: 0.28 for absolute values, at most 0.14 for scans of a minute
MAX_WRAPPED = 0.1  # share of steps over most of the range of a column
MAX_PEAK = 60.0  # largest deviation of a column, in median absolute deviations
MAX_TREND = 0.9  # share of variance that a parabola explains
MAX_STEP = 0.82  # share of variance of the first component that one step explains
MAX_JUMP = 40.0  # largest change from volume to volume, in median changes
MAX_STRENGTH = 1.8  # logarithm of the ratio of SDs in the two halves
MAX_FIRST = 0.9  # share of variance of the first component
MIN_COMPONENTS = 6  # for 99 % of the variance
MAX_TWINS = 0.3  # share of ROIs that correlate above 0.99 with another one
MAX_SLOW = 0.54  # share of power below 0.01 Hz, and at the three lowest frequencies
MAX_FAST = 0.9  # share of power above 0.1 Hz
MAX_LINE = 0.9  # share of power at one frequency, in the median column
MAX_REPEATED = 0.75  # correlation of volumes with those a lag later, or with their mirror images
MIN_ORDER = 2.7  # z of autocorrelation against volumes in random order
MIN_SHARED = 1.1  # squared correlations, in units of those that independent columns of the same spectra have
MIN_LEFT = 1.17  # the same without the first component
MIN_ARRANGED = 2.2  # z of correlations within networks, or between adjacent columns, against ROIs in random order
MIN_ARRANGED_OF_FEW = 4.0  # where ROIs have nothing in common but the first component
MIN_REVERSED = 7.0  # z by which networks fit the ROIs in reversed order better
ROIS_TO_ARRANGE = 50  # fewer ROIs have too few pairs for that z
LARGEST, SMALLEST = 1e9, 1e-12  # of values in a scan of any unit


def unreadable_reason(
    bold: Any,
    t_r: float | None = None,
    roi_mask: Any = None,
    sample_mask: Any = None,
    networks: Sequence[Any] | None = None,
) -> str | None:
    """Say why a table is no readable resting-state scan.

    Parameters
    ----------
    bold : array of shape (n_timepoints, n_rois)
        Best as it was read, in any unit: resampling and normalisation hide some kinds of damage.
    t_r : float, optional
        Repetition time in seconds. Without it, frequencies are not checked.
    roi_mask : array of bool of shape (n_rois,), optional
        False for ROIs without usable signal.
    sample_mask : array of bool of shape (n_timepoints,), optional
        False for time points that were not observed, such as padding.
    networks : sequence of length n_rois, optional
        Name or number of the network of each ROI; None for ROIs of no network. Without networks, the order of the
        ROIs is not checked.

    Returns
    -------
    str or None
        One or two short sentences; None for a readable scan.

    Raises
    ------
    ValueError
        If the table has not two axes, or a mask or the networks have another length.

    Examples
    --------
    >>> unreadable_reason(np.random.default_rng(0).normal(size=(150, 100)), t_r=2.0)
    'The signals are white noise: ...'
    """
    table = ScanTable.of(bold, t_r, roi_mask, sample_mask, networks)
    reason = _first(_ON_VALUES, table) or _first(_ON_SIGNALS, table)
    if reason is not None:
        return reason
    for half, name in zip(table.halves(), ("first", "second"), strict=False):
        if reason := _first(_ON_HALVES, half):
            return f"In the {name} half of the scan: {reason[0].lower()}{reason[1:]}"
    return None


Check = Callable[[ScanTable], str | None]


def _first(checks: Sequence[Check], table: ScanTable) -> str | None:
    return next((reason for check in checks if (reason := check(table))), None)


# Values, whatever their order


def _enough(table: ScanTable) -> str | None:
    n_times, n_rois = table.seen.shape
    if n_rois < MIN_ROIS:
        return f"Only {n_rois} of {table.shape[1]} ROIs have a usable signal: at least {MIN_ROIS} are needed."
    seconds = n_times * table.t_r if table.t_r else MIN_SECONDS
    if n_times < MIN_TIMEPOINTS or seconds < MIN_SECONDS:
        return (
            f"The scan has {n_times} observed volumes"
            + (f" ({seconds:.0f} s)" if table.t_r else "")
            + f": at least {MIN_TIMEPOINTS} volumes and {MIN_SECONDS:.0f} s are needed."
        )
    known = None if table.networks is None else set(table.networks[table.networks >= 0])
    if known is not None and len(known) == 1 and table.shape[1] > 2 * n_rois:
        return "Only the ROIs of one network have a usable signal: there is nothing to compare them with."
    return None


def _scale(table: ScanTable) -> str | None:
    size = float(np.median(np.abs(table.seen)))
    spread = float(np.median(table.seen.std(0)))
    if size > LARGEST or spread < SMALLEST:
        return f"The values have the size of {size:.0e} and vary by {spread:.0e}: no scanner writes such values."
    return None


def _matrix(table: ScanTable) -> str | None:
    n_times, n_rois = table.seen.shape
    if n_times == n_rois:
        off = table.seen - np.diag(np.diag(table.seen))
        if np.abs(off - off.T).max() <= 1e-3 * np.abs(off).max():
            return "The table is symmetric: it is a matrix of pairs of ROIs, such as a connectivity matrix, no series."
    return None


def _few_values(table: ScanTable) -> str | None:
    ordered = np.sort(table.seen, axis=0)
    n_distinct = float(np.median(1 + (np.diff(ordered, axis=0) > 0).sum(0)))
    if n_distinct < min(MIN_DISTINCT, len(ordered) / 2):
        return f"The signals take only {n_distinct:.0f} different values: a scan varies continuously."
    return None


def _at_ends(table: ScanTable) -> str | None:
    seen = table.seen
    share = float(np.median(np.maximum((seen == seen.max(0)).mean(0), (seen == seen.min(0)).mean(0))))
    if share > MAX_AT_END:
        return f"The signals are clipped: {share:.0%} of the values are the largest or the smallest one."
    return None


def _held(table: ScanTable) -> str | None:
    ordered = np.sort(table.seen, axis=0)
    same = ordered[1:] == ordered[:-1]
    commonest = np.zeros(same.shape[1])
    run = np.zeros(same.shape[1])
    for row in same:
        run = np.where(row, run + 1, 0)
        commonest = np.maximum(commonest, run)
    share = float(np.median((commonest + 1) / len(ordered)))
    still = float(np.mean((table.steps == 0).all(1))) if len(table.steps) else 0.0
    if max(share, still) > MAX_EQUAL:
        return f"The signals stand still: one value, or the volume before, makes up {max(share, still):.0%} of them."
    return None


def _wrapped(table: ScanTable) -> str | None:
    far = np.abs(table.steps) > 0.7 * np.ptp(table.seen, axis=0)
    # a tenth of the ROIs is enough: only those near the border of a type wrap around
    share = float(np.quantile(far.mean(0), 0.9))
    if share > MAX_WRAPPED:
        return (
            f"The signals jump over most of their range in {share:.0%} of the steps: as numbers do that wrap around at "
            "the end of their type, or a measurement that changes from volume to volume."
        )
    return None


def _skewed(table: ScanTable) -> str | None:
    low, middle, high = np.quantile(table.seen, [0.1, 0.5, 0.9], axis=0)
    skew = float(np.mean((low + high - 2 * middle) / np.maximum(high - low, 1e-300)))
    if abs(skew) > MAX_SKEW + 1.0 / len(table.seen):
        return (
            "The values lie far to one side of their median: as squares, absolute values or exponentials do, and "
            "signals of a scan do not."
        )
    return None


def _peaked(table: ScanTable) -> str | None:
    centred = np.abs(table.seen - np.median(table.seen, axis=0))
    peak = float(np.median(centred.max(0) / np.maximum(np.median(centred, axis=0), 1e-300)))
    if peak > MAX_PEAK:
        return "The signals are flat but for a few spikes, which no blood flow makes."
    return None


# Series, in time and over ROIs


def _trending(table: ScanTable) -> str | None:
    if table.trend > MAX_TREND:
        return f"The signals are a trend: a parabola explains {table.trend:.0%} of their variance."
    return None


def _one_signal(table: ScanTable) -> str | None:
    shares, _ = table.components
    n_needed = int(np.searchsorted(np.cumsum(shares), 0.99) + 1)
    if shares[0] > MAX_FIRST:
        return f"All ROIs have the same signal: one component explains {shares[0]:.0%} of the variance."
    if n_needed < min(MIN_COMPONENTS, table.seen.shape[1] - 1):
        return f"The ROIs mix only {n_needed} signals: the ROIs of a scan have more of their own."
    twins = float(np.mean(np.abs(table.correlations).max(0) > 0.99))
    if twins > MAX_TWINS:
        return f"Of the ROIs, {twins:.0%} are copies of another ROI."
    return None


def _stepping(table: ScanTable) -> str | None:
    changes = np.sqrt((np.diff(table.signals, axis=0) ** 2).mean(1))[table.observed[1:] & table.observed[:-1]]
    scores = (table.seen - table.seen.mean(0)) / table.seen.std(0) @ table.components[1][0]
    sums, n = np.cumsum(scores)[:-1], np.arange(1, len(scores))
    explained = sums**2 * (1 / n + 1 / (len(scores) - n)) / max(float((scores**2).sum()), 1e-300)
    middle = explained[len(scores) // 10 : -(len(scores) // 10) or None]
    typical = float(np.median(changes)) if len(changes) else 0.0
    if middle.max(initial=0) > MAX_STEP or (len(changes) and changes.max() > MAX_JUMP * typical):
        return "The signals change in a step, as between two measurements, and hardly otherwise."
    return None


def _unsteady(table: ScanTable) -> str | None:
    middle = len(table.seen) // 2
    first, second = (np.maximum(part.std(0), 1e-300) for part in (table.seen[:middle], table.seen[middle:]))
    if abs(float(np.median(np.log(first / second)))) > MAX_STRENGTH:
        return "The signals of one half of the scan are many times as strong as those of the other half."
    return None


def _frequencies(table: ScanTable) -> str | None:
    if table.t_r is None:
        return None
    power, hz = table.power, table.frequencies
    seconds = len(table.values) * table.t_r
    lowest = max(0.01, 3.5 / seconds)
    slow, fast = (float(np.median(power[part].sum(0))) for part in (hz < lowest, hz > 0.1))
    if slow > MAX_SLOW and seconds >= 150:
        return f"The signals only drift: {slow:.0%} of their power is below {lowest:.2g} Hz."
    if fast > MAX_FAST:
        return f"The signals are too fast: {fast:.0%} of their power is above 0.1 Hz, where blood flow hardly follows."
    return None


def _line(table: ScanTable) -> str | None:
    power = table.power
    peaks = power.copy()
    peaks[1:] += power[:-1]
    peaks[:-1] += power[1:]
    share = float(np.median(peaks.max(0)))
    # in a scan of two minutes, all slow power is at few frequencies anyway
    allowed = MAX_LINE - 0.25 * min(max((len(table.values) * (table.t_r or 2.0) - 150) / 150, 0), 1)
    if share > allowed:
        return f"The signals are waves: {share:.0%} of their power is at one frequency."
    return None


def _repeating(table: ScanTable) -> str | None:
    likeness, n = table.likeness, len(table.seen)
    shortest = max(5, round(20 / (table.t_r or 2.0)))
    overlap = max(20, n // 4)
    lagged = [np.trace(likeness, lag) / (n - lag) for lag in range(shortest, n - overlap)]
    if max(lagged, default=0) > MAX_REPEATED:
        lag = shortest + int(np.argmax(lagged))
        return f"The scan repeats itself: its volumes are the same again {lag} volumes later."
    reach = n - 2 * overlap
    mirrored = [np.trace(likeness[::-1], lag) / (n - abs(lag)) for lag in range(-reach, reach + 1)]
    if max(mirrored, default=0) > MAX_REPEATED:
        return "The scan runs backwards from its middle on: its volumes are mirrored."
    return None


def _ordered(table: ScanTable, at_least: float = MIN_ORDER) -> str | None:
    """Autocorrelation of ten components at five lags, which volumes in random order do not have."""
    scores = table.signals @ table.components[1][:10].T
    scores = scores / np.maximum(table.deviation(scores), 1e-12)
    seen, n = table.observed, len(table.seen)
    total = degrees = 0.0
    for lag in range(1, 6):
        pairs = int((seen[lag:] & seen[:-lag]).sum())
        if pairs >= 10:
            found = (scores[lag:] * scores[:-lag]).sum(0) / pairs + 1 / (n - 1)
            total, degrees = total + pairs * float((found**2).sum()), degrees + scores.shape[1]
    if degrees and (total - degrees) / np.sqrt(2 * degrees) < at_least:
        return "The signals are white noise: they have no slow fluctuations, and the volumes could be in any order."
    return None


def _shared(table: ScanTable, at_least: float = MIN_SHARED) -> str | None:
    """Squared correlations, against what columns of these spectra have by chance (Bartlett's formula)."""
    n_rois = table.seen.shape[1]
    if n_rois < 6:
        return None
    if _excess(table.bridged, table.observed) < at_least:
        return "The ROIs have nothing in common: their correlations are those of independent noise."
    return None


def _excess(bridged: np.ndarray, observed: np.ndarray) -> float:
    """Squared correlations of columns, in units of those that independent columns of the same spectra have."""
    # not tapered: by Parseval's theorem, correlations are sums over just these frequencies
    power = np.abs(np.fft.rfft(bridged, axis=0))[1:] ** 2
    power = power / np.maximum(power.sum(0), 1e-300)
    by_chance = float(((power.sum(1) ** 2) - (power**2).sum(1)).sum()) / 2
    seen = bridged[observed] - bridged[observed].mean(0)
    seen = seen / np.maximum(np.linalg.norm(seen, axis=0), 1e-300)
    return (float(((seen.T @ seen) ** 2).sum()) - seen.shape[1]) / by_chance


def _arranged(table: ScanTable) -> str | None:
    """Correlations within networks or of adjacent columns, against ROIs in random order."""
    codes = table.networks
    if codes is None or (codes >= 0).sum() < ROIS_TO_ARRANGE or len(np.unique(codes[codes >= 0])) < 2:
        return None
    chosen = np.flatnonzero(codes >= 0)
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, 300).astype(int))]
    codes, z = codes[chosen], np.arctanh(np.clip(table.correlations[np.ix_(chosen, chosen)], -0.999, 0.999))
    n = len(codes)
    # without the level of each ROI: an ROI that correlates with all says nothing about its network
    levels = (z - z.sum() / (n * (n - 1))).sum(1) / (n - 2)
    z = z - levels[:, None] - levels[None]
    np.fill_diagonal(z, 0)
    same = codes[:, None] == codes[None]
    if same.sum() == n:
        return None
    measures = (lambda order: float(z[np.ix_(order, order)][same].sum()), lambda o: float(z[o[1:], o[:-1]].sum()))
    given, rng = np.arange(n), np.random.default_rng(0)
    orders = [rng.permutation(n) for _ in range(100)]
    found = []
    for measure in measures:
        drawn = np.array([measure(order) for order in orders])
        scale = max(float(drawn.std()), 1e-12)
        found.append([(measure(order) - drawn.mean()) / scale for order in (given, given[::-1])])
    first = table.components[1][0]
    without = table.bridged - np.outer(table.bridged @ first, first)
    excess = min(_excess(signals, table.observed) for signals in (table.bridged, without))
    needed = MIN_ARRANGED if excess >= MIN_LEFT else MIN_ARRANGED_OF_FEW
    if max(found[0][0], found[1][0]) < needed:
        return "ROIs of one network are no more alike than others: they are in another order than the atlas says."
    if found[0][1] > found[0][0] + MIN_REVERSED:
        return "The networks fit the ROIs in reversed order: the columns are reversed."
    return None


_ON_VALUES: tuple[Check, ...] = (_enough, _scale, _matrix, _few_values, _at_ends, _held, _wrapped)
_ON_SIGNALS: tuple[Check, ...] = (
    *(_trending, _one_signal, _peaked, _stepping, _line, _ordered, _frequencies, _repeating, _shared),
    *(_skewed, _unsteady, _arranged),
)
# half as long, half as sure: lower thresholds
_ON_HALVES: tuple[Check, ...] = (partial(_ordered, at_least=0.0), partial(_shared, at_least=1.04), _held)
