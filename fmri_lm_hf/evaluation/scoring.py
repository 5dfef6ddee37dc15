"""Scores of all predictors at a task, with their uncertainty, and the comparison of the model with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from scipy.stats import pearsonr, spearmanr
from tqdm.auto import tqdm

from .calibration import Calibration, ConformalSets, calibration, conformal_sets
from .features import Unavailable
from .metrics import score_classification, weighted_auc, weighted_balanced_accuracy, weighted_mean
from .model_answers import Answer, TaskSplit
from .predictors import MODEL, PREDICTORS
from .tasks import Task
from .uncertainty import interval_of, permutations_by_subject, weights_by_subject

NO_ANSWER = "(no answer)"  # not a class, and therefore wrong


class Scores(TypedDict, total=False):
    """The scores of one predictor at one task; absent where they do not apply, None where they are not defined."""

    accuracy: float
    balanced_accuracy: float | None
    auc: float | None
    balanced_accuracy_se: float
    balanced_accuracy_interval: list[float]
    auc_se: float
    auc_interval: list[float]
    interval: list[float]  # of the metric that decides
    p: float  # of a permutation of labels
    no_answer: float  # share of written texts that are no answer and count as wrong
    # tasks whose answers have an order
    rank_correlation: float | None
    within_one: float
    mean_class_error: float
    # tasks that ask for a number
    mean_absolute_error: float
    mean_absolute_error_se: float
    mean_absolute_error_interval: list[float]
    pearson: float | None
    r2: float | None
    # scans of several sites
    balanced_accuracy_within_sites: float | None


class Difference(TypedDict):
    """How much better the model is than another predictor, by the metric that decides."""

    kind: str
    difference: float  # above 0 where the model is better
    interval: list[float]  # 95 %, both scored on the same draws of subjects
    p: float  # share of draws in which the model is not better


class Verdict(TypedDict):
    """Whether the model is better than all controls, and than all baselines; None where there are none.

    The model has to beat all of a kind: more comparisons make that harder, and need no correction for their number.
    """

    score: str
    beats_controls: bool | None
    beats_baselines: bool | None
    not_beaten: list[str]  # predictors where the interval of the difference reaches 0 or less
    differences: dict[str, Difference]


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The answers of all predictors to a task, with their scores.

    Attributes
    ----------
    task : Task
    classes : tuple of str
        The columns of the probabilities.
    rows : tuple of int
        The test scans, as rows of the scan dataset.
    n_train : int
        Number of scans that baselines were fitted to.
    truth : list of str
        The right answer for each test scan.
    subjects, sites : list of str
        Of each test scan.
    answers : dict of str to Answer
        By predictor; an answer to a regression task has `numbers`.
    numbers : ndarray of shape (n_scans,), optional
        The true numbers of a regression task.
    left_out : dict of str to str
        Predictors that are not available, and why.
    n_resamples : int
        Of the bootstrap over subjects, and of the permutations.
    seed : int
        Of both.
    """

    task: Task
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    n_train: int
    truth: list[str]
    subjects: list[str]
    sites: list[str]
    answers: dict[str, Answer]
    numbers: np.ndarray | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    n_resamples: int = 1000
    seed: int = 0

    @property
    def metric(self) -> str:
        """The metric that decides: `mean_absolute_error` of a regression task, else `balanced_accuracy`."""
        return "mean_absolute_error" if self.task.kind == "regression" else "balanced_accuracy"

    @cached_property
    def labels(self) -> np.ndarray:
        """The true classes, by number."""
        return np.array([self.classes.index(name) for name in self.truth])

    def scores(self) -> dict[str, Scores]:
        """Score every predictor."""
        return {name: self._score(answer) for name, answer in self.answers.items()}

    def verdict(self) -> Verdict:
        """Compare the model with controls and baselines."""
        differences: dict[str, Difference] = {}
        if self._weights is not None:
            differences = {name: self._difference(name) for name in self.answers if name != MODEL}
        not_beaten = [name for name, each in differences.items() if each["interval"][0] <= 0]

        def beats(kind: str) -> bool | None:
            of_kind = {name for name, each in differences.items() if each["kind"] == kind}
            return not of_kind & set(not_beaten) if of_kind else None

        return {
            "score": self.metric,
            "beats_controls": beats("control"),
            "beats_baselines": beats("baseline"),
            "not_beaten": not_beaten,
            "differences": differences,
        }

    def calibration(self) -> dict[str, Calibration]:
        """Measure the calibration of the predictors that give probabilities."""
        return {name: calibration(self.labels, each.probabilities) for name, each in self._probabilistic()}

    def conformal(self) -> dict[str, ConformalSets | None]:
        """Measure conformal sets of the predictors that give probabilities."""
        return {
            name: conformal_sets(self.labels, each.probabilities, self.subjects, self.classes, seed=self.seed)
            for name, each in self._probabilistic()
        }

    def confusion(self) -> list[list[int]]:
        """Count true classes (rows) by answers of the model (columns); in the last column, texts without an answer."""
        answer = self.answers[MODEL]
        counts = np.zeros((len(self.classes), len(self.classes) + 1), dtype=int)
        # -1, no answer, is the last column; `counts[...] += 1` would count a repeated pair of indices once
        np.add.at(counts, (self.labels, answer.chosen), 1)
        return (counts[:, :-1] if answer.written is None else counts).tolist()

    def _probabilistic(self) -> list[tuple[str, Answer]]:
        return [(name, answer) for name, answer in self.answers.items() if answer.written is None]

    def _score(self, answer: Answer) -> Scores:
        probabilities, predicted = answer.probabilities, answer.chosen
        names = [self.classes[best] if best >= 0 else NO_ANSWER for best in predicted]
        scores: dict[str, Any] = dict(score_classification(self.truth, names, probabilities, self.classes))
        if answer.written is not None:
            scores["no_answer"] = float(np.mean(predicted < 0))
        if self.task.kind != "classification":
            expected = probabilities @ np.arange(len(self.classes))
            # No answer counts as the largest error: a model must not gain by being silent where it is unsure.
            error = np.where(predicted < 0, len(self.classes) - 1, np.abs(predicted - self.labels))
            scores["rank_correlation"] = _correlation(spearmanr, expected, self.labels)
            scores["within_one"] = float(np.mean((error <= 1) & (predicted >= 0)))
            scores["mean_class_error"] = float(np.mean(error))
        if self.numbers is not None and answer.numbers is not None:
            difference = answer.numbers - self.numbers
            spread = float(((self.numbers - self.numbers.mean()) ** 2).sum())
            scores["mean_absolute_error"] = float(np.abs(difference).mean())
            scores["pearson"] = _correlation(pearsonr, answer.numbers, self.numbers)
            scores["r2"] = 1 - float((difference**2).sum()) / spread if spread > 0 else None
        if len(set(self.sites)) > 1:
            scores["balanced_accuracy_within_sites"] = self._within_sites(predicted)
        if self._weights is not None:
            for metric in dict.fromkeys(("balanced_accuracy", "auc", self.metric)):
                interval = interval_of(*self._resampled(metric, answer))
                scores[f"{metric}_se"] = interval.standard_error
                scores[f"{metric}_interval"] = [interval.low, interval.high]
            scores["interval"] = scores[f"{self.metric}_interval"]
            scores["p"] = self._permutation_p(answer)
        return scores  # type: ignore[return-value]

    def _difference(self, name: str) -> Difference:
        model, model_draws = self._resampled(self.metric, self.answers[MODEL])
        other, other_draws = self._resampled(self.metric, self.answers[name])
        sign = -1 if self.metric == "mean_absolute_error" else 1  # a smaller error is better
        # Paired: both scores on the same draw of subjects. Differences of independent draws would be far too wide.
        draws = sign * (model_draws - other_draws)
        draws = draws[np.isfinite(draws)]  # a draw without one of the classes has no score
        interval = interval_of(None, draws)
        return {
            "kind": PREDICTORS[name].kind,
            "difference": sign * (model - other),
            "interval": [interval.low, interval.high],
            "p": float((1 + (draws <= 0).sum()) / (1 + len(draws))),
        }

    @cached_property
    def _weights(self) -> np.ndarray | None:
        """Weights of the scans in each draw of the bootstrap; None with fewer than two subjects or classes."""
        if len(set(self.subjects)) < 2 or len(set(self.truth)) < 2:
            return None
        return weights_by_subject(self.subjects, self.n_resamples, self.seed)

    def _resampled(self, metric: str, answer: Answer) -> tuple[float, np.ndarray]:
        """Compute a metric on the scans as they are, and on each draw of subjects."""
        weights = np.concatenate([np.ones((1, len(self.labels))), self._weights])  # type: ignore[list-item]
        if metric == "balanced_accuracy":
            values = weighted_balanced_accuracy(self.labels, answer.chosen, weights)
        elif metric == "auc":
            values = weighted_auc(self.labels, answer.probabilities, weights)
        else:
            values = weighted_mean(np.abs(answer.numbers - self.numbers), weights)  # type: ignore[operator]
        return float(values[0]), values[1:]

    def _permutation_p(self, answer: Answer) -> float:
        """Compute the share of permuted labellings with a score at least as good, including the true one [1]_.

        References
        ----------
        .. [1] Phipson B, Smyth GK (2010). Permutation p-values should never be zero. Statistical Applications in
           Genetics and Molecular Biology 9, 39.
        """
        orders = np.concatenate([np.arange(len(self.labels))[None], self._orders])
        one = np.ones((1, len(self.labels)))
        if self.numbers is not None and answer.numbers is not None:
            values = -weighted_mean(np.abs(answer.numbers - self.numbers[orders]), one)
        else:
            values = weighted_balanced_accuracy(self.labels[orders], answer.chosen, one)
        # Sums in another order differ in the last digits: without the margin, ties with the true labels would be lost
        # and p too small.
        return float((values >= values[0] - 1e-12).mean())

    @cached_property
    def _orders(self) -> np.ndarray:
        values = self.truth if self.numbers is None else self.numbers.tolist()
        return permutations_by_subject(self.subjects, values, self.n_resamples, self.seed)

    def _within_sites(self, predicted: np.ndarray) -> float | None:
        """Average balanced accuracy over sites, weighted by their scans, without sites that have one class."""
        sites = np.array(self.sites)
        weights = (sites == np.unique(sites)[:, None]).astype(float)
        values = weighted_balanced_accuracy(self.labels, predicted, weights)
        defined = np.isfinite(values)
        return float(np.average(values[defined], weights=weights[defined].sum(1))) if defined.any() else None


