"""Independent components of the cohort, and what their time courses do in one scan."""

from __future__ import annotations

import warnings

import numpy as np
from transformers.utils import logging

from .catalogue import feature_name
from .prepared import PreparedScan

__all__ = ["component_networks", "fit_group_ica", "ica_features", "time_course_measures"]

logger = logging.get_logger(__name__)

LOW_BAND = (0.01, 0.10)  # Hz
HIGH_BAND = (0.15, 0.25)  # Hz
WINDOW_SECONDS = 60.0
OUTLIER_THRESHOLD = 3.0
_MAD_TO_SD = 1.4826  # of a normal distribution


def fit_group_ica(mean_connectivity: np.ndarray, n_components: int, seed: int = 0) -> np.ndarray:
    """Spatial independent components of a cohort [1]_.

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
    """Which components stand for which networks, (n_components, n_networks) of bool.

    A component belongs to the network on whose ROIs its mean squared loading is largest. A network that no component
    chose is given the one that loads on it most; a network without ROIs has none.
    """
    sizes = membership.sum(axis=0)
    loadings = (maps**2) @ membership / np.maximum(sizes, 1)
    shares = loadings / loadings.sum(axis=1, keepdims=True)
    chosen = np.zeros(shares.shape, dtype=bool)
    chosen[np.arange(len(maps)), shares.argmax(axis=1)] = True
    for network in np.flatnonzero(~chosen.any(axis=0) & (sizes > 0)):
        chosen[shares[:, network].argmax(), network] = True
    return chosen


def time_course_measures(time_courses: np.ndarray, t_r: float) -> dict[str, np.ndarray]:
    """Measures of single time courses.

    With ``P(f)`` the power spectrum (periodogram without the mean) and ``A(f)`` its square root:

    - ``amplitude``: standard deviation over time, in units of the standardised signal.
    - ``variability``: SD over windows of 60 s (at least four) of the amplitude in a window, divided by its mean;
      how much the amplitude itself waxes and wanes.
    - ``spectral_ratio``: log10 of the power at 0.01-0.10 Hz over the power at 0.15-0.25 Hz [1]_. The upper band ends
      at the Nyquist frequency if that is lower; NaN if no frequency is left in it (t_r of 3.3 s or more).
    - ``autocorrelation``: correlation of the signal with itself one scan later.
    - ``outlier_rate``: share of time points more than 3 robust SDs (1.4826 x MAD) from the median.
    - ``falff``: sum of A at 0.01-0.10 Hz over the sum of A at all frequencies above 0 [2]_.

    Parameters
    ----------
    time_courses : numpy.ndarray of shape (n_timepoints, n_courses)
    t_r : float
        Repetition time in seconds.

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
    n_timepoints = len(time_courses)
    centred = time_courses - time_courses.mean(axis=0)
    power = np.abs(np.fft.rfft(centred, axis=0)[1:]) ** 2  # (n_frequencies, n_courses), without frequency 0
    frequencies = np.fft.rfftfreq(n_timepoints, t_r)[1:]
    low = (frequencies >= LOW_BAND[0]) & (frequencies <= LOW_BAND[1])
    high = (frequencies >= HIGH_BAND[0]) & (frequencies <= HIGH_BAND[1])
    spectral_ratio = np.full(power.shape[1], np.nan)
    if low.any() and high.any():
        floor = 1e-12 * power.sum(axis=0)  # a band-passed signal has nothing above 0.1 Hz
        spectral_ratio = np.log10((power[low].sum(axis=0) + floor) / (power[high].sum(axis=0) + floor))

    n_windows = max(4, int(n_timepoints * t_r / WINDOW_SECONDS))
    windows = np.array_split(centred, min(n_windows, n_timepoints // 4))
    amplitudes = np.stack([window.std(axis=0) for window in windows])
    distance = np.abs(centred - np.median(centred, axis=0))
    spread = _MAD_TO_SD * np.median(distance, axis=0)
    magnitudes = np.sqrt(power)
    return {
        "amplitude": centred.std(axis=0),
        "variability": amplitudes.std(axis=0) / amplitudes.mean(axis=0),
        "spectral_ratio": spectral_ratio,
        "autocorrelation": (centred[1:] * centred[:-1]).sum(axis=0) / (centred**2).sum(axis=0),
        "outlier_rate": (distance > OUTLIER_THRESHOLD * spread).mean(axis=0),
        "falff": magnitudes[low].sum(axis=0) / magnitudes.sum(axis=0),
    }


def ica_features(scan: PreparedScan, maps: np.ndarray | None = None) -> dict[str, float]:
    """The descriptors of the components' time courses in a scan.

    The group's maps are regressed on each time point (the first half of a dual regression [1]_; its second half, the
    scan's own maps, enters no descriptor). Each measure of `time_course_measures` becomes ``ica/<measure>`` (mean
    over components) and ``ica/<measure>/<Network>`` (mean over the network's components). ``ica/fnc`` of two networks
    is the mean Fisher-z correlation between their components, in Fisher z.

    Parameters
    ----------
    scan : PreparedScan
    maps : numpy.ndarray of shape (n_components, n_rois), optional
        Maps of the group ICA. Without them, each network's mean signal takes the place of a component.

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
    for measure, values in time_course_measures(time_courses, scan.t_r).items():
        features[f"ica/{measure}"] = float(values.mean())
        for j, network in enumerate(scan.network_names):
            features[feature_name(f"ica/{measure}", network)] = float(values @ weights[:, j])

    correlation = np.corrcoef(time_courses.T)
    fisher_z = np.arctanh(np.clip(correlation, -0.999999, 0.999999))
    np.fill_diagonal(
        fisher_z, 0.0
    )  # a component that stands for both networks does not correlate with itself
    distinct = 1.0 - np.eye(len(fisher_z))
    sums = chosen.T @ fisher_z @ chosen
    n_pairs = chosen.T @ distinct @ chosen
    fnc = sums / np.where(n_pairs > 0, n_pairs, np.nan)
    for i, first in enumerate(scan.network_names):
        for j, second in enumerate(scan.network_names[i + 1 :], start=i + 1):
            features[feature_name("ica/fnc", first, second)] = float(fnc[i, j])
    return features
