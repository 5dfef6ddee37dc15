"""Check texts against facts: parse measures, networks, directions and numbers, and compare them.

`check_text` compares a text with the facts that it should state, `parse_claims` reads its claims, and `rewrite` lets a
language model reword a description as long as the check still passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from ..deprecation import warn_renamed
from .facts import (
    ALIASES,
    COHORT_MEAN,
    DEGREES,
    DIRECTION_WORDS,
    EXTREME_MEASURES,
    MARKED_Z,
    NOUNS,
    PAIR_BIN,
    fact_key,
)

_PAIR_MEASURES = ("connectivity/mean", PAIR_BIN, *EXTREME_MEASURES, "ica/fnc")

# Not digits inside a word or a longer number: the 2 of "gradient-2" and the 95 of "4.95" are no numbers of their own.
_NUMBER = r"(?<![\w.+\-])[+\-]?\d+(?:\.\d+)?(?:e[+\-]?\d+)?"
# Up to two words may come in between. "not at all clearly raised" has three, so it is read as raised: a known limit.
_NEGATION = r"\b(?:not|never|neither|nor|without)\b(?: \w+){0,2}$|n't(?: \w+){0,2}$"
_THIS_SCAN = re.compile(r"\b(with)?in this scan\b", re.IGNORECASE)
# Words before "network" that are not the name of one.
_NO_NETWORK = (
    r"the|this|that|these|each|every|any|all|one|a|brain|whole-brain|resting-state|functional|of|in|and|other"
    r"|while|whereas|but|although|though"
)


@dataclass
class Claim:
    """A claim of a text about one feature.

    `measure` is None for numbers or directions without a measure. `direction` is None if the text gives none, and
    ``"not typical"`` if it denies that the value is typical. Numbers are kept as written: their digits set the
    tolerance.
    """

    measure: str | None
    networks: tuple[str, ...] = ()
    direction: str | None = None
    degree: str | None = None
    z: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def key(self) -> tuple[str | None, tuple[str, ...]]:
        return self.measure, tuple(sorted(self.networks))

    def disagreements(self, fact: Mapping[str, Any]) -> list[str]:
        """List how the claim contradicts a fact about the same measure and networks; empty if it does not."""
        problems = []
        if self.direction and self.direction != fact["direction"]:
            problems.append(f"direction is {self.direction}, not {fact['direction']}")
        # a z of 1.96 is written as 2.0, for which "markedly" is correct
        size = abs(fact["z"])
        if (self.degree == "marked" and size < MARKED_Z - 0.05) or (self.degree == "mild" and size >= MARKED_Z):
            problems.append(f"degree is {self.degree}, with z = {fact['z']:+.1f}")
        problems += [f"z is {number}, not {fact['z']:+.2f}" for number in self.z if not _equal(number, fact["z"])]
        problems += [
            f"value is {number}, not {fact['value']:.4g}"
            for number in self.values
            if not _equal(number, fact["value"])
        ]
        return problems


@dataclass(frozen=True)
class TextCheck:
    """Agreement of a text with the facts that it should state; see `check_text`.

    Attributes
    ----------
    matched : tuple of fact
        Facts that are stated correctly.
    missing : tuple of fact
        Facts that are not stated.
    contradicted : tuple of (fact, str)
        Facts that the text contradicts, each with the reason.
    invented : tuple of str
        Sentences with claims about features without a fact, or with numbers and directions of no known feature.
    """

    matched: tuple[Mapping[str, Any], ...]
    missing: tuple[Mapping[str, Any], ...]
    contradicted: tuple[tuple[Mapping[str, Any], str], ...]
    invented: tuple[str, ...]

    @property
    def precision(self) -> float:
        """Share of the statements that are true; 1 for a text that states nothing."""
        n_stated = len(self.matched) + len(self.contradicted) + len(self.invented)
        return len(self.matched) / n_stated if n_stated else 1.0

    @property
    def recall(self) -> float:
        """Share of the facts that are stated correctly; 1 if there are no facts."""
        wrong = {fact["feature"] for fact, _ in self.contradicted}
        n_facts = len(self.matched) + len(self.missing) + len(wrong)
        return len(self.matched) / n_facts if n_facts else 1.0

    @property
    def score(self) -> float:
        """Harmonic mean of precision and recall, between 0 and 1."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def is_true(self) -> bool:
        """Whether all facts are stated correctly, and nothing else is stated."""
        return not (self.missing or self.contradicted or self.invented)

    @property
    def is_faithful(self) -> bool:
        """The name of `is_true` in the release before."""
        warn_renamed("TextCheck.is_faithful", "TextCheck.is_true")
        return self.is_true


