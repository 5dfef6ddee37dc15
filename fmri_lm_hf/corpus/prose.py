"""Write facts in English with a seeded grammar, at three lengths, and describe subjects.

`select_facts` chooses what a description states, `write_text` words it; `verbalise` does both. Each draw of the random
generator decides the wording that follows, so a draw that is added or moved changes the texts of every corpus.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

from .facts import (
    ADJECTIVES,
    DEGREES,
    EXTREME_MEASURES,
    MARKED_Z,
    MILD_Z,
    NOUNS,
    OTHER_ACQUISITIONS,
    RELATIONS,
    fact_measure,
    is_decided,
)

Length = Literal["sentence", "paragraph", "full"]
LENGTHS = ("sentence", "paragraph", "full")

# A statement is about one measure in one direction. {places} are networks with their numbers, or the number alone for
# the whole scan; {front} is a single network, with its {number} at the end of the statement. {subject} is the noun with
# its article, {described} the noun with its adjective.
FORMS = (
    "{subject} is {adjective}{places}",
    "{subject}{places} is {adjective}",
    "the scan shows {described}{places}",
    "the scan has {described}{places}",
    "{subject}{places} is {relation}",
    "{front}, {subject} is {adjective}{number}",
    "{front}, {subject} is {relation}{number}",
)
# The strongest and the weakest pair are ranks within the scan, so their forms have no direction.
EXTREME_FORMS = ("the {noun} is{places}", "the {noun} is found{places}", "the {noun} lies{places}")

NUMBER_STYLES = (
    "",
    " ({value:.3g} {units})",
    " (z = {z:+.1f})",
    " ({size:.1f} SD {side} the mean)",
    " ({value:.3g} {units}; z = {z:+.1f})",
)
_EXTREME_STYLES = NUMBER_STYLES[:2]  # without z, which would seem to belong to the rank within the scan

_OPENERS = ("Relative to the cohort, ", "Compared with the cohort, ", "Compared with the reference cohort, ")
# For scans from an acquisition that the cohort does not have: their deviations may be due to the scanner.
_OTHER_OPENERS = (
    "Compared with scans from other scanners, ",
    "Compared with a cohort that was scanned otherwise, ",
    "Relative to scans from other sites or settings, ",
)
_ADDITIONS = (", and ", "; ")
_CONTRASTS = (", while ", ", whereas ", ", but ", "; ")

# Content of each length: facts of different measures in a sentence; the same for each family in a paragraph; networks
# or pairs of each measure in a full description.
_PER_SENTENCE = 3
_PER_FAMILY = 3
_PER_MEASURE = 5


def verbalise(facts: Sequence[Mapping[str, Any]], length: Length = "sentence", seed: int = 0) -> str:
    """Describe facts in English.

    Parameters
    ----------
    facts : sequence of fact
        Facts of `CohortReference.facts`: all or some, such as those of one family.
    length : {"sentence", "paragraph", "full"}
        The three most deviating measures; the three most deviating of each family; or every measure, with up to five
        networks or pairs that deviate in it.
    seed : int
        Seed of the wording; the content does not depend on it. The same facts and seed give the same text.

    Returns
    -------
    str
        One sentence, one paragraph, or one line for each family.

    Examples
    --------
    >>> fact = {"family": "graph", "feature": "graph/modularity", "network": [], "value": 0.52, "z": 2.13,
    ...         "direction": "raised", "units": "Q"}
    >>> verbalise([fact], seed=1)
    'Relative to the cohort, the scan shows clearly high graph modularity (z = +2.1).'
    """
    if length not in LENGTHS:
        raise ValueError(f"Unknown length {length!r}; choose from {', '.join(LENGTHS)}.")
    if not facts:
        raise ValueError("There are no facts to describe: none of the scan's features could be compared.")
    unknown = {fact_measure(fact) for fact in facts} - NOUNS.keys()
    if unknown:
        raise ValueError(f"There are no words for {', '.join(sorted(unknown))}. Pass facts of CohortReference.facts.")
    return write_text(select_facts(facts, length), length, seed)


def write_text(paragraphs: Sequence[Sequence[Mapping[str, Any]]], length: Length, seed: int) -> str:
    """Write the text for the facts that `select_facts` has chosen for a length."""
    rng = random.Random(f"{seed}/{length}")
    other_acquisition = any(f.get("relative_to") == OTHER_ACQUISITIONS for facts in paragraphs for f in facts)
    texts: list[str] = []
    for chosen in paragraphs:
        statements = _group(chosen)
        if length != "full":
            rng.shuffle(statements)
        # Extremes come last, in sentences of their own: an opener such as "Relative to the cohort" would be wrong.
        ordinary = [facts for facts in statements if not _is_extreme(facts)]
        extremes = [facts for facts in statements if _is_extreme(facts)]
        step = len(statements) if length == "sentence" else 2
        sentences: list[str] = []
        for group in (ordinary, extremes):
            for k in range(0, len(group), step):
                openers = _openers(not (texts or sentences), other_acquisition, group is extremes)
                sentences.append(_sentence(group[k : k + step], rng.choice(openers), rng))
        texts.append(" ".join(sentences))
    return ("\n" if length == "full" else " ").join(texts)


def _openers(is_first: bool, other_acquisition: bool, extreme: bool) -> tuple[str, ...]:
    if is_first and other_acquisition:
        return _OTHER_OPENERS
    if extreme:
        return ("",)
    return _OPENERS if is_first else ("",) * 6 + _OPENERS  # after the first sentence in one of three


def select_facts(facts: Sequence[Mapping[str, Any]], length: Length) -> list[list[Mapping[str, Any]]]:
    """Select the facts for a description of a given length, one list for each paragraph; nothing is random here.

    Facts whose direction is undecided (`facts.is_decided`) are not stated, unless there are no others.
    """
    families: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for fact in [f for f in facts if fact_measure(f) in EXTREME_MEASURES or is_decided(f)] or facts:
        families.setdefault(fact["family"], {}).setdefault(fact_measure(fact), []).append(fact)
    if length == "sentence":
        measures = {name: same for family in families.values() for name, same in family.items()}
        ordinary = {name: same for name, same in measures.items() if name not in EXTREME_MEASURES}
        return [_most_deviating(ordinary or measures, _PER_SENTENCE)]
    paragraphs = []
    for measures in families.values():
        extremes = [fact for name in EXTREME_MEASURES for fact in measures.pop(name, [])]
        if length == "paragraph":
            chosen = _most_deviating(measures, _PER_FAMILY)
        else:
            chosen = []
            for same in measures.values():
                chosen += [fact for fact in same if not fact["network"]]
                ranked = sorted((fact for fact in same if fact["network"]), key=_by_deviation)
                chosen += [f for f in ranked if f["direction"] != "typical"][:_PER_MEASURE] or ranked[:1]
        paragraphs.append(chosen + extremes)
    return paragraphs


def _by_deviation(fact: Mapping[str, Any]) -> tuple[float, str]:
    return -abs(fact["z"]), fact["feature"]


def _most_deviating(measures: Mapping[str, Sequence[Mapping[str, Any]]], n: int) -> list[Mapping[str, Any]]:
    """Return the most deviating fact of each of the `n` most deviating measures."""
    return sorted((min(facts, key=_by_deviation) for facts in measures.values()), key=_by_deviation)[:n]


def _group(facts: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group facts that fit into one statement: the same measure, direction and number of networks."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for fact in facts:
        groups.setdefault((fact_measure(fact), fact["direction"], len(fact["network"])), []).append(fact)
    return list(groups.values())


def _is_extreme(facts: Sequence[Mapping[str, Any]]) -> bool:
    return fact_measure(facts[0]) in EXTREME_MEASURES


def _sentence(statements: Sequence[Sequence[Mapping[str, Any]]], opener: str, rng: random.Random) -> str:
    text = opener
    for k, facts in enumerate(statements):
        if k:
            contrasts = facts[0]["direction"] != statements[k - 1][0]["direction"] and not _is_extreme(facts)
            conjunctions = _CONTRASTS if contrasts else _ADDITIONS
            # only one conjunction a sentence: in "..., while ..., but ..." it is unclear what contrasts with what
            text += rng.choice(conjunctions) if k == 1 else "; "
        text += _statement(facts, text, rng)
    first_word = text.split(" ", 1)[0]
    if first_word == first_word.lower():  # fALFF stays as it is
        text = text[0].upper() + text[1:]
    return text + "."


def _statement(facts: Sequence[Mapping[str, Any]], before: str, rng: random.Random) -> str:
    """Draw a statement that fits the beginning of its sentence, `before`."""
    measure = fact_measure(facts[0])
    noun = rng.choice(NOUNS[measure])
    if measure in EXTREME_MEASURES:
        return render_statement(facts, noun, rng.choice(EXTREME_FORMS), "", rng.choice(_EXTREME_STYLES))
    forms: Iterable[str] = FORMS
    if len(facts) > 1 or not facts[0]["network"] or before in _OPENERS + _OTHER_OPENERS:
        forms = [form for form in forms if "{front}" not in form]
    # not "Compared with the cohort, ... is above the cohort mean"
    if before in _OPENERS + _OTHER_OPENERS:
        forms = [form for form in forms if "{relation}" not in form]
    if "the scan " in before:  # once a sentence
        forms = [form for form in forms if "{described}" not in form]
    form = rng.choice(list(forms))
    phrase = rng.choice(direction_phrases(facts, form))
    # not "above the cohort mean (2.1 SD above the mean)"
    styles = [style for style in NUMBER_STYLES if not ("{relation}" in form and "{side}" in style)]
    return render_statement(facts, noun, form, phrase, rng.choice(styles))


def direction_phrases(facts: Sequence[Mapping[str, Any]], form: str) -> list[str]:
    """Return the phrases for the direction of some facts that fit into a form, with degrees that hold for all facts."""
    direction = facts[0]["direction"]
    if "{relation}" in form:
        return list(RELATIONS[direction])
    phrases = list(ADJECTIVES[direction])
    sizes = [abs(fact["z"]) for fact in facts]
    degree = "marked" if min(sizes) >= MARKED_Z else "mild" if max(sizes) < MILD_Z else ""
    if direction != "typical" and degree:
        phrases += [f"{adverb} {phrase}" for adverb in DEGREES[degree] for phrase in ADJECTIVES[direction]]
    return phrases


def render_statement(facts: Sequence[Mapping[str, Any]], noun: str, form: str, phrase: str, number_style: str) -> str:
    """Render a statement, without capital letter and full stop.

    Parameters
    ----------
    facts : sequence of fact
        Facts of the same measure, direction and number of networks.
    noun : str
        One of ``NOUNS`` of the measure.
    form : str
        One of `FORMS` (with ``{front}`` only for one fact about networks), or of `EXTREME_FORMS`.
    phrase : str
        One of `direction_phrases` of the facts and the form; not used by `EXTREME_FORMS`.
    number_style : str
        One of `NUMBER_STYLES`.
    """
    if fact_measure(facts[0]).startswith("ica/") and not facts[0]["network"]:
        noun = f"overall {noun}"
    numbers = [_number(fact, number_style) for fact in facts]
    article = "an" if phrase.startswith(("a", "e", "i", "o", "unr")) else "a"
    countable = _is_countable(noun)
    return form.format(
        noun=noun,
        subject=f"the {noun}" if countable else noun,
        described=f"{article} {phrase} {noun}" if countable else f"{phrase} {noun}",
        adjective=phrase,
        relation=phrase,
        places=_places(facts, numbers),
        front=_places(facts, [""] * len(facts)).strip(),
        number=numbers[0],
    )


_COUNTABLE = {
    "coefficient",
    "extent",
    "position",
    "range",
    "rate",
    "ratio",
    "score",
    "share",
    "value",
    "variance",
}


def _is_countable(noun: str) -> bool:
    """Whether a noun needs an article: "the outlier rate", but "modularity"."""
    return noun.split(" of ")[0].split(" on ")[0].split()[-1] in _COUNTABLE


def _number(fact: Mapping[str, Any], style: str) -> str:
    z = fact["z"] if abs(fact["z"]) >= 0.05 else 0.0  # or texts would have "z = -0.0"
    side = "above" if z > 0 else "below" if z < 0 else "from"
    return style.format(value=fact["value"], units=fact["units"], z=z, size=abs(z), side=side)


def _places(facts: Sequence[Mapping[str, Any]], numbers: Sequence[str]) -> str:
    """Render the networks of the facts, each followed by its number; the number alone for the whole scan."""
    networks = [fact["network"] for fact in facts]
    if not networks[0]:
        return numbers[0]
    if len(facts) == 1 and len(set(networks[0])) == 2:
        first, second = networks[0]
        return f" between the {first} and {second} networks{numbers[0]}"
    if len(networks[0]) == 1:
        if len(facts) == 1:
            return f" in the {networks[0][0]} network{numbers[0]}"
        names = [f"{name}{number}" for (name,), number in zip(networks, numbers, strict=True)]
        return f" in the {_enumerate(names)} networks"
    pairs = [
        f"within the {first} network{number}" if first == second else f"between {first} and {second}{number}"
        for (first, second), number in zip(networks, numbers, strict=True)
    ]
    return f" {_enumerate(pairs)}"


def _enumerate(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


# ----- descriptions of subjects -----

SUBJECT_TEXT_COLUMN = "subject_description"
DEMOGRAPHICS = ("age", "sex", "handedness", "education_years", "diagnosis")

_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_OPENINGS = (
    "The data are from {person}.",
    "This is a scan of {person}.",
    "The scan was taken from {person}.",
)
_SENTENCES = {
    "handedness": ("Handedness: {value}.", "The handedness of the participant is {value}."),
    "education_years": ("Education: {value} years.", "The participant had {value} years of education."),
    "diagnosis": ("Diagnosis: {value}.", "The diagnosis of the participant is {value}."),
}
_OTHER = ("{name}: {value}.", "For {name}, the value is {value}.", "The participant's {name} is {value}.")


def describe_subject(
    row: Mapping[str, Any],
    columns: Collection[str] = DEMOGRAPHICS,
    exclude: Collection[str] = (),
    seed: int = 0,
) -> str:
    """Describe the subject of a scan, for a column of its own (`SUBJECT_TEXT_COLUMN`).

    A prompt that asks for a label must not contain it: list the label, and all columns that reveal it, in `exclude`.
    The text does not depend on excluded columns in any way.

    Parameters
    ----------
    row : mapping
        A row of a scan dataset.
    columns : collection of str
        Columns to state, such as ``(*DEMOGRAPHICS, "fluid_intelligence")``. Missing values, and demographic columns
        that the dataset does not have, are skipped; any other column must exist.
    exclude : collection of str
        Columns that the text must not reveal.
    seed : int
        Seed of the wording.

    Returns
    -------
    str
        Empty if no value is known.

    Examples
    --------
    >>> describe_subject({"age": 31, "sex": "F", "diagnosis": "control"}, exclude=["diagnosis"])
    'This is a scan of a 31-year-old female participant.'
    """
    absent = [column for column in columns if column not in row and column not in DEMOGRAPHICS]
    if absent:
        raise ValueError(f"The row has no column {', '.join(absent)}; it has {', '.join(row)}.")
    known = {
        column: _readable(row[column])
        for column in columns
        if column in row and column not in exclude and not _is_missing(row[column])
    }
    rng = random.Random(seed)
    sentences = []
    age, sex = known.pop("age", ""), known.pop("sex", "")
    if age or sex:
        words = [f"{age}-year-old"] if age else []
        words += [_SEXES.get(sex.lower(), f"(sex: {sex})")] if sex else []
        article = "an" if age.startswith("8") or age.split(".")[0] in ("11", "18") else "a"
        sentences.append(rng.choice(_OPENINGS).format(person=f"{article} {' '.join(words)} participant"))
    for column, value in known.items():
        name = column.replace("_", " ")
        sentence = rng.choice(_SENTENCES.get(column, _OTHER)).format(name=name, value=value)
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or str(value).strip().lower() in ("", "n/a", "nan", "none")


def _readable(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, Real) else str(value).strip()
