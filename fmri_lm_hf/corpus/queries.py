"""What can be said of a scan from the scan alone, and the questions that ask for it.

No cohort is needed: a network pair's connectivity is its mean correlation in units of the scan's RMS correlation, and
its level one of five, between fixed bounds. Every statement names this scan as what it is relative to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from .facts import NOUNS, Fact, direction_of, fact_measure
from .faithfulness import Claim, parse_claims
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


@dataclass(frozen=True)
class PairTruth:
    """What a scan's own numbers say about a network pair.

    Attributes
    ----------
    networks : tuple of str
        The pair; one network twice for the connectivity within it.
    value : float
        Mean correlation of the pair in units of the scan's RMS correlation.
    bin : str
        One of the five bins, from "markedly low" to "markedly high".
    rank, n_pairs : int
        Place by magnitude, 1 for the strongest, among the pairs of its kind: pairs of different networks, or
        connectivity within networks. How many there are.
    """

    networks: tuple[str, str]
    value: float
    bin: str
    rank: int
    n_pairs: int


@dataclass(frozen=True)
class CheckedStatement:
    """A statement about a scan in plain English, next to the numbers of the scan.

    Attributes
    ----------
    text : str
    is_true : bool or None
        None for a text that claims nothing.
    truth : PairTruth or None
        The pair that the statement is about; None where it names no pair that the scan has.
    """

    text: str
    is_true: bool | None = None
    truth: PairTruth | None = None


def pair_truth(facts: Sequence[Fact], networks: Sequence[str]) -> PairTruth:
    """The connectivity of one network pair, from the facts of `scan_facts`; the names come in either order."""
    by_pair = {tuple(sorted(fact["network"])): fact for fact in level_facts(facts)}
    fact = by_pair.get(tuple(sorted(networks)))
    if fact is None:
        raise ValueError(
            f"No connectivity is known for the network pair {', '.join(networks)}. Name two networks (or one twice) "
            f"of {', '.join(sorted({name for pair in by_pair for name in pair}))}."
        )
    first, second = fact["network"]
    same_kind = [other for pair, other in by_pair.items() if (pair[0] == pair[1]) == (first == second)]
    return PairTruth(
        networks=(first, second),
        value=fact["value"],
        bin=LEVELS[round(fact["z"]) + 2],
        rank=1 + sum(abs(other["value"]) > abs(fact["value"]) for other in same_kind),
        n_pairs=len(same_kind),
    )


def check_statements(
    text: str, facts: Sequence[Fact], network_names: Sequence[str] = ()
) -> list[CheckedStatement]:
    """Each statement of a text about one scan, in plain English, with the numbers that it is about.

    Parameters
    ----------
    text : str
        What a model says about the scan, in any wording that `parse_claims` reads.
    facts : sequence of fact
        Those of `scan_facts`.
    network_names : sequence of str
        Further names to look for, such as networks of the atlas that this scan has no ROIs of.
    """
    by_key: dict[tuple[str | None, tuple[str, ...]], Fact] = {
        (fact_measure(fact), tuple(sorted(fact["network"]))): fact for fact in facts
    }
    names = sorted({name for fact in facts for name in fact["network"]} | set(network_names))
    statements = []
    for sentence in filter(None, map(str.strip, re.split(r"(?<=[.!?])\s+|\n", text))):
        claims = parse_claims(sentence, names)
        if not claims:
            statements.append(CheckedStatement(_mend_pair(sentence, names)))
        for claim in claims:
            fact = by_key.get(claim.key)
            is_true = fact is not None and not claim.disagreements(fact)
            truth = None if fact is None else pair_truth(facts, fact["network"])
            if truth is None and len(claim.networks) == 2:
                with suppress(ValueError):
                    truth = pair_truth(facts, claim.networks)
            statements.append(CheckedStatement(_plain_english(claim) or sentence, is_true, truth))
    return statements


def display_text(text: str, network_names: Sequence[str], facts: Sequence[Fact] = ()) -> str:
    """A model's text about a scan in plain English; with facts, the value follows each statement.

    Statements are parsed and written anew. What claims nothing about a network pair stays as it is.

    Parameters
    ----------
    text : str
    network_names : sequence of str
        Networks of the atlas.
    facts : sequence of fact
        Those of `scan_facts`, for the values.

    Examples
    --------
    >>> display_text("Within this scan, between visual and default lies the weakest coupling.", ["default", "visual"])
    'The weakest connection is between the visual and the default network.'
    """
    sentences = []
    for each in check_statements(text, facts, network_names):
        value = f" ({each.truth.value:.2f} times the scan's RMS correlation)" if each.truth else ""
        ending = each.text[-1] if each.text[-1] in ".!?" else ""
        sentences.append(each.text.removesuffix(ending) + value + ending)
    return " ".join(dict.fromkeys(sentences))


def pair_phrase(networks: Sequence[str]) -> str:
    """A network pair in plain English: ``between the A and the B network``, or ``within the A network``."""
    first, second = networks
    noun = "" if second.lower().endswith("network") else " network"
    return f"within the {first}{noun}" if first == second else f"between the {first} and the {second}{noun}"


def _plain_english(claim: Claim) -> str:
    """A sentence for a claim about the bin of a pair or an extreme pair; empty for any other claim."""
    if len(claim.networks) != 2:
        return ""
    if claim.measure in ("connectivity/strongest", "connectivity/weakest"):
        return f"The {claim.measure.split('/')[1]} connection is {pair_phrase(claim.networks)}."
    stated = {
        ("lowered", "marked"): LEVELS[0],
        ("lowered", None): LEVELS[1],
        ("typical", None): LEVELS[2],
        ("raised", None): LEVELS[3],
        ("raised", "marked"): LEVELS[4],
    }.get((claim.direction or "", claim.degree))
    if claim.measure != "connectivity/level" or stated is None:
        return ""
    return f"In this scan, connectivity {pair_phrase(claim.networks)} is {stated}."


def _mend_pair(sentence: str, network_names: Sequence[str]) -> str:
    """An answer that is a network pair alone (``between A and B``) with its articles."""
    name = "|".join(sorted(map(re.escape, network_names), key=len, reverse=True)) or r"(?!)"
    found = re.fullmatch(rf"(?:between ({name}) and ({name})|within ({name}))\.?", sentence, re.IGNORECASE)
    if found is None:
        return sentence
    phrase = pair_phrase((found[3], found[3]) if found[3] else (found[1], found[2]))
    return phrase[0].upper() + phrase[1:] + "."
