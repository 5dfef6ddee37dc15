"""`import fmri_lm_hf` is all that a user types, in whatever order other imports come."""

from __future__ import annotations

import subprocess
import sys

import pytest

KNOWN = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoProcessor
from transformers import AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY
from fmri_lm_hf import FmriLMConfig, FmriTokenizerConfig
assert type(AutoConfig.for_model("fmri_lm")) is FmriLMConfig
for auto, config in (
    (AutoModel, FmriTokenizerConfig), (AutoModel, FmriLMConfig), (AutoModelForCausalLM, FmriLMConfig),
    (AutoModelForSequenceClassification, FmriLMConfig),
):
    assert config in auto._model_mapping, (auto, config)
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
assert FmriTokenizerConfig in FEATURE_EXTRACTOR_MAPPING and FmriLMConfig in PROCESSOR_MAPPING
assert {"fmri-to-text", "fmri-zero-shot-classification"} <= set(PIPELINE_REGISTRY.get_supported_tasks())
"""


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "imports",
    [
        "import fmri_lm_hf",
        "import fmri_lm_hf; from transformers import LlamaForCausalLM, Trainer",  # modeling_layers comes first
        "from transformers import LlamaForCausalLM, pipeline, AutoProcessor; import fmri_lm_hf",
        "from fmri_lm_hf import FmriLMForCausalLM",
        "from fmri_lm_hf import FmriLMForSequenceClassification",
        "from fmri_lm_hf.training import trainer",
    ],
)
def test_transformers_knows_the_classes_after_any_order_of_imports(imports):
    run(imports + KNOWN)


def test_importing_the_package_waits_for_neither_torch_nor_transformers():
    run("import sys, fmri_lm_hf; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)")


def test_an_unknown_name_is_an_attribute_error():
    import fmri_lm_hf

    with pytest.raises(AttributeError, match="no attribute 'FmriNothing'"):
        fmri_lm_hf.FmriNothing  # noqa: B018
    assert set(fmri_lm_hf.__all__) <= set(dir(fmri_lm_hf))
