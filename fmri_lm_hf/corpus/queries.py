"""Facts, questions, answers and checked statements about one scan, without a cohort.

The connectivity of a network pair is its mean correlation in units of the scan's RMS correlation, and falls into one of
five bins between fixed bounds. The bundled model was trained on the questions and descriptions of this module, so their
wording must not change; `check_statements` and `display_text` put its answers into plain English.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ..deprecation import renamed_attributes
from ..questions.bins import BINS, UNITS, bin_of
from ..questions.bins import BOUNDS_BETWEEN as BOUNDS_BETWEEN  # an old name of this module, as the next one
from ..questions.bins import BOUNDS_WITHIN as BOUNDS_WITHIN
from .check import Claim, parse_claims
from .facts import EXTREME_MEASURES, NOUNS, PAIR_BIN, Fact, direction_of, extreme_facts, fact_key, fact_measure
from .languages import ENGLISH, Language

SHARE_BINS = 0.75  # share of questions for bins; half of the others ask for extremes, half for comparisons

ABSENT_ANSWERS = ("No scan can be read here.", "There is no readable scan.", "There is no scan to read here.")
DESCRIBE = (
    "Describe this scan.",
    "Describe the connectivity of this scan.",
    "What does this scan show?",
    "Summarise this scan.",
    "What is notable within this scan?",
)

# ----- facts of one scan -----


def scan_facts(values: Sequence[float], present: Sequence[bool], network_names: Sequence[str]) -> list[Fact]:
    """State the bin of each network pair of a scan, its strongest pair and its weakest.

    Parameters
    ----------
    values : sequence of float, length n_pairs
        Connectivity in units of the scan's RMS correlation, in the order of `numpy.triu_indices(n_networks)`.
    present : sequence of bool, length n_pairs
        Whether the scan has ROIs of both networks; other pairs have no facts.
    network_names : sequence of str

    Returns
    -------
    list of fact
        ``connectivity/bin/A-B`` for each pair, with its bin counted from the middle one (-2 to 2) as `z`; then
        ``connectivity/strongest/A-B`` and ``connectivity/weakest/A-B``, of different networks and by magnitude, as in
        `make_facts`.
    """
    firsts, seconds = np.triu_indices(len(network_names))
    from_middle = (bin_of(np.asarray(values), firsts == seconds) - 2.0).tolist()
    pairs_in_order = zip(firsts.tolist(), seconds.tolist(), values, from_middle, present, strict=True)
    facts = [
        Fact(
            family="connectivity",
            feature=f"{PAIR_BIN}/{network_names[first]}-{network_names[second]}",
            network=[network_names[first], network_names[second]],
            value=float(value),
            z=z,
            direction=direction_of(z),
            units=UNITS,
        )
        for first, second, value, z, known in pairs_in_order
        if known
    ]
    return facts + extreme_facts(facts)


def bin_facts(facts: Sequence[Fact]) -> list[Fact]:
    """Return those facts of `scan_facts` that state the bin of a pair."""
    return [fact for fact in facts if fact_measure(fact) == PAIR_BIN]


def _bin_number(fact: Fact) -> int:
    return round(fact["z"]) + 2


@dataclass(frozen=True)
class PairTruth:
    """The numbers of a scan for a network pair.

    Attributes
    ----------
    networks : tuple of str
        The pair; one network twice for the connectivity within it.
    value : float
        Mean correlation of the pair in units of the scan's RMS correlation.
    bin : str
        One of `BINS`, from "markedly low" to "markedly high".
    rank, n_pairs : int
        Rank by magnitude, 1 for the strongest, among the pairs of the same kind (of different networks, or within
        one), and the number of these pairs.
    """

    networks: tuple[str, str]
    value: float
    bin: str
    rank: int
    n_pairs: int


def pair_truth(facts: Sequence[Fact], networks: Sequence[str]) -> PairTruth:
    """Look up a network pair, given in either order, in the facts of `scan_facts`."""
    by_pair = {tuple(sorted(fact["network"])): fact for fact in bin_facts(facts)}
    fact = by_pair.get(tuple(sorted(networks)))
    if fact is None:
        raise ValueError(
            f"No connectivity is known for the network pair {', '.join(networks)}. Name two networks (or one twice) "
            f"of {', '.join(sorted({name for pair in by_pair for name in pair}))}."
        )
    first, second = fact["network"]
    sizes = [abs(same["value"]) for pair, same in by_pair.items() if (pair[0] == pair[1]) == (first == second)]
    rank = 1 + sum(size > abs(fact["value"]) for size in sizes)
    return PairTruth((first, second), fact["value"], BINS[_bin_number(fact)], rank, len(sizes))


# ----- questions -----


@dataclass(frozen=True)
class Question:
    """A question about a scan and its answer.

    Attributes
    ----------
    text, answer : str
    states : tuple of fact
        Bins and extremes that the answer states, in its order.
    compares : tuple of fact
        Bins of the two pairs that the question compares, in its order; of the same pair if it compares two scans.
    """

    text: str
    answer: str
    states: tuple[Fact, ...] = ()
    compares: tuple[Fact, ...] = ()


def pair_words(networks: Sequence[str], rng: random.Random | None = None, language: Language = ENGLISH) -> str:
    """Name a pair as questions do: ``between A and B`` (with `rng` in either order), or ``within A``."""
    first, second = networks
    if first == second:
        return language.within.format(first=first)
    if rng is not None and rng.random() < 0.5:
        first, second = second, first
    return language.between.format(first=first, second=second)


def _wording(forms: Sequence[str], rng: random.Random | None) -> str:
    return forms[0] if rng is None else rng.choice(forms)


def bin_question(networks: Sequence[str], rng: random.Random | None = None, language: Language = ENGLISH) -> str:
    """Ask how strong a pair is; without `rng` in the first wording."""
    return _wording(language.ask_bin, rng).format(pair=pair_words(networks, rng, language))


def scans_question(networks: Sequence[str], rng: random.Random | None = None, language: Language = ENGLISH) -> str:
    """Ask in which of two scans a pair is stronger; without `rng` in the first wording."""
    return _wording(language.ask_scans, rng).format(pair=pair_words(networks, rng, language))


def ask_bin(fact: Fact, rng: random.Random | None = None, language: Language = ENGLISH) -> Question:
    """Ask for the bin of a fact's pair."""
    answer = language.bins[_bin_number(fact)]
    return Question(bin_question(fact["network"], rng, language), answer, (fact,))


