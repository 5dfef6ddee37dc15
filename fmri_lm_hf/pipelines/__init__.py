"""Pipelines: a scan in, an answer out. Their code lies beside the models, so that a checkpoint can carry it."""

from ..models.pipeline_decision import FmriDecisionPipeline
from ..models.pipeline_feature_extraction import FmriFeatureExtractionPipeline
from ..models.pipeline_fmri_to_text import FmriToTextPipeline
from ..models.pipeline_zero_shot_classification import FmriZeroShotClassificationPipeline
from .hypothesis import FmriHypothesisPipeline

PIPELINES = {
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
    "fmri-decision": FmriDecisionPipeline,
    "fmri-hypothesis": FmriHypothesisPipeline,
    "fmri-feature-extraction": FmriFeatureExtractionPipeline,
}

__all__ = [
    "PIPELINES",
    "FmriDecisionPipeline",
    "FmriFeatureExtractionPipeline",
    "FmriHypothesisPipeline",
    "FmriToTextPipeline",
    "FmriZeroShotClassificationPipeline",
]
