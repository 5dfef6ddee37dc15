"""Chance values of measures of a whole scan: its graph rewired at random, and its signals with random phases.

A modularity of 0.4 means nothing by itself: random graphs are modular too. Each measure is therefore compared with the
values that the same scan has once its structure is removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..descriptors.connectivity import correlations
from ..descriptors.gradients import diffusion_gradients
from ..descriptors.graph import average_clustering, find_communities, global_efficiency, modularity, strongest_edges
from ..descriptors.prepared import PreparedScan
from .bins import BINS

N_NULLS = 19  # a value beyond all of them, on the side that was expected, has p = 0.05
SEED = 0
# Bounds between the grades of a value against chance, in SDs of the null values.
BOUNDS_NULL = (-5.0, -2.0, 2.0, 5.0)
# Each round proposes a swap for each edge. After ten, measures of random graphs drift no more.
_N_ROUNDS = 10

_GRAPH_MEASURES: dict[str, Callable[[np.ndarray], float]] = {
    "modularity": lambda weights: modularity(weights, find_communities(weights)),
    "global_efficiency": global_efficiency,
    "clustering": average_clustering,
}


@dataclass(frozen=True)
class Chance:
    """Values of a measure in null versions of a scan.

    Attributes
    ----------
    mean, sd : float
        Of the null values, in units of the measure.
    n : int
        How many null versions.
    of : str
        What the null versions are, in the plural.
    """

    mean: float
    sd: float
    n: int
    of: str

    def z(self, value: float) -> float:
        """Distance of a value from chance, in SDs of the null values; 0 where it equals all of them."""
        distance = value - self.mean
        # A graph that no swap can change has null values that all equal its own, but for rounding.
        return 0.0 if abs(distance) < 1e-6 else distance / max(self.sd, 1e-6)

    def level(self, value: float) -> str:
        """Grade of a value against chance, one of `BINS`; "moderate" is within two SDs of it."""
        return BINS[int(np.digitize(self.z(value), BOUNDS_NULL))]


def graph_chance(weights: np.ndarray) -> dict[str, Chance]:
    """Compute graph measures of randomly rewired graphs.

    The null keeps what makes measures differ between scans without any arrangement of the edges: the number of edges of
    each ROI, and the weights [1]_. It does not keep that correlations are transitive, by which any correlated signals
    have a clustering above this null [2]_.

    Parameters
    ----------
    weights : numpy.ndarray of shape (n_rois, n_rois)
        Graph of a scan, as of `strongest_edges`.

    Returns
    -------
    dict of str to Chance
        For modularity, global_efficiency and clustering.

    References
    ----------
    .. [1] Maslov S, Sneppen K (2002). Specificity and stability in topology of protein networks. Science 296, 910-913.
    .. [2] Zalesky A, Fornito A, Bullmore E (2012). On the use of correlation as a measure of network connectivity.
       NeuroImage 60, 2096-2106.
    """
    rng = np.random.default_rng(SEED)
    values = []
    for _ in range(N_NULLS):
        null = rewire(weights, rng)
        values.append([measure(null) for measure in _GRAPH_MEASURES.values()])
    means, sds = np.mean(values, axis=0), np.std(values, axis=0)
    of = "random rewirings of the same graph"
    return {
        name: Chance(float(mean), float(sd), N_NULLS, of)
        for name, mean, sd in zip(_GRAPH_MEASURES, means, sds, strict=True)
    }


def rewire(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swap ends between random pairs of edges, so that each ROI keeps its number of edges.

    Parameters
    ----------
    weights : numpy.ndarray of shape (n_rois, n_rois)
        Symmetric, without self-connections.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of shape (n_rois, n_rois)
        A graph with the same weights and degrees.
    """
    ends = np.stack(np.nonzero(np.triu(weights, 1)))  # (2, n_edges)
    values = weights[ends[0], ends[1]]
    adjacent = weights > 0
    for _ in range(_N_ROUNDS):
        _swap_round(ends, adjacent, rng)
    null = np.zeros_like(weights)
    null[ends[0], ends[1]] = null[ends[1], ends[0]] = values
    return null


def _swap_round(ends: np.ndarray, adjacent: np.ndarray, rng: np.random.Generator) -> None:
    """Pair the edges a-b and c-d at random, and make a-d and c-b of each two where that gives a simple graph."""
    n_rois, n_edges = len(adjacent), ends.shape[1]
    one, other = rng.permutation(n_edges)[: 2 * (n_edges // 2)].reshape(2, -1)
    turned = other[rng.random(len(other)) < 0.5]
    ends[:, turned] = ends[::-1, turned]
    (a, b), (c, d) = ends[:, one], ends[:, other]
    keys = np.stack([np.minimum(a, d) * n_rois + np.maximum(a, d), np.minimum(c, b) * n_rois + np.maximum(c, b)])
    # All swaps of a round happen at once: of two that would make the same edge, neither does.
    proposed = np.bincount(keys.ravel(), minlength=n_rois**2)
    possible = (a != d) & (c != b) & ~adjacent[a, d] & ~adjacent[c, b] & (proposed[keys] == 1).all(axis=0)
    a, b, c, d, one, other = (part[possible] for part in (a, b, c, d, one, other))
    for first, second, exists in ((a, b, False), (c, d, False), (a, d, True), (c, b, True)):
        adjacent[first, second] = adjacent[second, first] = exists
    ends[1, one], ends[1, other] = d, b


def gradient_range_chance(scan: PreparedScan) -> Chance:
    """Compute the range of the principal gradient for signals with random phases.

    Every ROI keeps the power spectrum of its signal, and with it how much two unrelated signals correlate by chance
    [1]_; phases are drawn for each ROI by itself, which removes their relations. The signal is taken as if no time
    point were missing.

    References
    ----------
    .. [1] Theiler J et al. (1992). Testing for nonlinearity in time series: the method of surrogate data. Physica D
       58, 77-94.
    """
    rng = np.random.default_rng(SEED)
    signals = (with_random_phases(scan.signal, rng) for _ in range(N_NULLS))
    ranges = [np.ptp(diffusion_gradients(correlations(signal))[:, 0]) for signal in signals]
    return Chance(float(np.mean(ranges)), float(np.std(ranges)), N_NULLS, "versions of the scan with random phases")


def with_random_phases(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the phases of each column of a centred signal (n_timepoints, n_rois) anew, with the same power spectrum."""
    n_timepoints = len(signal)
    spectrum = np.fft.rfft(signal, axis=0)
    phases = np.exp(2j * np.pi * rng.random(spectrum.shape))
    # The Nyquist frequency of an even length is real: of another phase, only a part of its power would stay.
    if n_timepoints % 2 == 0:
        phases[-1] = 1
    return np.fft.irfft(spectrum * phases, n_timepoints, axis=0).astype(np.float32)


def graph_of(scan: PreparedScan) -> np.ndarray:
    """Return the graph of a scan that all its graph measures are of, (n_usable, n_usable)."""
    return strongest_edges(scan.connectivity)
