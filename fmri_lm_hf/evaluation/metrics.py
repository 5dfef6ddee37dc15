"""Classification metrics: for one set of answers, for many weightings of the scans at once, as `evaluate` metrics.

An undefined score, such as an AUC over one class, is None (NaN in arrays), never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score


class ClassificationScores(TypedDict):
    """Scores of one set of answers; None where a score is not defined."""

    accuracy: float
    balanced_accuracy: float | None
    auc: float | None


def score_classification(
    labels: Sequence[Any],
    predictions: Sequence[Any],
    scores: Sequence[Any] | np.ndarray | None = None,
    classes: Sequence[Any] | None = None,
) -> ClassificationScores:
    """Score a classifier by accuracy, balanced accuracy and AUC.

    Parameters
    ----------
    labels, predictions : sequences of length n_scans
        Class names or numbers; compared as strings.
    scores : array of shape (n_scans, n_classes), or (n_scans,) for two classes, optional
        See :func:`roc_auc`. Without scores the AUC is None.
    classes : sequence, optional
        The order of the columns of `scores`; the sorted labels when None.
    """
    auc = None
    if scores is not None:
        names = sorted({str(label) for label in labels}) if classes is None else classes
        auc = roc_auc(labels, scores, names) if len(names) > 1 else None
    return {
        "accuracy": accuracy(labels, predictions),
        "balanced_accuracy": balanced_accuracy(labels, predictions),
        "auc": auc,
    }


def accuracy(labels: Sequence[Any], predictions: Sequence[Any]) -> float:
    """Compute the fraction of predictions that equal their label."""
    return float(accuracy_score(*_as_strings(labels, predictions)))


def balanced_accuracy(labels: Sequence[Any], predictions: Sequence[Any]) -> float | None:
    """Compute the mean recall over the classes of the labels; None when there is only one.

    A prediction that is not one of the classes, as a language model may give, is wrong.
    """
    truth, answers = _as_strings(labels, predictions)
    classes = np.unique(truth)
    if len(classes) < 2:
        return None
    # not balanced_accuracy_score, which warns about every answer that is not one of the labels
    return float(recall_score(truth, answers, labels=classes, average="macro"))


def roc_auc(labels: Sequence[Any], scores: Sequence[Any] | np.ndarray, classes: Sequence[Any]) -> float | None:
    """Compute the area under the ROC curve; with more than two classes, the mean of each class against the rest.

    Parameters
    ----------
    labels : sequence of length n_scans
    scores : array of shape (n_scans, n_classes), or (n_scans,) for two classes
        Higher is more likely. Columns are in the order of `classes`; a single column is of `classes[1]`.
    classes : sequence of length n_classes

    Returns
    -------
    float or None
        None when the labels hold only one class, or none. Classes that no label names are left out of the mean.
    """
    truth = np.asarray([str(label) for label in labels])
    names = [str(name) for name in classes]
    values = np.asarray(scores, dtype=np.float64)
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"classes={names} found, expected at least two different ones.")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are not finite, expected numbers only.")
    # one value a scan speaks for the second class, as scikit-learn has it
    if values.ndim == 1 and len(names) == 2:
        values = np.stack([-values, values], axis=1)
    if values.shape != (len(truth), len(names)):
        raise ValueError(
            f"Scores of shape {values.shape} found, expected ({len(truth)}, {len(names)}): one row a label and one "
            f"column for each of {names}" + (", or one value a label." if len(names) == 2 else ".")
        )
    if unknown := sorted(set(truth.tolist()) - set(names)):
        raise ValueError(f"Labels {unknown} found, expected some of the classes {names}.")
    # not roc_auc_score(multi_class="ovr"), which refuses scores that do not sum to one and absent classes
    # of two classes, the second alone: the first gives the same area
    columns = range(1, 2) if len(names) == 2 else range(len(names))
    areas = [
        roc_auc_score(truth == names[column], values[:, column])
        for column in columns
        if len(np.unique(truth == names[column])) == 2
    ]
    return float(np.mean(areas)) if areas else None


def _as_strings(labels: Sequence[Any], predictions: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Convert both to arrays of strings, so that 1 and "1" are one class."""
    if len(labels) != len(predictions) or len(labels) == 0:
        raise ValueError(
            f"{len(labels)} labels and {len(predictions)} predictions found, expected equally many, at least one."
        )
    return np.asarray([str(v) for v in labels]), np.asarray([str(v) for v in predictions])


