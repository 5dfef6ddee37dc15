"""Training of all stages with the Trainer of transformers: the collator and the Trainer subclasses.

Stage 1 trains a `FmriTokenizer` with `FmriTrainer`. Stages 2 and 3 train a `FmriLMForCausalLM` with
`FmriLMTrainer` on examples of one scan and one conversation, or of plain text alone, as `data` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import ProgressCallback, Trainer

from ..hub.trainer import PublishesThroughHub
from ..models.modeling_fmri_lm import SCAN_INPUTS
from ..models.processing_fmri_lm import FmriLMProcessor

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


class FmriTrainer(PublishesThroughHub, Trainer):
    """Trainer that logs every part of the loss, averaged over the steps since the last log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._parts: dict[str, list[torch.Tensor]] = {}
        # evaluation, too, has a loss whichever labels a batch holds
        self.can_return_loss = True
        if self.args.label_names is None:
            self.label_names: list[str] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        self.record(outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def record(self, outputs: Mapping[str, Any]) -> None:
        """Keep the scalar parts of a model's output for the next log."""
        prefix = "" if self.model.training else "eval_"
        for name, value in outputs.items():
            if name.endswith("_loss") or name == "codebook_usage":
                self._parts.setdefault(prefix + name, []).append(value.detach())

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Log with the parts recorded since the last time."""
        prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
        for name in [name for name in self._parts if name.startswith("eval_") == bool(prefix)]:
            logs[name] = round(float(torch.stack(self._parts.pop(name)).mean()), 4)
        super().log(logs, *args, **kwargs)


class FmriLMTrainer(FmriTrainer):
    """Trainer of stages 2 and 3: text about scans, plain text and next codes, each with its weight.

    The loss is ``F2T + fmri_loss_weight * F2F + text_only_loss_weight * T2T`` (arXiv 2511.21760): cross-entropy
    on text behind scans, on the next code of each ROI where the batch holds `fmri_labels`, and on texts without
    a scan, which keep the language model's language. A mixture of experts that has `output_router_logits` adds its
    load balancing loss with its own weight.

    Parameters
    ----------
    text_only_loss_weight : float, default=0.5
    *args, **kwargs
        As for [`Trainer`].
    """

    def __init__(self, *args, text_only_loss_weight: float = 0.5, **kwargs):
        super().__init__(*args, **kwargs)
        self.text_only_loss_weight = text_only_loss_weight

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        # logits are needed only from the position before the first label on, and scans come first
        first = int((labels != IGNORED).any(0).int().argmax())
        n_kept = labels.shape[1] - max(first - 1, 0)
        outputs = model(**{**inputs, "labels": None}, logits_to_keep=n_kept)
        unwrapped = self.accelerator.unwrap_model(self.model)
        config = unwrapped.config
        has_scan = (inputs["input_ids"] == config.fmri_token_id).any(1)
        parts = {
            "text_loss": _cross_entropy(outputs.logits, labels[:, -n_kept:], has_scan),
            "text_only_loss": _cross_entropy(outputs.logits, labels[:, -n_kept:], ~has_scan),
            "fmri_loss": outputs.fmri_loss,
            "aux_loss": outputs.aux_loss,
        }
        weights = {
            "text_loss": 1.0,
            "text_only_loss": self.text_only_loss_weight,
            "fmri_loss": config.fmri_loss_weight,
            "aux_loss": unwrapped.aux_loss_weight,
        }
        parts = {name: value for name, value in parts.items() if value is not None}
        outputs.loss = sum(weights[name] * value for name, value in parts.items())
        self.record(parts)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
    """Mean next-token cross-entropy over the labels of some rows; None where these rows have none."""
    labels = labels[:, 1:].masked_fill(~rows[:, None], IGNORED)
    labelled = labels != IGNORED  # chosen first: most positions have none, and the vocabulary may be large
    if not labelled.any():
        return None
    return F.cross_entropy(logits[:, :-1][labelled].float(), labels[labelled])


class StageProgress(ProgressCallback):
    """A progress bar that says what is being trained and carries the loss, in place of printed logs."""

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.title)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def show_progress(trainer: Trainer, title: str) -> None:
    """Give a trainer the bar of its stage, unless it was told to show none."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StageProgress(title))


__all__ = ["FmriLMCollator", "FmriLMTrainer", "FmriTrainer", "StageProgress", "show_progress"]
