"""Questions about labels that a checkpoint was trained on, which the numbers of a scan do not answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import Answer, Statement

# row of a scan, a question that was trained on, its answers -> probabilities of the answers
LabelScores = Callable[[Mapping[str, Any], str, Sequence[str]], Sequence[float]]

# Words of questions that say nothing of what is asked for.
_COMMON = frozenset(
    re.findall(
        r"\S+",
        """
        a an and any are brain can could did do does fmri from given has have her his how i in is it me mri of on one
        or participant patient's person please scan scanned subject tell that the their them there these they this
        those to was were what what's which who whose will with you your yes no
        """,
    )
)


@dataclass(frozen=True)
class RecordedLabels:
    """Questions that a checkpoint was trained on, and what scores their answers.

    Attributes
    ----------
    recorded : mapping of str to sequence of str
        Each question with its answers: `models.abstention.recorded_answers`.
    scores : callable
        Takes the row of a scan, a recorded question and its answers; returns their probabilities.
    """

    recorded: Mapping[str, Sequence[str]]
    scores: LabelScores

    def find(self, text: str) -> str | None:
        """Return the recorded question that a text asks, in its own words; None if it asks none of them.

        A text asks a question if it shares a word with it, or with its answers, that no other has.
        """
        asked = _words(text)
        by_answers: dict[tuple[str, ...], list[str]] = {}
        for question, answers in self.recorded.items():
            by_answers.setdefault(tuple(answers), []).append(question)
        own = {answers: set().union(*map(_words, (*questions, *answers))) for answers, questions in by_answers.items()}
        found = []
        for answers, words in own.items():
            others = set().union(*(more for other, more in own.items() if other != answers))
            if shared := asked & (words - others):
                found.append((len(shared), by_answers[answers][0]))
        return max(found)[1] if found else None

    def answer(self, row: Mapping[str, Any], question: str) -> Answer:
        """Answer a recorded question about a scan."""
        answers = list(self.recorded[question])
        probabilities = [float(p) for p in self.scores(row, question, answers)]
        best = max(range(len(answers)), key=probabilities.__getitem__)
        relative_to = f"the labels that the model was trained on: {', '.join(answers)}"
        text = (
            f"The model answers {answers[best]}, with a probability of {probabilities[best]:.2f}. This is what it "
            "learnt from labelled scans, not a number of this scan, and no diagnosis."
        )
        statement = Statement(
            f"The model answers {answers[best]} to {question!r}.", probabilities[best], "probability", relative_to
        )
        return Answer(text, answers[best], None, None, relative_to, (statement,))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[^\W_]+", text.casefold()) if len(word) > 1} - _COMMON
