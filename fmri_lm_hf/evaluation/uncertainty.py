"""Uncertainty of scores: bootstrap over subjects, permutations of labels, and variation between sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from scipy.stats import t as student_t


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap standard error and percentile interval."""

    estimate: float | None
    standard_error: float
    low: float
    high: float


class SiteSpread(TypedDict):
    """How a score varies between sites; `sd` and `interval` are None with one site."""

    n_sites: int
    mean: float
    sd: float | None
    interval: list[float] | None
    lowest: float
    highest: float


def between_sites(scores: Sequence[float | None]) -> SiteSpread | None:
    """Describe how a score varies between sites, which no resampling of the subjects of one site shows.

    Parameters
    ----------
    scores : sequence of float
        One for each site; None where it is not defined. Such sites are left out.

    Returns
    -------
    SiteSpread or None
        With the 95 % `interval` of the mean over sites such as these (Student's t). None where no site has the score.
    """
    known = np.array([score for score in scores if score is not None])
    if not len(known):
        return None
    deviation = interval = None
    if len(known) > 1:
        # t and not normal: of three sites, an interval of 1.96 standard errors would be half as wide as it has to be
        deviation = float(known.std(ddof=1))
        margin = float(student_t.ppf(0.975, len(known) - 1)) * deviation / np.sqrt(len(known))
        interval = [float(known.mean() - margin), float(known.mean() + margin)]
    return {
        "n_sites": len(known),
        "mean": float(known.mean()),
        "sd": deviation,
        "interval": interval,
        "lowest": float(known.min()),
        "highest": float(known.max()),
    }


def bootstrap_by_subject(
    statistic: Callable[[np.ndarray], float | None],
    subjects: Sequence[Any],
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimate the standard error and interval of a score by a bootstrap over subjects.

    Scans of one subject are drawn together. They are not independent: drawing scans would make every interval too
    narrow.

    Parameters
    ----------
    statistic : callable
        Takes indices of scans (with repetitions), returns the score, or None where it is not defined. Such resamples
        are left out.
    subjects : sequence of length n_scans
        The subject of each scan.
    n_resamples : int, default=1000
    level : float, default=0.95
        Coverage of the interval.
    seed : int, default=0

    Examples
    --------
    >>> labels = np.array(["a", "b"] * 20)
    >>> interval = bootstrap_by_subject(lambda rows: float((labels[rows] == "a").mean()), range(40))
    >>> round(interval.standard_error, 2)
    0.08
    """
    weights = weights_by_subject(subjects, n_resamples, seed)
    scans = np.arange(weights.shape[1])
    values = [statistic(np.repeat(scans, counts)) for counts in weights]
    return interval_of(statistic(scans), np.array([np.nan if value is None else value for value in values]), level)


def interval_of(estimate: float | None, values: np.ndarray, level: float = 0.95) -> Interval:
    """Compute the standard error and percentile interval of a score from its values on resamples.

    NaN values, of resamples on which the score is not defined, are left out.
    """
    # a resample without one of the classes has no score: it says nothing, and must not count as 0
    defined = values[np.isfinite(values)]
    if len(defined) < 2:
        raise ValueError("The score is not defined on any resample, expected scans of at least two classes.")
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(estimate, float(np.std(defined, ddof=1)), float(low), float(high))


def weights_by_subject(subjects: Sequence[Any], n_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Draw subjects with replacement; count how often each scan occurs: (n_resamples, n_scans), int.

    Parameters
    ----------
    subjects : sequence of length n_scans
        The subject of each scan; scans of one subject are drawn together.
    n_resamples : int, default=1000
    seed : int, default=0
        The same seed and subjects give the same draws, so that differences between predictors are paired.
    """
    owner, n_subjects = _owners(subjects)
    if n_subjects < 2:
        raise ValueError(f"Scans of {n_subjects} subjects found, expected at least 2 to resample.")
    # weights in place of indices: a score on all resamples is then one matrix product
    drawn = np.random.default_rng(seed).integers(n_subjects, size=(n_resamples, n_subjects))
    counts = np.stack([np.bincount(each, minlength=n_subjects) for each in drawn])
    return counts[:, owner]


def permutations_by_subject(
    subjects: Sequence[Any], labels: Sequence[Any], n_permutations: int = 1000, seed: int = 0
) -> np.ndarray:
    """Draw permutations of labels that are equally likely if labels do not depend on scans.

    Returns
    -------
    ndarray of int of shape (n_permutations, n_scans)
        The number of the scan whose label each scan gets.

    Notes
    -----
    Where all scans of a subject have one label, as with a diagnosis,
    whole subjects exchange their labels. Where the label changes within subjects, as with a state, the scans of a
    subject exchange theirs: the scans of one subject are never treated as independent.
    """
    owner, n_subjects = _owners(subjects)
    names = np.asarray([str(label) for label in labels])
    first = np.array([np.flatnonzero(owner == subject)[0] for subject in range(n_subjects)], dtype=int)
    generator = np.random.default_rng(seed)
    # permuting scans where a label belongs to the subject would make every p value far too small
    if (names == names[first[owner]]).all():
        orders = np.stack([generator.permutation(n_subjects) for _ in range(n_permutations)])
        return first[orders][:, owner]
    orders = np.tile(np.arange(len(owner)), (n_permutations, 1))
    for subject in range(n_subjects):
        scans = np.flatnonzero(owner == subject)
        orders[:, scans] = generator.permuted(np.tile(scans, (n_permutations, 1)), axis=1)
    return orders


def _owners(subjects: Sequence[Any]) -> tuple[np.ndarray, int]:
    """Number of each scan's subject, and how many subjects there are."""
    # numbered in the order of their names: draws do not depend on which scan comes first
    _, owner = np.unique(np.asarray(subjects), return_inverse=True)
    return owner, int(owner.max()) + 1 if len(owner) else 0
