"""Questions about network pairs, and their answers, in several languages.

The wordings are in `languages.json`: a language is added there. The bundled model was trained on the English ones.
Names of networks stay as the atlas has them. Descriptions are in English alone: the checker reads no other language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Language:
    """How questions about network pairs and their answers are worded.

    Attributes
    ----------
    bins : tuple of str
        The five bins of a pair's connectivity, from the lowest.
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


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tuples(each) for name, each in value.items()}
    return tuple(value) if isinstance(value, list) else value


_WORDINGS = json.loads(Path(__file__).with_name("languages.json").read_text(encoding="utf-8"))
LANGUAGES = {code: Language(**_as_tuples(wordings)) for code, wordings in _WORDINGS.items()}
ENGLISH = LANGUAGES["en"]


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
