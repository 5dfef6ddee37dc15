"""From scans to text: the cohort reference, facts, prose and the check of prose against facts."""

from .facts import Fact
from .faithfulness import Faithfulness, faithfulness
from .prose import select_facts, verbalise
from .reference import CohortReference
from .rewriting import Rewrite, rewrite
from .subjects import SUBJECT_TEXT_COLUMN, describe_subject

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
