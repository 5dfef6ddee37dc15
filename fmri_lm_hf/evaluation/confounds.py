"""Confounds: site, motion, sex and age as other explanations of a score.

Three measures: how well confounds can be predicted from the model's input, which is what the model could use
(:func:`predictable_confounds`); scores within each stratum of a confound, which show whether the model works for
everybody (:func:`subgroup_scores`); and a score on a subset in which answer and confound are independent, so that
using the confound does not help (:func:`isolated_scores`), as in confound-isolating cross-validation [1]_.

References
----------
.. [1] Chyzhyk D, Varoquaux G, Milham M, Thirion B (2022). How to remove or control confounds in predictive models,
   with applications to brain biomarkers. GigaScience 11, giac014. doi:10.1093/gigascience/giac014
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import datasets
import numpy as np
from scipy.stats.contingency import association, crosstab
from sklearn.model_selection import StratifiedGroupKFold

from .baselines import choose_penalty, fit_logistic
from .features import Unavailable
from .metrics import weighted_balanced_accuracy
from .model_answers import Evaluation
from .predictors import MODEL
from .scoring import TaskScores
from .tasks import class_name, is_missing
from .uncertainty import interval_of, weights_by_subject

# Confound -> its column (in upper or lower case), and whether its values are divided into thirds.
CONFOUNDS = {
    "site": ("site", False),
    "motion": ("mean_fd", True),
    "sex": ("sex", False),
    "age": ("age", True),
}
N_FOLDS = 5
PENALTIES = (0.001, 0.03, 1.0, 30.0)  # C, for features scaled as `fit_logistic` does
N_RESAMPLES = 1000
FEWEST_SUBJECTS = 5  # of a stratum that is predicted or scored

Strata = dict[str, list[str | None]]  # confound -> the stratum of each scan, None where it is not known


class ScoreWithInterval(TypedDict):
    """Balanced accuracy and its 95 % bootstrap interval over subjects; both None where there is no score."""

    balanced_accuracy: float | None
    interval: list[float] | None


class ProbeScore(ScoreWithInterval):
    """How well a confound can be predicted; `chance` is one over the number of strata, `n` counts scans."""

    chance: float
    n: int


class ConfoundPrediction(TypedDict, total=False):
    """How well a confound can be predicted from the mean scan token and from connectivity, or why that is unknown."""

    scan_tokens: ProbeScore
    connectivity: ProbeScore
    left_out: str


class GroupScore(ScoreWithInterval, total=False):
    """The model's score on some scans; `association` of answer and confound only where a confound is isolated."""

    n: int
    n_subjects: int
    association: float | None


class Subgroups(TypedDict):
    """Scores within strata (confound -> stratum -> score) and with each confound isolated (confound -> score)."""

    within_levels: dict[str, dict[str, GroupScore]]
    isolated: dict[str, GroupScore]


def strata_of(scans: datasets.Dataset, rows: Sequence[int]) -> Strata:
    """Divide scans into strata: their site, their sex, and thirds of age and motion, where the columns exist.

    Thirds are those of the given scans and named by their bounds. Confounds with one stratum are left out.
    """
    columns = {column.lower(): column for column in scans.column_names}
    of_confounds: Strata = {}
    for confound, (column, in_thirds) in CONFOUNDS.items():
        if column not in columns:
            continue
        table = scans.select_columns([columns[column]]).with_format("arrow")[:]
        values = table[columns[column]].to_pylist()
        chosen = [values[row] for row in rows]
        strata = _thirds(chosen) if in_thirds else _classes(chosen)
        if len(set(strata) - {None}) > 1:
            of_confounds[confound] = strata
    return of_confounds


def _classes(values: Sequence[Any]) -> list[str | None]:
    return [None if is_missing(value) else class_name(value) for value in values]


def _thirds(values: Sequence[Any]) -> list[str | None]:
    """Name the third of each number; classes stay as they are."""
    known = [value for value in values if not is_missing(value)]
    if not known or not all(isinstance(value, (int, float)) for value in known):
        return _classes(values)
    # scans are divided by the bounds as printed: by the exact ones, a third could hold a value that its name excludes
    low, high = (f"{bound:.3g}" for bound in np.quantile(known, [1 / 3, 2 / 3]))
    names = (f"below {low}", f"{low} to {high}", f"above {high}")
    bounds = [float(low), float(high)]
    return [None if is_missing(v) else names[int(np.searchsorted(bounds, float(v), "right"))] for v in values]


