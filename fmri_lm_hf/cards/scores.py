"""Scores as a card shows them: a table with every reader, and what the Hub indexes of this model alone.

Both read what an evaluation wrote (`results.json`, or `scores` of `training_info.json`): `tasks` -> task -> reader ->
metrics. What stands beside the readers of a task (its question, counts) is told from them by its form: a reader is
a mapping with at least one number under the name of a known metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

__all__ = [
    "METRICS",
    "OURS",
    "RECORD_URL",
    "eval_results",
    "model_index",
    "not_above_controls",
    "score_rows",
    "what_was_scored",
]

OURS = "fmri_lm"  # the reader that is the model itself; all others are baselines and controls
METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "ROC AUC",
    "mean_absolute_error": "Mean absolute error",
}
# Results with this source are those of an earlier push, and go when new ones come.
RECORD_URL = re.compile(r"/(?:results|training_info)\.json$")


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a task and reader, the model itself first: `task`, `model`, `is_ours`, and the metrics."""
    return [
        {"task": task, "model": reader, "is_ours": reader == OURS, **metrics}
        for task, readers in _tasks(results)
        for reader, metrics in readers.items()
    ]


def not_above_controls(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Tasks in which the model was not shown to beat its controls, with the controls that it does not beat."""
    found = {}
    for task, verdict in _mapping(results.get("verdict")).items():
        if _mapping(verdict).get("beats_controls") is False:
            compared = _mapping(verdict.get("differences"))
            names = [str(name) for name in verdict.get("not_beaten") or ()]
            found[str(task)] = [
                name for name in names if _mapping(compared.get(name)).get("kind") == "control"
            ]
    return found


def model_index(repo_id: str, results: Mapping[str, Any], record: str) -> list[dict[str, Any]]:
    """The metrics of the model itself in the form that the Hub indexes; those of baselines are not its results.

    Parameters
    ----------
    repo_id : str
    results : mapping
    record : str
        The file of the repository that holds them.
    """
    name = _scans(results) or "scans that the record does not name"
    source = _source(repo_id, record)
    indexed = []
    for task, readers in _tasks(results):
        metrics = [
            {"type": metric, "value": readers[OURS][metric], "name": title}
            for metric, title in METRICS.items()
            if OURS in readers and _is_number(readers[OURS].get(metric))
        ]
        if metrics:
            indexed.append(
                {
                    "task": {"type": "zero-shot-classification", "name": task},
                    "dataset": {"type": str(results.get("dataset") or "fmri"), "name": name},
                    "metrics": metrics,
                    "source": source,
                }
            )
    return [{"name": repo_id.split("/")[-1], "results": indexed}] if indexed else []


def eval_results(repo_id: str, results: Mapping[str, Any]) -> str | None:
    """The scores of the model as `.eval_results/*.yaml`, which the Hub shows beside those of others on the same scans.

    Parameters
    ----------
    repo_id : str
    results : mapping
        Its `dataset` is the Hub id of the judged scans, and `commits` says at which commit they were judged.

    Returns
    -------
    str or None
        YAML; None where the scans are not on the Hub, so that there is nothing to be beside.
    """
    dataset = results.get("dataset")
    if not isinstance(dataset, str) or "/" not in dataset:
        return None
    revision = _mapping(results.get("commits")).get(dataset)
    unproven = not_above_controls(results)
    entries = []
    for task, readers in _tasks(results):
        ours = readers.get(OURS, {})
        metric = next(
            (name for name in ("mean_absolute_error", "balanced_accuracy") if _is_number(ours.get(name))),
            None,
        )
        if metric is None:
            continue
        notes = [METRICS[metric].lower(), *([split] if (split := _scans(results)) else [])]
        notes += ["not above its controls"] if task in unproven else []
        entries.append(
            {
                "dataset": {"id": dataset, "task_id": task, **({"revision": revision} if revision else {})},
                "value": ours[metric],
                "source": _source(repo_id, "results.json"),
                "notes": "; ".join(notes),
            }
        )
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True) if entries else None


def what_was_scored(results: Mapping[str, Any]) -> str | None:
    """Which scans the scores are about, as far as the record says it; None where it says nothing."""
    scans = _scans(results)
    simulated = " of a simulated cohort" if results.get("simulated") is True else ""
    return None if scans is None else scans + simulated


def _scans(results: Mapping[str, Any]) -> str | None:
    if results.get("holdout_site") is not None:
        return f"the scans of site {results['holdout_site']}, which was held out from training"
    if results.get("holdout_sites"):
        sites = ", ".join(map(str, results["holdout_sites"]))
        return f"the scans of the sites {sites}, which were held out from training"
    if isinstance(left_out := results.get("leave_one_site_out"), Mapping):
        named = ", ".join(map(str, left_out.get("sites") or ()))
        return f"the scans of the sites {named}, one after the other held out from the baselines, not from this model"
    if results.get("split"):
        return f"the {results['split']} split" + (
            f" of {results['dataset']}" if results.get("dataset") else ""
        )
    return str(results["dataset"]) if results.get("dataset") else None


def _source(repo_id: str, record: str) -> dict[str, str]:
    return {
        "name": f"{record} of the repository",
        "url": f"https://huggingface.co/{repo_id}/blob/main/{record}",
    }


def _tasks(results: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Every task with its readers, the model itself first."""
    tasks = results.get("tasks")
    for task, entries in tasks.items() if isinstance(tasks, Mapping) else ():
        readers = {name: dict(entry) for name, entry in _mapping(entries).items() if _is_reader(entry)}
        if readers:
            yield str(task), dict(sorted(readers.items(), key=lambda item: item[0] != OURS))


def _is_reader(entry: Any) -> bool:
    return any(_is_number(value) for key, value in _mapping(entry).items() if key in METRICS)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
