"""Pipelines: a scan in, an answer out."""

from .fmri_to_text import FmriToTextPipeline
from .hypothesis import FmriHypothesisPipeline
from .zero_shot_classification import FmriZeroShotClassificationPipeline

PIPELINES = {
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
    "fmri-hypothesis": FmriHypothesisPipeline,
}

__all__ = ["PIPELINES", "FmriHypothesisPipeline", "FmriToTextPipeline", "FmriZeroShotClassificationPipeline"]