# ------------------------------------------------------------------------------ how well confounds can be predicted


def predictable_confounds(evaluation: Evaluation, seed: int = 0) -> dict[str, ConfoundPrediction]:
    """Measure how well confounds of the evaluated scans can be predicted from the model's input.

    Returns
    -------
    dict
        Confound -> prediction from ``scan_tokens`` (mean over the tokens of a scan, as they enter the projector) and
        from ``connectivity`` (all pairs of ROIs).
    """
    rows = evaluation.encoded.rows
    subjects = [evaluation.subjects[row] for row in rows]
    features = {
        "scan_tokens": evaluation.encoded.inputs["fmri_features"].float().mean(1).numpy(),
        "connectivity": evaluation.features.connectivity(rows),
    }
    predictions: dict[str, ConfoundPrediction] = {}
    for confound, strata in strata_of(evaluation.scans, rows).items():
        try:
            scores = {name: predictability(values, strata, subjects, seed) for name, values in features.items()}
        except Unavailable as reason:
            predictions[confound] = {"left_out": str(reason)}
        else:
            predictions[confound] = {"scan_tokens": scores["scan_tokens"], "connectivity": scores["connectivity"]}
    return predictions


def predictability(
    features: np.ndarray, strata: Sequence[str | None], subjects: Sequence[str], seed: int = 0
) -> ProbeScore:
    """Measure how well the strata of a confound can be predicted from features of scans.

    Logistic regression in cross-validation by subject; strata of fewer than five subjects are left out. The penalty is
    chosen once, among a few values and on all scans: far faster than in each fold, and any error overstates how
    predictable a confound is.

    Parameters
    ----------
    features : ndarray of shape (n_scans, n_features)
    strata : sequence of (str or None) of length n_scans
    subjects : sequence of str of length n_scans
    seed : int
        Of the folds and the bootstrap.

    Raises
    ------
    Unavailable
        With fewer than two strata, or where no feature varies.
    """
    of_subject = np.asarray(subjects)
    known = np.array([str(stratum) for stratum in strata])
    common = [
        stratum
        for stratum in sorted({stratum for stratum in strata if stratum is not None})
        if len(set(of_subject[known == stratum])) >= FEWEST_SUBJECTS
    ]
    if len(common) < 2:
        raise Unavailable(
            f"{len(common)} of its strata have scans of {FEWEST_SUBJECTS} subjects or more, expected at least two."
        )
    chosen = np.flatnonzero(np.isin(known, common))
    x, y, groups = features[chosen], known[chosen], of_subject[chosen]
    # tokens of a model that has learnt nothing may be one constant vector
    if not (np.nanmax(x, axis=0) > np.nanmin(x, axis=0)).any():
        raise Unavailable("The features are the same for all scans.")
    predicted, penalty = np.empty_like(y), choose_penalty(x, y.tolist(), groups.tolist(), PENALTIES)
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(x, y, groups):
        predicted[test] = fit_logistic(x[train], y[train].tolist(), x[test], penalty=penalty).labels
    truth, answers = (np.searchsorted(common, each) for each in (y, predicted))
    scores = balanced_accuracy_with_interval(truth, answers, groups.tolist(), seed)
    return {**scores, "chance": 1 / len(common), "n": len(chosen)}


def balanced_accuracy_with_interval(
    truth: np.ndarray, answers: np.ndarray, subjects: Sequence[str], seed: int
) -> ScoreWithInterval:
    """Compute the balanced accuracy of class numbers, with its interval."""
    draws = weights_by_subject(subjects, N_RESAMPLES, seed)
    weights = np.concatenate([np.ones((1, len(truth))), draws])  # the first row: the scans as they are
    values = weighted_balanced_accuracy(truth, answers, weights)
    interval = interval_of(float(values[0]), values[1:])
    return {"balanced_accuracy": interval.estimate, "interval": [interval.low, interval.high]}


# ----------------------------------------------------------- scores within strata, and with a confound isolated


def subgroups(
    evaluation: Evaluation, scores_of_tasks: Mapping[str, TaskScores], seed: int = 0
) -> dict[str, Subgroups]:
    """Compute :func:`subgroup_scores` and :func:`isolated_scores` of each task."""
    of_tasks: dict[str, Subgroups] = {}
    for name, task_scores in scores_of_tasks.items():
        strata = strata_of(evaluation.scans, task_scores.rows)
        of_tasks[name] = {
            "within_levels": subgroup_scores(task_scores, strata, seed),
            "isolated": isolated_scores(task_scores, strata, seed),
        }
    return of_tasks