def check_text(text: str, facts: Sequence[Mapping[str, Any]], networks: Iterable[str] = ()) -> TextCheck:
    """Compare a text with the facts that it should state.

    Parameters
    ----------
    text : str
        A text of `verbalise`, of a language model or of a person.
    facts : sequence of fact
        The facts that the text should state. For a meaningful recall, pass those of one description
        (`prose.select_facts`), not all facts of the scan.
    networks : iterable of str
        Names of networks to look for in addition to those in the facts, such as all of the atlas.

    Notes
    -----
    A feature that is stated twice, once wrongly, is contradicted. A number is correct if it equals the fact's value (or
    z) to the digits that are written. Sentences without a measure, a direction or a number claim nothing.

    Examples
    --------
    >>> fact = {"family": "graph", "feature": "graph/modularity", "network": [], "value": 0.52, "z": 2.13,
    ...         "direction": "raised", "units": "Q"}
    >>> check_text("Modularity is high (z = +2.1).", [fact]).score
    1.0
    >>> check_text("Modularity is reduced.", [fact]).contradicted[0][1]
    "direction is lowered, not raised: 'Modularity is reduced.'"
    """
    known = {fact_key(fact): fact for fact in facts}
    names = sorted({name for fact in facts for name in fact["network"]} | set(networks))
    matched, contradicted, invented = set(), [], []
    for claim in parse_claims(text, names):
        fact = known.get(claim.key)
        if fact is None and claim.measure == "connectivity/mean" and _THIS_SCAN.search(claim.text):
            # "In this scan, connectivity ... is high" reads like a comparison with the cohort; where no such fact is
            # given, it states the bin of the pair within its scan
            fact = known.get((PAIR_BIN, claim.key[1]))
        if fact is None:
            invented.append(claim.text)
            continue
        disagreements = claim.disagreements(fact)
        matched.add(fact_key(fact))
        if disagreements:
            contradicted.append((fact, f"{'; '.join(disagreements)}: {claim.text!r}"))
    wrong = {fact_key(fact) for fact, _ in contradicted}
    return TextCheck(
        matched=tuple(fact for key, fact in known.items() if key in matched - wrong),
        missing=tuple(fact for key, fact in known.items() if key not in matched),
        contradicted=tuple(contradicted),
        invented=tuple(invented),
    )


def parse_claims(text: str, networks: Iterable[str]) -> list[Claim]:
    """Read the claims of a text, one for each measure and network (or pair) that it mentions.

    Parameters
    ----------
    text : str
    networks : iterable of str
        Names of networks to look for. Any other name before the word "network" is an unknown network.
    """
    names = tuple(sorted(networks))
    claims = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", text.replace("\N{MINUS SIGN}", "-")):
        clauses = _clauses(sentence, names)
        for k, clause in enumerate(clauses):
            if k and clause.measure is None:
                clause.measure = clauses[k - 1].measure  # "fALFF is raised in A and lowered in B"
            if k and clause.direction is None and clause.measure not in EXTREME_MEASURES:
                clause.direction = clauses[k - 1].direction  # "raised fALFF in A and amplitude in B"
            claims += clause.claims(sentence.strip())
    return claims


