"""Examples for the question encoder: questions and what they mean, a grammar of wordings, and slips of the pen."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..questions.classes import CLASSES, NONE, PAIRINGS, class_of
from ..questions.lexicon import Lexicon
from ..questions.query import Query
from ..questions.understanding import placeholders

IGNORED = -100
_PAIRING_MARKS = {"abac": "0102", "aabb": "0011", "aaab": "0001", "abbc": "0112", "abcd": "0123"}
_JOINTS = (" and ", ", and ", " And ", "? ", "? Also ", " + ", "; ", " / ", ". ", "? And ", " plus ", ", then ", "\n")
_LETTERS = re.compile(r"(?<![\[\w])[^\W\d_]{5,}(?![\]\w])")  # whole words, no placeholders


@dataclass(frozen=True)
class Example:
    """A question with placeholders for names, and the labels of the encoder's four heads.

    Attributes
    ----------
    text : str
    labels : tuple of int
        First class, second class, pairing of the first, pairing of the second; `IGNORED` where there is none.
    """

    text: str
    labels: tuple[int, int, int, int]


def queries_of(row: Mapping[str, Any]) -> list[Query]:
    """Return what a labelled question asks: one query or two, none if it cannot be answered."""
    if row["intent"] == "unanswerable":
        return []
    return [Query.from_json(part) for part in row["extra"].get("parts", [row])]


def labelled(row: Mapping[str, Any], lexicon: Lexicon) -> Example:
    """Make the example of a question that somebody wrote and labelled."""
    mentions = lexicon.find(row["text"])
    text = placeholders(row["text"], mentions)
    queries = queries_of(row)
    if not queries:
        kind = row["extra"].get("kind")
        first = CLASSES.index(f"unanswerable/{kind}") if kind else IGNORED
        return Example(text, (first, _second(None), IGNORED, IGNORED))
    order = list(dict.fromkeys(m.networks[0] for m in mentions if len(m.networks) == 1))
    pairings = [_pairing(query, order) for query in queries]
    second = queries[1] if len(queries) > 1 else None
    return Example(
        text,
        (CLASSES.index(class_of(queries[0])), _second(second), pairings[0], pairings[1] if second else IGNORED),
    )


def _second(query: Query | None) -> int:
    return (*CLASSES, NONE).index(NONE if query is None else class_of(query))


def _pairing(query: Query, order: Sequence[str]) -> int:
    """Return the number of the pairing of a comparison, from the order in which the question names its networks."""
    of_query = [name for name in order if name in query.networks]
    if query.intent != "compare" or set(of_query) != set(query.networks):
        return IGNORED
    numbers = [of_query.index(name) for name in query.networks]
    pairing = "".join(map(str, (*sorted(numbers[:2]), *sorted(numbers[2:]))))
    return PAIRINGS.index(pairing) if pairing in PAIRINGS else IGNORED


class GrammarQuestions:
    """Questions drawn from templates of several languages.

    Parameters
    ----------
    folder : Path
        With a JSON file for each language: ``{class: [template, ...]}``. Names stand as ``{a}``, ``{b}``, ``{c}``,
        ``{d}``, one that the atlas lacks as ``{x}``, a number as ``{k}``. Templates of comparisons may begin with the
        pairing of the names, such as ``abac:``.
    """

    def __init__(self, folder: Path):
        self.languages: dict[str, dict[str, list[str]]] = {}
        for file in sorted(folder.glob("*.json")):
            templates = json.loads(file.read_text(encoding="utf-8"))
            known = {name: forms for name, forms in templates.items() if self._is_class(name) and forms}
            if unknown := sorted(set(templates) - set(known)):
                raise ValueError(f"{file.name} has templates for unknown classes {', '.join(unknown)}.")
            self.languages[file.stem] = known
        if not self.languages:
            raise ValueError(f"There are no wordings (*.json) in {folder}.")

    @staticmethod
    def _is_class(name: str) -> bool:
        return name in CLASSES

    def texts(self) -> Iterator[str]:
        """Yield every template."""
        for language in self.languages.values():
            for forms in language.values():
                yield from forms

    def draw(self, rng: random.Random) -> Example:
        """Draw a question: a language, a class, a template."""
        code = "en" if "en" in self.languages and rng.random() < 0.4 else rng.choice(list(self.languages))
        language = self.languages[code]
        name = rng.choice(list(language))
        return _filled(name, rng.choice(language[name]), rng)


def _filled(name: str, template: str, rng: random.Random) -> Example:
    mark = re.match(r"(a[abcd]{3}): *", template)
    pairing = _PAIRING_MARKS.get(mark[1], "0123") if mark else "0123"
    text = template[mark.end() :] if mark else template
    order = list(dict.fromkeys(re.findall(r"{([abcd])}", text)))
    for number, letter in enumerate(order, 1):
        text = text.replace(f"{{{letter}}}", f" [n{number}] ")
    text = text.replace("{x}", " [missing] " if rng.random() < 0.7 else " [several] ")
    text = text.replace("{k}", str(rng.choice((2, 3, 3, 4, 5, 6, 8, 10))))
    is_comparison = name.startswith("compare") and "".join(order) == "".join(dict.fromkeys(sorted(order)))
    return Example(
        text,
        (CLASSES.index(name), _second(None), PAIRINGS.index(pairing) if is_comparison else IGNORED, IGNORED),
    )


def composition(queries: Sequence[Query]) -> frozenset[str] | None:
    """Return the two intents of a question that asks two things; None for any other."""
    return frozenset(query.intent for query in queries) if len(queries) == 2 else None


def joined(first: Example, second: Example, rng: random.Random, never: Collection[frozenset[str]] = ()) -> Example:
    """Join two questions in one message; one that cannot be answered, or intents never to be joined, stay alone."""
    answerable = [
        example.labels[0] != IGNORED
        and not CLASSES[example.labels[0]].startswith("unanswerable")
        and example.labels[1] == len(CLASSES)
        for example in (first, second)
    ]
    intents = frozenset(
        re.sub(r"[12]?(/.*)?$", "", CLASSES[example.labels[0]])
        for example in (first, second)
        if example.labels[0] >= 0
    )
    if not all(answerable) or intents in never:
        return first
    taken = len(set(re.findall(r"\[n\d\]", first.text)))
    if rng.random() < 0.5 or taken > 4:  # as people do, about the same network
        shift = 0
    else:
        shift = taken
    text = re.sub(r"\[n(\d)\]", lambda m: f"[n{min(int(m[1]) + shift, 8)}]", second.text)
    start = first.text.rstrip(" ?.!") if rng.random() < 0.7 else first.text
    text = text[:1].lower() + text[1:] if rng.random() < 0.6 else text
    return Example(
        f"{start}{rng.choice(_JOINTS)}{text}", (first.labels[0], second.labels[0], first.labels[2], second.labels[2])
    )


def noisy(text: str, rng: random.Random) -> str:
    """Add slips of the pen: a lost question mark, lower case, two letters swapped, one left out or doubled."""
    if rng.random() < 0.15:
        text = text.rstrip(" ?.!")
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.15:
        words = [match.span() for match in _LETTERS.finditer(text)]
        if words:
            start, end = rng.choice(words)
            at = rng.randrange(start + 1, end - 2)
            swapped = text[at + 1] + text[at]
            text = text[:at] + rng.choice((swapped, text[at], text[at : at + 2] + text[at + 1])) + text[at + 2 :]
    return text
