"""Low-rank adapters of the language model inside a model that reads scans."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from .arguments import LanguageModelArguments

__all__ = ["lora_config"]


def lora_config(model: Any, arguments: LanguageModelArguments, **options: Any) -> LoraConfig:
    """Adapters on every linear layer of the language model but its head, and nowhere else.

    Parameters
    ----------
    model : FmriLMForCausalLM
    arguments : LanguageModelArguments
        `lora_rank`, `lora_alpha` and `lora_dropout`.
    **options
        Further fields of `LoraConfig`.
    """
    language_model = model.language_model
    layers = {
        name.rsplit(".", 1)[-1]
        for name, module in language_model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not language_model.get_output_embeddings()
    }
    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(layers))})",
        **options,
    )
