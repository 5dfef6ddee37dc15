"""From scans to text: the cohort reference, facts, prose and the check of prose against facts."""

from .facts import Fact
from .faithfulness import Faithfulness, Rewrite, faithfulness, rewrite
from .prose import SUBJECT_TEXT_COLUMN, describe_subject, select_facts, verbalise
from .queries import CheckedStatement, PairTruth, check_statements, display_text, pair_truth
from .reference import CohortReference

__all__ = [
    "SUBJECT_TEXT_COLUMN",
    "CheckedStatement",
    "CohortReference",
    "Fact",
    "Faithfulness",
    "PairTruth",
    "Rewrite",
    "check_statements",
    "describe_subject",
    "display_text",
    "faithfulness",
    "pair_truth",
    "rewrite",
    "select_facts",
    "verbalise",
]
