"""Predictors: the model, baselines and controls, each a function in one registry.

A control lacks what the model should read (the scan, the right scan, its phases): a score means nothing unless it is
above the controls. A baseline reads scans in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .baselines import fit_logistic, fit_ridge, majority
from .features import Unavailable
from .model_answers import Answer, TaskSplit
from .tasks import Task

if TYPE_CHECKING:
    from .truth import Statement

MODEL = "fmri_lm"  # name of the model itself in `PREDICTORS`

Features = Callable[[Sequence[int]], np.ndarray]  # rows of scans -> (n_scans, n_features)
Surrogate = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # series -> series of the same shape


@dataclass(frozen=True)
class Predictor:
    """A model, baseline or control that answers a task about test scans.

    Attributes
    ----------
    name : str
        In `results.json`.
    title : str
        In tables and pictures.
    kind : {"model", "control", "baseline"}
    answer : callable
        Takes a `TaskSplit`, returns an `Answer`; raises `Unavailable` with the reason where it has none.
    applies : callable
        Whether a `Task` is for this predictor; every task by default.
    """

    name: str
    title: str
    kind: str
    answer: Callable[[TaskSplit], Answer]
    applies: Callable[[Task], bool] = lambda task: True


PREDICTORS: dict[str, Predictor] = {}


def predictor(
    name: str, title: str, kind: str, **more: Callable[[Task], bool]
) -> Callable[[Callable[[TaskSplit], Answer]], Callable[[TaskSplit], Answer]]:
    """Register a function as a predictor."""

    def register(answer: Callable[[TaskSplit], Answer]) -> Callable[[TaskSplit], Answer]:
        PREDICTORS[name] = Predictor(name, title, kind, answer, **more)
        return answer

    return register


def title_of(name: str) -> str:
    """Return the title of a predictor; its name where it is not registered, such as a simulation's oracle."""
    return PREDICTORS[name].title if name in PREDICTORS else name.replace("_", " ")


@predictor(MODEL, "fMRI-LM (zero-shot question)", "model")
def _fmri_lm(split: TaskSplit) -> Answer:
    return split.evaluation.answer(split)


@predictor("connectivity_logistic", "logistic regression on connectivity", "baseline")
def _connectivity_logistic(split: TaskSplit) -> Answer:
    return _linear(split, split.evaluation.features.connectivity)


@predictor("network_logistic", "logistic regression on network connectivity", "baseline")
def _network_logistic(split: TaskSplit) -> Answer:
    return _linear(split, split.evaluation.features.network_connectivity)


@predictor("tangent_logistic", "logistic regression in tangent space", "baseline")
def _tangent_logistic(split: TaskSplit) -> Answer:
    return _linear(split, lambda rows: split.evaluation.features.tangent(rows, split.pool))


@predictor("coskewness_logistic", "logistic regression, co-skewness kept", "baseline")
def _coskewness_logistic(split: TaskSplit) -> Answer:
    return _linear(split, lambda rows: split.evaluation.features.coskewness(rows, split.pool))


@predictor("confounds", "confounds alone", "control")
def _confounds(split: TaskSplit) -> Answer:
    return _linear(split, lambda rows: _confounds_of(split, rows))


@predictor("majority", "majority class", "control")
def _majority(split: TaskSplit) -> Answer:
    found = majority(split.labels(split.train), len(split.test))
    return Answer(found.scores_of(split.classes))


@predictor("without_scan", "fMRI-LM without the scan", "control")
def _without_scan(split: TaskSplit) -> Answer:
    return split.evaluation.answer_without_scan(split)


@predictor("other_scan", "fMRI-LM shown another scan", "control")
def _other_scan(split: TaskSplit) -> Answer:
    subjects = split.subjects(split.test)
    if len(set(subjects)) < 2:
        raise Unavailable("All test scans are of one subject, so that there is no other subject's scan to show.")
    others = [split.test[place] for place in other_subjects(subjects, split.evaluation.seed)]
    return split.evaluation.answer(split, others)


