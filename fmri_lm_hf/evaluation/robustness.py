"""Robustness of answers: to degraded scans, and to other wordings of the questions.

A perturbation changes the series of a scan and nothing else. Its label stays true and nothing is trained again, so a
lower score is due to the perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from ..models.feature_extraction_fmri import resampling_weights
from ..models.scan_errors import ScanError
from .metrics import score_classification
from .model_answers import EncodedScans, Evaluation, among_classes
from .predictors import MODEL, series_of
from .scoring import TaskScores

SPIKE = 3.0  # SDs of an ROI's series that a movement adds to it
PERFUSION_T_R = 4.0  # seconds
NO_LIMIT = 2**31  # time points: resampling must not cut a scan


class Scores(TypedDict, total=False):
    """Scores of a task; with a perturbation also the share of scans whose answer is that to the unperturbed scan."""

    balanced_accuracy: float | None
    auc: float | None
    same_answer: float


class LevelResult(TypedDict):
    """One level of a perturbation.

    `unread` is the share of scans that the model cannot read, with a `reason` of one of them; `tasks` has the scores of
    the others by task.
    """

    level: float
    unread: float
    reason: str | None
    tasks: dict[str, Scores]


class PerturbationResult(TypedDict):
    """One perturbation at all its levels."""

    title: str
    levels: list[LevelResult]


class RobustnessResults(TypedDict):
    """Scores by task on the scans `as_they_are`, and after each of the `changes`, by name of the perturbation."""

    n_scans: int
    as_they_are: dict[str, Scores]
    changes: dict[str, PerturbationResult]


def robustness(evaluation: Evaluation, scores_of_tasks: Mapping[str, TaskScores], n_scans: int) -> RobustnessResults:
    """Score the model on scans as they are, and with each perturbation at each level.

    Parameters
    ----------
    evaluation : Evaluation
    scores_of_tasks : mapping of str to TaskScores
        Of each task, of the scans as they are.
    n_scans : int
        How many of the evaluated scans are perturbed.
    """
    rows = evaluation.encoded.rows[:n_scans]
    atlas = evaluation.processor.feature_extractor.atlas
    networks = None if atlas is None else atlas.networks
    return {
        "n_scans": len(rows),
        "as_they_are": {
            name: _scores(task_scores, places, task_scores.answers[MODEL].probabilities[places])
            for name, task_scores in scores_of_tasks.items()
            if (places := _places(task_scores, rows))
        },
        "changes": {
            name: {
                "title": perturbation.title,
                "levels": [
                    _scores_at(evaluation, scores_of_tasks, rows, name, level, networks)
                    for level in perturbation.levels
                ],
            }
            for name, perturbation in PERTURBATIONS.items()
            if networks is not None or not perturbation.needs_networks
        },
    }


def _scores_at(
    evaluation: Evaluation,
    scores_of_tasks: Mapping[str, TaskScores],
    rows: Sequence[int],
    name: str,
    level: float,
    networks: Sequence[str] | None,
) -> LevelResult:
    """Score the model with one perturbation at one level."""
    change = partial(perturb, name, level, evaluation.seed, networks=networks)
    try:
        encoded = EncodedScans.encode(evaluation.model, evaluation.processor, evaluation.scans, rows, change=change)
    except ScanError as error:  # no scan can be read
        return {"level": level, "unread": 1.0, "reason": str(error), "tasks": {}}
    log_probabilities = encoded.log_probabilities(evaluation.model, evaluation.processor, evaluation.tasks)
    tasks: dict[str, Scores] = {}
    for task, task_scores in scores_of_tasks.items():
        # of the scans that can still be read: `unread` says how many are missing
        if places := _places(task_scores, encoded.rows):
            of_scans = log_probabilities[task][encoded.places([task_scores.rows[place] for place in places])]
            probabilities = among_classes(of_scans, task_scores.task, task_scores.classes)
            unperturbed = task_scores.answers[MODEL].probabilities[places].argmax(1)
            same = float(np.mean(probabilities.argmax(1) == unperturbed))
            tasks[task] = {**_scores(task_scores, places, probabilities), "same_answer": same}
    return {
        "level": level,
        "unread": len(encoded.failures) / len(rows),
        "reason": next(iter(encoded.failures.values()), None),
        "tasks": tasks,
    }


def _places(task_scores: TaskScores, rows: Sequence[int]) -> list[int]:
    """Find some rows among the evaluated scans of a task."""
    wanted = set(rows)
    return [place for place, row in enumerate(task_scores.rows) if row in wanted]


def _scores(task_scores: TaskScores, places: list[int], probabilities: np.ndarray) -> Scores:
    truth = [task_scores.truth[place] for place in places]
    answers = [task_scores.classes[best] for best in probabilities.argmax(1)]
    scores = score_classification(truth, answers, probabilities, task_scores.classes)
    return {"balanced_accuracy": scores["balanced_accuracy"], "auc": scores["auc"]}


# ----------------------------------------------------------------------------------------------------- perturbations


@dataclass(frozen=True)
class Perturbation:
    """One way to degrade a scan.

    Attributes
    ----------
    title : str
        With the unit of the levels.
    levels : tuple of float
    apply : callable
        Takes a row of a scan dataset, a level and a `numpy.random.Generator` (and the networks of its ROIs, if
        `needs_networks`); returns the perturbed row.
    needs_networks : bool
    """

    title: str
    levels: tuple[float, ...]
    apply: Callable[..., dict[str, Any]]
    needs_networks: bool = False


def perturb(
    name: str,
    level: float,
    seed: int,
    scan: Mapping[str, Any],
    row: int,
    networks: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Perturb a row of a scan dataset; the same seed and row give the same draws.

    Parameters
    ----------
    name : str
        One of `PERTURBATIONS`.
    level : float
    seed : int
    scan : mapping
    row : int
        The number of the row.
    networks : sequence of str, optional
        The network of each ROI, for perturbations that need them.
    """
    # by row: a scan is perturbed alike whichever scans are perturbed with it
    perturbation, rng = PERTURBATIONS[name], np.random.default_rng([seed, row])
    if perturbation.needs_networks:
        return perturbation.apply(scan, level, rng, networks)
    return perturbation.apply(scan, level, rng)