# ---------------------------------------------- many weightings (a bootstrap) or labellings (permutations) in one pass


def weighted_balanced_accuracy(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute balanced accuracies: the mean recall over the classes that have weight.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,) or (n_weightings, n_scans)
        Class numbers.
    predictions : ndarray of int of shape (n_scans,)
    weights : ndarray of shape (n_weightings, n_scans), or (1, n_scans) for the same weights with all labellings

    Returns
    -------
    ndarray of shape (n_weightings,)
        NaN where fewer than two classes have weight.
    """
    # a loop over classes, not over weightings: a thousand resamples are then a few products of arrays
    recalls = []
    for name in np.unique(labels):
        of_class = weights * (labels == name)
        total = of_class.sum(1)
        # a resample without this class is NaN here and left out of the mean; the maximum only avoids a warning
        correct = (of_class * (predictions == name)).sum(1)
        recalls.append(np.where(total > 0, correct / np.maximum(total, 1e-12), np.nan))
    return _mean_of_defined(np.array(recalls), at_least=2)


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute areas under the ROC curve; with more than two classes, the mean of each class against the rest.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,)
        The true column of `scores`.
    scores : ndarray of shape (n_scans, n_classes)
    weights : ndarray of shape (n_weightings, n_scans)

    Returns
    -------
    ndarray of shape (n_weightings,)
        Classes without weight are left out of the mean; NaN where no class remains.
    """
    n_classes = scores.shape[1]
    areas = []
    for column in range(1 if n_classes == 2 else 0, n_classes):
        order = np.argsort(scores[:, column], kind="stable")
        # equal scores are summed in one bin: one after the other, their order would decide ties
        starts = np.flatnonzero(np.diff(scores[order, column], prepend=-np.inf))
        positive = np.add.reduceat(weights[:, order] * (labels[order] == column), starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * (labels[order] != column), starts, axis=1)
        # Mann-Whitney: each positive beats the negatives of lower scores and half of those of an equal score
        wins = positive * (negative.cumsum(1) - negative / 2)
        pairs = positive.sum(1) * negative.sum(1)
        areas.append(np.where(pairs > 0, wins.sum(1) / np.maximum(pairs, 1e-12), np.nan))
    return _mean_of_defined(np.array(areas), at_least=1)


def _mean_of_defined(values: np.ndarray, at_least: int) -> np.ndarray:
    """Average over rows, ignoring NaN; NaN where fewer than `at_least` values are left."""
    n_defined = np.isfinite(values).sum(0)
    return np.where(n_defined >= at_least, np.nansum(values, axis=0) / np.maximum(n_defined, 1), np.nan)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute means over scans of `values`, (n_scans,) or (n_labellings, n_scans): one for each weighting."""
    return (weights * values).sum(1) / weights.sum(1)


# ------------------------------------------------------------------------------- the same as metrics of `evaluate`


class _ClassMetric(evaluate.Metric):
    """A metric over class names that needs no download; kept in memory, since a few labels need no cache file."""

    inputs = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="Class names or numbers; for the AUC also scores.",
            features=datasets.Features(self.inputs),
        )


class Accuracy(_ClassMetric):
    """Fraction of predictions that equal their reference."""

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"accuracy": accuracy(references, predictions)}


class BalancedAccuracy(_ClassMetric):
    """Mean recall over the classes that occur among the references; None when there is only one."""

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | None]:
        return {"balanced_accuracy": balanced_accuracy(references, predictions)}


class RocAuc(_ClassMetric):
    """Area under the ROC curve, one class against the rest; None when the references hold only one class.

    `compute(references=..., prediction_scores=..., classes=...)`, with one row of scores a reference and one column
    for each of `classes`.
    """

    inputs = {
        "prediction_scores": datasets.List(datasets.Value("float64")),
        "references": datasets.Value("string"),
    }

    def _compute(
        self, prediction_scores: list[list[float]], references: list[str], classes: Sequence[Any]
    ) -> dict[str, float | None]:
        return {"auc": roc_auc(references, prediction_scores, classes)}
