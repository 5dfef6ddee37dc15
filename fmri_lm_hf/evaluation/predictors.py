"""Answers without one label: a task that states its hypothesis in words is answered by how far scans agree with it.

Scans are compared with the other scans that are judged, of the same site where sites differ. So classes are taken to be
about equally frequent among them; a ranking (AUC) does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .baselines import fit_logistic, fit_ridge, majority
from .features import Unavailable
from .model_answers import Answer, Question
from .tasks import Task
from .truth import (
    Statement,
    direct_probabilities,
    names_of_networks,
    parse_hypothesis,
    relative_to,
    statement_probabilities,
)

# Scans of which one thing is left and another is gone: what a control shows to a model in place of a scan.

Surrogate = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def phase_randomised(bold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Series with the amplitude spectrum of each ROI, and random phases of each ROI's own.

    What each ROI does by itself (mean, variance, spectrum, and so its autocorrelation) stays; that ROIs do anything
    together goes. The usual surrogate of [1]_ for several series gives all of them the same random phases, which keeps
    their correlations: it would leave all connectivity in the scan, and control for nothing here.

    Parameters
    ----------
    bold : ndarray of shape (n_timepoints, n_rois)
    generator : numpy.random.Generator

    References
    ----------
    .. [1] Prichard D, Theiler J (1994). Generating surrogate data for time series with several simultaneously measured
       variables. Physical Review Letters 73, 951-954.
    """
    n = len(bold)
    spectrum = np.fft.rfft(bold.astype(np.float64), axis=0)
    turn = np.exp(2j * np.pi * generator.random(spectrum.shape))
    turn[0] = 1  # the mean is no oscillation
    if n % 2 == 0:
        turn[-1] = generator.choice([-1.0, 1.0], spectrum.shape[1])  # nor has the fastest one a phase
    return np.fft.irfft(spectrum * turn, n, axis=0)


