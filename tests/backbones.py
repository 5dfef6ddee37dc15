"""Tiny language models of many families, with random weights: what reads scans, and what cannot."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 32

_SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_GROUPED = _SHAPE | {"num_key_value_heads": 1, "max_position_embeddings": 128}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_OPT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "dropout": 0.0}
_OPT |= {"max_position_embeddings": 128}
_FALCON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SLIDING = _GROUPED | {"head_dim": 8, "sliding_window": 64}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}

# model type, and what shapes it
READING: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 8}),
    "qwen3-moe": ("qwen3_moe", _GROUPED | _EXPERTS | {"head_dim": 8}),
    "gpt2": ("gpt2", _GPT2 | _NO_DROPOUT),
    "gemma2": ("gemma2", _SLIDING),
    "gemma3": ("gemma3_text", _SLIDING),
    "mistral": ("mistral", _SLIDING),
    "phi": ("phi", _SHAPE | {"max_position_embeddings": 128}),
    "phi3": ("phi3", _GROUPED | {"resid_pdrop": 0.0}),
    "opt-125m": ("opt", _OPT | {"word_embed_proj_dim": 16}),
    "gpt-neox": ("gpt_neox", _SHAPE | {"max_position_embeddings": 128}),
    "smollm3": ("smollm3", _GROUPED),
    "falcon-rope": ("falcon", _FALCON | {"alibi": False}),
    "mpt": ("mpt", {"d_model": 16, "n_layers": 2, "n_heads": 2, "expansion_ratio": 2, "max_seq_len": 128}),
    "gpt-j": ("gptj", _GPT2 | _NO_DROPOUT | {"rotary_dim": 4}),
}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
_LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
_NEXT = {"head_dim": 8, "shared_expert_intermediate_size": 16}
_NEXT |= {"layer_types": ["linear_attention", "full_attention"]}
_HYBRID = {"head_dim": 8, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4}
UNABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "opt-350m": ("opt", _OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "gpt-neo": (
        "gpt_neo",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
        | {"max_position_embeddings": 128},
    ),
    "bloom": ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "falcon-alibi": ("falcon", _FALCON | {"alibi": True}),
    "qwen3-next": ("qwen3_next", _GROUPED | _EXPERTS | _LINEAR | _NEXT),
    "lfm2": ("lfm2", _GROUPED | {"block_ff_dim": 32, "layer_types": ["conv", "full_attention"]}),
    "rwkv": ("rwkv", {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16}),
    "falcon-h1": ("falcon_h1", _GROUPED | _HYBRID),
    "mamba": ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
}


def text_model(name: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A language model that knows nothing of scans."""
    model_type, shape = (READING | UNABLE)[name]
    ids = {"vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **ids, **({"initializer_range": 0.2} | shape | changes))
    return AutoModelForCausalLM.from_config(config)