def ask_extreme(
    facts: Sequence[Fact], extreme: str, rng: random.Random | None = None, language: Language = ENGLISH
) -> Question:
    """Ask which pair of different networks is the strongest, or the weakest."""
    (fact,) = (fact for fact in facts if fact_measure(fact) == f"connectivity/{extreme}")
    # Always in the order of the atlas, as in descriptions: with a random order, a model would also have to learn which
    # of the two names it has written already.
    answer = pair_words(fact["network"], language=language)
    return Question(_wording(language.ask_extreme[extreme], rng), answer, (fact,))


def ask_comparison(
    first: Fact, second: Fact, rng: random.Random | None = None, language: Language = ENGLISH
) -> Question:
    """Ask whether one pair is stronger than another."""
    form = _wording(language.ask_comparison, rng)
    pairs = [pair_words(fact["network"], rng, language) for fact in (first, second)]
    answer = language.yes if first["value"] > second["value"] else language.no
    return Question(form.format(first=pairs[0], second=pairs[1]), answer, compares=(first, second))


def ask_scans(first: Fact, second: Fact, rng: random.Random | None = None, language: Language = ENGLISH) -> Question:
    """Ask in which of two scans a pair is stronger, in units of each scan's RMS correlation."""
    answer = language.first_scan if first["value"] > second["value"] else language.second_scan
    return Question(scans_question(first["network"], rng, language), answer, compares=(first, second))


