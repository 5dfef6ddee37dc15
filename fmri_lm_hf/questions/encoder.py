"""The question encoder: a small BERT that classifies what a question asks, whatever the names of the networks in it.

The names are replaced by placeholders first (`placeholders`), so the encoder sees "how strong is [n1] with [n2]" and
holds for any atlas. It gives probabilities of the class of the question, of a second question in the same message, and
of which names a comparison pairs. Which networks are meant, and whether they exist, is not its business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.models.bert.modeling_bert import BertPreTrainedModel
from transformers.utils import ModelOutput

from ..files import write_json
from .classes import CLASSES, SIZES, Reading, check_classes, readings, shortened


class QuestionHeads(nn.Module):
    """Four classifiers of a question; each weighs its tokens by an attention of its own.

    They give the class of the (first) question, that of a second question or `NONE`, and for each of the two the
    pairing of a comparison.

    Parameters
    ----------
    hidden_size : int
    dropout : float
    """

    def __init__(self, hidden_size: int, dropout: float = 0.1):
        super().__init__()
        self.attend = nn.Linear(hidden_size, len(SIZES))
        self.heads = nn.ModuleList(nn.Linear(hidden_size, size) for size in SIZES)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> ModelOutput:
        """Classify questions.

        Parameters
        ----------
        hidden : torch.Tensor of shape (batch, n_tokens, hidden_size)
        attention_mask : torch.Tensor of shape (batch, n_tokens)
        labels : torch.LongTensor of shape (batch, 4), optional
            Of the four classifiers; -100 where one has nothing to learn.

        Returns
        -------
        ModelOutput
            `logits`, of the classifiers one after the other (batch, sum of sizes), and the loss, summed over them.
        """
        hidden = hidden.to(self.attend.weight.dtype)
        weights = self.attend(hidden).masked_fill(attention_mask[..., None] == 0, -1e4).softmax(1)
        pooled = weights.transpose(1, 2) @ hidden  # (batch, 4, hidden_size)
        # Means over tokens are short vectors, whose length says nothing; normalised, classifiers learn at once.
        pooled = self.dropout(F.layer_norm(pooled, pooled.shape[-1:]))
        logits = [head(pooled[:, number]) for number, head in enumerate(self.heads)]
        loss = None
        if labels is not None:
            # the sum, divided by the number of rows: a head without labels in a batch would have a mean of NaN
            losses = [
                F.cross_entropy(each.float(), labels[:, number], reduction="sum", label_smoothing=0.03)
                for number, each in enumerate(logits)
            ]
            loss = torch.stack(losses).sum() / len(labels)
        return ModelOutput(loss=loss, logits=torch.cat(logits, dim=-1))


class QuestionEncoder(BertPreTrainedModel):
    """BERT with `QuestionHeads`."""

    config_class = BertConfig

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classify = QuestionHeads(config.hidden_size, config.hidden_dropout_prob)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ModelOutput:
        """Classify questions: `QuestionHeads.forward` explains labels and result."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.classify(hidden, attention_mask, labels)


class QuestionReader:
    """A question encoder with its tokenizer, ready to read.

    Parameters
    ----------
    model : QuestionEncoder
    tokenizer : PreTrainedTokenizerFast
    """

    def __init__(self, model: QuestionEncoder, tokenizer: PreTrainedTokenizerFast):
        self.model, self.tokenizer = model.eval(), tokenizer

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Classify questions in which names are replaced by placeholders."""
        rows, mask = padded([encode(self.tokenizer, text) for text in texts])
        return to_readings(self.model(rows, mask).logits)

    def save(self, folder: Path) -> None:
        """Save model and tokenizer in `folder`, matrices in 8 bits: see `pack`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(pack(self.model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
        write_json(self.model.config.to_diff_dict() | {"classes": list(CLASSES)}, folder / "config.json")
        self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, folder: Path) -> QuestionReader:
        """Load what `save` has saved.

        Raises
        ------
        ValueError
            If the folder was made for other classes of questions.
        """
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        check_classes(config.pop("classes", None), folder)
        with torch.device("meta"):
            model = QuestionEncoder(BertConfig.from_dict(config))
        model.load_state_dict(unpack(load_file(folder / "model.safetensors")), assign=True)
        # buffers that are no weights were made on the meta device, too
        size = model.config.max_position_embeddings
        model.bert.embeddings.position_ids = torch.arange(size)[None]
        model.bert.embeddings.token_type_ids = torch.zeros(1, size, dtype=torch.long)
        return cls(model, PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"))


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the token ids of a question, cut in the middle if it is too long."""
    return shortened(tokenizer(text)["input_ids"])


def padded(ids: Sequence[Sequence[int]], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Pad token ids on the right, to a multiple of a length: ids and mask (n_questions, n_tokens)."""
    longest = -(-max(map(len, ids)) // multiple) * multiple
    rows = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
    return rows, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])


def to_readings(logits: Tensor) -> list[Reading]:
    """Name the probabilities of the logits of `QuestionHeads`."""
    return readings([each.softmax(-1).numpy() for each in logits.float().split(SIZES, dim=-1)])


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise matrices to 8 bits, each row with a scale of its own; vectors stay in half precision."""
    packed = {}
    for name, weight in state.items():
        if weight.ndim != 2:
            packed[name] = weight.half()
            continue
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
        packed[name] = (weight / scale).round().to(torch.int8)
        packed[f"{name}.scale"] = scale.half()
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `pack`, up to rounding."""
    scales = {name.removesuffix(".scale"): scale.float() for name, scale in packed.items() if name.endswith(".scale")}
    return {
        name: weight.float() * scales[name] if name in scales else weight.float()
        for name, weight in packed.items()
        if not name.endswith(".scale")
    }
