"""A pretrained language model that understands questions: its adapters and the classifiers on top of them.

The language model itself stays as it is. With the adapters switched off, it writes what it wrote before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..bundled import QUESTION_ADAPTERS
from ..bundled.gguf_files import PACKAGED, find_gguf, load_gguf
from ..files import write_json
from .classes import CLASSES, Reader, Reading, check_classes, mixed, shortened
from .encoder import QuestionHeads, padded, to_readings
from .numpy_reader import load_question_reader

# What the model reads before and after a question; its attention is causal, so the end has seen all of it.
BEFORE, AFTER = "A question about a brain scan: ", "\nWhat is asked for:"


class QuestionLanguageModel(nn.Module):
    """A causal language model with adapters, and `QuestionHeads` on its last layer.

    Parameters
    ----------
    language_model : PreTrainedModel
        Its body gets LoRA adapters, in place.
    rank : int
        Of the adapters.
    """

    def __init__(self, language_model: PreTrainedModel, rank: int = 16):
        super().__init__()
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", bias="none")
        self.body = get_peft_model(language_model.base_model, lora)
        self.classify = QuestionHeads(language_model.config.hidden_size)
        self.rank = rank

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ModelOutput:
        """Classify questions: `QuestionHeads.forward` explains labels and result."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return self.classify(hidden, attention_mask, labels)


class LanguageModelReader:
    """A language model with its tokenizer, ready to read questions.

    Parameters
    ----------
    model : QuestionLanguageModel
    tokenizer : PreTrainedTokenizerBase
    """

    def __init__(self, model: QuestionLanguageModel, tokenizer: Any):
        self.model, self.tokenizer = model.eval(), tokenizer

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Classify questions in which names are replaced by placeholders."""
        rows, mask = padded([prompt(self.tokenizer, text) for text in texts])
        return to_readings(self.model(rows, mask).logits)

    def save(self, folder: Path) -> None:
        """Save adapters and classifiers in `folder`, in half precision; the language model is not saved."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"body.{name}": weight for name, weight in get_peft_model_state_dict(self.model.body).items()}
        state |= {f"classify.{name}": weight for name, weight in self.model.classify.state_dict().items()}
        state = {name: weight.to(torch.bfloat16).contiguous() for name, weight in state.items()}
        save_file(state, folder / "adapter.safetensors", metadata={"format": "pt"})
        write_json({"rank": self.model.rank, "classes": list(CLASSES)}, folder / "adapter.json")

    @classmethod
    def load(cls, folder: Path, language_model: PreTrainedModel, tokenizer: Any) -> LanguageModelReader:
        """Load what `save` has saved, for the language model that it was trained on.

        Raises
        ------
        ValueError
            If the folder was made for other classes of questions, or for another language model.
        """
        config = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
        check_classes(config["classes"], folder)
        state = {name: weight.float() for name, weight in load_file(folder / "adapter.safetensors").items()}
        width = state["classify.attend.weight"].shape[1]
        if width != language_model.config.hidden_size:
            raise ValueError(
                f"The adapters in {folder.name} are for a language model of width {width}, found one of width "
                f"{language_model.config.hidden_size}: give the language model that they were trained on."
            )
        model = QuestionLanguageModel(language_model, config["rank"])
        body = {name.removeprefix("body."): weight for name, weight in state.items() if name.startswith("body.")}
        set_peft_model_state_dict(model.body, body)
        heads = {name.removeprefix("classify."): w for name, w in state.items() if name.startswith("classify.")}
        model.classify.load_state_dict(heads)
        return cls(model, tokenizer)


def prompt(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a question as the language model reads it."""
    before, question, after = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (BEFORE, text, AFTER)
    )
    return [*before, *shortened(question), *after]


class JointReader:
    """A language model and the question encoder, which read each question together.

    They err on different questions, so that fewer are understood wrongly than by either; what they disagree on is
    declined.

    Parameters
    ----------
    language_model : LanguageModelReader
    encoder : Reader
    weight : float
        Of the language model's probabilities.
    """

    def __init__(self, language_model: LanguageModelReader, encoder: Reader, weight: float = 0.3):
        self.language_model, self.encoder, self.weight = language_model, encoder, weight

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Classify questions in which names are replaced by placeholders."""
        both = zip(self.language_model.read(texts), self.encoder.read(texts), strict=True)
        return [mixed(ours, theirs, self.weight) for ours, theirs in both]


@cache
def load_language_model_reader() -> JointReader:
    """Load SmolLM2 with the adapters of this package, and the question encoder, once."""
    language_model = LanguageModelReader.load(QUESTION_ADAPTERS, *load_packaged("smollm2"))
    return JointReader(language_model, load_question_reader())


def load_packaged(name: str = "smollm2") -> tuple[PreTrainedModel, Any]:
    """Load a language model that comes with a package, and its tokenizer.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    file = find_gguf(name)
    if file is None:
        raise ValueError(f"No package has the language model {name!r}: use {', '.join(PACKAGED)}.")
    return load_gguf(file)
