"""Templates of the questions about network pairs, and of their answers, in several languages.

Names of networks stay as the atlas has them. Descriptions are in English alone: the checker reads no other language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """How network pairs are asked about and answered for.

    Attributes
    ----------
    bins : tuple of str
        The five levels of a pair's connectivity, from the lowest.
    between, within : str
        A pair of networks, ``{first}`` and ``{second}``, and what lies in one, ``{first}``.
    ask_bin : tuple of str
        Wordings, with ``{pair}``.
    ask_extreme : mapping of str to tuple of str
        Wordings for the "strongest" and the "weakest" pair.
    ask_comparison : tuple of str
        Wordings, with ``{first}`` and ``{second}``, two pairs.
    yes, no : str
    ask_scans : tuple of str
        Wordings that ask which of two scans has the stronger ``{pair}``.
    first_scan, second_scan : str
        Answers that differ from their first token on, since that is where the scans are looked up.
    """

    bins: tuple[str, ...]
    between: str
    within: str
    ask_bin: tuple[str, ...]
    ask_extreme: Mapping[str, tuple[str, ...]]
    ask_comparison: tuple[str, ...]
    yes: str
    no: str
    ask_scans: tuple[str, ...]
    first_scan: str
    second_scan: str


ENGLISH = Language(
    bins=("markedly low", "low", "moderate", "high", "markedly high"),
    between="between {first} and {second}",
    within="within {first}",
    ask_bin=(
        "Connectivity {pair}?",
        "How strong is connectivity {pair}?",
        "What is the level of connectivity {pair} within this scan?",
        "Within this scan, how high is the coupling {pair}?",
        "How would you grade connectivity {pair}?",
        "Is connectivity {pair} high or low?",
    ),
    ask_extreme={
        "strongest": (
            "Which two networks are coupled most strongly?",
            "Which is the strongest network pair within this scan?",
            "Between which networks lies the strongest connection?",
        ),
        "weakest": (
            "Which two networks are coupled most weakly?",
            "Which is the weakest network pair within this scan?",
            "Between which networks lies the weakest connection?",
        ),
    },
    ask_comparison=(
        "Is connectivity {first} higher than {second}?",
        "Is the coupling {first} stronger than {second}?",
        "Within this scan, is connectivity higher {first} than {second}?",
    ),
    yes="yes",
    no="no",
    ask_scans=(
        "Which of these two scans has the stronger connectivity {pair}?",
        "Is connectivity {pair} stronger in the first scan or in the second one?",
        "In which of the scans is the coupling {pair} higher?",
    ),
    first_scan="first",
    second_scan="second",
)
FRENCH = Language(
    bins=("nettement basse", "basse", "moyenne", "élevée", "nettement élevée"),
    between="entre {first} et {second}",
    within="au sein de {first}",
    ask_bin=(
        "Connectivité {pair} ?",
        "Quelle est la force de la connectivité {pair} ?",
        "Quel est le niveau de la connectivité {pair} dans cet examen ?",
        "Dans cet examen, à quel point le couplage {pair} est-il fort ?",
        "Comment jugez-vous la connectivité {pair} ?",
        "La connectivité {pair} est-elle élevée ou basse ?",
    ),
    ask_extreme={
        "strongest": (
            "Quels sont les deux réseaux les plus fortement couplés ?",
            "Quelle est la paire de réseaux la plus forte de cet examen ?",
            "Entre quels réseaux se trouve la connexion la plus forte ?",
        ),
        "weakest": (
            "Quels sont les deux réseaux les plus faiblement couplés ?",
            "Quelle est la paire de réseaux la plus faible de cet examen ?",
            "Entre quels réseaux se trouve la connexion la plus faible ?",
        ),
    },
    ask_comparison=(
        "La connectivité {first} est-elle plus élevée que {second} ?",
        "Le couplage {first} est-il plus fort que {second} ?",
        "Dans cet examen, la connectivité est-elle plus élevée {first} que {second} ?",
    ),
    yes="oui",
    no="non",
    ask_scans=(
        "Lequel de ces deux examens a la connectivité {pair} la plus forte ?",
        "La connectivité {pair} est-elle plus forte dans le premier examen ou dans le second ?",
        "Dans lequel des examens le couplage {pair} est-il plus élevé ?",
    ),
    first_scan="premier",
    second_scan="second",
)
GERMAN = Language(
    bins=("deutlich niedrig", "niedrig", "mittel", "hoch", "deutlich hoch"),
    between="zwischen {first} und {second}",
    within="innerhalb von {first}",
    ask_bin=(
        "Konnektivität {pair}?",
        "Wie stark ist die Konnektivität {pair}?",
        "Welche Stufe hat die Konnektivität {pair} in dieser Aufnahme?",
        "Wie hoch ist in dieser Aufnahme die Kopplung {pair}?",
        "Wie würden Sie die Konnektivität {pair} einstufen?",
        "Ist die Konnektivität {pair} hoch oder niedrig?",
    ),
    ask_extreme={
        "strongest": (
            "Welche zwei Netzwerke sind am stärksten gekoppelt?",
            "Welches ist das stärkste Netzwerkpaar in dieser Aufnahme?",
            "Zwischen welchen Netzwerken liegt die stärkste Verbindung?",
        ),
        "weakest": (
            "Welche zwei Netzwerke sind am schwächsten gekoppelt?",
            "Welches ist das schwächste Netzwerkpaar in dieser Aufnahme?",
            "Zwischen welchen Netzwerken liegt die schwächste Verbindung?",
        ),
    },
    ask_comparison=(
        "Ist die Konnektivität {first} höher als {second}?",
        "Ist die Kopplung {first} stärker als {second}?",
        "Ist die Konnektivität in dieser Aufnahme {first} höher als {second}?",
    ),
    yes="ja",
    no="nein",
    ask_scans=(
        "Welche dieser zwei Aufnahmen hat die stärkere Konnektivität {pair}?",
        "Ist die Konnektivität {pair} in der ersten Aufnahme stärker oder in der zweiten?",
        "In welcher der Aufnahmen ist die Kopplung {pair} höher?",
    ),
    first_scan="erste",
    second_scan="zweite",
)
LANGUAGES = {"en": ENGLISH, "fr": FRENCH, "de": GERMAN}


def language_of(code: str) -> Language:
    """The language of a two-letter code.

    Raises
    ------
    ValueError
        Where there are no templates for it.
    """
    if code not in LANGUAGES:
        raise ValueError(f"There are no templates in {code!r}, only in {', '.join(LANGUAGES)}.")
    return LANGUAGES[code]
