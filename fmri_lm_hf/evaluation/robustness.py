"""How far do answers hold when the same scans are measured worse? Curves over TR, length, noise, motion, ROIs, atlas.

What happens to a scan is worked on its series alone. So the label of each scan stays what it was, and a curve falls for
no other reason than the change. Nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from ..models.feature_extraction_fmri import resampling_weights
from ..models.scan_errors import ScanError
from .metrics import score_classification
from .model_answers import EncodedScans, Evaluation, among_classes
from .predictors import MODEL, series_of
from .scoring import TaskScores

SPIKE = 3.0  # SDs of a ROI's series that a movement adds to it
PERFUSION_T_R = 4.0  # seconds
MANY = 2**31  # points; resampling is not to cut a scan


@dataclass(frozen=True)
class Change:
    """One way to measure a scan worse.

    Attributes
    ----------
    title : str
        With the unit of its levels.
    levels : tuple of float
    apply : callable
        Takes a row of a scan dataset, a level and a `numpy.random.Generator`, and the networks of its ROIs where
        `needs_networks`; returns the row changed.
    needs_networks : bool
    """

    title: str
    levels: tuple[float, ...]
    apply: Callable[..., dict[str, Any]]
    needs_networks: bool = False


def _slower(scan: Mapping[str, Any], t_r: float, draw: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    weights = resampling_weights(len(bold), float(scan["t_r"]), t_r, MANY)
    share = np.abs(weights) @ mask[: weights.shape[1]]
    return {
        **scan,
        "bold": (weights @ bold[: weights.shape[1]]).astype(np.float32),
        "t_r": t_r,
        "sample_mask": share >= 0.5 * np.abs(weights).sum(1),
    }


def _shorter(scan: Mapping[str, Any], share: float, draw: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    n_kept = max(2, round(share * len(bold)))
    return {**scan, "bold": bold[:n_kept], "sample_mask": mask[:n_kept]}


def _noisier(scan: Mapping[str, Any], sds: float, draw: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    noise = sds * np.nan_to_num(bold[mask].std(0)) * draw.standard_normal(bold.shape)
    return {**scan, "bold": (bold + noise).astype(np.float32)}


def _moved(scan: Mapping[str, Any], share: float, draw: np.random.Generator) -> dict[str, Any]:
    bold, mask = series_of(scan)
    moves = (draw.random(len(bold)) < share).astype(float)
    course = moves + 0.5 * np.concatenate([[0.0], moves[:-1]])  # gone after two volumes
    weights = draw.choice([-1.0, 1.0]) * (1 + 0.3 * draw.standard_normal(bold.shape[1]))
    artefact = SPIKE * np.nan_to_num(bold[mask].std(0)) * course[:, None] * weights
    return {**scan, "bold": (bold + artefact).astype(np.float32)}


def _without_rois(scan: Mapping[str, Any], share: float, draw: np.random.Generator) -> dict[str, Any]:
    bold, _ = series_of(scan)
    known = _known(scan, bold)
    lost = draw.permutation(np.flatnonzero(known))[: round(share * known.sum())]
    known[lost] = False
    return {**scan, "bold": np.where(known, bold, np.float32(np.nan)), "roi_mask": known}


def _coarser(
    scan: Mapping[str, Any], n_merged: float, draw: np.random.Generator, networks: Sequence[str]
) -> dict[str, Any]:
    """As an atlas of larger parcels gives it: neighbours in a network become one, in the place of the first of them."""
    bold, _ = series_of(scan)
    known = _known(scan, bold)
    merged = np.full_like(bold, np.nan)
    for network in dict.fromkeys(networks):
        rois = [roi for roi, of in enumerate(networks) if of == network and known[roi]]
        for first in range(0, len(rois), int(n_merged)):
            merged[:, rois[first]] = bold[:, rois[first : first + int(n_merged)]].mean(1)
    return {**scan, "bold": merged, "roi_mask": ~np.isnan(merged).all(0)}


def _perfusion(scan: Mapping[str, Any], sds: float, draw: np.random.Generator) -> dict[str, Any]:
    """As arterial spin labelling gives it: a pair of volumes takes 4 s, and there is more noise than with BOLD."""
    return _noisier(_slower(scan, PERFUSION_T_R, draw), sds, draw)


def _known(scan: Mapping[str, Any], bold: np.ndarray) -> np.ndarray:
    if scan.get("roi_mask") is not None:
        return np.array(scan["roi_mask"], dtype=bool)
    return np.ones(bold.shape[1], dtype=bool)


CHANGES = {
    "t_r": Change("repetition time (s)", (0.5, 1.0, 2.0, 3.0), _slower),
    "length": Change("share of the scan's length", (0.75, 0.5, 0.25), _shorter),
    "noise": Change("noise added (SD of the ROI)", (0.5, 1.0, 2.0), _noisier),
    "motion": Change("share of volumes with a movement", (0.02, 0.05, 0.1), _moved),
    "missing_rois": Change("share of ROIs missing", (0.1, 0.3, 0.5), _without_rois),
    "modality": Change("as a perfusion scan, noise (SD of the ROI)", (0.5, 1.0, 2.0), _perfusion),
    "atlas": Change("ROIs that become one parcel", (2, 4, 8), _coarser, needs_networks=True),
}


def changed(
    kind: str,
    level: float,
    seed: int,
    scan: Mapping[str, Any],
    row: int,
    networks: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A row of a scan dataset, measured worse; same seed and row, same change.

    Parameters
    ----------
    kind : str
        One of `CHANGES`.
    level : float
    seed : int
    scan : mapping
    row : int
        Its number.
    networks : sequence of str, optional
        Of its ROIs, for changes that need them.
    """
    more = (networks,) if CHANGES[kind].needs_networks else ()
    return CHANGES[kind].apply(scan, level, np.random.default_rng([seed, row]), *more)


