"""Scans to text: facts of a scan, prose that states them, a check of texts against facts, questions about a scan.

`CohortReference` is imported when it is first used, since questions about a single scan need no cohort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..deprecation import renamed_attributes
from .check import Rewrite, TextCheck, check_text, rewrite
from .facts import Fact
from .prose import SUBJECT_TEXT_COLUMN, describe_subject, select_facts, verbalise
from .queries import CheckedStatement, PairTruth, check_statements, display_text, pair_truth, scan_facts

if TYPE_CHECKING:
    from .reference import CohortReference

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
    "scan_facts",
    "select_facts",
    "verbalise",
]

_find_renamed = renamed_attributes(__name__, {"Faithfulness": "TextCheck", "faithfulness": "check_text"})


def __getattr__(name: str) -> Any:
    if name == "CohortReference":
        from .reference import CohortReference

        return CohortReference
    return _find_renamed(name)
