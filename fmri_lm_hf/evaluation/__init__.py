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
    ".baselines": ("Prediction", "connectivity_logistic", "fit_logistic", "majority"),
    ".history": ("History",),
    ".metrics": ("Accuracy", "BalancedAccuracy", "RocAuc", "score_classification"),
    ".results": ("EvaluationConfig", "EvaluationReport"),
    ".tasks": ("Task", "load_tasks"),
    ".uncertainty": ("Interval", "bootstrap_by_subject"),
    "..descriptors.connectivity": ("connectivity_features", "fisher_z_connectivity"),
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
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
