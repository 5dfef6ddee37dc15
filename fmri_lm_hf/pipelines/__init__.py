"""Pipelines: a scan in, an answer out. Their code lies beside the models, so that a checkpoint can carry it."""

from ..models.pipeline_fmri_to_text import FmriToTextPipeline
from ..models.pipeline_zero_shot_classification import FmriZeroShotClassificationPipeline

PIPELINES = {
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
}

__all__ = ["PIPELINES", "FmriToTextPipeline", "FmriZeroShotClassificationPipeline"]
