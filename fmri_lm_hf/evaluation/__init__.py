"""Evaluation: scores with their uncertainty, next to baselines and controls.

`evaluate.evaluate` scores a model on test subjects; an `EvaluationConfig` says what to measure, an `EvaluationReport`
holds what was found. The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..descriptors.connectivity import connectivity_features, fisher_z_connectivity
    from .baselines import Prediction, connectivity_logistic, fit_logistic, majority
    from .history import History
    from .metrics import Accuracy, BalancedAccuracy, RocAuc, score_classification
    from .results import EvaluationConfig, EvaluationReport
    from .tasks import Task, load_tasks
    from .uncertainty import Interval, bootstrap_by_subject

_HOME = {
    "Accuracy": ".metrics",
    "BalancedAccuracy": ".metrics",
    "EvaluationConfig": ".results",
    "EvaluationReport": ".results",
    "History": ".history",
    "Interval": ".uncertainty",
    "Prediction": ".baselines",
    "RocAuc": ".metrics",
    "Task": ".tasks",
    "bootstrap_by_subject": ".uncertainty",
    "connectivity_features": "..descriptors.connectivity",
    "connectivity_logistic": ".baselines",
    "fisher_z_connectivity": "..descriptors.connectivity",
    "fit_logistic": ".baselines",
    "load_tasks": ".tasks",
    "majority": ".baselines",
    "score_classification": ".metrics",
}

__all__ = [
    "Accuracy",
    "BalancedAccuracy",
    "EvaluationConfig",
    "EvaluationReport",
    "History",
    "Interval",
    "Prediction",
    "RocAuc",
    "Task",
    "bootstrap_by_subject",
    "connectivity_features",
    "connectivity_logistic",
    "fisher_z_connectivity",
    "fit_logistic",
    "load_tasks",
    "majority",
    "score_classification",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
