"""From scans to text: the cohort reference, facts, prose and the check of prose against facts."""

from .facts import Fact
from .prose import verbalise
from .reference import CohortReference

__all__ = ["CohortReference", "Fact", "verbalise"]