def score_task(split: TaskSplit, predictors: Sequence[str], n_resamples: int = 1000) -> TaskScores:
    """Score the answers of predictors to a task; those that are not available are left out, with the reason."""
    is_number = split.task.kind == "regression"
    answers: dict[str, Answer] = {}
    left_out: dict[str, str] = {}
    applicable = [name for name in predictors if PREDICTORS[name].applies(split.task)]
    for name in tqdm(applicable, f"Predictors of {split.name}", unit="predictor"):
        try:
            answer = PREDICTORS[name].answer(split)
        except Unavailable as reason:
            left_out[name] = str(reason)
            continue
        if is_number and answer.numbers is None:
            answer = Answer(answer.probabilities, answer.probabilities @ split.class_means())
        answers[name] = answer
    return TaskScores(
        task=split.task,
        classes=split.classes,
        rows=split.test,
        n_train=len(split.train),
        truth=split.labels(split.test),
        subjects=split.subjects(split.test),
        sites=[split.evaluation.sites[row] for row in split.test],
        answers=answers,
        numbers=split.numbers(split.test) if is_number else None,
        left_out=left_out,
        n_resamples=n_resamples,
        seed=split.evaluation.seed,
    )


def pool(parts: Mapping[str, TaskScores]) -> TaskScores:
    """Pool the answers to one task about several sets of test scans.

    Where a set lacks a class, the class has the probability 0. A predictor that is not available for one set is left
    out.

    Parameters
    ----------
    parts : mapping of str to TaskScores
        By the name of the set, which is stated with the reason why a predictor is left out.
    """
    each = list(parts.values())
    first = each[0]
    classes = tuple(name for name in first.task.classes if any(name in part.classes for part in each))
    left_out = {name: f"{title}: {why}" for title, part in parts.items() for name, why in part.left_out.items()}

    def pooled(name: str) -> Answer:
        probabilities, written = [], []
        for part in each:
            answer, columns = part.answers[name], [classes.index(of_part) for of_part in part.classes]
            spread = np.zeros((len(answer.probabilities), len(classes)))
            spread[:, columns] = answer.probabilities
            probabilities.append(spread)
            # Shifted by one, so that -1, no answer, stays -1 and does not pick the last column.
            written.append(None if answer.written is None else np.array([-1, *columns])[answer.written + 1])
        numbers = [part.answers[name].numbers for part in each]
        return Answer(np.concatenate(probabilities), _concatenate(numbers), _concatenate(written))

    return TaskScores(
        task=first.task,
        classes=classes,
        rows=tuple(row for part in each for row in part.rows),
        n_train=min(part.n_train for part in each),  # every site has its own training scans
        truth=[label for part in each for label in part.truth],
        subjects=[subject for part in each for subject in part.subjects],
        sites=[site for part in each for site in part.sites],
        answers={name: pooled(name) for name in first.answers if name not in left_out},
        numbers=_concatenate([part.numbers for part in each]),
        left_out=left_out,
        n_resamples=first.n_resamples,
        seed=first.seed,
    )


def _concatenate(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Concatenate arrays; None where all of them are None."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def _correlation(kind: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float | None:
    """Correlate two arrays; None where one of them does not vary."""
    return float(kind(x, y)[0]) if len(x) > 2 and np.ptp(x) > 1e-12 and np.ptp(y) > 0 else None
