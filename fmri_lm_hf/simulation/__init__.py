"""Cohorts with known ground truth: simulated scans in which sex, diagnosis and age leave planted marks."""

from __future__ import annotations

from .cohort import (
    DEFAULT_SITES,
    SimulatedCohort,
    cohort_features,
    iter_cohort,
    oracle_scores,
    simulate_cohort,
)
from .population import Effect, Population, Site, Variability, default_effects

__all__ = [
    "DEFAULT_SITES",
    "Effect",
    "Population",
    "SimulatedCohort",
    "Site",
    "Variability",
    "cohort_features",
    "default_effects",
    "iter_cohort",
    "oracle_scores",
    "simulate_cohort",
]
