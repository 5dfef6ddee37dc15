"""What can be said of a scan from the scan alone, and the questions that ask for it.

No cohort is needed: a network pair's connectivity is its mean correlation in units of the scan's RMS correlation, and
its level one of five, between fixed bounds. Every statement names this scan as what it is relative to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .facts import NOUNS, Fact, direction_of
from .languages import ENGLISH, Language
from .prose import render_statement

LEVELS = ENGLISH.levels
# Between the levels, in units of the scan's RMS correlation. Rounded quintiles of random scans (`RandomScans`), for
# pairs of different networks and for what lies within one.
BOUNDS_BETWEEN = (-0.05, 0.25, 0.5, 0.8)
BOUNDS_WITHIN = (0.5, 0.8, 1.1, 1.4)
UNITS = "scan RMS correlation"
SHARE_LEVELS = 0.75  # of the questions about a scan; the others ask for extremes and comparisons

ABSENT_ANSWERS = ("No scan can be read here.", "There is no readable scan.", "There is no scan to read here.")
DESCRIBE = (
    "Describe this scan.",
    "Describe the connectivity of this scan.",
    "What does this scan show?",
    "Summarise this scan.",
    "What is notable within this scan?",
)
# Forms without words about a cohort. The pair comes before its level, which can then be looked up.
_LEVEL_FORMS = (
    "{front}, {noun} is {adjective}",
    "{noun}{places} is found to be {adjective}",
    "{noun}{places} is {adjective}",
)
_EXTREME_FORMS = ("the {noun} is{places}", "{front} lies the {noun}")
_OPENERS = ("", "Within this scan, ", "In this scan, ")


@dataclass(frozen=True)
class Question:
    """A question about a scan and its answer.

    Attributes
    ----------
    text, answer : str
    states : tuple of fact
        Each level and extreme that the answer states, in its order.
    compares : tuple of fact
        The levels of the two pairs that the question compares, in its order; of the same pair where it compares two
        scans.
    """

    text: str
    answer: str
    states: tuple[Fact, ...] = ()
    compares: tuple[Fact, ...] = ()


def level_of(value: float | np.ndarray, within: bool | np.ndarray = False) -> np.ndarray:
    """Level, 0 to 4, of connectivity in units of the scan's RMS correlation.

    Parameters
    ----------
    value : float or ndarray
    within : bool or ndarray
        Whether the value is that within one network.
    """
    between_level = np.digitize(value, BOUNDS_BETWEEN)
    return np.where(within, np.digitize(value, BOUNDS_WITHIN), between_level)


def scan_facts(values: Sequence[float], present: Sequence[bool], network_names: Sequence[str]) -> list[Fact]:
    """Facts about a scan that need no cohort: the level of each network pair, the strongest pair and the weakest.

    Parameters
    ----------
    values : sequence of float, length n_pairs
        Connectivity in units of the scan's RMS correlation, in the order of `numpy.triu_indices(n_networks)`.
    present : sequence of bool, length n_pairs
        Pairs that the scan has ROIs for; the others have no facts.
    network_names : sequence of str

    Returns
    -------
    list of fact
        ``connectivity/level/A-B`` for each pair, with its level counted from the middle one (-2 to 2) as `z`; then
        ``connectivity/strongest/A-B`` and ``connectivity/weakest/A-B``, of different networks and by magnitude, as in
        `make_facts`.
    """
    facts = []
    firsts, seconds = np.triu_indices(len(network_names))
    steps = level_of(np.asarray(values), firsts == seconds) - 2.0
    for first, second, value, step, known in zip(
        firsts.tolist(), seconds.tolist(), values, steps.tolist(), present, strict=True
    ):
        if not known:
            continue
        names = [network_names[first], network_names[second]]
        facts.append(
            Fact(
                family="connectivity",
                feature=f"connectivity/level/{names[0]}-{names[1]}",
                network=names,
                value=float(value),
                z=step,
                direction=direction_of(step),
                units=UNITS,
            )
        )
    pairs = sorted(
        (fact for fact in facts if fact["network"][0] != fact["network"][1]),
        key=lambda fact: abs(fact["value"]),
    )
    if len(pairs) > 1:
        for extreme, fact in (("strongest", pairs[-1]), ("weakest", pairs[0])):
            name = fact["feature"].replace("connectivity/level", f"connectivity/{extreme}", 1)
            facts.append(Fact(**{**fact, "feature": name, "network": list(fact["network"])}))
    return facts


def level_facts(facts: Sequence[Fact]) -> list[Fact]:
    """Those of the facts of `scan_facts` that state a pair's level."""
    return [fact for fact in facts if fact["feature"].startswith("connectivity/level/")]


def pair_words(
    networks: Sequence[str], rng: random.Random | None = None, language: Language = ENGLISH
) -> str:
    """``between A and B`` (in either order where chance decides), or ``within A``."""
    first, second = networks
    if first == second:
        return language.within.format(first=first)
    if rng is not None and rng.random() < 0.5:
        first, second = second, first
    return language.between.format(first=first, second=second)