@dataclass
class _Clause:
    """A part of a sentence with one measure and one direction, and the networks that they are about."""

    measure: str | None = None
    direction: str | None = None
    degree: str | None = None
    # (name, whether after "within", the numbers that follow it); numbers before the first network are in `numbers`
    networks: list[tuple[str, bool, list[tuple[str, str]]]] = field(default_factory=list)
    numbers: list[tuple[str, str]] = field(default_factory=list)
    fronted: bool = False  # networks came before the measure

    def claims(self, text: str) -> list[Claim]:
        items: list[tuple[tuple[str, ...], list[tuple[str, str]]]] = []
        if self.measure in _PAIR_MEASURES:
            # "between A and B" takes two names, "within A" one that counts twice; a name left alone is no known pair
            unpaired = list(self.networks)
            while unpaired:
                name, within, numbers = unpaired.pop(0)
                if within or not unpaired:
                    items.append(((name, name) if within else (name,), numbers))
                else:
                    second, _, more = unpaired.pop(0)
                    items.append(((name, second), numbers + more))
        else:
            items = [((name,), numbers) for name, _, numbers in self.networks]
        if items:
            items[0] = (items[0][0], self.numbers + items[0][1])
        elif self.numbers or self.direction or self.measure in EXTREME_MEASURES:
            items = [((), self.numbers)]
        return [
            Claim(
                self.measure,
                names,
                self.direction,
                self.degree,
                [number for kind, number in numbers if kind == "z"],
                [number for kind, number in numbers if kind == "value"],
                text,
            )
            for names, numbers in items
            if self.direction or numbers or self.measure in EXTREME_MEASURES
        ]


def _clauses(sentence: str, networks: tuple[str, ...]) -> list[_Clause]:
    """Split a sentence into clauses: at conjunctions, and before a second measure or another direction."""
    spelling = {name.lower(): name for name in networks}
    clauses = [_Clause()]

    def begin() -> _Clause:
        if clauses[-1] != _Clause():
            clauses.append(_Clause())
        return clauses[-1]

    for match in _pattern(networks).finditer(sentence):
        kind, word, clause = match.lastgroup or "", match[0], clauses[-1]
        before = sentence[: match.start()].rstrip()
        if kind == "break":
            begin()
        elif kind in ("network", "unknown"):
            if clause.fronted and clause.direction is not None:
                # "in A, fALFF is high and in B, ...": B is not part of the list that A began
                clause = begin()
            within = re.search(r"\bwithin(?: the)?$", before, re.IGNORECASE) is not None
            clause.networks.append((spelling.get(word.lower(), word), within, []))
        elif kind in ("sd", "z", "value"):
            number = match[f"{kind}_number"]
            if kind == "sd" and match["sd_side"]:  # "-2.1 SD below" is a way to write 2.1 SD below
                number = ("-" if match["sd_side"].lower() == "below" else "+") + number.lstrip("+-")
            elif kind == "sd" and number[0].isdigit():
                number = f"±{number}"  # "raised by 2.1 SD": the size alone, of either sign
            numbers = clause.networks[-1][2] if clause.networks else clause.numbers
            numbers.append(("value" if kind == "value" else "z", number))
        elif kind == "degree":
            clause.degree = next(name for name, words in DEGREES.items() if word.lower() in words)
        elif kind == "measure":
            clause = clause if clause.measure is None else begin()
            clause.measure = _MEASURE_OF[_spaced(word)]
            clause.fronted = bool(clause.networks)
        else:
            direction = kind
            if re.search(_NEGATION, before, re.IGNORECASE):
                direction = "not typical" if kind == "typical" else "typical"
            if clause.direction not in (None, direction):
                clause = begin()
            clause.direction = direction
    return [clause for clause in clauses if clause != _Clause()]


@lru_cache(maxsize=256)
def _pattern(networks: tuple[str, ...]) -> re.Pattern:
    """Compile one pattern for all words and numbers that carry meaning; the name of the group is their kind."""

    def longest_first(words: Iterable[str]) -> str:
        return "|".join(sorted(words, key=len, reverse=True))

    # The order matters, since alternatives are tried from the first: "average clustering" is a measure, though
    # "average" alone is a direction; a network named "high" is a network; and a number is a z or an SD, if it can be,
    # before it is a value.
    parts = {
        "measure": longest_first(re.escape(phrase).replace(r"\ ", r"[\s\-]+") for phrase in _MEASURE_OF),
        "network": longest_first(map(re.escape, networks)) or r"(?!)",
        "sd": rf"(?P<sd_number>{_NUMBER})\s?(?:SDs?|standard deviations?)"
        rf"(?: (?P<sd_side>above|below){COHORT_MEAN})?",
        "z": rf"z(?:[\s\-]?score)?(?: (?:of|is|at))?\s*[=:]?\s*(?P<z_number>{_NUMBER})",
        **{str(kind): words for kind, words in DIRECTION_WORDS.items()},
        "degree": f"(?:{longest_first(word for words in DEGREES.values() for word in words)})"
        rf"(?=\s+(?:{'|'.join(DIRECTION_WORDS.values())})\b)",
        "unknown": rf"(?!(?:{_NO_NETWORK})\b)[\w\-]+(?= networks?\b)",
        "value": rf"(?P<value_number>{_NUMBER})",
    }
    words = "|".join(f"(?P<{kind}>{part})" for kind, part in parts.items())
    # The semicolon of "(0.52 Q; z = +2.1)" ends no clause. "and" alone ends none either: it joins networks.
    clause_break = r"(?P<break>;(?!\s*z\b)|\b(?:while|whereas|but|although|though)\b|, and\b)"
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)|{clause_break}", re.IGNORECASE)


