"""The classes of questions that the encoder tells apart, and what it makes of one question.

This module needs neither torch nor transformers: a question is understood without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from .query import CLAIMS, DIRECTIONS, ENDS, GRADIENT, GRAPH, RELATIONS, SCOPES, SPECTRAL, TOPICS, Query

MAX_NAMES = 8
PLACEHOLDERS = (*(f"[n{number}]" for number in range(1, MAX_NAMES + 1)), "[several]", "[missing]")
KINDS = ("not_in_atlas", "not_in_scan", "needs_reference", "personal", "not_about_scan", "unclear", "action")
NONE = "none"  # there is no second question
# Which of the names, by first appearance, a comparison pairs with which: 0102 is "is A closer to B or to C".
PAIRINGS = ("0123", "0102", "0201", "0212", "1201", "0112", "0122", "0011", "0001", "0100", "0111", "1101")
MAX_LENGTH = 96  # tokens; what is longer is cut in the middle, since questions stand at either end of a message

CLASSES: tuple[str, ...] = (
    "level",
    "within",
    *(f"yesno{n}/{claim}" for n in (1, 2) for claim in CLAIMS),
    *(f"compare/{relation}" for relation in RELATIONS),
    *(f"{end}/{scope}" for end in ENDS for scope in SCOPES),
    *(f"partner/{direction}" for direction in DIRECTIONS),
    *(f"rank/{end}" for end in ENDS),
    *(f"count/{claim}" for claim in CLAIMS),
    *(f"describe/{topic}" for topic in (*TOPICS, "network")),
    *(f"graph/{measure}" for measure in GRAPH),
    *(f"gradient/{measure}" for measure in GRADIENT),
    *(f"spectral/{measure}{end}" for measure in SPECTRAL for end in ("", "/most", "/least")),
    *(f"unanswerable/{kind}" for kind in KINDS),
)


# of the heads of the encoder, one after the other: see `Reading`
SIZES = (len(CLASSES), len(CLASSES) + 1, len(PAIRINGS), len(PAIRINGS))


def class_of(query: Query) -> str:
    """Return the class of a query: its intent and parameters, without networks and numbers."""
    extra = query.extra
    match query.intent:
        case "level" | "within":
            return query.intent
        case "yesno":
            return f"yesno{len(query.networks)}/{extra['claim']}"
        case "describe":
            return f"describe/{'network' if query.networks else extra['about']}"
        case "spectral":
            direction = extra["direction"]
            return f"spectral/{extra['measure']}{f'/{direction}' if direction else ''}"
    parameter = next(extra[name] for name in ("relation", "scope", "direction", "claim", "measure") if name in extra)
    return f"{query.intent}/{parameter}"


@dataclass(frozen=True)
class Reading:
    """What the encoder makes of one question.

    Attributes
    ----------
    first, second : dict of str to float
        Probabilities of the classes; `second` of `CLASSES` and `NONE`.
    pairings : tuple of dict of str to float
        Probabilities of `PAIRINGS`, should the first, and the second, be a comparison.
    """

    first: dict[str, float]
    second: dict[str, float]
    pairings: tuple[dict[str, float], dict[str, float]]


class Reader(Protocol):
    """What reads questions: the encoder, in torch or in numpy."""

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Classify questions in which names are replaced by `PLACEHOLDERS`."""
        ...


def readings(probabilities: Sequence[np.ndarray]) -> list[Reading]:
    """Name the probabilities that the four heads give, each (n_questions, size)."""
    first, second, *pairings = (each.tolist() for each in probabilities)
    return [
        Reading(
            dict(zip(CLASSES, first[number])),
            dict(zip((*CLASSES, NONE), second[number])),
            (dict(zip(PAIRINGS, pairings[0][number])), dict(zip(PAIRINGS, pairings[1][number]))),
        )
        for number in range(len(first))
    ]


def mixed(first: Reading, second: Reading, weight: float) -> Reading:
    """Mix two readings of a question: the probabilities of the first count with a weight, 0 to 1."""

    def mix(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
        return {name: weight * ours[name] + (1 - weight) * theirs[name] for name in ours}

    pairings = [mix(ours, theirs) for ours, theirs in zip(first.pairings, second.pairings, strict=True)]
    return Reading(mix(first.first, second.first), mix(first.second, second.second), (pairings[0], pairings[1]))


def shortened(ids: list[int]) -> list[int]:
    """Cut the token ids of a question in the middle if there are more than `MAX_LENGTH`."""
    half = MAX_LENGTH // 2
    return ids if len(ids) <= MAX_LENGTH else ids[:half] + ids[-half:]


def check_classes(found: Sequence[str] | None, folder: Path) -> None:
    """Refuse an encoder that was made for other classes of questions."""
    if found != list(CLASSES):
        raise ValueError(
            f"The question encoder in {folder.name} knows {len(found or ())} classes of questions that differ from "
            f"the {len(CLASSES)} of this version: train it again with `fmri-lm train understanding`."
        )


def most_probable(probabilities: Mapping[str, float]) -> tuple[str, float]:
    """Return the most probable class and its probability."""
    names, values = list(probabilities), np.array(list(probabilities.values()))
    best = int(values.argmax())
    return names[best], float(values[best])
