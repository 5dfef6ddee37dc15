"""Batches of examples of one scan and one conversation, or of plain text alone, as `data` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..models.modeling_fmri_lm import SCAN_INPUTS
from ..models.processing_fmri_lm import FmriLMProcessor

__all__ = ["IGNORED", "FmriLMCollator"]

IGNORED = -100
MAX_KEPT_TEXTS = 20_000  # whose tokens a collator keeps


class FmriLMCollator:
    """Batches examples for `FmriLMTrainer`.

    Parameters
    ----------
    processor : FmriLMProcessor

    Notes
    -----
    An example holds ``conversation`` (a list of messages, scored on the assistant's words), ``text`` (plain text,
    scored on every token) or ``input_ids`` (the same, tokenized before). One whose conversation holds a scan also
    has its `fmri_features` (or `input_values`) and masks, without a batch axis. Tokens of texts are kept, since
    training meets the same ones again and again.
    """

    def __init__(self, processor: FmriLMProcessor):
        self.processor = processor
        self._tokens: dict[str, dict[str, list[int]]] = {}

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        encoded = [self._encode(example) for example in examples]
        longest = max(len(each["input_ids"]) for each in encoded)
        pad_id = self.processor.tokenizer.pad_token_id
        batch = {}
        for name, filler in (("input_ids", pad_id), ("labels", IGNORED)):
            # what is learnt stands at the end of every row, and no logits are needed before it
            rows = [[filler] * (longest - len(each[name])) + each[name] for each in encoded]
            batch[name] = torch.tensor(rows)
        lengths = torch.tensor([len(each["input_ids"]) for each in encoded])
        batch["attention_mask"] = (torch.arange(longest).flip(0) < lengths[:, None]).long()
        for name in (*SCAN_INPUTS, "fmri_labels"):
            rows = [torch.as_tensor(example[name]) for example in examples if example.get(name) is not None]
            if rows:
                batch[name] = torch.stack(rows)
        return batch

    def _encode(self, example: Mapping[str, Any]) -> dict[str, list[int]]:
        if example.get("input_ids") is not None:
            return _all_learnt(list(example["input_ids"]))
        if len(self._tokens) >= MAX_KEPT_TEXTS:
            self._tokens.clear()
        text = example.get("text")  # None where a dataset has the column for other examples
        key = json.dumps(example["conversation"], sort_keys=True) if text is None else text
        if key not in self._tokens:
            if text is not None:
                ended = text + (self.processor.tokenizer.eos_token or "")
                self._tokens[key] = _all_learnt(self.processor.tokenize(ended))
            else:
                self._tokens[key] = self.processor.encode_chat(example["conversation"])
        return self._tokens[key]


def _all_learnt(ids: list[int]) -> dict[str, list[int]]:
    """A text of which every token is predicted from those before it."""
    return {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}
