"""What readers answered to one task, beside the truth, and the scores of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .features import Unavailable
from .metrics import score_classification
from .readers import READERS
from .study import Answer, Question
from .tasks import Task
from .uncertainty import bootstrap_by_subject

__all__ = ["Judgement", "judge"]


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
    truth : list of str
        The right answer for each of them.
    subjects, sites : list of str
        Whose scan each is, and where from.
    answers : dict of str to Answer
    left_out : dict of str to str
        Readers that could not be had, and why.
    """

    task: Task
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    truth: list[str]
    subjects: list[str]
    sites: list[str]
    answers: dict[str, Answer]
    left_out: dict[str, str] = field(default_factory=dict)

    def scores(self, n_resamples: int, seed: int) -> dict[str, dict[str, Any]]:
        """Reader -> metric -> value."""
        return {name: self._score(answer, n_resamples, seed) for name, answer in self.answers.items()}

    def _score(self, answer: Answer, n_resamples: int, seed: int) -> dict[str, Any]:
        labels, probabilities = np.array(self.truth), answer.probabilities

        def score(rows: Any) -> dict[str, float | None]:
            predicted = [self.classes[best] for best in probabilities[rows].argmax(-1)]
            return score_classification(labels[rows].tolist(), predicted, probabilities[rows], self.classes)

        scores: dict[str, Any] = score(slice(None))
        if len(set(self.subjects)) > 1 and len(set(self.truth)) > 1:
            interval = bootstrap_by_subject(
                lambda rows: score(rows)["balanced_accuracy"],
                self.subjects,
                n_resamples=n_resamples,
                seed=seed,
            )
            scores["balanced_accuracy_se"] = interval.standard_error
            scores["balanced_accuracy_interval"] = [interval.low, interval.high]
        return scores


def judge(question: Question, readers: Sequence[str]) -> Judgement:
    """Let readers answer a question."""
    answers: dict[str, Answer] = {}
    left_out: dict[str, str] = {}
    for name in readers:
        try:
            answers[name] = READERS[name].answer(question)
        except Unavailable as reason:
            left_out[name] = str(reason)
    return Judgement(
        task=question.task,
        classes=question.classes,
        rows=question.test,
        truth=question.labels(question.test),
        subjects=question.subjects(question.test),
        sites=[question.study.sites[row] for row in question.test],
        answers=answers,
        left_out=left_out,
    )
