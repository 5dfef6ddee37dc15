"""Gradients of functional connectivity: the leading axes of a diffusion map.

Own code, since a dense eigendecomposition of all axes takes ten times as long (`benchmarks/descriptors.py`), and since
equal scans have to give equal bits on every run.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from .catalogue import feature_name
from .prepared import PreparedScan

N_GRADIENTS = 3
KEPT = 0.1  # share of each ROI's connections that enters its profile
ALPHA = 0.5  # 0: density of ROIs along an axis counts fully, 1: not at all
_LANCZOS_FROM = 64  # below, a dense solver is as quick


def diffusion_gradients(connectivity: np.ndarray, n_gradients: int = N_GRADIENTS) -> np.ndarray:
    """Compute the leading gradients of a connectivity matrix by diffusion-map embedding [1]_, [2]_.

    Each ROI keeps the strongest 10 % of its positive connections as its profile. The affinity of two ROIs is the
    normalised angle between their profiles, ``1 - arccos(cosine) / pi``, which keeps the map in one piece even
    where profiles do not overlap. It is normalised with ``alpha = 0.5`` and made a random walk, of which the
    leading non-trivial eigenvectors, times ``eigenvalue / (1 - eigenvalue)``, are the gradients.

    Parameters
    ----------
    connectivity : numpy.ndarray of shape (n_rois, n_rois)
        Symmetric; the diagonal is ignored.

    Returns
    -------
    numpy.ndarray of shape (n_rois, n_gradients)
        In diffusion units; the value of largest magnitude of each gradient is positive.

    References
    ----------
    .. [1] Coifman RR, Lafon S (2006). Diffusion maps. Applied and Computational Harmonic Analysis 21, 5-30.
    .. [2] Margulies DS et al. (2016). Situating the default-mode network along a principal gradient of macroscale
       cortical organization. PNAS 113, 12574-12579.
    """
    n_rois = len(connectivity)
    # One partition a row: a full sort, or a percentile, would order what only has to be split.
    profiles = connectivity.astype(np.float32)
    np.fill_diagonal(profiles, 0.0)
    n_kept = max(1, round(KEPT * n_rois))
    thresholds = np.partition(profiles, n_rois - n_kept, axis=1)[:, [n_rois - n_kept]]
    profiles *= profiles >= np.maximum(thresholds, 0)
    # An ROI without positive connections has an empty profile: at a right angle to all others, and no NaN.
    lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles /= np.where(lengths > 0, lengths, 1)
    affinity = 1 - np.arccos(np.clip(profiles @ profiles.T, 0.0, 1.0)) / np.float32(np.pi)
    np.fill_diagonal(affinity, 1.0)

    density = affinity.sum(axis=0) ** ALPHA
    affinity /= density[:, None] * density
    root = np.sqrt(affinity.sum(axis=0, dtype=np.float64))
    symmetric = affinity / (root[:, None] * root)  # similar to the random walk, but symmetric; float64
    if n_rois < _LANCZOS_FROM:
        eigenvalues, vectors = eigh(symmetric, subset_by_index=[n_rois - n_gradients - 1, n_rois - 1])
    else:
        start = np.cos(np.arange(n_rois))  # fixed, so that equal scans give equal bits
        eigenvalues, vectors = eigsh(symmetric, k=n_gradients + 1, which="LA", v0=start)
    # The first eigenvector belongs to the stationary state (eigenvalue 1). Dividing by it turns eigenvectors of the
    # symmetric matrix into those of the random walk.
    order = np.argsort(eigenvalues)[::-1]
    eigenvalues, vectors = eigenvalues[order], vectors[:, order]
    gradients = vectors[:, 1:] / vectors[:, :1] * (eigenvalues[1:] / (1 - eigenvalues[1:]))
    # An eigenvector has no sign of its own, and solvers differ in the one that they return.
    extremes = gradients[np.abs(gradients).argmax(axis=0), np.arange(n_gradients)]
    return gradients * np.sign(extremes)


def align(gradients: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Align `gradients` (n_rois, k) with `reference` by the orthogonal Procrustes rotation.

    Rotations and reflections only: distances between ROIs, and with them the spread of the gradients, are kept.
    """
    # Axes of single scans swap places and signs freely, so that g1 of one scan may be g2 of another.
    left, _, right = np.linalg.svd(gradients.T @ reference)
    return gradients @ (left @ right)


def gradient_features(scan: PreparedScan, reference: np.ndarray | None = None) -> dict[str, float]:
    """Compute the gradient descriptors of a scan.

    - ``gradients/g1``, ``g2``, ``g3``, for each network: mean value of its ROIs on the gradient (diffusion units).
    - ``gradients/g1_range``, ``g2_range``, ``g3_range``: largest minus smallest ROI value (diffusion units).
    - ``gradients/variance``: variance over ROIs, summed over the three gradients (squared diffusion units); the
      spread of the ROIs in gradient space [1]_.

    Parameters
    ----------
    scan : PreparedScan
    reference : numpy.ndarray of shape (n_rois, 3), optional
        Gradients of the cohort, to which those of the scan are aligned.

    References
    ----------
    .. [1] Bethlehem RAI et al. (2020). Dispersion of functional gradients across the adult lifespan. NeuroImage
       222, 117299.
    """
    gradients = diffusion_gradients(scan.connectivity)
    if reference is not None:
        gradients = align(gradients, reference[scan.usable])
    features = {"gradients/variance": float(gradients.var(axis=0).sum())}
    network_values = scan.network_means(gradients)
    ranges = np.ptp(gradients, axis=0)
    for k in range(N_GRADIENTS):
        features[f"gradients/g{k + 1}_range"] = float(ranges[k])
        for network, value in zip(scan.network_names, network_values[:, k], strict=True):
            features[feature_name(f"gradients/g{k + 1}", network)] = float(value)
    return features
