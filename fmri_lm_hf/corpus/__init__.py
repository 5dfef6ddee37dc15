"""From scans to text: the cohort reference, facts, prose and the check of prose against facts."""

from .facts import Fact
from .faithfulness import Faithfulness, Rewrite, faithfulness, rewrite
from .prose import SUBJECT_TEXT_COLUMN, describe_subject, select_facts, verbalise
from .reference import CohortReference

__all__ = [
    "SUBJECT_TEXT_COLUMN",
    "CohortReference",
    "Fact",
    "Faithfulness",
    "Rewrite",
    "describe_subject",
    "faithfulness",
    "rewrite",
    "select_facts",
    "verbalise",
]
