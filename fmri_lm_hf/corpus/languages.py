"""Templates of questions about network pairs and their answers, in several languages.

They are in `languages.json`; to add a language, add it there. The bundled model was trained on the English ones. Names
of networks stay as in the atlas. Descriptions are in English only, the one language that the checker reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Language:
    """Templates of questions about network pairs and their answers.

    Attributes
    ----------
    bins : tuple of str
        The five bins of a pair's connectivity, from the lowest.
    between, within : str
        A pair of networks, ``{first}`` and ``{second}``, and the connectivity within one, ``{first}``.
    ask_bin : tuple of str
        Questions for the bin of a ``{pair}``.
    ask_extreme : mapping of str to tuple of str
        Questions for the "strongest" and the "weakest" pair.
    ask_comparison : tuple of str
        Questions whether the pair ``{first}`` is stronger than the pair ``{second}``.
    yes, no : str
    ask_scans : tuple of str
        Questions which of two scans has the stronger ``{pair}``.
    first_scan, second_scan : str
        Their answers, which differ from the first token on: there the model attends to both scans.
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
        return {name: _as_tuples(entry) for name, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


_WORDINGS = json.loads(Path(__file__).with_name("languages.json").read_text(encoding="utf-8"))
LANGUAGES = {code: Language(**_as_tuples(wordings)) for code, wordings in _WORDINGS.items()}
ENGLISH = LANGUAGES["en"]


def language_of(code: str) -> Language:
    """Return the language of a two-letter code.

    Raises
    ------
    ValueError
        If there are no templates for it.
    """
    if code not in LANGUAGES:
        raise ValueError(f"There are no templates in {code!r}, only in {', '.join(LANGUAGES)}.")
    return LANGUAGES[code]