def ask_about(facts: Sequence[Fact], n: int, rng: random.Random, language: Language = ENGLISH) -> list[Question]:
    """Draw up to `n` questions: mostly for the bins of different pairs, some for extremes, some comparisons."""
    pairs = bin_facts(facts)
    has_extremes = len(facts) > len(pairs)
    questions = []
    for fact in rng.sample(pairs, min(n, len(pairs))):
        kind = rng.random()
        if kind < SHARE_BINS or not has_extremes:
            questions.append(ask_bin(fact, rng, language))
        elif kind < (1 + SHARE_BINS) / 2:
            questions.append(ask_extreme(facts, rng.choice(("strongest", "weakest")), rng, language))
        else:
            second = rng.choice([pair for pair in pairs if pair is not fact])
            questions.append(ask_comparison(fact, second, rng, language))
    return questions


# The sentences that the bundled model was trained to write. They mention no cohort, and name a pair before its bin, so
# that attention can find the pair's token by its names when the bin is to be written. Other wordings need a new model.
_BIN_FORMS = (
    "{pair}, {noun} is {bin}",
    "{noun} {pair} is found to be {bin}",
    "{noun} {pair} is {bin}",
)
_EXTREME_FORMS = ("the {noun} is {pair}", "{pair} lies the {noun}")
_EXTREME_NOUNS = ("network pair", "coupling", "connection")
_OPENERS = ("", "Within this scan, ", "In this scan, ")


def ask_description(facts: Sequence[Fact], rng: random.Random) -> Question:
    """Ask for a description; the answer states the strongest and the weakest pair, and the bins of some pairs.

    `check_text` can read every statement.
    """
    pairs = bin_facts(facts)
    extremes = [fact for fact in facts if fact_measure(fact) in EXTREME_MEASURES]
    stated = [*rng.sample(pairs, min(rng.randint(2, 3), len(pairs))), *extremes]
    rng.shuffle(stated)
    sentences = []
    for fact in stated:
        # nouns for a bin contain "within this scan" already
        opener = "" if fact in pairs else rng.choice(_OPENERS)
        sentence = opener + _trained_statement(fact, rng)
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
    return Question(rng.choice(DESCRIBE), " ".join(sentences), tuple(stated))


def _trained_statement(fact: Fact, rng: random.Random) -> str:
    first, second = fact["network"]
    pair = f"within the {first} network" if first == second else f"between {first} and {second}"
    measure = fact_measure(fact)
    if measure == PAIR_BIN:
        form = rng.choice(_BIN_FORMS)
        return form.format(noun=rng.choice(NOUNS[PAIR_BIN]), pair=pair, bin=BINS[_bin_number(fact)])
    noun = f"{measure.split('/')[1]} {rng.choice(_EXTREME_NOUNS)}"
    return rng.choice(_EXTREME_FORMS).format(noun=noun, pair=pair)


# ----- statements -----


_ABOUT_PAIRS = ("connectivity/mean", PAIR_BIN, *EXTREME_MEASURES)


@dataclass(frozen=True)
class CheckedStatement:
    """A statement about a scan in plain English, with the numbers of the scan.

    Attributes
    ----------
    text : str
    is_true : bool or None
        None for a text without a claim about the connectivity of network pairs.
    truth : PairTruth or None
        Numbers of the pair that the statement is about; None if it names no pair of the scan.
    """

    text: str
    is_true: bool | None = None
    truth: PairTruth | None = None


