"""Make the classes of this package known to transformers, at the moment when transformers needs them.

Registering needs the classes themselves, and with them torch: seconds that a command's ``--help`` should not take.
So each registration waits until the module of transformers that keeps the registry has been imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass
class _Registration:
    """One kind of class, and what has to be there before it can be registered.

    Attributes
    ----------
    register : callable
    registry : str
        Module of transformers that keeps the registry.
    complete : dict of str to str
        Modules, of transformers and of this package, that must not be in the midst of their own import; each with a
        name that it has once it is complete.
    is_done : bool
    """

    register: Callable[[], None]
    registry: str
    complete: dict[str, str]
    is_done: bool = False

    def __call__(self) -> None:
        """Register if all is there. A module in the midst of its import calls again when it is complete."""
        in_midst = (
            name in sys.modules and not hasattr(sys.modules[name], last)
            for name, last in self.complete.items()
        )
        if self.is_done or self.registry not in sys.modules or any(in_midst):
            return
        self.is_done = True
        self.register()


def _register_configs() -> None:
    from transformers import AutoConfig

    from .models.configuration_fmri_lm import FmriLMConfig
    from .models.configuration_fmri_tokenizer import FmriTokenizerConfig

    AutoConfig.register("fmri_tokenizer", FmriTokenizerConfig, exist_ok=True)
    AutoConfig.register("fmri_lm", FmriLMConfig, exist_ok=True)


def _register_models() -> None:
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
    )

    from .models.configuration_fmri_lm import FmriLMConfig
    from .models.configuration_fmri_tokenizer import FmriTokenizerConfig
    from .models.modeling_fmri_lm import FmriLMForCausalLM
    from .models.modeling_fmri_lm_classification import FmriLMForSequenceClassification
    from .models.modeling_fmri_tokenizer import FmriTokenizer
    from .models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining

    AutoModel.register(FmriTokenizerConfig, FmriTokenizer, exist_ok=True)
    AutoModelForPreTraining.register(FmriTokenizerConfig, FmriTokenizerForPreTraining, exist_ok=True)
    AutoModel.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
    AutoModelForCausalLM.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(FmriLMConfig, FmriLMForSequenceClassification, exist_ok=True)


def _register_feature_extractor() -> None:
    from transformers import AutoFeatureExtractor

    from .models.configuration_fmri_lm import FmriLMConfig
    from .models.configuration_fmri_tokenizer import FmriTokenizerConfig
    from .models.feature_extraction_fmri import FmriFeatureExtractor

    AutoFeatureExtractor.register(FmriTokenizerConfig, FmriFeatureExtractor, exist_ok=True)
    AutoFeatureExtractor.register(FmriLMConfig, FmriFeatureExtractor, exist_ok=True)


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .models.configuration_fmri_lm import FmriLMConfig
    from .models.processing_fmri_lm import FmriLMProcessor

    AutoProcessor.register(FmriLMConfig, FmriLMProcessor, exist_ok=True)


def _register_pipelines() -> None:
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipelines import PIPELINES

    for task, pipeline_class in PIPELINES.items():
        # scans become vectors by a tokenizer, too
        auto = AutoModel if task == "fmri-feature-extraction" else AutoModelForCausalLM
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=pipeline_class, pt_model=auto, type="multimodal"
        )


_AUTO = "transformers.models.auto"
_OWN = f"{__package__}.models"
_REGISTRATIONS = (
    _Registration(
        _register_configs,
        f"{_AUTO}.configuration_auto",
        {
            f"{_AUTO}.configuration_auto": "AutoConfig",
            f"{_OWN}.configuration_fmri_tokenizer": "FmriTokenizerConfig",
            f"{_OWN}.configuration_fmri_lm": "FmriLMConfig",
        },
    ),
    _Registration(
        _register_models,
        f"{_AUTO}.modeling_auto",
        {
            f"{_AUTO}.modeling_auto": "AutoModelForCausalLM",
            # imports the registry of models, and is itself imported by our models
            "transformers.modeling_layers": "GradientCheckpointingLayer",
            f"{_OWN}.fmri_transformer": "FmriDecoder",
            f"{_OWN}.modeling_fmri_tokenizer": "FmriTokenizer",
            f"{_OWN}.modeling_fmri_tokenizer_pretraining": "FmriTokenizerForPreTraining",
            f"{_OWN}.modeling_fmri_lm": "FmriLMForCausalLM",
            f"{_OWN}.modeling_fmri_lm_classification": "FmriLMForSequenceClassification",
        },
    ),
    _Registration(
        _register_feature_extractor,
        f"{_AUTO}.feature_extraction_auto",
        {
            f"{_AUTO}.feature_extraction_auto": "AutoFeatureExtractor",
            f"{_OWN}.feature_extraction_fmri": "FmriFeatureExtractor",
        },
    ),
    _Registration(
        _register_processor,
        f"{_AUTO}.processing_auto",
        {f"{_AUTO}.processing_auto": "AutoProcessor", f"{_OWN}.processing_fmri_lm": "FmriLMProcessor"},
    ),
    _Registration(
        _register_pipelines,
        "transformers.pipelines",
        {"transformers.pipelines": "pipeline", f"{__package__}.pipelines": "FmriHypothesisPipeline"},
    ),
)


def register_when_needed() -> None:
    """Register with what transformers has imported already, now, and with the rest when it is imported."""
    waiting: dict[str, list[_Registration]] = {}
    for registration in _REGISTRATIONS:
        for name in registration.complete:
            if name not in sys.modules:
                waiting.setdefault(name, []).append(registration)
    if waiting:
        sys.meta_path.insert(0, _AfterImport(waiting))
    for registration in _REGISTRATIONS:
        registration()


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds modules as the other finders do, and registers once a module that is waited for is imported."""

    def __init__(self, waiting: dict[str, list[_Registration]]):
        self.waiting = waiting

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        registrations = self.waiting.pop(fullname, None)
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        if registrations is None:
            return None
        spec = importlib.util.find_spec(fullname)  # by the finders behind this one
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, registrations)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """Loads a module as its own loader does, leaves that loader in its place, and registers."""

    def __init__(self, loader: Any, registrations: list[_Registration]):
        self.loader, self.registrations = loader, registrations

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        for registration in self.registrations:
            registration()
