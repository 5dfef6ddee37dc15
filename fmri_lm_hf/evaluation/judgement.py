"""What readers answered to one task, beside the truth; the scores of it, and whether the model beats its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from tqdm.auto import tqdm

from .calibration import calibration, conformal_sets
from .features import Unavailable
from .metrics import score_classification, weighted_auc, weighted_balanced_accuracy, weighted_mean
from .model_answers import Answer, Question
from .predictors import OURS, READERS
from .tasks import Task
from .uncertainty import interval_of, permutations_by_subject, weights_by_subject

NO_ANSWER = "(no answer)"  # is no class, and so wrong


@dataclass(frozen=True, eq=False)
class Judgement:
    """The answers of all readers to a task.

    Attributes
    ----------
    task : Task
    classes : tuple of str
        The columns of the probabilities.
    rows : tuple of int
        Of the scan dataset: which scans were judged.
    n_train : int
        Scans that baselines were fitted to.
    truth : list of str
        The right answer for each of them.
    subjects, sites : list of str
        Whose scan each is, and where from.
    answers : dict of str to Answer
        With `numbers` for a task of regression.
    numbers : ndarray of shape (n_scans,), optional
        The true numbers of a task of regression.
    left_out : dict of str to str
        Readers that could not be had, and why.
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
    def scored_by(self) -> str:
        """The metric that decides: `mean_absolute_error` of a task of regression, else `balanced_accuracy`."""
        return "mean_absolute_error" if self.task.kind == "regression" else "balanced_accuracy"

    @cached_property
    def labels(self) -> np.ndarray:
        """The true classes, by number."""
        return np.array([self.classes.index(name) for name in self.truth])

    def scores(self) -> dict[str, dict[str, Any]]:
        """Reader -> metric -> value."""
        return {name: self._score(answer) for name, answer in self.answers.items()}

    def verdict(self) -> dict[str, Any]:
        """Is the model better than what stands beside it?

        Returns
        -------
        dict
            - ``score``: the metric that is compared.
            - ``differences`` -> reader -> ``kind``, ``difference`` (above 0 where the model is better), its 95 %
              ``interval`` from a bootstrap over subjects in which both are scored on the same draws, and ``p``, the
              share of draws in which the model is not better.
            - ``not_beaten``: the readers whose interval reaches 0 or less.
            - ``beats_controls`` and ``beats_baselines``: whether none of that kind is among them; None where there was
              none to compare with. All have to be beaten, so that more comparisons make the claim harder, and no
              correction for their number is due.
        """
        differences = {}
        if self._draws is not None:
            differences = {name: self._difference(name) for name in self.answers if name != OURS}
        not_beaten = [name for name, each in differences.items() if each["interval"][0] <= 0]

        def beats(kind: str) -> bool | None:
            of_kind = {name for name, each in differences.items() if each["kind"] == kind}
            return not of_kind & set(not_beaten) if of_kind else None

        return {
            "score": self.scored_by,
            "beats_controls": beats("control"),
            "beats_baselines": beats("baseline"),
            "not_beaten": not_beaten,
            "differences": differences,
        }

    def _difference(self, name: str) -> dict[str, Any]:
        """How much better the model is than another reader, on all scans and on the draws of the bootstrap."""
        (ours, our_draws), (theirs, their_draws) = (
            self._resampled(self.scored_by, self.answers[each]) for each in (OURS, name)
        )
        sign = -1 if self.scored_by == "mean_absolute_error" else 1
        draws = sign * (our_draws - their_draws)
        draws = draws[np.isfinite(draws)]
        interval = interval_of(sign * (ours - theirs), draws)
        return {
            "kind": READERS[name].kind,
            "difference": interval.estimate,
            "interval": [interval.low, interval.high],
            "p": float((1 + (draws <= 0).sum()) / (1 + len(draws))),
        }

    def calibration(self) -> dict[str, dict[str, Any]]:
        """Reader -> what `calibration` measures; of those that give probabilities."""
        return {
            name: calibration(self.labels, answer.probabilities)
            for name, answer in self.answers.items()
            if answer.written is None
        }

    def conformal(self) -> dict[str, dict[str, Any] | None]:
        """Reader -> what `conformal_sets` measures; of those that give probabilities."""
        return {
            name: conformal_sets(
                self.labels, answer.probabilities, self.subjects, self.classes, seed=self.seed
            )
            for name, answer in self.answers.items()
            if answer.written is None
        }

    def confusion(self) -> list[list[int]]:
        """How often each true class (rows) got each answer (columns) of the model; a last column counts no answers."""
        ours = self.answers[OURS]
        counts = np.zeros((len(self.classes), len(self.classes) + 1), dtype=int)
        np.add.at(counts, (self.labels, ours.chosen), 1)  # -1, no answer, is the last column
        return (counts[:, :-1] if ours.written is None else counts).tolist()

    def _score(self, answer: Answer) -> dict[str, Any]:
        probabilities = answer.probabilities
        predicted = answer.chosen
        names = [self.classes[best] if best >= 0 else NO_ANSWER for best in predicted]
        scores: dict[str, Any] = dict(score_classification(self.truth, names, probabilities, self.classes))
        if answer.written is not None:
            scores["no_answer"] = float(np.mean(predicted < 0))
        if self.task.kind != "classification":
            levels = np.arange(len(self.classes))
            scores["rank_correlation"] = _correlation(spearmanr, probabilities @ levels, self.labels)
            error = np.where(predicted < 0, len(self.classes) - 1, np.abs(predicted - self.labels))
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
        if self._draws is None:
            return scores
        for metric in ("balanced_accuracy", "auc", *([self.scored_by] if self.numbers is not None else [])):
            estimate, values = self._resampled(metric, answer)
            interval = interval_of(estimate, values)
            scores[f"{metric}_se"] = interval.standard_error
            scores[f"{metric}_interval"] = [interval.low, interval.high]
        scores["interval"] = scores[f"{self.scored_by}_interval"]
        scores["p"] = self._permutation_p(answer)
        return scores

    @cached_property
    def _draws(self) -> np.ndarray | None:
        """Weights of the scans in the bootstrap; None where one subject, or one class, tells no uncertainty."""
        if len(set(self.subjects)) < 2 or len(set(self.truth)) < 2:
            return None
        return weights_by_subject(self.subjects, self.n_resamples, self.seed)

    def _resampled(self, metric: str, answer: Answer) -> tuple[float, np.ndarray]:
        """A metric on the scans as they are, and on each draw of subjects."""
        weights = np.concatenate([np.ones((1, len(self.labels))), self._draws])  # type: ignore[list-item]
        if metric == "balanced_accuracy":
            values = weighted_balanced_accuracy(self.labels, answer.chosen, weights)
        elif metric == "auc":
            values = weighted_auc(self.labels, answer.probabilities, weights)
        else:
            values = weighted_mean(np.abs(answer.numbers - self.numbers), weights)  # type: ignore[operator]
        return float(values[0]), values[1:]

    def _permutation_p(self, answer: Answer) -> float:
        """Share of the labellings by chance with a score at least as good, the true one counted among them [1]_.

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
        return float((values >= values[0] - 1e-12).mean())

    @cached_property
    def _orders(self) -> np.ndarray:
        values = self.truth if self.numbers is None else self.numbers.tolist()
        return permutations_by_subject(self.subjects, values, self.n_resamples, self.seed)

    def _within_sites(self, predicted: np.ndarray) -> float | None:
        """Mean over sites of the balanced accuracy in each, by their scans; sites with one class say nothing."""
        sites = np.array(self.sites)
        weights = (sites == np.unique(sites)[:, None]).astype(float)
        values = weighted_balanced_accuracy(self.labels, predicted, weights)
        defined = np.isfinite(values)
        return float(np.average(values[defined], weights=weights[defined].sum(1))) if defined.any() else None


def judge(question: Question, readers: Sequence[str], n_resamples: int = 1000) -> Judgement:
    """Let readers answer a question."""
    is_number = question.task.kind == "regression"
    answers: dict[str, Answer] = {}
    left_out: dict[str, str] = {}
    asked = [name for name in readers if READERS[name].asked(question.task)]
    for name in tqdm(asked, f"Readers of {question.name}", unit="reader"):
        try:
            answer = READERS[name].answer(question)
        except Unavailable as reason:
            left_out[name] = str(reason)
            continue
        if is_number and answer.numbers is None:
            answer = Answer(answer.probabilities, answer.probabilities @ question.class_means())
        answers[name] = answer
    return Judgement(
        task=question.task,
        classes=question.classes,
        rows=question.test,
        n_train=len(question.train),
        truth=question.labels(question.test),
        subjects=question.subjects(question.test),
        sites=[question.study.sites[row] for row in question.test],
        answers=answers,
        numbers=question.numbers(question.test) if is_number else None,
        left_out=left_out,
        n_resamples=n_resamples,
        seed=question.study.seed,
    )


def joined(parts: Mapping[str, Judgement]) -> Judgement:
    """The judgements of one task on several sets of scans, as one on all of them.

    A class that a part has not got is one that its readers never answer. A reader that one part lacks is left out.

    Parameters
    ----------
    parts : mapping of str to Judgement
        By what to call them in the reason why a reader was left out.
    """
    each = list(parts.values())
    task = each[0].task
    classes = tuple(name for name in task.classes if any(name in part.classes for part in each))
    left_out = {name: f"{part}: {why}" for part, one in parts.items() for name, why in one.left_out.items()}
    answers = {}
    for name in each[0].answers:
        if name not in left_out:
            of_parts = [(part.classes, part.answers[name]) for part in each]
            answers[name] = Answer(
                np.concatenate([_over(classes, some, answer.probabilities) for some, answer in of_parts]),
                _together([answer.numbers for _, answer in of_parts]),
                _together([_renumbered(classes, some, answer.written) for some, answer in of_parts]),
            )
    return Judgement(
        task=task,
        classes=classes,
        rows=tuple(row for part in each for row in part.rows),
        n_train=min(part.n_train for part in each),
        truth=[label for part in each for label in part.truth],
        subjects=[subject for part in each for subject in part.subjects],
        sites=[site for part in each for site in part.sites],
        answers=answers,
        numbers=_together([part.numbers for part in each]),
        left_out=left_out,
        n_resamples=each[0].n_resamples,
        seed=each[0].seed,
    )


def _over(classes: Sequence[str], some: Sequence[str], probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of some classes as probabilities of all."""
    found = np.zeros((len(probabilities), len(classes)))
    found[:, [classes.index(name) for name in some]] = probabilities
    return found


def _renumbered(classes: Sequence[str], some: Sequence[str], written: np.ndarray | None) -> np.ndarray | None:
    """Classes that were written, by their numbers among all."""
    if written is None:
        return None
    return np.array([-1, *(classes.index(name) for name in some)])[written + 1]


def _together(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """None where the parts are."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def _correlation(kind: Any, x: np.ndarray, y: np.ndarray) -> float | None:
    """None where one of the two does not vary."""
    return float(kind(x, y)[0]) if len(x) > 2 and np.ptp(x) > 1e-12 and np.ptp(y) > 0 else None
