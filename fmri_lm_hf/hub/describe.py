"""The card of what is published, from what was measured: configuration, training record, scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cards.rendering import render_card
from .contents import Publication

__all__ = ["ALWAYS_SHOWN", "describe"]

# The blocks that say that weights come from simulated scans, or that a cohort is controlled: such a card has them.
ALWAYS_SHOWN = ("simulated", "controlled")

_METRICS = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "auc": "ROC AUC"}
_OURS = "fmri_lm"


def describe(publication: Publication, repo_id: str, controlled: bool = False) -> str:
    """Render the card of a publication.

    Parameters
    ----------
    publication : Publication
        Read are `config.json`, the processor, `training_info.json`, `results.json`, or the rows of a dataset.
    repo_id : str
        Shown in the examples.
    controlled : bool, default=False
        Of a dataset: whether its cohort is declared as controlled.
    """
    if publication.kind == "dataset":
        from .describe_dataset import describe_dataset

        return describe_dataset(publication, repo_id, controlled)
    training = publication.json("training_info.json")
    results = publication.json("results.json") or {"tasks": training.get("scores", {})}
    config = publication.json("adapter_config.json" if publication.kind == "adapter" else "config.json")
    values = {
        "repo_id": repo_id,
        "config": config,
        "extractor": _extractor(publication),
        "n_parameters": _n_parameters(publication),
        "training": training,
        "training_rows": _flat({key: value for key, value in training.items() if key != "scores"}),
        "simulated": is_simulated(training),
        "scores": _score_rows(results),
        "base_model": config.get("base_model_name_or_path"),
    }
    metadata: dict[str, Any] = {
        "library_name": "peft" if publication.kind == "adapter" else "transformers",
        "license": training.get("license"),
        "base_model": values["base_model"],
        "tags": ["fmri", "neuroimaging", publication.kind.replace("_", "-")],
        "model-index": _model_index(repo_id, results),
    }
    if values["simulated"]:
        metadata["tags"].append("simulated-data")
    return render_card(publication.kind, metadata, **values)


def is_simulated(training: Mapping[str, Any]) -> bool:
    """Whether a training record says, at any depth, `simulated: true`."""
    return bool(training.get("simulated")) or any(
        is_simulated(value) for value in training.values() if isinstance(value, Mapping)
    )


def _extractor(publication: Publication) -> dict[str, Any]:
    """What the processor says about its input: atlas, length, TR."""
    record = publication.json("preprocessor_config.json") or publication.json("processor_config.json")
    return record.get("feature_extractor", record)


def _n_parameters(publication: Publication) -> int | None:
    from safetensors import safe_open

    total = 0
    for name, path in publication.files.items():
        if name.endswith(".safetensors") and isinstance(path, Path):
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118  (safe_open is not iterable)
                    size = 1
                    for length in file.get_slice(key).get_shape():
                        size *= length
                    total += size
    return total or None


def _score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a task and model, ours first: task, model, accuracy, balanced accuracy, AUC."""
    rows = []
    for task, by_model in results.get("tasks", {}).items():
        for model in sorted(by_model, key=lambda name: name != _OURS):
            rows.append({"task": task, "model": model, "is_ours": model == _OURS, **by_model[model]})
    return rows


def _model_index(repo_id: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Our scores with the baselines beside them, in the form that the Hub indexes."""
    indexed = []
    for task, by_model in results.get("tasks", {}).items():
        metrics = []
        for model in sorted(by_model, key=lambda name: name != _OURS):
            suffix = "" if model == _OURS else f" of the baseline {model}"
            for metric, title in _METRICS.items():
                value = by_model[model].get(metric)
                if value is not None:
                    metrics.append({"type": metric, "value": value, "name": title + suffix})
        if metrics:
            dataset = {
                "type": results.get("dataset", "fmri"),
                "name": results.get("dataset", "held-out scans"),
            }
            indexed.append(
                {
                    "task": {"type": "zero-shot-classification", "name": task},
                    "dataset": dataset,
                    "metrics": metrics,
                }
            )
    return [{"name": repo_id.split("/")[1], "results": indexed}] if indexed else []


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows of dotted name and short value, for a table."""
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        elif not isinstance(value, list) or len(json.dumps(value)) < 80:
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
            rows.append((name, text.replace("|", "\\|").replace("\n", " ")))
    return rows
