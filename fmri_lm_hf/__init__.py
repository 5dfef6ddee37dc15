"""Language models that read fMRI scans, native to the Hugging Face ecosystem.

Importing the package registers its classes with the Auto classes and the pipelines of transformers.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .__about__ import __version__
from .atlas import Atlas
from .configuration_fmri_lm import FmriLMConfig
from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .feature_extraction_fmri import FmriFeatureExtractor
from .modeling_fmri_lm import FmriLMForCausalLM
from .modeling_fmri_tokenizer import FmriTokenizer
from .pipelines import FmriToTextPipeline, FmriZeroShotClassificationPipeline
from .processing_fmri_lm import FmriLMProcessor
from .roi_signals import ScanError

AutoConfig.register("fmri_tokenizer", FmriTokenizerConfig, exist_ok=True)
AutoConfig.register("fmri_lm", FmriLMConfig, exist_ok=True)
AutoModel.register(FmriTokenizerConfig, FmriTokenizer, exist_ok=True)
AutoModel.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
AutoFeatureExtractor.register(FmriTokenizerConfig, FmriFeatureExtractor, exist_ok=True)
AutoFeatureExtractor.register(FmriLMConfig, FmriFeatureExtractor, exist_ok=True)
AutoProcessor.register(FmriLMConfig, FmriLMProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "fmri-zero-shot-classification",
    pipeline_class=FmriZeroShotClassificationPipeline,
    pt_model=AutoModelForCausalLM,
    type="multimodal",
)
PIPELINE_REGISTRY.register_pipeline(
    "fmri-to-text", pipeline_class=FmriToTextPipeline, pt_model=AutoModelForCausalLM, type="multimodal"
)

__all__ = [
    "Atlas",
    "FmriFeatureExtractor",
    "FmriLMConfig",
    "FmriLMForCausalLM",
    "FmriLMProcessor",
    "FmriToTextPipeline",
    "FmriTokenizer",
    "FmriTokenizerConfig",
    "FmriZeroShotClassificationPipeline",
    "ScanError",
    "__version__",
]
