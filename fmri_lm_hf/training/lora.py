"""Low-rank adapters of the language model inside a model that reads scans."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..models.modeling_fmri_lm import FmriLMForCausalLM
from .arguments import AdapterArguments

__all__ = ["add_adapter", "lora_config"]


def add_adapter(model: FmriLMForCausalLM, arguments: AdapterArguments) -> PeftModel | None:
    """Train a language model through adapters, and what joins it to scans, which starts fresh, as a whole.

    Parameters
    ----------
    model : FmriLMForCausalLM
        Is changed itself.
    arguments : AdapterArguments

    Returns
    -------
    PeftModel or None
        Whose `merge_and_unload` puts the adapters into the weights; None where all weights are trained.
    """
    if not arguments.lora_rank:
        return None
    adapter = get_peft_model(model, lora_config(model, arguments))
    for starts_fresh in filter(
        None, (model.projector, model.roi_embeddings, model.fmri_head, model.network_pairs)
    ):
        starts_fresh.requires_grad_(True)
    return adapter


def lora_config(model: Any, arguments: AdapterArguments, **options: Any) -> LoraConfig:
    """Adapters on every linear layer of the language model but its head, and nowhere else.

    Parameters
    ----------
    model : FmriLMForCausalLM
    arguments : AdapterArguments
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