def _spaced(phrase: str) -> str:
    return re.sub(r"[\s\-]+", " ", phrase).lower()


_MEASURE_OF = {
    _spaced(phrase): measure for table in (NOUNS, ALIASES) for measure, phrases in table.items() for phrase in phrases
}


def _equal(number: str, value: float) -> bool:
    """Whether a written number is `value` rounded to as many digits; after "±" the sign does not matter."""
    if number.startswith("±"):
        number, value = number[1:], abs(value)
    # with some slack for ties: 0.125 may be written as 0.12 or as 0.13, depending on its last bit
    half_a_digit = 0.5 * 10.0 ** int(Decimal(number).as_tuple().exponent)
    return abs(float(number) - value) <= half_a_digit * 1.0001 + 1e-12


# ----- descriptions reworded by a language model -----

_INSTRUCTION = (
    "Rewrite this description of a brain scan in fluent English. Keep every measure, network, direction and number "
    "exactly, and add nothing. Answer with the rewritten description only.\n\n"
)


@dataclass(frozen=True)
class Rewrite:
    """The result of `rewrite`.

    `text` is the reworded description if `accepted`, else the original one; `report` is the check of the last wording
    that the model proposed.
    """

    text: str
    accepted: bool
    report: TextCheck


def rewrite(
    text: str,
    facts: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    attempts: int = 3,
    temperature: float = 0.7,
    seed: int = 0,
) -> Rewrite:
    """Let a language model reword a description; keep the original unless the new text states the same facts.

    Parameters
    ----------
    text : str
        A description from `verbalise`.
    facts : sequence of fact
        The facts that it was made from. The new text has to state those that it states, and nothing else.
    model : PreTrainedModel
        A causal language model of transformers, best an instruction-tuned one.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer; its chat template is used if it has one.
    attempts : int
        Texts to sample before the original is kept.
    temperature : float
    seed : int
        The same seed, model and text give the same result. The global random state is not changed.

    Examples
    --------
    >>> tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")  # doctest: +SKIP
    >>> model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")  # doctest: +SKIP
    >>> rewrite(verbalise(facts), facts, model, tokenizer).text  # doctest: +SKIP
    """
    import torch

    networks = {name for fact in facts for name in fact["network"]}
    original = check_text(text, facts)
    if original.contradicted or original.invented or not original.matched:
        reasons = (
            [reason for _, reason in original.contradicted] or original.invented or ["it states none of the facts"]
        )
        raise ValueError(f"The text to rewrite does not fit the facts: {reasons[0]}. Pass the facts it was made from.")
    if attempts < 1:
        raise ValueError(f"attempts is {attempts}; expected at least 1.")

    prompt = _INSTRUCTION + text
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        inputs = tokenizer(f"{prompt}\n\nRewritten: ", return_tensors="pt")
    inputs = inputs.to(model.device)
    n_prompt = inputs["input_ids"].shape[1]
    n_text = len(tokenizer(text)["input_ids"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(attempts):
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                max_new_tokens=2 * n_text + 32,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )
            proposal = tokenizer.decode(output[0, n_prompt:], skip_special_tokens=True).strip()
            report = check_text(proposal, original.matched, networks)
            if report.is_true:
                return Rewrite(proposal, True, report)
    return Rewrite(text, False, report)
