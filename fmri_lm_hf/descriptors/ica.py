"""Independent components of a cohort, and measures of their time courses in a scan.

All time courses of a scan go through each measure at once: a loop over components with `scipy.signal.periodogram` takes
six times as long (`benchmarks/descriptors.py`), and knows no censored time points.
"""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
from scipy import ndimage
from transformers.utils import logging

from .catalogue import feature_name
from .connectivity import fisher_z
from .prepared import PreparedScan

logger = logging.get_logger(__name__)

# Bands in Hz that do not depend on the scan: all end below the Nyquist frequency of a repetition time of 3.1 s.
LOW_BAND = (0.01, 0.10)
HIGH_BAND = (0.12, 0.16)
WHOLE_BAND = (0.01, 0.16)
MIN_STRETCH_SECONDS = 100.0  # one cycle of the slowest frequency
LAG_SECONDS = 4.0
WINDOW_SECONDS = 60.0
MIN_WINDOWS = 4
OBSERVED_SHARE = 0.75  # of a window: the amplitude of few points varies by chance alone
OUTLIER_THRESHOLD = 3.0
_MAD_TO_SD = 1.4826  # of a normal distribution


def fit_group_ica(mean_connectivity: np.ndarray, n_components: int, seed: int = 0) -> np.ndarray:
    """Fit the spatial independent components of a cohort [1]_.

    Standardised scans concatenated in time have the mean correlation matrix (all scans weighing the same) as their
    covariance; its leading eigenvectors, times the root of their eigenvalues, are the principal components of the
    concatenation, over which FastICA finds maps that are independent over ROIs. So the group ICA needs the mean
    connectivity only, and memory does not grow with the cohort.

    Parameters
    ----------
    mean_connectivity : numpy.ndarray of shape (n_rois, n_rois)
        Mean correlation of the training scans.
    n_components : int
    seed : int

    Returns
    -------
    numpy.ndarray of shape (n_components, n_rois)
        Maps with unit variance over ROIs; the value of largest magnitude of each is positive.

    References
    ----------
    .. [1] Calhoun VD et al. (2001). A method for making group inferences from functional MRI data using independent
       component analysis. Human Brain Mapping 14, 140-151.
    """
    from scipy.linalg import eigh
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    correlation = mean_connectivity.astype(np.float64)
    np.fill_diagonal(correlation, 1.0)
    n_rois = len(correlation)
    # Missing ROIs make the mean of correlations no correlation matrix: small eigenvalues can be negative.
    eigenvalues, vectors = eigh(correlation, subset_by_index=[n_rois - n_components, n_rois - 1])
    scores = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))  # (n_rois, n_components)
    ica = FastICA(n_components, whiten="unit-variance", max_iter=1000, random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        maps = ica.fit_transform(scores).T
    if caught:
        logger.info("FastICA stopped before it converged; its maps are usable, if less independent.")
    return maps * np.sign(maps[np.arange(n_components), np.abs(maps).argmax(axis=1)])[:, None]


def component_networks(maps: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """Assign components to networks, (n_components, n_networks) of bool.

    A component belongs to the network on whose ROIs its mean squared loading is largest. A network without a component
    gets the one that loads on it most; a network without ROIs gets none.
    """
    sizes = membership.sum(axis=0)
    # Squared, since the sign of a component is arbitrary; a share, since strong components would win every network.
    loadings = (maps**2) @ membership / np.maximum(sizes, 1)
    shares = loadings / loadings.sum(axis=1, keepdims=True)
    chosen = np.zeros(shares.shape, dtype=bool)
    chosen[np.arange(len(maps)), shares.argmax(axis=1)] = True
    for network in np.flatnonzero(~chosen.any(axis=0) & (sizes > 0)):
        chosen[shares[:, network].argmax(), network] = True
    return chosen


def time_course_measures(
    time_courses: np.ndarray, t_r: float, observed: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute measures of single time courses.

    With ``P(f)`` the power spectrum (periodogram without the mean) and ``A(f)`` its square root:

    - ``amplitude``: standard deviation over time, in units of the standardised signal.
    - ``variability``: coefficient of variation of the amplitude over windows of 60 s (at least four, each with three
      quarters of its time points observed).
    - ``spectral_ratio``: log10 of the power at 0.01-0.10 Hz over the power at 0.12-0.16 Hz, after [1]_, whose upper
      band of 0.15-0.25 Hz few scans reach.
    - ``autocorrelation``: correlation of the signal with itself 4 s later, interpolated between two lags.
    - ``outlier_rate``: share of time points more than 3 robust SDs (1.4826 x MAD) from the median.
    - ``falff``: sum of A at 0.01-0.10 Hz over the sum of A at 0.01-0.16 Hz, after [2]_, with bounds in Hz in place of
      the Nyquist frequency of each scan.

    Bands and lags are in Hz and seconds, so that they are the same for scans of any repetition time. A measure that
    cannot be computed is NaN: the two spectral ones with a repetition time above 3.1 s, the autocorrelation above 4 s.

    Parameters
    ----------
    time_courses : numpy.ndarray of shape (n_observed, n_courses)
    t_r : float
        Repetition time in seconds.
    observed : numpy.ndarray of shape (n_timepoints,), bool, optional
        Which time points the rows are; all when None. Spectra need neighbouring points: they come from the longest
        stretch without a gap, if it is at least half of the scan and 100 s, and are NaN otherwise. The other measures
        use all observed points at their times.

    Returns
    -------
    dict from measure to numpy.ndarray of shape (n_courses,)

    References
    ----------
    .. [1] Allen EA et al. (2011). A baseline for the multivariate comparison of resting-state networks. Frontiers in
       Systems Neuroscience 5, 2.
    .. [2] Zou QH et al. (2008). An improved approach to detection of amplitude of low-frequency fluctuation (ALFF)
       for resting-state fMRI: fractional ALFF. Journal of Neuroscience Methods 172, 137-141.
    """
    observed = np.ones(len(time_courses), dtype=bool) if observed is None else observed
    centred = time_courses - time_courses.mean(axis=0)
    distance = np.abs(centred - np.median(centred, axis=0))
    spread = _MAD_TO_SD * np.median(distance, axis=0)
    spectral_ratio, falff = _spectral_measures(time_courses, t_r, observed)
    return {
        "amplitude": centred.std(axis=0),
        "variability": _variability(centred, t_r, observed),
        "spectral_ratio": spectral_ratio,
        "autocorrelation": _autocorrelation(centred, t_r, observed),
        "outlier_rate": (distance > OUTLIER_THRESHOLD * spread).mean(axis=0),
        "falff": falff,
    }


def _spectral_measures(time_courses: np.ndarray, t_r: float, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute `spectral_ratio` and `falff` from the longest stretch without a gap."""
    unknown = np.full(time_courses.shape[1], np.nan)
    first, length = _longest_stretch(observed)
    long_enough = length >= len(observed) / 2 and length * t_r >= min(MIN_STRETCH_SECONDS, len(observed) * t_r)
    if not long_enough or 0.5 / t_r < WHOLE_BAND[1]:
        return unknown, unknown
    # Rows are observed points alone, so the stretch begins at as many rows as points were observed before it.
    start = int(observed[:first].sum())
    stretch = time_courses[start : start + length]
    power = np.abs(np.fft.rfft(stretch - stretch.mean(axis=0), axis=0)) ** 2  # (n_frequencies, n_courses)
    frequencies = np.fft.rfftfreq(length, t_r)
    low, high, whole = (
        (frequencies >= band[0]) & (frequencies <= band[1]) for band in (LOW_BAND, HIGH_BAND, WHOLE_BAND)
    )
    if not low.any() or not high.any():
        return unknown, unknown
    # XCP-D band-passes by default: nothing is left above 0.1 Hz, and the ratio would be infinite.
    floor = 1e-12 * power.sum(axis=0)
    ratio = np.log10((power[low].sum(axis=0) + floor) / (power[high].sum(axis=0) + floor))
    return ratio, np.sqrt(power[low]).sum(axis=0) / np.sqrt(power[whole]).sum(axis=0)


def _longest_stretch(observed: np.ndarray) -> tuple[int, int]:
    """Find the first point and the length of the longest run of observed points."""
    runs = [run for (run,) in ndimage.find_objects(ndimage.label(observed)[0])]
    longest = max(runs, key=lambda run: run.stop - run.start)
    return longest.start, longest.stop - longest.start


def _variability(centred: np.ndarray, t_r: float, observed: np.ndarray) -> np.ndarray:
    # Windows are cut from the time axis of the scan, not from the observed rows: 60 s stay 60 s after censoring.
    n_windows = max(MIN_WINDOWS, int(len(observed) * t_r / WINDOW_SECONDS))
    position = np.cumsum(observed) - 1  # row of each observed time point
    amplitudes = []
    for window in np.array_split(np.arange(len(observed)), n_windows):
        rows = position[window[observed[window]]]
        if len(rows) >= max(2, OBSERVED_SHARE * len(window)):
            amplitudes.append(centred[rows].std(axis=0))
    if len(amplitudes) < MIN_WINDOWS:
        return np.full(centred.shape[1], np.nan)
    return np.std(amplitudes, axis=0) / np.mean(amplitudes, axis=0)


def _autocorrelation(centred: np.ndarray, t_r: float, observed: np.ndarray) -> np.ndarray:
    """Compute the correlation at a lag of `LAG_SECONDS`, over pairs of time points that were both observed."""
    lag = LAG_SECONDS / t_r
    if lag < 1 - 1e-6:  # lag 0 holds the noise, so there is nothing to interpolate from
        return np.full(centred.shape[1], np.nan)
    # Back on the regular time axis: rows on both sides of a gap are neighbours in the table, but not in time. The
    # signal is centred, so that unobserved points, as zeros, add nothing to the sums.
    series = np.zeros((len(observed), centred.shape[1]))
    series[observed] = centred
    before = int(lag + 1e-6)

    def at(steps: int) -> np.ndarray:
        n_pairs = (observed[steps:] & observed[:-steps]).sum()
        products = (series[steps:] * series[:-steps]).sum(axis=0)
        return products / n_pairs if n_pairs else np.full(centred.shape[1], np.nan)

    covariance = at(before)
    if lag - before > 1e-6:
        covariance = covariance + (lag - before) * (at(before + 1) - covariance)
    return covariance / (centred**2).mean(axis=0)


def ica_features(scan: PreparedScan, maps: np.ndarray | None = None) -> dict[str, float]:
    """Compute the ICA descriptors of a scan.

    The group's maps are regressed on each time point (the first half of a dual regression [1]_; its second half, the
    scan's own maps, enters no descriptor). Each measure of `time_course_measures` becomes ``ica/<measure>`` (mean
    over components) and ``ica/<measure>/<Network>`` (mean over the network's components). ``ica/fnc`` of two networks
    is the mean Fisher-z correlation between their components, in Fisher z.

    Parameters
    ----------
    scan : PreparedScan
    maps : numpy.ndarray of shape (n_components, n_rois), optional
        Maps of the group ICA. Without them, the mean signal of each network replaces a component.

    References
    ----------
    .. [1] Nickerson LD et al. (2017). Using dual regression to investigate network shape and amplitude in functional
       connectivity analyses. Frontiers in Neuroscience 11, 115.
    """
    present = np.asarray(scan.membership.any(axis=0))  # networks with a usable ROI
    if maps is None:
        time_courses = scan.network_means(scan.signal.T)[present].T
        chosen = np.diag(present)[present]
    else:
        time_courses = scan.signal @ np.linalg.pinv(maps[:, scan.usable])
        chosen = component_networks(maps, scan.atlas_membership) & present

    weights = chosen / np.where(chosen.any(axis=0), chosen.sum(axis=0), np.nan)  # (n_components, n_networks)
    features: dict[str, float] = {}
    for measure, values in time_course_measures(time_courses, scan.t_r, scan.observed).items():
        features[f"ica/{measure}"] = float(values.mean())
        for j, network in enumerate(scan.network_names):
            features[feature_name(f"ica/{measure}", network)] = float(values @ weights[:, j])

    # Of a single time course (one network, no maps), numpy gives a number and not a matrix.
    z = fisher_z(np.atleast_2d(np.corrcoef(time_courses.T)))
    np.fill_diagonal(z, 0.0)  # a component of both networks is not compared with itself
    distinct = 1.0 - np.eye(len(z))
    sums = chosen.T @ z @ chosen
    n_pairs = chosen.T @ distinct @ chosen
    fnc = sums / np.where(n_pairs > 0, n_pairs, np.nan)
    for (i, first), (j, second) in combinations(enumerate(scan.network_names), 2):
        features[feature_name("ica/fnc", first, second)] = float(fnc[i, j])
    return features
