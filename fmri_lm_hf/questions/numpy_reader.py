"""The question encoder in numpy: the same readings as `encoder.QuestionReader`, without the seconds to import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.special import erf, softmax
from tokenizers import Tokenizer

from ..bundled import QUESTION_ENCODER
from .classes import SIZES, Reader, Reading, check_classes, readings, shortened


class NumpyQuestionReader:
    """A trained question encoder, for reading alone.

    Parameters
    ----------
    weights : mapping of str to array
        Of `QuestionEncoder`, float32.
    tokenizer : Tokenizer
    n_layers, n_heads : int
        Of the BERT.
    eps : float
        Of its layer normalisations.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], tokenizer: Tokenizer, n_layers: int, n_heads: int, eps: float
    ):
        self.weights, self.tokenizer = weights, tokenizer
        self.n_layers, self.n_heads, self.eps = n_layers, n_heads, eps

    @classmethod
    def load(cls, folder: Path) -> NumpyQuestionReader:
        """Load what `QuestionReader.save` has saved.

        Raises
        ------
        ValueError
            If the folder was made for other classes of questions, or the encoder has another activation than GELU.
        """
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        check_classes(config.get("classes"), folder)
        if (activation := config.get("hidden_act", "gelu")) != "gelu":
            raise ValueError(
                f"The question encoder in {folder.name} has the activation {activation!r}, expected 'gelu': load it "
                "with `fmri_lm_hf.questions.encoder.QuestionReader`."
            )
        return cls(
            unpacked(load_file(folder / "model.safetensors")),
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            config.get("num_hidden_layers", 12),  # a configuration lists what differs from the defaults of BERT
            config.get("num_attention_heads", 12),
            config.get("layer_norm_eps", 1e-12),
        )

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Classify questions in which names are replaced by placeholders."""
        logits = np.stack([self._logits(shortened(self.tokenizer.encode(text).ids)) for text in texts])
        heads = np.split(logits, np.cumsum(SIZES)[:-1], axis=-1)
        return readings([softmax(head, axis=-1) for head in heads])

    def _logits(self, ids: list[int]) -> np.ndarray:
        """Compute the logits of one question, for the heads one after the other."""
        table = "bert.embeddings.{}_embeddings.weight".format
        hidden = self.weights[table("word")][ids] + self.weights[table("position")][: len(ids)]
        hidden = self._normalised(hidden + self.weights[table("token_type")][0], "bert.embeddings.LayerNorm")
        for number in range(self.n_layers):
            hidden = self._layer(hidden, f"bert.encoder.layer.{number}")
        pooled = softmax(self._linear(hidden, "classify.attend"), axis=0).T @ hidden  # (4, hidden)
        pooled = _normalised(pooled, 1e-5)
        return np.concatenate([self._linear(each, f"classify.heads.{number}") for number, each in enumerate(pooled)])

    def _layer(self, hidden: np.ndarray, name: str) -> np.ndarray:
        parts = [self._linear(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        # (n_heads, n_tokens, size of a head)
        query, key, value = (part.reshape(len(part), self.n_heads, -1).swapaxes(0, 1) for part in parts)
        weights = softmax(query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1], dtype=np.float32), axis=-1)
        attended = (weights @ value).swapaxes(0, 1).reshape(hidden.shape)
        attended = self._linear(attended, f"{name}.attention.output.dense")
        hidden = self._normalised(hidden + attended, f"{name}.attention.output.LayerNorm")
        inner = self._linear(hidden, f"{name}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2, dtype=np.float32))) / 2
        return self._normalised(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, values: np.ndarray, name: str) -> np.ndarray:
        return values @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _normalised(self, values: np.ndarray, name: str) -> np.ndarray:
        values = _normalised(values, self.eps)
        return values * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _normalised(values: np.ndarray, eps: float) -> np.ndarray:
    """Scale each row to mean 0 and variance 1."""
    values = values - values.mean(-1, keepdims=True)
    return values / np.sqrt((values**2).mean(-1, keepdims=True) + eps)


def unpacked(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `encoder.pack`, up to rounding."""
    weights = {}
    for name, weight in packed.items():
        if not name.endswith(".scale"):
            scale = packed.get(f"{name}.scale")
            weights[name] = weight.astype(np.float32) * (1 if scale is None else scale.astype(np.float32))
    return weights


@cache
def load_question_reader() -> NumpyQuestionReader:
    """Load the question encoder that comes with the package, once."""
    return NumpyQuestionReader.load(QUESTION_ENCODER)


def question_reader(name: str) -> Reader:
    """Return what reads questions: the question encoder (``bundled``), or a pretrained language model (``smollm2``).

    Raises
    ------
    ValueError
        For any other name.
    ImportError
        If the package with the weights of the language model is not installed.
    """
    if name == "bundled":
        return load_question_reader()
    if name == "smollm2":
        from .language_model import load_language_model_reader

        return load_language_model_reader()
    raise ValueError(f"What understands questions is 'bundled' or 'smollm2', found {name!r}.")