def subgroup_scores(task_scores: TaskScores, strata: Strata, seed: int = 0) -> dict[str, dict[str, GroupScore]]:
    """Score the model within each stratum of each confound.

    Parameters
    ----------
    task_scores : TaskScores
    strata : dict
        From :func:`strata_of`, of the evaluated scans.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Confound -> stratum -> score, None where the stratum has fewer than five subjects or one answer. The column of
        the task itself is left out.
    """
    return {
        confound: {
            stratum: _score(task_scores, [i for i, each in enumerate(of_scans) if each == stratum], seed)
            for stratum in sorted({each for each in of_scans if each is not None})
        }
        for confound, of_scans in _without_label(task_scores, strata).items()
    }


def isolated_scores(task_scores: TaskScores, strata: Strata, seed: int = 0) -> dict[str, GroupScore]:
    """Score the model on scans among which the answer is independent of a confound.

    Returns
    -------
    dict
        Confound -> score, with ``association``: Cramér's V of answer and confound among all evaluated scans (0 in the
        subset).
    """
    scores: dict[str, GroupScore] = {}
    for confound, of_scans in _without_label(task_scores, strata).items():
        subset = independent_subset(task_scores.truth, of_scans, seed)
        association = _cramers_v(task_scores.truth, of_scans)
        scores[confound] = {**_score(task_scores, subset, seed), "association": association}
    return scores


def independent_subset(answers: Sequence[str], strata: Sequence[str | None], seed: int = 0) -> list[int]:
    """Draw scans among which the answer and a confound are independent.

    From every stratum that has all answers, as many scans of each answer are drawn as its rarest answer has: the
    largest subset in which every stratum is balanced. (For classes this is exact; the sampling of [1]_ in the module's
    references approximates it for numbers.)

    Parameters
    ----------
    answers : sequence of str
    strata : sequence of (str or None), as long
        A scan without a stratum is not drawn.
    seed : int
        Of the draw.

    Returns
    -------
    list of int
        Positions, in order.

    Examples
    --------
    >>> independent_subset(["yes", "yes", "no", "yes", "no", "no"], ["A", "A", "A", "B", "B", None])
    [0, 2, 3, 4]
    """
    rng = np.random.default_rng(seed)
    truth, confound = np.asarray(answers), np.array([str(stratum) for stratum in strata])
    known = np.array([stratum is not None for stratum in strata])
    kept: list[int] = []
    for stratum in sorted(set(confound[known].tolist())):
        cells = [np.flatnonzero(known & (confound == stratum) & (truth == a)) for a in sorted(set(answers))]
        n = min(map(len, cells))  # 0 where an answer is missing: such a stratum tells answer and confound alike
        kept += [int(place) for cell in cells for place in rng.permutation(cell)[:n]]
    return sorted(kept)


def _without_label(task_scores: TaskScores, strata: Strata) -> Strata:
    """Leave out the confound that the task asks about."""
    column = task_scores.task.column.lower()
    return {confound: of_scans for confound, of_scans in strata.items() if CONFOUNDS[confound][0] != column}


def _score(task_scores: TaskScores, places: Sequence[int], seed: int) -> GroupScore:
    truth, subjects = task_scores.labels[places], [task_scores.subjects[place] for place in places]
    n, n_subjects = len(places), len(set(subjects))
    # few subjects give an interval that looks like a finding and is none
    scores: ScoreWithInterval = {"balanced_accuracy": None, "interval": None}
    if n_subjects >= FEWEST_SUBJECTS and len(set(truth.tolist())) > 1:
        answers = task_scores.answers[MODEL].chosen[places]
        scores = balanced_accuracy_with_interval(truth, answers, subjects, seed)
    return {"n": n, "n_subjects": n_subjects, **scores}


def _cramers_v(answers: Sequence[str], strata: Sequence[str | None]) -> float | None:
    known = [(answer, stratum) for answer, stratum in zip(answers, strata) if stratum is not None]
    if not known:
        return None
    counts = crosstab(*zip(*known)).count
    return float(association(counts)) if min(counts.shape) > 1 else None
