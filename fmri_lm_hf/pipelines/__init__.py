"""Pipelines: a scan in, an answer out."""

from .fmri_to_text import FmriToTextPipeline
from .zero_shot_classification import FmriZeroShotClassificationPipeline

__all__ = ["FmriToTextPipeline", "FmriZeroShotClassificationPipeline"]
