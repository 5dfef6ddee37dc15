"""One simulated scan: from a subject's network connectivity to a BOLD series with noise and motion."""

from __future__ import annotations

import numpy as np
from scipy import fft

from .population import BAND, Population, Site

__all__ = ["network_cholesky", "simulate_bold", "simulate_displacement"]

SPIKES_PER_VOLUME = 0.01
ARTEFACT_PER_MM = 1.5  # BOLD SDs that a displacement of one mm adds


def network_cholesky(z: np.ndarray) -> np.ndarray:
    """Cholesky factor of the nearest correlation matrix to `tanh(z)`.

    Independent deviations of many pairs can leave the cone of covariances; eigenvalues below 0.02 are lifted.
    """
    correlation = np.tanh(z)
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    covariance = (vectors * np.maximum(values, 0.02)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(covariance))
    return np.linalg.cholesky(covariance * scale[:, None] * scale)


def simulate_bold(
    z: np.ndarray, loadings: np.ndarray, population: Population, site: Site, rng: np.random.Generator
) -> np.ndarray:
    """Band-limited BOLD (0.01-0.1 Hz, power falling as 1/f) of expected SD 1, without noise or motion.

    Parameters
    ----------
    z : ndarray of shape (n_networks, n_networks)
        Fisher z of the network signals' correlations in this scan.
    loadings : ndarray of shape (n_rois, n_networks)
        How much of each network signal each ROI carries in this subject.

    Returns
    -------
    ndarray of shape (n_timepoints, n_rois)
    """
    # An inverse FFT is periodic: a longer series is made and its end cut off, so that a scan does not close on itself.
    n_long = fft.next_fast_len(site.n_timepoints + round(40 / site.t_r), real=True)
    frequencies = fft.rfftfreq(n_long, site.t_r)
    inside = np.flatnonzero((frequencies >= BAND[0]) & (frequencies <= BAND[1]))
    amplitude = 1 / np.sqrt(frequencies[inside])
    amplitude *= n_long / (2 * np.sqrt((amplitude**2).sum()))

    def complex_normal(n_columns: int) -> np.ndarray:
        parts = rng.standard_normal((2, len(inside), n_columns))
        return parts[0] + 1j * parts[1]

    networks = complex_normal(len(z)) @ network_cholesky(z).T
    own = complex_normal(len(loadings)) * population.own_signal
    spectrum = np.zeros((len(frequencies), len(loadings)), dtype=complex)
    spectrum[inside] = amplitude[:, None] * (networks @ loadings.T + own)
    return fft.irfft(spectrum, n_long, axis=0)[: site.n_timepoints]


def simulate_displacement(typical: float, n_timepoints: int, rng: np.random.Generator) -> np.ndarray:
    """Framewise displacement in mm of shape (n_timepoints,): small movements all the time and a few spikes."""
    displacement = typical * rng.gamma(2.0, 0.5, n_timepoints)
    spikes = rng.random(n_timepoints) < SPIKES_PER_VOLUME
    displacement += spikes * typical * rng.exponential(5.0, n_timepoints)
    displacement[0] = 0.0  # the first volume has nothing to move from
    return displacement


def motion_artefact(displacement: np.ndarray, n_rois: int, rng: np.random.Generator) -> np.ndarray:
    """What movement adds to the series, of shape (n_timepoints, n_rois): mostly global, gone after two volumes."""
    excess = np.maximum(displacement - 0.2, 0.0)
    course = excess + 0.5 * np.concatenate([[0.0], excess[:-1]])
    weights = rng.choice([-1.0, 1.0]) * (1 + 0.3 * rng.standard_normal(n_rois))
    return ARTEFACT_PER_MM * course[:, None] * weights
