"""A reader of questions for tests: keywords in place of an encoder, certain of everything."""

from __future__ import annotations

from collections.abc import Sequence

from fmri_lm_hf.questions.classes import CLASSES, NONE, PAIRINGS, Reading

NOTHING = "unanswerable/not_about_scan"
KEYWORDS = {
    "hub": "graph/hub",
    "modular": "graph/modularity",
    "weakest": "weakest/between",
    "strongest": "strongest/between",
    "stronger": "compare/stronger",
    "within": "within",
    "between": "level",
    "falff": "spectral/falff",
    "describe": "describe/all",
    "diagnosis": "unanswerable/personal",
}


class KeywordReader:
    """Reads the first two keywords of a question as its first and its second class.

    Parameters
    ----------
    certainty : float
        Probability of the first class; the rest is that of `NOTHING`.
    """

    def __init__(self, certainty: float = 1.0):
        self.certainty = certainty

    def read(self, texts: Sequence[str]) -> list[Reading]:
        return [self._read(text.lower()) for text in texts]

    def _read(self, text: str) -> Reading:
        found = sorted((text.index(word), name) for word, name in KEYWORDS.items() if word in text)
        first, second, *_ = [*dict.fromkeys(name for _, name in found), NONE, NONE]
        first = NOTHING if first == NONE else first
        of_first = dict.fromkeys(CLASSES, 0.0) | {NOTHING: 1 - self.certainty}
        of_first[first] += self.certainty
        pairing = dict.fromkeys(PAIRINGS, 0.0) | {"0123": 1.0}
        return Reading(of_first, dict.fromkeys((*CLASSES, NONE), 0.0) | {second: 1.0}, (pairing, pairing))