def white_noise(bold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Independent normal values with the mean and SD of each ROI: (n_timepoints, n_rois)."""
    values = bold.astype(np.float64)
    return values.mean(0) + values.std(0) * generator.standard_normal(bold.shape)


def series_of(scan: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the series of a row (n_timepoints, n_rois), and which of its time points were observed."""
    bold = np.array(scan["bold"], dtype=np.float32)
    observed = np.ones(len(bold), dtype=bool)
    if scan.get("sample_mask") is not None:
        observed = np.asarray(scan["sample_mask"], dtype=bool)
    return bold, observed


def changed_scan(surrogate: Surrogate, seed: int, scan: Mapping[str, Any], row: int) -> dict[str, Any]:
    """A row of a scan dataset whose observed time points are a surrogate's; ROIs that are not finite stay.

    Parameters
    ----------
    surrogate : callable
        :func:`phase_randomised` or :func:`white_noise`.
    seed : int
    scan : mapping
    row : int
        Its number: same seed and row, same surrogate.
    """
    bold, observed = series_of(scan)
    finite = np.isfinite(bold[observed]).all(0)
    kept = np.ix_(observed, finite)
    bold[kept] = surrogate(bold[kept], np.random.default_rng([seed, row]))
    return {**scan, "bold": bold}


# Who is judged: the model, and all that stands beside it, each a function in one registry.

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


# A baseline from which confounds are taken out by regression, fitted to training scans alone [1]_.


def regressed_out(
    train: np.ndarray, train_confounds: np.ndarray, test: np.ndarray, test_confounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features less what confounds predict of them, by least squares fitted to the training scans alone.

    Fitted to all scans, the regression would carry what test scans have in common into training [1]_. A confound
    that is not known of a scan counts as the training mean.

    Parameters
    ----------
    train, test : ndarray of shape (n_train or n_test, n_features)
        NaN where a feature is not known; such a feature of a scan stays NaN.
    train_confounds, test_confounds : ndarray of shape (n_train or n_test, n_confounds)

    Returns
    -------
    train, test : ndarray
    """
    centre = np.nanmean(train_confounds, axis=0)
    scale = np.nanstd(train_confounds, axis=0)
    scale = np.where(scale > 0, scale, 1)

    def design(confounds: np.ndarray) -> np.ndarray:
        filled = np.nan_to_num((confounds - centre) / scale)
        return np.column_stack([np.ones(len(filled)), filled])

    mean = np.nan_to_num(np.nanmean(np.where(np.isfinite(train), train, np.nan), axis=0))
    filled = np.where(np.isfinite(train), train, mean)
    weights = np.linalg.lstsq(design(train_confounds), filled, rcond=None)[0]
    return train - design(train_confounds) @ weights, test - design(test_confounds) @ weights


@reader("connectivity_regressed", "logistic regression, confounds regressed out", "baseline")
def _connectivity_regressed(question: Question) -> Answer:
    features, without = question.study.features, question.task.label_columns
    train, test = regressed_out(
        features.connectivity(question.train),
        features.confounds(question.train, question.train, without),
        features.connectivity(question.test),
        features.confounds(question.test, question.train, without),
    )
    found = fit_logistic(train, question.labels(question.train), test, question.subjects(question.train))
    return Answer(found.scores_of(question.classes))


# Rows of scans and statements -> how probable each statement is of each scan, (n_scans, n_statements).
Probable = Callable[[Sequence[int], Sequence[Statement]], np.ndarray]


def _states_one(task: Task) -> bool:
    return bool(task.hypothesis)


@reader("hypothesis", "fMRI-LM asked for the hypothesis, no labels", "model", asked=_states_one)
def _hypothesis(question: Question) -> Answer:
    study = question.study
    if not study.model.config.reads_network_pairs:
        raise Unavailable("The model has no tokens of network pairs, of which the hypothesis speaks.")

    def probable(rows: Sequence[int], statements: Sequence[Statement]) -> np.ndarray:
        places = study.read.places(rows)
        inputs = {name: values[places] for name, values in study.read.inputs.items()}
        return statement_probabilities(study.model, study.processor, inputs, statements)

    return _answer(question, probable)


@reader("hypothesis_direct", "the hypothesis computed from the scan", "baseline", asked=_states_one)
def _hypothesis_direct(question: Question) -> Answer:
    study = question.study

    def probable(rows: Sequence[int], statements: Sequence[Statement]) -> np.ndarray:
        inputs = study.processor(fmri=[study.scans[row] for row in rows])
        return direct_probabilities(study.processor, inputs, statements)

    return _answer(question, probable)


def _answer(question: Question, probable: Probable) -> Answer:
    if question.study.processor.feature_extractor.atlas is None:
        raise Unavailable("The processor has no atlas, and so no networks, of which the hypothesis speaks.")
    names = names_of_networks(question.study.processor)
    sites = np.array([question.study.sites[row] for row in question.test])
    statements = {
        answer: parse_hypothesis(text, names)
        for answer, text in question.task.hypothesis.items()
        if answer in question.classes
    }
    agreement: dict[str, np.ndarray] = {}
    if statements:
        found = probable(question.test, [each for of_answer in statements.values() for each in of_answer])
        for site in np.unique(sites):
            here = sites == site
            found[here] = relative_to(found[here], found[here])
        ends = np.cumsum([len(of_answer) for of_answer in statements.values()])
        of_answers = np.split(found, ends[:-1], axis=1)
        agreement = {answer: each.mean(1) for answer, each in zip(statements, of_answers, strict=True)}
    return Answer(agreement_of_classes(agreement, question.classes))


def agreement_of_classes(agreement: dict[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Probabilities of classes, from how far scans agree with what marks some of them.

    Parameters
    ----------
    agreement : dict of str to ndarray of shape (n_scans,)
        Between 0 and 1, by class. Classes without a hypothesis share what is left by the one that agrees most.
    classes : sequence of str

    Returns
    -------
    ndarray of shape (n_scans, n_classes)
        Sums to one.
    """
    if not agreement:
        raise Unavailable("The hypothesis is about none of the answers that scans have.")
    left = 1 - np.max(list(agreement.values()), axis=0)
    n_left = len(classes) - len(agreement)
    found = np.stack([agreement.get(name, left / max(n_left, 1)) for name in classes], axis=1)
    # a scan that agrees with none, and leaves nothing to others, says nothing
    found = np.where(found.sum(1, keepdims=True) > 0, found, 1.0)
    return found / found.sum(1, keepdims=True)
