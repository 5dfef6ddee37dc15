"""Batches of examples of one scan and one conversation, or of plain text alone, as `data` makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..models.configuration_fmri_lm import n_pair_tokens
from ..models.modeling_fmri_lm import SCAN_INPUTS
from ..models.processing_fmri_lm import FmriLMProcessor
from .feature_store import IGNORED
from .look_ups import N_COLUMNS, Vocabulary, find_in_conversation

__all__ = ["FmriLMCollator"]

MAX_KEPT_TEXTS = 20_000  # whose tokens a collator keeps


class FmriLMCollator:
    """Batches examples for `FmriLMTrainer`.

    Parameters
    ----------
    processor : FmriLMProcessor
    with_look_ups : bool, default=False
        Whether batches hold `look_ups`, for a `LookUpGuide`: of the examples with ``questions``.

    Notes
    -----
    An example holds ``conversation`` (a list of messages, scored on the assistant's words), ``text`` (plain text,
    scored on every token) or ``input_ids`` (the same, tokenized before). One whose conversation holds a scan also
    has its `fmri_features` (or `input_values`) and masks, without a batch axis. Tokens of texts are kept, since
    training meets the same ones again and again.
    """

    def __init__(self, processor: FmriLMProcessor, with_look_ups: bool = False):
        self.processor = processor
        self._vocabulary: Vocabulary | None = None
        if with_look_ups:
            names = processor.feature_extractor.atlas.network_names
            self._vocabulary = Vocabulary.of(names, processor.tokenize)
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
        if self._vocabulary is not None:
            rows = [
                [row, *columns]
                for row, (example, each) in enumerate(zip(examples, encoded))
                for columns in self._look_ups(
                    example, each, longest - len(each["input_ids"]), self._vocabulary
                )
            ]
            batch["look_ups"] = torch.tensor(rows, dtype=torch.long).view(-1, N_COLUMNS)
        for name in (*SCAN_INPUTS, "fmri_labels"):
            rows = [torch.as_tensor(example[name]) for example in examples if example.get(name) is not None]
            if rows:
                batch[name] = torch.stack(rows)
        return batch

    def _look_ups(
        self,
        example: Mapping[str, Any],
        encoded: Mapping[str, list[int]],
        n_padded: int,
        vocabulary: Vocabulary,
    ) -> Iterator[list[int]]:
        """Columns of the look-ups of an example that stands behind `n_padded` tokens."""
        if not example.get("questions"):
            return
        n_networks = len(vocabulary.names)
        ids, labels = encoded["input_ids"], encoded["labels"]
        scan = ids.index(self.processor.fmri_token_id) + self.processor.n_tokens - n_pair_tokens(n_networks)
        for start, look_up in find_in_conversation(ids, labels, example["questions"], vocabulary):
            yield look_up.columns(n_padded + start, n_padded + scan, n_networks)

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
