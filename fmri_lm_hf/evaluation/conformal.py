"""Sets of answers that hold the right one as often as asked for, from calibration on other people (split conformal)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from crepes import ConformalClassifier
from crepes.extras import hinge

__all__ = ["conformal_sets"]

CONFIDENCE = 0.9


def conformal_sets(
    labels: np.ndarray,
    probabilities: np.ndarray,
    subjects: Sequence[str],
    classes: Sequence[str],
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How large sets of answers have to be, and how often they hold the right one.

    The people are halved. Sets of one half are calibrated on the other, so nobody takes part in the calibration of
    their own. The promise holds for scans like those of the calibration [1]_: sets for another site have to be
    calibrated there.

    Parameters
    ----------
    labels : ndarray of int of shape (n_scans,)
        The column of the right answer.
    probabilities : ndarray of shape (n_scans, n_classes)
    subjects : sequence of str
        Whose scan each is.
    classes : sequence of str
        The answers, by column.
    confidence : float
        How often sets are to hold the right answer.
    seed : int
        Of the halves.

    Returns
    -------
    dict or None
        ``confidence``; ``coverage``, how often a set held the right answer, ``coverage_of_classes``, by that answer;
        ``mean_size``, in answers; ``single``, the share of sets of one answer, and ``single_right``, how often that is
        the right one (None without such sets). None where a half has too few scans for this confidence.

    References
    ----------
    .. [1] Vovk V, Gammerman A, Shafer G (2005). Algorithmic Learning in a Random World. Springer.
    """
    people = np.random.default_rng(seed).permutation(np.unique(subjects))
    in_first = np.isin(subjects, people[: len(people) // 2])
    enough = round(confidence / (1 - confidence), 6)
    if min(in_first.sum(), (~in_first).sum()) < enough:
        return None
    sets = np.zeros(probabilities.shape, dtype=bool)
    scores = hinge(probabilities)
    for judged in (in_first, ~in_first):
        other = ~judged
        calibrated = ConformalClassifier().fit(scores[other, labels[other]])
        found = calibrated.predict_set(scores[judged], confidence=confidence, smoothing=False)
        sets[judged] = np.asarray(found, dtype=bool)
    held = sets[np.arange(len(labels)), labels]
    single = sets.sum(1) == 1
    return {
        "confidence": confidence,
        "coverage": float(held.mean()),
        "coverage_of_classes": {
            classes[label]: float(held[labels == label].mean()) for label in np.unique(labels)
        },
        "mean_size": float(sets.sum(1).mean()),
        "single": float(single.mean()),
        "single_right": float(held[single].mean()) if single.any() else None,
    }
