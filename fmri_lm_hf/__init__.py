"""Language models that read fMRI scans, native to the Hugging Face ecosystem.

After ``import fmri_lm_hf`` the Auto classes and the pipelines of transformers know the classes of this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .__about__ import __version__
from .registration import is_command, register

if TYPE_CHECKING:
    from .bundled import example_scan, load_bundled_model
    from .models.atlas import Atlas
    from .models.configuration_fmri_lm import FmriLMConfig
    from .models.configuration_fmri_tokenizer import FmriTokenizerConfig
    from .models.feature_extraction_fmri import FmriFeatureExtractor
    from .models.modeling_fmri_lm import FmriLMForCausalLM
    from .models.modeling_fmri_lm_classification import FmriLMForSequenceClassification
    from .models.modeling_fmri_tokenizer import FmriTokenizer
    from .models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
    from .models.pipelines import (
        FmriDecisionPipeline,
        FmriFeatureExtractionPipeline,
        FmriToTextPipeline,
        FmriZeroShotClassificationPipeline,
    )
    from .models.processing_fmri_lm import FmriLMProcessor
    from .models.scan_errors import ScanError
    from .pipelines import FmriHypothesisPipeline, FmriQuestionAnsweringPipeline
    from .training.backbone import load_text_backbone

# The module of each public name, imported when the name is first used: `import fmri_lm_hf` loads neither training
# nor the bundled model.
_HOME = {
    "Atlas": ".models.atlas",
    "FmriDecisionPipeline": ".models.pipelines",
    "FmriFeatureExtractionPipeline": ".models.pipelines",
    "FmriFeatureExtractor": ".models.feature_extraction_fmri",
    "FmriHypothesisPipeline": ".pipelines",
    "FmriLMConfig": ".models.configuration_fmri_lm",
    "FmriLMForCausalLM": ".models.modeling_fmri_lm",
    "FmriLMForSequenceClassification": ".models.modeling_fmri_lm_classification",
    "FmriLMProcessor": ".models.processing_fmri_lm",
    "FmriQuestionAnsweringPipeline": ".pipelines",
    "FmriToTextPipeline": ".models.pipelines",
    "FmriTokenizer": ".models.modeling_fmri_tokenizer",
    "FmriTokenizerConfig": ".models.configuration_fmri_tokenizer",
    "FmriTokenizerForPreTraining": ".models.modeling_fmri_tokenizer_pretraining",
    "FmriZeroShotClassificationPipeline": ".models.pipelines",
    "ScanError": ".models.scan_errors",
    "example_scan": ".bundled",
    "load_bundled_model": ".bundled",
    "load_reader": ".bundled",  # the old name of load_bundled_model
    "load_text_backbone": ".training.backbone",
}

__all__ = [
    "Atlas",
    "FmriDecisionPipeline",
    "FmriFeatureExtractionPipeline",
    "FmriFeatureExtractor",
    "FmriHypothesisPipeline",
    "FmriLMConfig",
    "FmriLMForCausalLM",
    "FmriLMForSequenceClassification",
    "FmriLMProcessor",
    "FmriQuestionAnsweringPipeline",
    "FmriToTextPipeline",
    "FmriTokenizer",
    "FmriTokenizerConfig",
    "FmriTokenizerForPreTraining",
    "FmriZeroShotClassificationPipeline",
    "ScanError",
    "__version__",
    "example_scan",
    "load_bundled_model",
    "load_text_backbone",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


# The command registers itself, and only before it loads models: its help need not wait for torch.
if not is_command():
    register()
