"""Scores, their uncertainty, and the baselines that stand beside every score."""

from __future__ import annotations

from ..descriptors.connectivity import connectivity_features, fisher_z_connectivity
from .baselines import Prediction, connectivity_logistic, fit_logistic, majority
from .metrics import Accuracy, BalancedAccuracy, RocAuc, score_classification
from .uncertainty import Interval, bootstrap_by_subject

__all__ = [
    "Accuracy",
    "BalancedAccuracy",
    "Interval",
    "Prediction",
    "RocAuc",
    "bootstrap_by_subject",
    "connectivity_features",
    "connectivity_logistic",
    "fisher_z_connectivity",
    "fit_logistic",
    "majority",
    "score_classification",
]
