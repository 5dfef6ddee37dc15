"""The language model's own description of a scan: what it states, checked against the numbers, in plain English.

Connectivity is described by the model's own text. Of other families, what the model reads as most extreme is stated: it
has learnt to write about scans whose pairs are all there, and a table of measures has no pair of two measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .bins import BINS
from .measure_answers import gradient_is_chance
from .measures import ScanMeasures
from .query import ENDS
from .reading import MOST_NAMES, LevelReading, TableReader, as_reader, read_table
from .statements import NOUNS, graded, pair_words, sentence
from .value_tables import POSITION, WHOLE, Pair, ValueTable, family_table

MOST_STATEMENTS = 4  # about a family other than connectivity
_OF_ONE_MEASURE = 2
_WHOLE_NOUNS = {
    "modularity": "modularity",
    "global_efficiency": "global efficiency",
    "clustering": "clustering",
    "range": "range of the principal gradient",
}


@dataclass(frozen=True)
class ModelStatement:
    """A statement of the model about one scan.

    Attributes
    ----------
    text : str
        In plain English if it is true, as the model wrote it otherwise.
    names : tuple of str
        As in a table of values: two networks, a network and a measure, or the whole scan and a measure. Empty if the
        text names no entry of the table.
    claim : str
        One of `BINS`, "strongest" or "weakest"; empty if the text claims none.
    is_true : bool
        Whether the numbers of the scan agree.
    """

    text: str
    names: tuple[str, ...]
    claim: str
    is_true: bool


@dataclass(frozen=True)
class ModelDescription:
    """A description of one family of measures by the model.

    Attributes
    ----------
    raw : tuple of ModelStatement
        All that the model states, in its order.
    """

    raw: tuple[ModelStatement, ...]

    @property
    def statements(self) -> tuple[ModelStatement, ...]:
        """What is true, each once. Since all agree with the same numbers, none contradicts another."""
        return tuple({(one.names, one.claim): one for one in self.raw if one.is_true}.values())

    @property
    def text(self) -> str:
        return " ".join(one.text for one in self.statements)


def describe_with_model(
    model: FmriLMForCausalLM | TableReader, processor: FmriLMProcessor | None, measures: ScanMeasures, family: str
) -> ModelDescription:
    """Let the model describe a family of measures of a scan, and check what it states against the numbers.

    Parameters
    ----------
    model : FmriLMForCausalLM or TableReader
        A reader keeps what it has prepared for the next description.
    processor : FmriLMProcessor or None
        None with a reader.
    measures : ScanMeasures
    family : str
        One of `FAMILIES`.

    Raises
    ------
    ValueError
        For another family, or a model whose weights depend on an atlas.
    """
    reader = as_reader(model, processor)
    table = family_table(measures, family)
    if family != "connectivity":
        readings = read_table(reader, family, table, _worth_saying(table, measures))
        return ModelDescription(tuple(_of_reading(reading, measures) for reading in most_notable(readings)))
    raw: list[ModelStatement] = []
    for part in table.parts(MOST_NAMES):
        (text,) = reader.describe([part])
        raw += _of_text(text, part, table, reader.labels(part.names))
    return ModelDescription(tuple(raw))


# ----- connectivity: sentences that the model writes -----


def _of_text(text: str, part: ValueTable, table: ValueTable, labels: dict[str, str]) -> list[ModelStatement]:
    """Parse the sentences of a text about a part of a table."""
    names = {label: name for name, label in labels.items()}
    sentences = filter(None, map(str.strip, re.split(r"(?<=\.)\s+", text)))
    return [_of_sentence(one, part, table, names) for one in sentences]


def _of_sentence(written: str, part: ValueTable, table: ValueTable, names: dict[str, str]) -> ModelStatement:
    pair, claim = parse_sentence(written, names)
    known = table.entries.get(pair) if len(pair) == 2 else None
    if known is None or not claim:
        return ModelStatement(_with_names(written, names), pair if known else (), claim, False)
    first, second = pair
    if claim in ENDS:
        if pair != _extreme(part, claim):
            return ModelStatement(_with_names(written, names), pair, claim, False)
        # the model ranks by size: a strong negative coupling is strong, and the weakest is the one closest to zero
        return ModelStatement(
            sentence(f"by size, the {claim} coupling of two networks is that {pair_words(*pair)}"), pair, claim, True
        )
    if claim != known.level:
        return ModelStatement(_with_names(written, names), pair, claim, False)
    level = graded(claim, known.value, within=first == second)
    return ModelStatement(sentence(f"the coupling {pair_words(*pair)} is {level}"), pair, claim, True)


def parse_sentence(written: str, names: dict[str, str]) -> tuple[tuple[str, ...], str]:
    """Read the pair and the claim of a sentence in one of the forms that the model was trained to write.

    Parameters
    ----------
    written : str
    names : dict of str to str
        What each label in the sentence stands for, in the order of the table.

    Returns
    -------
    pair : tuple of str
        Two names in the order of the table, one twice for the connectivity within it; empty if there are none.
    claim : str
        One of `BINS`, "strongest" or "weakest"; empty for none, or for several.
    """
    label = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    found = re.search(rf"between\s+({label})\s+and\s+({label})|within\s+the\s+({label})\s+network", written, re.I)
    order = list(names)
    pair = sorted((found[1] or found[3], found[2] or found[3]), key=order.index) if found else []
    rest = written if found is None else written[: found.start()] + written[found.end() :]
    # longest first: "markedly low" is not "low"
    claims = "|".join(sorted((*BINS, *ENDS), key=len, reverse=True))
    stated = re.findall(rf"\b(?:{claims})\b", rest)
    return tuple(names[one] for one in pair), stated[0] if len(stated) == 1 else ""


def _extreme(table: ValueTable, end: str) -> Pair | None:
    """Return the strongest or the weakest pair of different names, by size; None without any."""
    sizes = {pair: abs(entry.value) for pair, entry in table.entries.items() if pair[0] != pair[1]}
    choose = max if end == "strongest" else min
    return choose(sizes, key=sizes.__getitem__) if sizes else None


def _with_names(written: str, names: dict[str, str]) -> str:
    for label, name in names.items():
        written = written.replace(label, name)
    return written


# ----- other families: what the model reads as most extreme -----


def _worth_saying(table: ValueTable, measures: ScanMeasures) -> list[Pair]:
    """Return what may be stated: not where the gradient's ends lie, and no position if the gradient may be chance."""
    positions = [pair for pair in table.entries if pair[1] == POSITION]
    trivial = [pair for pair in positions if pair[0] in (measures.ends or ())]
    left_out = set(positions if positions and gradient_is_chance(measures) else trivial)
    return [pair for pair in table.entries if pair not in left_out]


