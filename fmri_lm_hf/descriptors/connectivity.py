"""Functional connectivity between and within networks."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from .catalogue import feature_name
from .prepared import PreparedScan

__all__ = ["connectivity_features", "network_connectivity"]


def network_connectivity(scan: PreparedScan) -> np.ndarray:
    """Mean Fisher-z correlation of each pair of networks.

    The mean runs over all pairs of distinct ROIs, one in each network (both in the same network on the diagonal).
    Fisher's transform, ``arctanh(r)``, makes the means comparable between weak and strong pairs [1]_.

    Returns
    -------
    numpy.ndarray of shape (n_networks, n_networks)
        Symmetric, in Fisher z. NaN where a pair has no pair of usable ROIs.

    References
    ----------
    .. [1] Silver NC, Dunlap WP (1987). Averaging correlation coefficients: should Fisher's z transformation be
       used? Journal of Applied Psychology 72, 146-148.
    """
    fisher_z = np.arctanh(np.clip(scan.connectivity, -0.999999, 0.999999))
    sums = scan.membership.T @ fisher_z @ scan.membership
    sizes = scan.membership.sum(axis=0)
    n_pairs = np.outer(sizes, sizes) - np.diag(sizes)  # no ROI is paired with itself
    return sums / np.where(n_pairs > 0, n_pairs, np.nan)


def connectivity_features(scan: PreparedScan) -> dict[str, float]:
    """``connectivity/mean`` of every pair of networks, within-network pairs included (Fisher z).

    The strongest and weakest pair of a scan are derived from these values as facts.
    """
    means = network_connectivity(scan)
    networks = list(enumerate(scan.network_names))
    return {
        feature_name("connectivity/mean", first, second): float(means[i, j])
        for (i, first), (j, second) in combinations_with_replacement(networks, 2)
    }