def level_question(
    networks: Sequence[str], rng: random.Random | None = None, language: Language = ENGLISH
) -> str:
    """How strong is a pair? Without a generator in the first wording."""
    form = _worded(language.ask_level, rng)
    return form.format(pair=pair_words(networks, rng, language))


def ask_level(fact: Fact, rng: random.Random | None = None, language: Language = ENGLISH) -> Question:
    """The question for the level of a fact's pair, with the fact's level as answer."""
    text, answer = level_question(fact["network"], rng, language), language.levels[round(fact["z"]) + 2]
    return Question(text, answer, (fact,))


def ask_extreme(
    facts: Sequence[Fact], extreme: str, rng: random.Random | None = None, language: Language = ENGLISH
) -> Question:
    """Which pair of different networks is the strongest, or the weakest?"""
    (fact,) = (fact for fact in facts if fact["feature"].startswith(f"connectivity/{extreme}/"))
    # in the atlas's order, as descriptions have it: were either name as likely to be the first, a model would have to
    # learn which of the two it has said
    answer = pair_words(fact["network"], language=language)
    return Question(_worded(language.ask_extreme[extreme], rng), answer, (fact,))


def ask_comparison(
    first: Fact, second: Fact, rng: random.Random | None = None, language: Language = ENGLISH
) -> Question:
    """Is one pair stronger than another?"""
    form = _worded(language.ask_comparison, rng)
    pairs = [pair_words(fact["network"], rng, language) for fact in (first, second)]
    answer = language.yes if first["value"] > second["value"] else language.no
    return Question(form.format(first=pairs[0], second=pairs[1]), answer, compares=(first, second))


def scans_question(
    networks: Sequence[str], rng: random.Random | None = None, language: Language = ENGLISH
) -> str:
    """In which of two scans is a pair stronger? Without a generator in the first wording."""
    form = _worded(language.ask_scans, rng)
    return form.format(pair=pair_words(networks, rng, language))


def ask_scans(
    first: Fact, second: Fact, rng: random.Random | None = None, language: Language = ENGLISH
) -> Question:
    """In which of two scans is a pair stronger, in units of each scan's RMS correlation?"""
    answer = language.first_scan if first["value"] > second["value"] else language.second_scan
    return Question(scans_question(first["network"], rng, language), answer, compares=(first, second))


def _worded(forms: Sequence[str], rng: random.Random | None) -> str:
    return forms[0] if rng is None else rng.choice(forms)


def ask_about(
    facts: Sequence[Fact], n: int, rng: random.Random, language: Language = ENGLISH
) -> list[Question]:
    """Up to `n` questions about different pairs: mostly their levels, some for extremes, some comparisons."""
    levels = level_facts(facts)
    has_extremes = len(facts) > len(levels)
    questions = []
    for fact in rng.sample(levels, min(n, len(levels))):
        kind = rng.random()
        if kind < SHARE_LEVELS or not has_extremes:
            questions.append(ask_level(fact, rng, language))
        elif kind < (1 + SHARE_LEVELS) / 2:
            questions.append(ask_extreme(facts, rng.choice(("strongest", "weakest")), rng, language))
        else:
            other = rng.choice([other for other in levels if other is not fact])
            questions.append(ask_comparison(fact, other, rng, language))
    return questions


def ask_description(facts: Sequence[Fact], rng: random.Random) -> Question:
    """A request for a description; its answer states the strongest and the weakest pair, and the levels of some pairs.

    Every statement is one that `faithfulness` reads back.
    """
    levels = level_facts(facts)
    extremes = [fact for fact in facts if not fact["feature"].startswith("connectivity/level/")]
    chosen = [*rng.sample(levels, min(rng.randint(2, 3), len(levels))), *extremes]
    rng.shuffle(chosen)
    sentences = []
    for fact in chosen:
        # the nouns for a level name the scan themselves
        opener = "" if fact in levels else rng.choice(_OPENERS)
        sentence = opener + _statement(fact, rng)
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
    return Question(rng.choice(DESCRIBE), " ".join(sentences), tuple(chosen))


def _statement(fact: Fact, rng: random.Random) -> str:
    measure = "/".join(fact["feature"].split("/", 2)[:2])
    if measure != "connectivity/level":
        return render_statement([fact], rng.choice(NOUNS[measure]), rng.choice(_EXTREME_FORMS), "", "")
    form = rng.choice(_LEVEL_FORMS)
    return render_statement([fact], rng.choice(NOUNS[measure]), form, LEVELS[round(fact["z"]) + 2], "")


def says_no_scan(text: str) -> bool:
    """Whether an answer says that there is no scan to speak of."""
    return (
        re.search(r"\bno (?:readable |usable )?scan\b|\bnot a (?:readable )?scan\b", text, re.I) is not None
    )
