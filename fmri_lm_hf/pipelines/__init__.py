"""Pipelines: a scan in, an answer out."""

from .fmri_to_text import FmriToTextPipeline
from .zero_shot_classification import FmriZeroShotClassificationPipeline

PIPELINES = {
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
}

__all__ = ["PIPELINES", "FmriToTextPipeline", "FmriZeroShotClassificationPipeline"]
