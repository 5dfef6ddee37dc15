"""From scans to text: the cohort reference, facts, prose, the check of prose against facts, questions about one scan.

Names are loaded when they are first used: who asks about a scan needs no cohort, and who evaluates builds no corpus.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..deprecation import warn_renamed

if TYPE_CHECKING:
    from .check import Rewrite, TextCheck, check_text, rewrite
    from .facts import Fact
    from .prose import SUBJECT_TEXT_COLUMN, describe_subject, select_facts, verbalise
    from .queries import CheckedStatement, PairTruth, check_statements, display_text, pair_truth
    from .reference import CohortReference

_MODULES = {
    "check": ("Rewrite", "TextCheck", "check_text", "rewrite"),
    "facts": ("Fact",),
    "prose": ("SUBJECT_TEXT_COLUMN", "describe_subject", "select_facts", "verbalise"),
    "queries": ("CheckedStatement", "PairTruth", "check_statements", "display_text", "pair_truth"),
    "reference": ("CohortReference",),
}
_RENAMED = {"Faithfulness": "TextCheck", "faithfulness": "check_text"}

__all__ = [
    "SUBJECT_TEXT_COLUMN",
    "CheckedStatement",
    "CohortReference",
    "Fact",
    "PairTruth",
    "Rewrite",
    "TextCheck",
    "check_statements",
    "check_text",
    "describe_subject",
    "display_text",
    "pair_truth",
    "rewrite",
    "select_facts",
    "verbalise",
]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warn_renamed(f"fmri_lm_hf.corpus.{name}", _RENAMED[name])
        name = _RENAMED[name]
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
