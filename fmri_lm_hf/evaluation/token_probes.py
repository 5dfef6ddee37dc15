"""What can be read from tokens: site and motion, which should not be there, and phenotypes, which should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from .baselines import fit_logistic
from .confounding import levels_of_confounds, predictability
from .features import Unavailable
from .metrics import balanced_accuracy, roc_auc
from .tasks import class_name, is_missing
from .token_readings import TokenReadings
from .uncertainty import bootstrap_by_subject

__all__ = ["VECTORS", "left_out", "of_rows", "phenotypes", "unwanted"]

VECTORS = ("tokens", "codes", "connectivity")  # the last one is what the others are held against


def left_out(reason: str) -> dict[str, str]:
    """In place of numbers, why there are none."""
    return {"left_out": reason}


def unwanted(
    scans: datasets.Dataset, whole: TokenReadings, training: TokenReadings | None, seed: int
) -> dict[str, Any]:
    """What should not be read from tokens: the site, among all scans, and motion, among those that are measured."""
    found = {}
    for name, readings in (("site", _both(whole, training)), ("motion", whole)):
        levels = levels_of_confounds(scans, readings.rows)
        found[name] = (
            _predicted(scans, readings, levels[name], seed)
            if name in levels
            else left_out(f"The scans do not differ in {name}, or it is not known.")
        )
    return found


def _both(whole: TokenReadings, training: TokenReadings | None) -> TokenReadings:
    if training is None:
        return whole
    values = {name: torch.cat([whole.values[name], each]) for name, each in training.values.items()}
    return TokenReadings([*whole.rows, *training.rows], whole.failures | training.failures, values)


def _predicted(
    scans: datasets.Dataset, whole: TokenReadings, levels: Sequence[str | None], seed: int
) -> dict[str, Any]:
    """How well levels can be predicted from each vector, in cross-validation by subject."""
    subjects = of_rows(scans, "subject_id", whole.rows)
    try:
        return {
            name: predictability(whole.values[name].numpy(), levels, subjects, seed)
            for name in tqdm(VECTORS, "Probes", unit="probe")
            if name in whole.values
        }
    except Unavailable as reason:
        return left_out(str(reason))


def phenotypes(
    scans: datasets.Dataset,
    whole: TokenReadings,
    training: TokenReadings | None,
    labels: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    confounds = levels_of_confounds(scans, whole.rows)
    columns = list(dict.fromkeys([*labels, *(name for name in ("sex", "age") if name in confounds)]))
    unknown = sorted(set(labels) - set(scans.column_names))
    if unknown:
        raise ValueError(
            f"The scan dataset has no column {', '.join(unknown)}: it has {', '.join(scans.column_names)}."
        )
    found: dict[str, Any] = {}
    for column in columns:
        if training is not None and column != "age":
            found[column] = _of_unseen_site(scans, whole, training, column, seed)
        else:
            levels = confounds.get(column) or [_class(value) for value in _values(scans, column, whole.rows)]
            found[column] = _predicted(scans, whole, levels, seed)
    return found or left_out(
        "No label columns were named, and the scans have no sex and no age that differs."
    )


def _of_unseen_site(
    scans: datasets.Dataset, whole: TokenReadings, training: TokenReadings, column: str, seed: int
) -> dict[str, Any]:
    """Scores of probes that were fitted to other sites' scans."""
    labels = [[_class(value) for value in _values(scans, column, each.rows)] for each in (training, whole)]
    known = [[place for place, label in enumerate(each) if label is not None] for each in labels]
    train, truth = ([each[place] for place in places] for each, places in zip(labels, known))
    if len(set(train)) < 2 or len(set(truth)) < 2 or set(truth) - set(train):
        return left_out("It has not the same two classes or more at both sites.")
    subjects = [
        of_rows(scans, "subject_id", np.array(each.rows)[places].tolist())
        for each, places in zip((training, whole), known)
    ]
    found = {}
    for name in tqdm([name for name in VECTORS if name in whole.values], f"Probes of {column}", unit="probe"):
        x, y = (each.values[name].numpy()[places] for each, places in zip((training, whole), known))
        told = fit_logistic(x, train, y, subjects[0])
        interval = bootstrap_by_subject(_accuracy_on(truth, told.labels), subjects[1], seed=seed)
        found[name] = {
            "balanced_accuracy": interval.estimate,
            "interval": [interval.low, interval.high],
            "auc": roc_auc(truth, told.scores, told.classes),
            "chance": 1 / len(told.classes),
            "n": len(truth),
        }
    return found


def _accuracy_on(
    truth: Sequence[str | None], answers: Sequence[str | None]
) -> Callable[[np.ndarray], float | None]:
    """Balanced accuracy of the scans that are drawn."""
    right, answered = np.array(truth), np.array(answers)
    return lambda drawn: balanced_accuracy(right[drawn], answered[drawn])


def _class(value: Any) -> str | None:
    return None if is_missing(value) else class_name(value)


def _values(scans: datasets.Dataset, column: str, rows: Sequence[int]) -> list[Any]:
    values = list(scans[column])
    return [values[row] for row in rows]


def of_rows(scans: datasets.Dataset, column: str, rows: Sequence[int]) -> list[str]:
    return [str(value) for value in _values(scans, column, rows)]
