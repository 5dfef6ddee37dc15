"""Calibration of probabilities: Brier score, calibration error and slope, reliability, risk and coverage.

Also conformal sets of answers: sets that hold the right answer with a given frequency, calibrated on other subjects.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy.optimize import minimize_scalar

logger = logging.getLogger(__name__)

N_BINS = 10
STEEPEST = 100.0  # largest slope: where classes are separated without error, the best slope is infinite
CONFIDENCE = 0.9  # of conformal sets


class Bin(TypedDict):
    """Confidence and accuracy in one bin of confidence: means over its `n` scans."""

    confidence: float
    accuracy: float
    n: int


class Risk(TypedDict):
    """The share of wrong answers (`risk`) when only the surest answers, a share `coverage`, are given."""

    coverage: float
    risk: float


class Calibration(TypedDict):
    """The calibration of one predictor."""

    brier: float
    ece: float
    slope: float | None
    reliability: list[Bin]
    risk_coverage: list[Risk]


class ConformalSets(TypedDict):
    """Sizes and coverage of conformal sets of answers."""

    confidence: float
    coverage: float  # how often a set held the right answer
    coverage_of_classes: dict[str, float]  # the same, by that answer
    mean_size: float  # in answers
    single: float  # share of sets of one answer
    single_right: float | None  # how often that is the right one; None without such sets


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Compute all measures of calibration.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,)
        The column of the true class.
    probabilities : ndarray of shape (n_scans, n_classes)
    """
    return {
        "brier": brier_score(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "slope": calibration_slope(labels, probabilities),
        "reliability": reliability(labels, probabilities),
        "risk_coverage": risk_coverage(labels, probabilities),
    }


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute the mean squared distance of probabilities and truth, summed over classes: 0 to 2.

    References
    ----------
    Brier GW (1950). Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1-3.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def reliability(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> list[Bin]:
    """Compute accuracy by confidence (the largest probability) in bins of equal width, without the empty ones."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    # A probability of exactly 1 belongs to the last bin, not to one behind it.
    place = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return [
        {
            "confidence": float(confidence[place == each].mean()),
            "accuracy": float(right[place == each].mean()),
            "n": int((place == each).sum()),
        }
        for each in np.unique(place)
    ]


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> float:
    """Compute the mean distance of confidence and accuracy over bins, weighted by the scans in them.

    Even a calibrated model has an error above 0 on few scans.

    References
    ----------
    Naeini MP, Cooper GF, Hauskrecht M (2015). Obtaining well calibrated probabilities using Bayesian binning. AAAI.
    """
    bins = reliability(labels, probabilities, n_bins)
    return sum(each["n"] * abs(each["confidence"] - each["accuracy"]) for each in bins) / len(labels)


def calibration_slope(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Fit the factor of the log-odds between classes that makes the labels most likely; 1 if they are calibrated.

    Below 1 they are overconfident, above 1 underconfident, at 0 uninformative. It is the inverse of the temperature of
    temperature scaling [1]_, and with two classes the slope of a logistic regression of the label on the log-odds,
    without intercept. None where all classes are equally probable for every scan; between -100 and 100.

    References
    ----------
    .. [1] Guo C, Pleiss G, Sun Y, Weinberger KQ (2017). On calibration of modern neural networks. ICML.
    """
    logits = np.log(probabilities.clip(1e-12))  # 0 has no logarithm
    # A softmax ignores a shift of all logits. Without the shift, equal probabilities are zeros, whatever their number.
    logits -= logits.mean(1, keepdims=True)
    if np.abs(logits).max() < 1e-9:
        return None

    def loss(slope: float) -> float:
        scaled = slope * logits
        top = scaled.max(1)  # a slope of 100 times a logit of 27 overflows `exp`
        total = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((total - scaled[np.arange(len(labels)), labels]).mean())

    return float(minimize_scalar(loss, bounds=(-STEEPEST, STEEPEST), method="bounded", options={"xatol": 1e-6}).x)


def risk_coverage(labels: np.ndarray, probabilities: np.ndarray, n_points: int = N_BINS) -> list[Risk]:
    """Compute the share of wrong answers among the surest, for several shares of answers that are given.

    References
    ----------
    El-Yaniv R, Wiener Y (2010). On the foundations of noise-free selective classification. JMLR 11, 1605-1641.
    """
    wrong = probabilities.argmax(1) != labels
    order = np.argsort(-probabilities.max(1), kind="stable")  # ties in the order of the scans, on every platform
    counts = np.unique(np.ceil(np.linspace(1 / n_points, 1, n_points) * len(labels)).astype(int))
    return [{"coverage": float(n / len(labels)), "risk": float(wrong[order[:n]].mean())} for n in counts]


def conformal_sets(
    labels: np.ndarray,
    probabilities: np.ndarray,
    subjects: Sequence[str],
    classes: Sequence[str],
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> ConformalSets | None:
    """Measure size and coverage of the answer sets of split conformal prediction.

    Subjects are halved, and the sets of each half are calibrated on the other half, so that no subject calibrates their
    own sets. The guarantee is for scans like those of the calibration [1]_: sets for another site have to be calibrated
    there.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,)
        The column of the right answer.
    probabilities : ndarray of shape (n_scans, n_classes)
    subjects : sequence of str
        The subject of each scan.
    classes : sequence of str
        The answers, by column.
    confidence : float
        Intended share of sets that hold the right answer.
    seed : int
        Of the halves.

    Returns
    -------
    ConformalSets or None
        None where a half has too few scans for this confidence, and where the package crepes is not installed.

    References
    ----------
    .. [1] Vovk V, Gammerman A, Shafer G (2005). Algorithmic Learning in a Random World. Springer.
    """
    try:
        from crepes import ConformalClassifier
    except ImportError:
        logger.warning(
            "Conformal sets are left out: they need the package crepes: `pip install 'fmri-lm-hf[evaluation]'`."
        )
        return None
    # Halves of subjects, not of scans: another scan of the same subject is no independent calibration. `unique` sorts,
    # so that the halves do not depend on the order of the scans.
    people = np.random.default_rng(seed).permutation(np.unique(subjects))
    in_first = np.isin(subjects, people[: len(people) // 2])
    # n scans can promise a confidence of n / (n + 1) at most; with fewer, every set would hold all answers. Rounded,
    # since 0.9 / (1 - 0.9) is a little above 9 in floating point.
    enough = round(confidence / (1 - confidence), 6)
    if min(in_first.sum(), (~in_first).sum()) < enough:
        return None
    sets = np.zeros(probabilities.shape, dtype=bool)
    scores = 1 - probabilities  # the hinge score: how unusual each answer is
    for half in (in_first, ~in_first):
        calibrated = ConformalClassifier().fit(scores[~half, labels[~half]])
        sets[half] = calibrated.predict_set(scores[half], confidence=confidence, smoothing=False)
    held = sets[np.arange(len(labels)), labels]
    single = sets.sum(1) == 1
    return {
        "confidence": confidence,
        "coverage": float(held.mean()),
        "coverage_of_classes": {classes[label]: float(held[labels == label].mean()) for label in np.unique(labels)},
        "mean_size": float(sets.sum(1).mean()),
        "single": float(single.mean()),
        "single_right": float(held[single].mean()) if single.any() else None,
    }