@predictor("phase_randomised", "fMRI-LM shown randomised phases", "control")
def _phase_randomised(split: TaskSplit) -> Answer:
    return _shown(split, "phase_randomised", phase_randomised)


@predictor("noise", "fMRI-LM shown noise", "control")
def _noise(split: TaskSplit) -> Answer:
    return _shown(split, "noise", white_noise)


@predictor("connectivity_regressed", "logistic regression, confounds regressed out", "baseline")
def _connectivity_regressed(split: TaskSplit) -> Answer:
    features = split.evaluation.features
    train, test = regressed_out(
        features.connectivity(split.train),
        _confounds_of(split, split.train),
        features.connectivity(split.test),
        _confounds_of(split, split.test),
    )
    found = fit_logistic(train, split.labels(split.train), test, split.subjects(split.train))
    return Answer(found.scores_of(split.classes))


# Zero-label predictors: a task with a hypothesis in words is answered by how well scans agree with it.


def _has_hypothesis(task: Task) -> bool:
    return bool(task.hypothesis)


@predictor("hypothesis", "fMRI-LM asked for the hypothesis, no labels", "model", applies=_has_hypothesis)
def _hypothesis(split: TaskSplit) -> Answer:
    from .truth import statement_probabilities

    evaluation = split.evaluation
    if not evaluation.model.config.reads_network_pairs:
        raise Unavailable("The model has no tokens of network pairs, which the hypothesis is about.")
    places = evaluation.encoded.places(split.test)
    inputs = {name: values[places] for name, values in evaluation.encoded.inputs.items()}
    return _agreement(split, partial(statement_probabilities, evaluation.model, evaluation.processor, inputs))


@predictor("hypothesis_direct", "the hypothesis computed from the scan", "baseline", applies=_has_hypothesis)
def _hypothesis_direct(split: TaskSplit) -> Answer:
    from .truth import direct_probabilities

    evaluation = split.evaluation
    inputs = evaluation.processor(fmri=[evaluation.scans[row] for row in split.test])
    return _agreement(split, partial(direct_probabilities, evaluation.processor, inputs))


def _agreement(split: TaskSplit, probabilities_of: Callable[[Sequence[Statement]], np.ndarray]) -> Answer:
    """Answer with the class whose hypothesis a test scan agrees with best.

    Scans are compared with the other test scans of the same site, which assumes that classes are about equally frequent
    there; a ranking (AUC) does not depend on that.
    """
    from .truth import names_of_networks, parse_hypothesis, relative_to

    if split.evaluation.processor.feature_extractor.atlas is None:
        raise Unavailable("The processor has no atlas, and therefore no networks, which the hypothesis is about.")
    names = names_of_networks(split.evaluation.processor)
    statements = {
        answer: parse_hypothesis(text, names)
        for answer, text in split.task.hypothesis.items()
        if answer in split.classes
    }
    agreement: dict[str, np.ndarray] = {}
    if statements:
        found = probabilities_of([each for of_answer in statements.values() for each in of_answer])
        sites = np.array([split.evaluation.sites[row] for row in split.test])
        # Scanners shift all correlations: compared over sites, the scanner would decide which scans agree.
        for site in np.unique(sites):
            here = sites == site
            found[here] = relative_to(found[here], found[here])
        ends = np.cumsum([len(of_answer) for of_answer in statements.values()])
        of_answers = np.split(found, ends[:-1], axis=1)
        agreement = {answer: each.mean(1) for answer, each in zip(statements, of_answers, strict=True)}
    return Answer(agreement_of_classes(agreement, split.classes))


