"""Scores of the same answers under many weightings of the scans, or against many labellings of them, at once.

A bootstrap over subjects weights each scan with how often its subject was drawn; computed for all draws together it
takes milliseconds. A score that is not defined is NaN.
"""

from __future__ import annotations

import numpy as np

__all__ = ["weighted_auc", "weighted_balanced_accuracy", "weighted_mean"]


def weighted_balanced_accuracy(
    labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Mean recall over the classes that have weight.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,) or (n_weightings, n_scans)
        Numbers of classes.
    predictions : ndarray of int of shape (n_scans,)
    weights : ndarray of shape (n_weightings, n_scans), or (1, n_scans) for one that serves all labellings

    Returns
    -------
    ndarray of shape (n_weightings,)
        NaN where fewer than two classes have weight.
    """
    recalls = []
    for name in np.unique(labels):
        of_class = weights * (labels == name)
        total = of_class.sum(1)
        right = (of_class * (predictions == name)).sum(1)
        recalls.append(np.where(total > 0, right / np.maximum(total, 1e-12), np.nan))
    found = np.array(recalls)
    n_classes = np.isfinite(found).sum(0)
    return np.where(n_classes > 1, np.nansum(found, axis=0) / np.maximum(n_classes, 1), np.nan)


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve; over more than two classes, the mean of each class against the rest.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,)
        Numbers of the columns of `scores`.
    scores : ndarray of shape (n_scans, n_classes)
    weights : ndarray of shape (n_weightings, n_scans)

    Returns
    -------
    ndarray of shape (n_weightings,)
        Classes without weight are left out of the mean; NaN where there is no other.
    """
    n_classes = scores.shape[1]
    areas = []
    for column in range(1 if n_classes == 2 else 0, n_classes):
        order = np.argsort(scores[:, column], kind="stable")
        starts = np.flatnonzero(np.diff(scores[order, column], prepend=-np.inf))  # of runs of equal scores
        positive = np.add.reduceat(weights[:, order] * (labels[order] == column), starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * (labels[order] != column), starts, axis=1)
        wins = positive * (
            negative.cumsum(1) - negative / 2
        )  # against lower scores, and half of the equal ones
        pairs = positive.sum(1) * negative.sum(1)
        areas.append(np.where(pairs > 0, wins.sum(1) / np.maximum(pairs, 1e-12), np.nan))
    found = np.array(areas)
    n_defined = np.isfinite(found).sum(0)
    return np.where(n_defined > 0, np.nansum(found, axis=0) / np.maximum(n_defined, 1), np.nan)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of one value a scan, or of one a scan and labelling: (n_weightings,)."""
    return (weights * values).sum(1) / weights.sum(1)