def robustness(study: Evaluation, judgements: Mapping[str, TaskScores], n_scans: int) -> dict[str, Any]:
    """Scores of the model on scans as they are, and measured worse in each way and degree.

    Parameters
    ----------
    study : Evaluation
    judgements : mapping of str to TaskScores
        Of each task, of the scans as they are.
    n_scans : int
        The first so many judged scans are asked about.

    Returns
    -------
    dict
        ``n_scans``; ``as_they_are`` -> task -> ``balanced_accuracy`` and ``auc``; ``changes`` -> kind -> ``title`` and
        ``levels``, a list of ``level``, ``unread`` (share of scans that the model cannot read then), ``reason`` (of
        one of them) and ``tasks`` -> task -> ``balanced_accuracy``, ``auc``, and ``same_answer``, how often the answer
        is that to the scan as it is; of the scans that can be read.
    """
    rows = study.encoded.rows[:n_scans]
    found: dict[str, Any] = {
        "n_scans": len(rows),
        "as_they_are": {
            name: _scores(judgement, places, judgement.answers[MODEL].probabilities[places])
            for name, judgement in judgements.items()
            if (places := _of(judgement, rows))
        },
        "changes": {},
    }
    atlas = study.processor.feature_extractor.atlas
    networks = None if atlas is None else atlas.networks
    for kind, worse in CHANGES.items():
        if worse.needs_networks and networks is None:
            continue
        levels = []
        for level in worse.levels:
            change = partial(changed, kind, level, study.seed, networks=networks)
            try:
                read = EncodedScans.encode(study.model, study.processor, study.scans, rows, change=change)
            except ScanError as error:
                levels.append({"level": level, "unread": 1.0, "reason": str(error), "tasks": {}})
                continue
            said = read.log_probabilities(study.model, study.processor, study.tasks)
            levels.append(
                {
                    "level": level,
                    "unread": len(read.failures) / len(rows),
                    "reason": next(iter(read.failures.values()), None),
                    "tasks": {
                        name: _changed_scores(judgement, read, said[name])
                        for name, judgement in judgements.items()
                        if _of(judgement, read.rows)
                    },
                }
            )
        found["changes"][kind] = {"title": worse.title, "levels": levels}
    return found


def _of(judgement: TaskScores, rows: Sequence[int]) -> list[int]:
    """Places of some rows among those that were judged."""
    wanted = set(rows)
    return [place for place, row in enumerate(judgement.rows) if row in wanted]


def _changed_scores(judgement: TaskScores, read: EncodedScans, said: np.ndarray) -> dict[str, float | None]:
    places = _of(judgement, read.rows)
    answers = said[read.places([judgement.rows[place] for place in places])]
    probabilities = among_classes(answers, judgement.task, judgement.classes)
    before = judgement.answers[MODEL].probabilities[places].argmax(1)
    same = float(np.mean(probabilities.argmax(1) == before))
    return {**_scores(judgement, places, probabilities), "same_answer": same}


def _scores(judgement: TaskScores, places: list[int], probabilities: np.ndarray) -> dict[str, float | None]:
    truth = [judgement.truth[place] for place in places]
    names = [judgement.classes[best] for best in probabilities.argmax(1)]
    scores = score_classification(truth, names, probabilities, judgement.classes)
    return {name: scores[name] for name in ("balanced_accuracy", "auc")}


# Does an answer hang on how it is asked for? The same scans, asked in other words.


def wording_invariance(
    study: Evaluation, judgements: Mapping[str, TaskScores], n_wordings: int = 10
) -> dict[str, dict[str, Any]]:
    """The scores of other wordings of each task, and how often they get the answer of the first one.

    The order in which answers are offered cannot matter: each is scored for itself, behind a question that does not
    list them.

    Parameters
    ----------
    study : Evaluation
    judgements : mapping of str to TaskScores
        Of each task, by its first wording.
    n_wordings : int
        How many of a task's other wordings are asked, the first ones.

    Returns
    -------
    dict
        Task -> ``wordings`` (question -> ``balanced_accuracy`` and ``agreement``, the share of scans whose answer is
        that to the first wording), and over these ``agreement`` (mean) and the ``lowest`` and ``highest`` balanced
        accuracy. Tasks of one wording are left out.
    """
    others = {
        (name, question): replace(judgement.task, ask=(question,))
        for name, judgement in judgements.items()
        for question in judgement.task.ask[1 : 1 + n_wordings]
    }
    if not others:
        return {}
    asked = {f"{name}\n{question}": task for (name, question), task in others.items()}
    found = study.encoded.log_probabilities(study.model, study.processor, asked)
    results: dict[str, dict[str, Any]] = {}
    for name, question in others:
        judgement = judgements[name]
        said = found[f"{name}\n{question}"][study.encoded.places(judgement.rows)]
        answers = among_classes(said, judgement.task, judgement.classes).argmax(1)
        first = judgement.answers[MODEL].probabilities.argmax(1)
        results.setdefault(name, {"wordings": {}})["wordings"][question] = {
            "balanced_accuracy": float(balanced_accuracy_score(judgement.labels, answers)),
            "agreement": float(np.mean(answers == first)),
        }
    for of_task in results.values():
        scores = [each["balanced_accuracy"] for each in of_task["wordings"].values()]
        agreements = [each["agreement"] for each in of_task["wordings"].values()]
        of_task |= {
            "agreement": float(np.mean(agreements)),
            "lowest": min(scores),
            "highest": max(scores),
        }
    return results