def check_statements(text: str, facts: Sequence[Fact], network_names: Sequence[str] = ()) -> list[CheckedStatement]:
    """Check each statement of a text about one scan, and put it into plain English.

    Parameters
    ----------
    text : str
        An answer of a model, in any wording that `parse_claims` reads.
    facts : sequence of fact
        Facts of `scan_facts`.
    network_names : sequence of str
        Names to look for in addition, such as networks of the atlas without ROIs in this scan.
    """
    known: Mapping[tuple, Fact] = {fact_key(fact): fact for fact in facts}
    names = sorted({name for fact in facts for name in fact["network"]} | set(network_names))
    statements = []
    for sentence in filter(None, map(str.strip, re.split(r"(?<=[.!?])\s+|\n", text))):
        claims = [claim for claim in parse_claims(sentence, names) if claim.measure in _ABOUT_PAIRS]
        if not claims:
            statements.append(CheckedStatement(_with_articles(sentence, names)))
        for claim in claims:
            if claim.measure == "connectivity/mean":
                claim.measure = PAIR_BIN  # without a cohort, "high" is relative to the scan
            fact = known.get(claim.key)
            is_true = fact is not None and not claim.disagreements(fact)
            truth = None
            with suppress(ValueError):  # the claim names no pair, or one that the scan does not have
                truth = pair_truth(facts, claim.networks)
            statements.append(CheckedStatement(_plain_english(claim) or sentence, is_true, truth))
    return statements


def display_text(text: str, network_names: Sequence[str], facts: Sequence[Fact] = ()) -> str:
    """Put a model's text about a scan into plain English; with facts, the value follows each statement.

    Statements about network pairs are parsed and rewritten; other sentences stay as they are.

    Parameters
    ----------
    text : str
    network_names : sequence of str
        Networks of the atlas.
    facts : sequence of fact
        Facts of `scan_facts`, for the values.

    Examples
    --------
    >>> display_text("Within this scan, between visual and default lies the weakest coupling.", ["default", "visual"])
    'The weakest connection is between the visual and the default network.'
    """
    sentences = []
    for statement in check_statements(text, facts, network_names):
        truth, sentence = statement.truth, statement.text
        value = f" ({truth.value:.2f} times the scan's RMS correlation)" if truth else ""
        ending = sentence[-1] if sentence[-1] in ".!?" else ""
        sentences.append(sentence.removesuffix(ending) + value + ending)
    return " ".join(dict.fromkeys(sentences))


def pair_phrase(networks: Sequence[str]) -> str:
    """Name a network pair in plain English: ``between the A and the B network``, or ``within the A network``."""
    first, second = networks
    noun = "" if second.lower().endswith("network") else " network"
    return f"within the {first}{noun}" if first == second else f"between the {first} and the {second}{noun}"


def _plain_english(claim: Claim) -> str:
    """Write a sentence for a claim about the bin of a pair or an extreme pair; empty for any other claim."""
    if len(claim.networks) != 2:
        return ""
    if claim.measure in EXTREME_MEASURES:
        return f"The {claim.measure.split('/')[1]} connection is {pair_phrase(claim.networks)}."
    stated = {
        ("lowered", "marked"): BINS[0],
        ("lowered", None): BINS[1],
        ("typical", None): BINS[2],
        ("raised", None): BINS[3],
        ("raised", "marked"): BINS[4],
    }.get((claim.direction or "", claim.degree))
    if claim.measure != PAIR_BIN or stated is None:
        return ""
    return f"In this scan, connectivity {pair_phrase(claim.networks)} is {stated}."


def _with_articles(sentence: str, network_names: Sequence[str]) -> str:
    """Write a sentence for an answer that is only a network pair (``between A and B``); others stay as they are."""
    name = "|".join(sorted(map(re.escape, network_names), key=len, reverse=True)) or r"(?!)"
    found = re.fullmatch(rf"(?:between ({name}) and ({name})|within ({name}))\.?", sentence, re.IGNORECASE)
    if found is None:
        return sentence
    phrase = pair_phrase((found[3], found[3]) if found[3] else (found[1], found[2]))
    return phrase[0].upper() + phrase[1:] + "."


def says_no_scan(text: str) -> bool:
    """Whether an answer says that there is no scan to read."""
    return re.search(r"\bno (readable |usable )?scan\b|\bnot a (readable )?scan\b", text, re.I) is not None


__getattr__ = renamed_attributes(
    __name__,
    {
        "LEVELS": "BINS",
        "ask_level": "ask_bin",
        "level_facts": "bin_facts",
        "level_of": "bin_of",
        "level_question": "bin_question",
    },
)
