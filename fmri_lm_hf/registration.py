"""Registration of this package's classes and pipelines with the Auto classes of transformers."""

from __future__ import annotations

import functools
import os
import sys


def is_command() -> bool:
    """Whether this process runs `fmri-lm`, which calls `register` itself, before it loads models."""
    # Not by `sys.argv[0]`: under `-m` it does not name the program yet, and processes that the command spawns inherit
    # its `sys.argv`, although they never come to `main` and have to register at import, as any program does. The
    # interpreter's own command line (`sys.orig_argv`) ends with the name of the program and its arguments.
    program = (sys.orig_argv[-len(sys.argv) :] or [""])[0]
    return program == "fmri_lm_hf.cli" or os.path.basename(program) in ("fmri-lm", "fmri-lm.exe")


def register() -> None:
    """Register configurations, models, feature extractor, processor and pipelines; later calls do nothing."""
    register_models()
    register_pipelines()


@functools.cache
def register_models() -> None:
    """Register all but the pipelines: what a command needs, which loads models and never a pipeline."""
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        AutoProcessor,
    )

    from .models.configuration_fmri_lm import FmriLMConfig
    from .models.configuration_fmri_tokenizer import FmriTokenizerConfig
    from .models.feature_extraction_fmri import FmriFeatureExtractor
    from .models.modeling_fmri_lm import FmriLMForCausalLM
    from .models.modeling_fmri_lm_classification import FmriLMForSequenceClassification
    from .models.modeling_fmri_tokenizer import FmriTokenizer
    from .models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
    from .models.processing_fmri_lm import FmriLMProcessor

    AutoConfig.register("fmri_tokenizer", FmriTokenizerConfig, exist_ok=True)
    AutoModel.register(FmriTokenizerConfig, FmriTokenizer, exist_ok=True)
    AutoModelForPreTraining.register(FmriTokenizerConfig, FmriTokenizerForPreTraining, exist_ok=True)
    AutoFeatureExtractor.register(FmriTokenizerConfig, FmriFeatureExtractor, exist_ok=True)

    AutoConfig.register("fmri_lm", FmriLMConfig, exist_ok=True)
    AutoModel.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
    AutoModelForCausalLM.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(FmriLMConfig, FmriLMForSequenceClassification, exist_ok=True)
    AutoFeatureExtractor.register(FmriLMConfig, FmriFeatureExtractor, exist_ok=True)
    AutoProcessor.register(FmriLMConfig, FmriLMProcessor, exist_ok=True)


@functools.cache
def register_pipelines() -> None:
    """Register the pipelines."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipelines import PIPELINES

    for task, pipeline_class in PIPELINES.items():
        # a tokenizer turns scans into vectors, too; text needs a language model
        auto = AutoModel if task == "fmri-feature-extraction" else AutoModelForCausalLM
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=auto, type="multimodal")