def most_notable(readings: Sequence[LevelReading]) -> list[LevelReading]:
    """Choose what to state: measures of the whole scan, and the networks whose levels lie furthest from the middle.

    At most `MOST_STATEMENTS`, and two about one measure.
    """
    whole = [reading for reading in readings if reading.names[0] == WHOLE]
    middle = (len(BINS) - 1) / 2
    of_networks = sorted(
        (reading for reading in readings if reading.names[0] != WHOLE),
        key=lambda reading: -abs(float(np.dot(reading.probabilities, range(len(BINS)))) - middle),
    )
    chosen: list[LevelReading] = []
    for reading in (*whole, *of_networks):
        same = sum(one.names[1] == reading.names[1] for one in chosen)
        if same < _OF_ONE_MEASURE and len(chosen) < MOST_STATEMENTS:
            chosen.append(reading)
    return chosen


def _of_reading(reading: LevelReading, measures: ScanMeasures) -> ModelStatement:
    subject, measure = reading.names
    if subject == WHOLE:
        standing = "about what chance would make it" if reading.level == BINS[2] else f"{reading.level} against chance"
        text = f"the {_WHOLE_NOUNS[measure]} of this scan is {standing}"
    elif measure == POSITION:
        text = _position_words(subject, reading.level, measures)
    else:
        text = f"the {NOUNS[measure][0]} of {subject} is {reading.level} among the networks of this scan"
    return ModelStatement(sentence(text), reading.names, reading.level, reading.is_true)


def _position_words(name: str, level: str, measures: ScanMeasures) -> str:
    """Say where the model places a network between the ends of the principal gradient, which have names but no sign."""
    first, last = measures.ends or ("", "")
    place = (
        f"close to the {first} end",
        f"nearer to the {first} end",
        "about in the middle",
        f"nearer to the {last} end",
        f"close to the {last} end",
    )[BINS.index(level)]
    return f"on the principal gradient, which runs from {first} to {last} in this scan, {name} lies {place}"
