"""What else could explain a score: site, motion, sex and age, in the model's scan tokens and in who is judged.

Three looks at one danger. How well a confound can be predicted from what the model reads says what it could lean on
(`predictability`); scores within levels of the confound say whether it works for everybody (`subgroup_scores`); and a
score on scans among which answer and confound are independent says what is left when leaning on it helps nothing
(`isolated_scores`), as in confound-isolating cross-validation [1]_.

References
----------
.. [1] Chyzhyk D, Varoquaux G, Milham M, Thirion B (2022). How to remove or control confounds in predictive models,
   with applications to brain biomarkers. GigaScience 11, giac014. doi:10.1093/gigascience/giac014
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from .baselines import choose_penalty, fit_logistic
from .features import Unavailable
from .metrics import weighted_balanced_accuracy
from .model_answers import Evaluation
from .predictors import MODEL
from .scoring import TaskScores
from .tasks import class_name, is_missing
from .uncertainty import interval_of, weights_by_subject

# What is looked at: title -> column (in any case of letters), and whether it is cut into thirds.
CONFOUNDS = {
    "site": ("site", False),
    "motion": ("mean_fd", True),
    "sex": ("sex", False),
    "age": ("age", True),
}
N_FOLDS = 5
PENALTIES = (0.001, 0.03, 1.0, 30.0)  # C, for features scaled as `fit_logistic` does
N_RESAMPLES = 1000
FEWEST_SUBJECTS = 5  # of a level that is predicted, or scored

Levels = dict[str, list[str | None]]  # confound -> the level of each scan, None where it is not known


def levels_of_confounds(scans: datasets.Dataset, rows: Sequence[int]) -> Levels:
    """The site, sex, and thirds of age and motion of scans, as far as a scan dataset has the columns.

    Thirds are those of the scans that are given, and named by their bounds. Confounds of which all scans have one
    level are left out.
    """
    columns = {column.lower(): column for column in scans.column_names}
    found: Levels = {}
    for title, (column, in_thirds) in CONFOUNDS.items():
        if column not in columns:
            continue
        table = scans.select_columns([columns[column]]).with_format("arrow")[:]
        values = table[columns[column]].to_pylist()
        chosen = [values[row] for row in rows]
        levels = _thirds(chosen) if in_thirds else _classes(chosen)
        if len(set(levels) - {None}) > 1:
            found[title] = levels
    return found


def _classes(values: Sequence[Any]) -> list[str | None]:
    return [None if is_missing(value) else class_name(value) for value in values]


def _thirds(values: Sequence[Any]) -> list[str | None]:
    """The third that each number is in; classes as they are."""
    known = [value for value in values if not is_missing(value)]
    if not known or not all(isinstance(value, (int, float)) for value in known):
        return _classes(values)
    low, high = (f"{bound:.3g}" for bound in np.quantile(known, [1 / 3, 2 / 3]))
    names = (f"below {low}", f"{low} to {high}", f"above {high}")
    bounds = [float(low), float(high)]
    return [None if is_missing(v) else names[int(np.searchsorted(bounds, float(v), "right"))] for v in values]


# ------------------------------------------------------------------------ what the model's scan tokens say of confounds


def predictability(
    features: np.ndarray, levels: Sequence[str | None], subjects: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """How well the levels of a confound can be predicted from features of scans.

    Logistic regression in cross-validation by subject; levels of fewer than five subjects are left out. Its penalty
    is chosen once, among a few and on all scans, and not in each fold: that is far faster, and if anything shows too
    much of a confound.

    Parameters
    ----------
    features : ndarray of shape (n_scans, n_features)
    levels : sequence of (str or None) of length n_scans
    subjects : sequence of str of length n_scans
    seed : int
        Of the folds.

    Returns
    -------
    dict
        ``balanced_accuracy``, its ``interval`` (bootstrap over subjects), ``chance`` (one over the number of levels)
        and ``n`` scans.

    Raises
    ------
    Unavailable
        With fewer than two levels, and where no feature varies.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    whose = np.asarray(subjects)
    known = np.array([str(level) for level in levels])
    common = [
        level
        for level in sorted({level for level in levels if level is not None})
        if len(set(whose[known == level])) >= FEWEST_SUBJECTS
    ]
    if len(common) < 2:
        raise Unavailable(
            f"{len(common)} of its levels have scans of {FEWEST_SUBJECTS} subjects or more, so that there is nothing "
            "to tell apart."
        )
    chosen = np.flatnonzero(np.isin(known, common))
    x, y, groups = features[chosen], known[chosen], whose[chosen]
    if not (np.nanmax(x, axis=0) > np.nanmin(x, axis=0)).any():
        raise Unavailable("What is read of the scans is the same for all of them.")
    predicted, penalty = np.empty_like(y), choose_penalty(x, y.tolist(), groups.tolist(), PENALTIES)
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(x, y, groups):
        predicted[test] = fit_logistic(x[train], y[train].tolist(), x[test], penalty=penalty).labels
    truth, answered = (np.searchsorted(common, each) for each in (y, predicted))
    return _with_interval(truth, answered, groups, seed) | {"chance": 1 / len(common), "n": len(chosen)}


