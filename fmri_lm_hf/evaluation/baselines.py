"""Baselines: logistic and ridge regression on features of scans, and the majority class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from ..descriptors.connectivity import connectivity_features
from .metrics import ClassificationScores, score_classification

REGULARISATION = np.logspace(-3, 2, 11)  # C, for features scaled so that their squared norm is about 1
RIDGE = np.logspace(-3, 3, 13)  # alpha, for the same
N_FOLDS = 5


@dataclass(frozen=True)
class Prediction:
    """The answers of a baseline for the test scans.

    Attributes
    ----------
    classes : tuple of str
        Class names, sorted; the columns of `scores`.
    labels : list of str
        The predicted class of each scan.
    scores : ndarray of shape (n_scans, n_classes)
        Probabilities.
    """

    classes: tuple[str, ...]
    labels: list[str]
    scores: np.ndarray

    def score(self, labels: Sequence[Any]) -> ClassificationScores:
        """Score the answers against the true labels."""
        return score_classification(labels, self.labels, self.scores, self.classes)

    def scores_of(self, classes: Sequence[str]) -> np.ndarray:
        """Order the columns of `scores` by `classes`."""
        return self.scores[:, [self.classes.index(name) for name in classes]]


def majority(train_labels: Sequence[Any], n_test: int) -> Prediction:
    """Predict the most common training label for every scan; of equally common ones, the first in order."""
    counts = Counter(str(label) for label in train_labels)
    classes = tuple(sorted(counts))
    if not classes:
        raise ValueError("No training labels found, expected at least one.")
    frequencies = np.array([counts[name] for name in classes]) / len(train_labels)
    return Prediction(classes, [classes[int(frequencies.argmax())]] * n_test, np.tile(frequencies, (n_test, 1)))


def connectivity_logistic(
    train_bold: Iterable[np.ndarray],
    train_labels: Sequence[Any],
    test_bold: Iterable[np.ndarray],
    train_subjects: Sequence[Any] | None = None,
    train_masks: Iterable[Sequence[bool]] | None = None,
    test_masks: Iterable[Sequence[bool]] | None = None,
) -> Prediction:
    """Fit logistic regression on the connectivity of all pairs of ROIs to training scans, and predict test scans.

    For several labels of the same scans, compute :func:`connectivity_features` once and call :func:`fit_logistic` for
    each label.

    Parameters
    ----------
    train_bold, test_bold : iterables of ndarray of shape (n_timepoints, n_rois)
        Scans of any lengths.
    train_labels : sequence of length n_train
        Two or more classes.
    train_subjects : sequence of length n_train, optional
        The subject of each scan; scans of one subject stay on one side when the penalty is chosen.
    train_masks, test_masks : iterables of sequences of bool, optional
        The ROIs to use of each scan.
    """
    return fit_logistic(
        connectivity_features(train_bold, train_masks),
        train_labels,
        connectivity_features(test_bold, test_masks),
        train_subjects,
    )


def fit_logistic(
    train: np.ndarray,
    train_labels: Sequence[Any],
    test: np.ndarray,
    train_subjects: Sequence[Any] | None = None,
    penalty: float | None = None,
) -> Prediction:
    """Fit L2-penalised logistic regression with balanced class weights, and predict test scans.

    Features are standardised with training statistics; a missing value becomes the training mean. The penalty has the
    best log loss in cross-validation by subject within the training scans. The problem is solved in the space that the
    training scans span, which is exact for an L2 penalty and takes seconds for any number of features.

    Parameters
    ----------
    train : ndarray of shape (n_train, n_features)
    train_labels : sequence of length n_train
    test : ndarray of shape (n_test, n_features)
    train_subjects : sequence of length n_train, optional
        Each scan is a subject of its own when None.
    penalty : float, optional
        `C`, from `choose_penalty`; chosen here when None.
    """
    # as strings: a class must be the same whether a table gave it as 1 or as "1"
    labels = np.array([str(label) for label in train_labels])
    classes = tuple(np.unique(labels).tolist())
    if len(classes) < 2:
        raise ValueError(f"Training labels of one class {classes} found, expected at least two classes.")
    train, test, subjects = _prepared(train, len(labels), test, train_subjects)
    with _one_thread():
        penalty = _choose_penalty(train, labels, subjects, REGULARISATION) if penalty is None else penalty
        model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000).fit(train, labels)
    scores = model.predict_proba(test)
    return Prediction(classes, [classes[i] for i in scores.argmax(1)], scores)


def choose_penalty(
    features: np.ndarray, labels: Sequence[Any], subjects: Sequence[Any], candidates: Sequence[float]
) -> float:
    """Choose the `C` with which :func:`fit_logistic` predicts the labels of other subjects best, by log loss."""
    features, _, groups = _prepared(features, len(labels), features[:0], subjects)
    with _one_thread():
        return _choose_penalty(features, np.array([str(label) for label in labels]), groups, candidates)


def fit_ridge(
    train: np.ndarray,
    train_values: Sequence[float] | np.ndarray,
    test: np.ndarray,
    train_subjects: Sequence[Any] | None = None,
) -> np.ndarray:
    """Fit ridge regression of a number, standardised and solved as in :func:`fit_logistic`, and predict test scans.

    The penalty has the smallest squared error in cross-validation by subject within the training scans.

    Parameters
    ----------
    train : ndarray of shape (n_train, n_features)
    train_values : sequence of float of length n_train
    test : ndarray of shape (n_test, n_features)
    train_subjects : sequence of length n_train, optional
        Each scan is a subject of its own when None.

    Returns
    -------
    ndarray of shape (n_test,)
    """
    values = np.asarray(train_values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} training values are not finite, expected numbers only.")
    train, test, subjects = _prepared(train, len(values), test, train_subjects)
    n_folds = min(N_FOLDS, len(np.unique(subjects)))
    with _one_thread():
        if n_folds < 2:  # one subject: none to hold out
            return Ridge(1.0).fit(train, values).predict(test)
        search = GridSearchCV(Ridge(), {"alpha": RIDGE}, scoring="neg_mean_squared_error", cv=GroupKFold(n_folds))
        return search.fit(train, values, groups=subjects).predict(test)


def _one_thread() -> threadpool_limits:
    """Limit BLAS to one thread: matrices are small and many, and threads that wait make a fit 20 times slower."""
    return threadpool_limits(1, user_api="blas")


def _prepared(
    train: np.ndarray, n_values: int, test: np.ndarray, train_subjects: Sequence[Any] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardise features, reduce them to as many dimensions as scans, and number the subjects."""
    subjects = np.arange(n_values) if train_subjects is None else np.asarray(train_subjects)
    if not len(train) == n_values == len(subjects):
        raise ValueError(
            f"{len(train)} training scans, {n_values} labels and {len(subjects)} subjects found, expected equally "
            "many."
        )
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"{train.shape[1]} features in training and {test.shape[1]} in test found, expected the same ROIs in both."
        )
    train, test = _standardise(train, test)
    if len(train) < train.shape[1]:
        train, test = _rotate(train, test)
    return train, test, subjects


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise by training mean and SD; drop constant features and those that fewer than two training scans have."""
    # one value has no spread; an ROI that only one training scan has would be NaN after standardising
    known = np.isfinite(train).sum(0) >= 2
    train, test = train[:, known].astype(np.float64), test[:, known].astype(np.float64)
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    varies = deviation > 0
    if not varies.any():
        raise ValueError("No feature varies between the training scans, expected connectivity of usable ROIs.")
    # a squared norm of about 1, so that the same penalties suit any number of features
    scale = deviation[varies] * np.sqrt(varies.sum())
    train, test = ((x[:, varies] - mean[varies]) / scale for x in (train, test))
    return np.nan_to_num(train, nan=0.0), np.nan_to_num(test, nan=0.0)


def _rotate(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute coordinates in the space that the training scans span.

    An L2 penalty depends on inner products alone, so weights outside this space are zero at the optimum, and a fit of
    80,000 connections costs as much as one of as many features as scans.
    """
    gram = train @ train.T
    values, vectors = np.linalg.eigh(gram)
    # smaller eigenvalues are rounding: divided by their square root they would become features of noise
    spans = values > 1e-10 * values[-1]
    lengths, vectors = np.sqrt(values[spans]), vectors[:, spans]
    return vectors * lengths, test @ train.T @ (vectors / lengths)


def _choose_penalty(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray, candidates: Sequence[float] | np.ndarray
) -> float:
    """As `choose_penalty`, for features from `_prepared`."""
    classes = np.unique(labels)
    n_folds = min(N_FOLDS, *(len(np.unique(subjects[labels == name])) for name in classes))
    if n_folds < 2:  # too few subjects to hold one out
        return 1.0
    losses = np.zeros(len(candidates))
    # by subject: with one scan of a subject in each part, the weakest penalty, which learns people by heart, would win
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    for fit, held_out in folds.split(features, labels, subjects):
        if len(np.unique(labels[fit])) < len(classes):  # folds by subject need not have every class
            continue
        # each fit starts where the one before it, with a stronger penalty, ended
        model = LogisticRegression(class_weight="balanced", max_iter=1000, warm_start=True)
        for i, penalty in enumerate(candidates):
            model.set_params(C=penalty).fit(features[fit], labels[fit])
            probabilities = model.predict_proba(features[held_out])
            losses[i] += log_loss(labels[held_out], probabilities, labels=classes)
    return float(np.asarray(candidates)[losses.argmin()])