def _resample(scan: Mapping[str, Any], t_r: float, rng: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    weights = resampling_weights(len(bold), float(scan["t_r"]), t_r, NO_LIMIT)
    n_used = weights.shape[1]  # resampling may leave out the last time points
    # a new point counts as observed if at least half of its weight is on observed points; weights of the filter may be
    # negative, so that their plain sum would be wrong
    observed = np.abs(weights) @ mask[:n_used] >= 0.5 * np.abs(weights).sum(1)
    resampled = (weights @ bold[:n_used]).astype(np.float32)
    return {**scan, "bold": resampled, "t_r": t_r, "sample_mask": observed}


def _shorten(scan: Mapping[str, Any], share: float, rng: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    n_kept = max(2, round(share * len(bold)))
    return {**scan, "bold": bold[:n_kept], "sample_mask": mask[:n_kept]}


def _add_noise(scan: Mapping[str, Any], sds: float, rng: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    noise = sds * np.nan_to_num(bold[mask].std(0)) * rng.standard_normal(bold.shape)
    return {**scan, "bold": (bold + noise).astype(np.float32)}


def _add_motion(scan: Mapping[str, Any], share: float, rng: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    moves = (rng.random(len(bold)) < share).astype(float)
    course = moves + 0.5 * np.concatenate([[0.0], moves[:-1]])  # gone after two volumes
    # nearly the same in all ROIs, as of a head that moves: correlations rise everywhere
    weights = rng.choice([-1.0, 1.0]) * (1 + 0.3 * rng.standard_normal(bold.shape[1]))
    artefact = SPIKE * np.nan_to_num(bold[mask].std(0)) * course[:, None] * weights
    return {**scan, "bold": (bold + artefact).astype(np.float32)}


def _lose_rois(scan: Mapping[str, Any], share: float, rng: np.random.Generator) -> dict[str, Any]:
    bold, _ = series_of(scan)
    usable = _usable_rois(scan, bold)
    # the first so many of one order: a higher share loses the same ROIs and more
    usable[rng.permutation(np.flatnonzero(usable))[: round(share * usable.sum())]] = False
    return {**scan, "bold": np.where(usable, bold, np.float32(np.nan)), "roi_mask": usable}


def _merge_rois(
    scan: Mapping[str, Any], n_merged: float, rng: np.random.Generator, networks: Sequence[str]
) -> dict[str, Any]:
    """Imitate an atlas of larger parcels: neighbours in a network become their mean, in the place of the first."""
    bold, _ = series_of(scan)
    usable = _usable_rois(scan, bold)
    merged = np.full_like(bold, np.nan)
    for name in dict.fromkeys(networks):
        rois = [roi for roi, network in enumerate(networks) if network == name and usable[roi]]
        for first in range(0, len(rois), int(n_merged)):
            merged[:, rois[first]] = bold[:, rois[first : first + int(n_merged)]].mean(1)
    return {**scan, "bold": merged, "roi_mask": ~np.isnan(merged).all(0)}


def _as_perfusion(scan: Mapping[str, Any], sds: float, rng: np.random.Generator) -> dict[str, Any]:
    """Imitate arterial spin labelling: a pair of volumes takes 4 s, with more noise than BOLD."""
    return _add_noise(_resample(scan, PERFUSION_T_R, rng), sds, rng)


def _usable_rois(scan: Mapping[str, Any], bold: np.ndarray) -> np.ndarray:
    if scan.get("roi_mask") is not None:
        return np.array(scan["roi_mask"], dtype=bool)
    return np.ones(bold.shape[1], dtype=bool)


PERTURBATIONS = {
    "t_r": Perturbation("repetition time (s)", (0.5, 1.0, 2.0, 3.0), _resample),
    "length": Perturbation("share of the scan's length", (0.75, 0.5, 0.25), _shorten),
    "noise": Perturbation("noise added (SD of the ROI)", (0.5, 1.0, 2.0), _add_noise),
    "motion": Perturbation("share of volumes with a movement", (0.02, 0.05, 0.1), _add_motion),
    "missing_rois": Perturbation("share of ROIs missing", (0.1, 0.3, 0.5), _lose_rois),
    "modality": Perturbation("as a perfusion scan, noise (SD of the ROI)", (0.5, 1.0, 2.0), _as_perfusion),
    "atlas": Perturbation("ROIs merged into one parcel", (2, 4, 8), _merge_rois, needs_networks=True),
}


# ---------------------------------------------------------------------------------------- other wordings of a question


class WordingScores(TypedDict):
    """Balanced accuracy with another wording, and the share of scans whose answer is that to the first wording."""

    balanced_accuracy: float
    agreement: float


class WordingInvariance(TypedDict):
    """Scores by wording; over wordings the mean `agreement` and the extremes of the balanced accuracy."""

    wordings: dict[str, WordingScores]
    agreement: float
    lowest: float
    highest: float


def wording_invariance(
    evaluation: Evaluation, scores_of_tasks: Mapping[str, TaskScores], n_wordings: int = 10
) -> dict[str, WordingInvariance]:
    """Score other wordings of each task, and compare their answers with those to the first wording.

    The order of the answers cannot matter: each is scored by itself, after a question that does not list them.

    Parameters
    ----------
    evaluation : Evaluation
    scores_of_tasks : mapping of str to TaskScores
        Of each task, by its first wording.
    n_wordings : int
        How many other wordings of a task are asked.

    Returns
    -------
    dict
        Task -> scores. Tasks with one wording are left out.
    """
    others = {
        f"{name}\n{question}": (name, question)
        for name, task_scores in scores_of_tasks.items()
        for question in task_scores.task.ask[1 : 1 + n_wordings]
    }
    if not others:
        return {}
    asked = {key: replace(scores_of_tasks[name].task, ask=(text,)) for key, (name, text) in others.items()}
    log_probabilities = evaluation.encoded.log_probabilities(evaluation.model, evaluation.processor, asked)
    of_tasks: dict[str, dict[str, WordingScores]] = {}
    for key, (name, question) in others.items():
        task_scores = scores_of_tasks[name]
        of_scans = log_probabilities[key][evaluation.encoded.places(task_scores.rows)]
        answers = among_classes(of_scans, task_scores.task, task_scores.classes).argmax(1)
        first = task_scores.answers[MODEL].probabilities.argmax(1)
        of_tasks.setdefault(name, {})[question] = {
            "balanced_accuracy": float(balanced_accuracy_score(task_scores.labels, answers)),
            "agreement": float(np.mean(answers == first)),
        }
    return {
        name: {
            "wordings": wordings,
            "agreement": float(np.mean([scores["agreement"] for scores in wordings.values()])),
            "lowest": min(scores["balanced_accuracy"] for scores in wordings.values()),
            "highest": max(scores["balanced_accuracy"] for scores in wordings.values()),
        }
        for name, wordings in of_tasks.items()
    }
