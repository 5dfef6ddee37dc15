"""A configuration that would load foreign kernels or code is refused, wherever in it that stands."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from fmri_lm_hf.models.configuration_fmri_tokenizer import check_config_is_inert

REFUSED = {
    "attention": {"_attn_implementation": "org/kernel"},
    "attention at loading": {"attn_implementation": "org/kernel@main:flash"},
    "attention of a part": {"attn_implementation": {"text_config": "org/kernel", "": "sdpa"}},
    "experts": {"experts_implementation": "org/experts"},
    "kernels": {"use_kernels": True},
    "mapping of kernels": {"kernel_config": {"RMSNorm": "org/norm:RMSNorm"}},
    "trust": {"trust_remote_code": True},
    "generation": {"custom_generate": "org/decoding"},
    "quantization": {"quantization_config": {"quant_method": "fbgemm_fp8"}},
    "unnamed quantization": {"quantization_config": {"bits": 4}},
}
INERT = [
    {"model_type": "fmri_lm", "auto_map": {"AutoModel": "modeling_fmri_lm.FmriLMForCausalLM"}},
    {"attn_implementation": "sdpa", "text_config": {"_attn_implementation": None, "use_kernels": False}},
    {"quantization_config": {"quant_method": "bitsandbytes"}, "experts_implementation": "grouped_mm"},
    {"id2label": {0: "org/label"}, "layers": [{"kind": "full"}], "text_config": LlamaConfig()},
]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("depth", ["top", "nested", "in a list", "in an object"])
def test_foreign_code_is_refused_at_any_depth(case, depth):
    key = next(iter(REFUSED[case]))
    if depth == "in an object":
        config = LlamaConfig()
        config.extra = REFUSED[case]
        where = {"text_config": config}
    else:
        where = {
            "top": REFUSED[case],
            "nested": {"text_config": REFUSED[case]},
            "in a list": {"x": [REFUSED[case]]},
        }[depth]
    with pytest.raises(ValueError, match=rf"config.json.*`{key}` is .* would load foreign code or kernels; expected"):
        check_config_is_inert(where)


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
def test_only_the_top_names_code_of_the_checkpoint(key):
    check_config_is_inert({key: {"AutoModel": "modeling.Model"}})
    with pytest.raises(ValueError, match=f"text_config: `{key}` is .*expected none in a nested configuration"):
        check_config_is_inert({"text_config": {key: {"AutoModel": "modeling.Model"}}})


@pytest.mark.parametrize("config", INERT, ids=lambda config: "-".join(config))
def test_what_loads_nothing_passes(config):
    check_config_is_inert(config)
