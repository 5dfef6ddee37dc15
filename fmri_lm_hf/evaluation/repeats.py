"""Scores of several models, such as trainings with other seeds: how much of a score is chance of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .readers import title_of

__all__ = ["over_models", "repeats_table"]

METRICS = ("balanced_accuracy", "auc", "mean_absolute_error")


def over_models(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What varies between models that were judged on the same scans.

    Parameters
    ----------
    results : mapping of str to mapping
        What `evaluate` returned of each model, by its name.

    Returns
    -------
    dict
        ``models``; ``tasks`` -> task -> reader -> metric -> ``mean``, ``sd`` (of the models, not of the mean),
        ``lowest`` and ``highest``; ``beats_baselines`` and ``beats_controls`` -> task -> how many models do. Readers
        that a model lacks are left out.

    Raises
    ------
    ValueError
        When they were judged on different scans, or asked different tasks.
    """
    each = list(results.values())
    if len({one.get("scans_sha256") for one in each}) > 1:
        raise ValueError(
            "The models were judged on different scans: judge them with the same scans and splits."
        )
    if len({tuple(one["tasks"]) for one in each}) > 1:
        raise ValueError("The models were asked different tasks: judge them with the same tasks.")
    tasks: dict[str, Any] = {}
    for task, readers in each[0]["tasks"].items():
        tasks[task] = {
            reader: {
                metric: _spread([one["tasks"][task][reader][metric] for one in each])
                for metric in METRICS
                if all(one["tasks"][task][reader].get(metric) is not None for one in each)
            }
            for reader in readers
            if all(reader in one["tasks"][task] for one in each)
        }
    return {
        "models": list(results),
        "tasks": tasks,
        **{
            beats: {task: sum(one["verdict"][task][beats] is True for one in each) for task in tasks}
            for beats in ("beats_controls", "beats_baselines")
        },
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "lowest": min(values),
        "highest": max(values),
    }


def repeats_table(found: Mapping[str, Any]) -> str:
    """What `over_models` returns, as text for the terminal."""
    n_models = len(found["models"])
    lines = [
        f"{'task':12} {f'reader, over {n_models} models':42} balanced accuracy, lowest to highest     AUC"
    ]
    for task, readers in found["tasks"].items():
        for reader, metrics in readers.items():
            line = f"{task:12} {title_of(reader):42} "
            if balanced := metrics.get("balanced_accuracy"):
                line += f"{balanced['mean']:.3f} +- {balanced['sd']:.3f}, "
                line += f"{balanced['lowest']:.3f} to {balanced['highest']:.3f}"
            if auc := metrics.get("auc"):
                line += f"      {auc['mean']:.3f} +- {auc['sd']:.3f}"
            lines.append(line)
        lines.append(
            f"{task:12} above all controls: {found['beats_controls'][task]} of {n_models} models; above all baselines: "
            f"{found['beats_baselines'][task]}"
        )
    return "\n".join(lines)
