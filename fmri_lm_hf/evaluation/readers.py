"""Who is judged: the model, and all that stands beside it, each a function in one registry.

A reader is a function of a `Question` that returns an `Answer`. To add one, write it with `@reader(name, title, kind)`;
`evaluate` then judges it, and the reports show it. A reader that cannot be had for a question raises `Unavailable`
with a sentence that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .baselines import fit_logistic, fit_ridge, majority
from .features import Unavailable
from .study import Answer, Question
from .surrogates import Surrogate, changed_scan, phase_randomised, white_noise
from .tasks import Task

__all__ = ["OURS", "READERS", "Reader", "other_subjects", "reader", "title_of"]

OURS = "fmri_lm"


@dataclass(frozen=True)
class Reader:
    """One who answers questions about scans.

    Attributes
    ----------
    name : str
        In `results.json`.
    title : str
        In tables and pictures.
    kind : {"model", "control", "baseline"}
        A control does without what the model should read: a score means nothing unless it is above its controls. A
        baseline reads scans in another way.
    answer : callable
        Takes a `Question`, returns an `Answer`.
    asked : callable
        Whether a `Task` is a matter for this reader at all; every one is, if not said.
    """

    name: str
    title: str
    kind: str
    answer: Callable[[Question], Answer]
    asked: Callable[[Task], bool] = lambda task: True


READERS: dict[str, Reader] = {}


def reader(
    name: str, title: str, kind: str, **more: Callable[[Task], bool]
) -> Callable[[Callable[[Question], Answer]], Callable[[Question], Answer]]:
    """Register a function as a reader."""

    def register(answer: Callable[[Question], Answer]) -> Callable[[Question], Answer]:
        READERS[name] = Reader(name, title, kind, answer, **more)
        return answer

    return register


def title_of(name: str) -> str:
    """How a reader is called in tables; its name where it is not one of these, such as a simulation's oracle."""
    return READERS[name].title if name in READERS else name.replace("_", " ")


@reader(OURS, "fMRI-LM (zero-shot question)", "model")
def _fmri_lm(question: Question) -> Answer:
    return question.study.says(question)


@reader("connectivity_logistic", "logistic regression on connectivity", "baseline")
def _connectivity_logistic(question: Question) -> Answer:
    return _linear(question, question.study.features.connectivity)


@reader("network_logistic", "logistic regression on network connectivity", "baseline")
def _network_logistic(question: Question) -> Answer:
    return _linear(question, question.study.features.network_connectivity)


@reader("tangent_logistic", "logistic regression in tangent space", "baseline")
def _tangent_logistic(question: Question) -> Answer:
    return _linear(question, lambda rows: question.study.features.tangent(rows, question.pool))


@reader("coskewness_logistic", "logistic regression, co-skewness kept", "baseline")
def _coskewness_logistic(question: Question) -> Answer:
    return _linear(question, lambda rows: question.study.features.coskewness(rows, question.pool))


@reader("confounds", "confounds alone", "control")
def _confounds(question: Question) -> Answer:
    without = question.task.label_columns
    return _linear(question, lambda rows: question.study.features.confounds(rows, question.train, without))


@reader("majority", "majority class", "control")
def _majority(question: Question) -> Answer:
    found = majority(question.labels(question.train), len(question.test))
    return Answer(found.scores_of(question.classes))


@reader("without_scan", "fMRI-LM without the scan", "control")
def _without_scan(question: Question) -> Answer:
    return question.study.says_without_scan(question)


@reader("other_scan", "fMRI-LM shown another scan", "control")
def _other_scan(question: Question) -> Answer:
    subjects = question.subjects(question.test)
    if len(set(subjects)) < 2:
        raise Unavailable(
            "All test scans are of one subject, so that there is no other subject's scan to show."
        )
    others = [question.test[i] for i in other_subjects(subjects, question.study.seed)]
    return question.study.says(question, others)


@reader("phase_randomised", "fMRI-LM shown randomised phases", "control")
def _phase_randomised(question: Question) -> Answer:
    return _shown(question, "phase_randomised", phase_randomised)


@reader("noise", "fMRI-LM shown noise", "control")
def _noise(question: Question) -> Answer:
    return _shown(question, "noise", white_noise)


def other_subjects(subjects: Sequence[str], seed: int) -> list[int]:
    """For each scan the place of a scan of another subject, each scan used as evenly as chance and subjects allow."""
    whose, draw = np.asarray(subjects), np.random.default_rng(seed)
    return [int(draw.choice(np.flatnonzero(whose != subject))) for subject in subjects]


def _shown(question: Question, control: str, surrogate: Surrogate) -> Answer:
    """What the model says of surrogates of the test scans."""
    seed = question.study.seed
    change = partial(changed_scan, surrogate, seed)
    return question.study.says(question, control=control, change=change)


def _linear(question: Question, features: Callable[[Sequence[int]], np.ndarray]) -> Answer:
    """Logistic regression on features of scans, fitted to the training scans; ridge regression for numbers."""
    train, test = features(question.train), features(question.test)
    subjects = question.subjects(question.train)
    found = fit_logistic(train, question.labels(question.train), test, subjects)
    numbers = None
    if question.task.kind == "regression":
        numbers = fit_ridge(train, question.numbers(question.train), test, subjects)
    return Answer(found.scores_of(question.classes), numbers)
