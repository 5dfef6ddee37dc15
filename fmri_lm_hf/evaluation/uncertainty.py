"""How sure a score is: bootstrap over subjects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Interval", "bootstrap_by_subject"]


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap standard error and percentile interval."""

    estimate: float | None
    standard_error: float
    low: float
    high: float


def bootstrap_by_subject(
    statistic: Callable[[np.ndarray], float | None],
    subjects: Sequence[Any],
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Standard error and interval of a score when other subjects had been drawn.

    Scans of one subject are drawn together: they are not independent, and drawing scans would make every score
    look surer than it is.

    Parameters
    ----------
    statistic : callable
        Takes indices of scans (with repetitions), returns the score, or None where it is not defined; such
        resamples are left out.
    subjects : sequence of length n_scans
        Whose scan each is.
    n_resamples : int, default=1000
        How often to draw.
    level : float, default=0.95
        Coverage of the interval.
    seed : int, default=0
        Of the draws.

    Examples
    --------
    >>> labels = np.array(["a", "b"] * 20)
    >>> interval = bootstrap_by_subject(lambda rows: float((labels[rows] == "a").mean()), range(40))
    >>> round(interval.standard_error, 2)
    0.08
    """
    _, owner = np.unique(np.asarray(subjects), return_inverse=True)
    n_subjects = int(owner.max()) + 1 if len(owner) else 0
    if n_subjects < 2:
        raise ValueError(f"Scans of {n_subjects} subjects found, expected at least 2 to resample.")
    order = np.argsort(owner, kind="stable")
    scans_of = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_resamples):
        drawn = rng.integers(n_subjects, size=n_subjects)
        value = statistic(np.concatenate([scans_of[subject] for subject in drawn]))
        if value is not None:
            values.append(value)
    if len(values) < 2:
        raise ValueError("The score is not defined on any resample, expected scans of at least two classes.")
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(
        estimate=statistic(np.arange(len(owner))),
        standard_error=float(np.std(values, ddof=1)),
        low=float(low),
        high=float(high),
    )