def agreement_of_classes(agreement: dict[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Turn the agreement of scans with hypotheses about some classes into probabilities of all classes.

    Parameters
    ----------
    agreement : dict of str to ndarray of shape (n_scans,)
        Between 0 and 1, by class. Classes without a hypothesis share one minus the largest agreement.
    classes : sequence of str

    Returns
    -------
    ndarray of shape (n_scans, n_classes)
        Sums to one.
    """
    if not agreement:
        raise Unavailable("No training scan has an answer that the hypothesis is about.")
    left = 1 - np.max(list(agreement.values()), axis=0)
    n_left = len(classes) - len(agreement)
    found = np.stack([agreement.get(name, left / max(n_left, 1)) for name in classes], axis=1)
    # Where every class has a hypothesis and a scan agrees with none, the sum is 0: all classes are equally probable.
    found = np.where(found.sum(1, keepdims=True) > 0, found, 1.0)
    return found / found.sum(1, keepdims=True)


# Linear predictors.


def _linear(split: TaskSplit, features: Features) -> Answer:
    """Fit logistic regression on features of the training scans, and ridge regression for numbers."""
    train, test = features(split.train), features(split.test)
    subjects = split.subjects(split.train)
    found = fit_logistic(train, split.labels(split.train), test, subjects)
    numbers = None
    if split.task.kind == "regression":
        numbers = fit_ridge(train, split.numbers(split.train), test, subjects)
    return Answer(found.scores_of(split.classes), numbers)


def _confounds_of(split: TaskSplit, rows: Sequence[int]) -> np.ndarray:
    return split.evaluation.features.confounds(rows, split.train, split.task.label_columns)


def regressed_out(
    train: np.ndarray, train_confounds: np.ndarray, test: np.ndarray, test_confounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract from features what confounds predict of them, by least squares fitted to the training scans alone.

    Fitted to all scans, the regression would leak test scans into training. An unknown confound of a scan counts as the
    training mean.

    Parameters
    ----------
    train, test : ndarray of shape (n_train or n_test, n_features)
        NaN where a feature is unknown; it stays NaN.
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


# Scans that controls show to the model in place of the test scan.


def other_subjects(subjects: Sequence[str], seed: int) -> list[int]:
    """Draw for each scan the position of a scan of another subject, all equally likely."""
    whose, draw = np.asarray(subjects), np.random.default_rng(seed)
    return [int(draw.choice(np.flatnonzero(whose != subject))) for subject in subjects]


def _shown(split: TaskSplit, control: str, surrogate: Surrogate) -> Answer:
    """Ask the model about surrogates of the test scans."""
    change = partial(changed_scan, surrogate, split.evaluation.seed)
    return split.evaluation.answer(split, control=control, change=change)


def phase_randomised(bold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Randomise the phases of each ROI's series, independently of the other ROIs.

    Mean, variance and spectrum (and so autocorrelation) of each ROI stay; connectivity is lost. The usual surrogate of
    [1]_ for several series gives all of them the same random phases, which keeps their correlations: it would leave all
    connectivity in the scan, and control for nothing here.

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
    rotation = np.exp(2j * np.pi * generator.random(spectrum.shape))
    rotation[0] = 1  # the mean has no phase
    if n % 2 == 0:
        # Nor has the Nyquist frequency: `irfft` drops its imaginary part, and a random phase would lose variance.
        rotation[-1] = generator.choice([-1.0, 1.0], spectrum.shape[1])
    return np.fft.irfft(spectrum * rotation, n, axis=0)


def white_noise(bold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw independent normal values with the mean and SD of each ROI: (n_timepoints, n_rois)."""
    values = bold.astype(np.float64)
    return values.mean(0) + values.std(0) * generator.standard_normal(bold.shape)


def series_of(scan: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Copy the series of a row (n_timepoints, n_rois), and read which of its time points were observed."""
    bold = np.array(scan["bold"], dtype=np.float32)
    observed = np.ones(len(bold), dtype=bool)
    if scan.get("sample_mask") is not None:
        observed = np.asarray(scan["sample_mask"], dtype=bool)
    return bold, observed


def changed_scan(surrogate: Surrogate, seed: int, scan: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Replace the observed time points of a row by a surrogate; ROIs that are not finite stay as they are.

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
    # Censored volumes are often zeros: through the Fourier transform they, and a NaN, would spread to all time points.
    used = np.ix_(observed, finite)
    bold[used] = surrogate(bold[used], np.random.default_rng([seed, row]))
    return {**scan, "bold": bold}
