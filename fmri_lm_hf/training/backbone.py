"""The language model that stage 2 starts from: any causal language model, or a reader that knows network pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..models.configuration_fmri_lm import FmriLMConfig
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..reader import READER_FOLDER

__all__ = ["Backbone", "load_backbone"]


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

    def give_reading(self, model: FmriLMForCausalLM) -> None:
        """Start the network-pair tokens of a model as the reader has them."""
        if self.network_pairs is not None and model.network_pairs is not None:
            model.network_pairs.load_state_dict(self.network_pairs)


def load_backbone(name: str) -> Backbone:
    """Load a causal language model with its tokenizer, or a reader.

    Parameters
    ----------
    name : str
        Folder or Hub id of a causal language model, or of a model that reads scans (its language model is taken), or
        ``reader`` for the reader that comes with the package.
    """
    if name == "reader":
        name = str(READER_FOLDER)
    config = AutoConfig.from_pretrained(name)
    text_tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    text_tokenizer.pad_token = text_tokenizer.pad_token or text_tokenizer.eos_token
    if not isinstance(config, FmriLMConfig):
        language_model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        return Backbone(language_model, text_tokenizer)
    reader = FmriLMForCausalLM.from_pretrained(name, dtype=torch.float32)
    pairs = None if reader.network_pairs is None else reader.network_pairs.state_dict()
    return Backbone(reader.language_model, text_tokenizer, pairs)