def predictable_confounds(study: Evaluation, seed: int = 0) -> dict[str, dict[str, Any]]:
    """How well confounds of the judged scans can be predicted from what the model reads of them.

    Returns
    -------
    dict
        Confound -> ``scan_tokens`` (mean over the tokens of a scan, as they enter the projector) and ``connectivity``
        (of every pair of ROIs), each as `predictability`, or a confound's ``left_out`` with the reason.
    """
    rows = study.encoded.rows
    subjects = [study.subjects[row] for row in rows]
    read_as = {
        "scan_tokens": study.encoded.inputs["fmri_features"].float().mean(1).numpy(),
        "connectivity": study.features.connectivity(rows),
    }
    found: dict[str, dict[str, Any]] = {}
    for title, levels in levels_of_confounds(study.scans, rows).items():
        try:
            found[title] = {
                name: predictability(features, levels, subjects, seed) for name, features in read_as.items()
            }
        except Unavailable as reason:
            found[title] = {"left_out": str(reason)}
    return found


# --------------------------------------------------------------------------------------------- scores within levels


def subgroup_scores(judgement: TaskScores, levels: Levels, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The model's score within each level of each confound.

    Parameters
    ----------
    judgement : TaskScores
    levels : dict
        As `levels_of_confounds` gives them for the judged scans.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Confound -> level -> ``n``, ``n_subjects``, ``balanced_accuracy`` and its 95 % ``interval``; both None where the
        level has fewer than five subjects or one answer only. The column that is asked about is left out.
    """
    return {
        title: {
            level: _score(judgement, [i for i, each in enumerate(of_scans) if each == level], seed)
            for level in sorted({each for each in of_scans if each is not None})
        }
        for title, of_scans in _others(judgement, levels).items()
    }


def _score(judgement: TaskScores, places: Sequence[int], seed: int) -> dict[str, Any]:
    truth, subjects = judgement.labels[places], np.array(judgement.subjects)[places]
    scored = {"n": len(places), "n_subjects": len(set(subjects.tolist()))}
    if scored["n_subjects"] < FEWEST_SUBJECTS or len(set(truth.tolist())) < 2:
        return scored | {"balanced_accuracy": None, "interval": None}
    answered = judgement.answers[MODEL].chosen[places]
    return scored | _with_interval(truth, answered, subjects, seed)


def _with_interval(
    truth: np.ndarray, answered: np.ndarray, subjects: np.ndarray, seed: int
) -> dict[str, Any]:
    """Balanced accuracy of classes by number, with its bootstrap interval over subjects."""
    draws = weights_by_subject(subjects.tolist(), N_RESAMPLES, seed)
    weights = np.concatenate([np.ones((1, len(truth))), draws])
    values = weighted_balanced_accuracy(truth, answered, weights)
    interval = interval_of(float(values[0]), values[1:])
    return {"balanced_accuracy": interval.estimate, "interval": [interval.low, interval.high]}


def _others(judgement: TaskScores, levels: Levels) -> Levels:
    """All confounds but the one that is asked about."""
    asked = judgement.task.column.lower()
    return {title: found for title, found in levels.items() if CONFOUNDS[title][0] != asked}


# ------------------------------------------------------------------------------------------- confounds isolated


def independent_subset(answers: Sequence[str], levels: Sequence[str | None], seed: int = 0) -> list[int]:
    """Scans among which the answer and a confound are independent.

    Of every level of the confound that has all answers, as many scans of each answer are drawn as the rarest one
    has; what is kept of a level is then the same share of each answer. It is the largest subset in which every level
    is balanced. (For classes this does exactly what the sampling of [1]_ in the module's references approaches for
    numbers.)

    Parameters
    ----------
    answers : sequence of str
    levels : sequence of (str or None), as long
        A scan of no level is not drawn.
    seed : int
        Of the draw.

    Returns
    -------
    list of int
        Places, in order.

    Examples
    --------
    >>> independent_subset(["yes", "yes", "no", "yes", "no", "no"], ["A", "A", "A", "B", "B", None])
    [0, 2, 3, 4]
    """
    draw = np.random.default_rng(seed)
    truth, confound = np.asarray(answers), np.array([str(level) for level in levels])
    known = np.array([level is not None for level in levels])
    kept: list[int] = []
    for level in sorted(set(confound[known].tolist())):
        cells = [np.flatnonzero(known & (confound == level) & (truth == a)) for a in sorted(set(answers))]
        n = min(map(len, cells))
        kept += [int(place) for cell in cells for place in draw.permutation(cell)[:n]]
    return sorted(kept)


def isolated_scores(judgement: TaskScores, levels: Levels, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The model's score on scans among which the answer does not go with a confound.

    Returns
    -------
    dict
        Confound -> as a level of `subgroup_scores`, with ``association``, Cramér's V of answer and confound among all
        judged scans (0 in the subset).
    """
    found = {}
    for title, of_scans in _others(judgement, levels).items():
        places = independent_subset(judgement.truth, of_scans, seed)
        found[title] = {
            **_score(judgement, places, seed),
            "association": _cramers_v(judgement.truth, of_scans),
        }
    return found


def _cramers_v(answers: Sequence[str], levels: Sequence[str | None]) -> float | None:
    from scipy.stats.contingency import association, crosstab

    known = [(answer, level) for answer, level in zip(answers, levels) if level is not None]
    if not known:
        return None
    counts = crosstab(*zip(*known)).count
    return float(association(counts)) if min(counts.shape) > 1 else None


def subgroups(
    study: Evaluation, judgements: Mapping[str, TaskScores], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Task -> ``within_levels`` (`subgroup_scores`) and ``isolated`` (`isolated_scores`) of the judged scans."""
    found = {}
    for name, judgement in judgements.items():
        levels = levels_of_confounds(study.scans, judgement.rows)
        found[name] = {
            "within_levels": subgroup_scores(judgement, levels, seed),
            "isolated": isolated_scores(judgement, levels, seed),
        }
    return found
