"""The Trainers of the stages.

Stage 1 trains a `FmriTokenizer` with `FmriTrainer`. Stages 2 and 3 train a `FmriLMForCausalLM` with `FmriLMTrainer` on
examples of one scan and one conversation, or of plain text alone, which `FmriLMCollator` batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributed.fsdp import register_fsdp_forward_method

from ..models.generation_fmri_lm import SCAN_INPUTS
from ..models.scan_layout import ScanLayout
from .attention_supervision import LookUpGuide, among, moved
from .feature_store import IGNORED
from .step_trainer import Part, StepTrainer

OF_SCANS = (
    *SCAN_INPUTS,
    "fmri_labels",
    "look_ups",
)  # inputs about scans; the others have a row for each prompt


class FmriTrainer(StepTrainer):
    """Trainer of stage 1, whose losses are means over scans.

    Each scan is held against the texts of all scans of its step, in all micro-batches and processes; texts are frozen,
    so that nothing but the loss of a scan depends on them. The codebooks start from the scans of the first step, and
    move once a step. Evaluation holds a scan against the texts of its batch in its process.
    """

    def count_units(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"scans": len(inputs["input_values"])}

    def loss_parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        quantizer = getattr(self.accelerator.unwrap_model(self.model), "quantizer", None)
        if quantizer is not None:
            quantizer.step_ends = self.accelerator.sync_gradients
        outputs, n_scans = model(**inputs), len(inputs["input_values"])
        parts = {
            name: Part(n_scans * value, "scans", float(name == "loss"))
            for name, value in outputs.items()
            if name.endswith("loss") or name.startswith("codebook_")
        }
        return parts, outputs

    def prepare_step(self, batches: Sequence[dict[str, Any]]) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "start_quantizer"):
            # FSDP2 has whole weights only within a forward pass, or what it is told once to take for one
            if "start_quantizer" not in vars(model):
                register_fsdp_forward_method(model, "start_quantizer")
            model.start_quantizer(batches)
        for name in ("text_embeds", "descriptors"):
            if name not in batches[0]:
                continue
            rows, place = self._of_all_processes(torch.cat([batch[name] for batch in batches]))
            for batch in batches:
                end = place + len(batch[name])
                if len(batch[name]) < len(rows):
                    batch[f"other_{name}"] = torch.cat([rows[:place], rows[end:]])
                place = end

    def _of_all_processes(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Rows of all processes, which may have different numbers of them, and where those of this one begin."""
        if self.accelerator.num_processes == 1:
            return rows, 0
        sizes = self.accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        gathered = self.accelerator.gather(F.pad(rows, (0, 0, 0, max(sizes) - len(rows))))
        of_process = gathered.unflatten(0, (len(sizes), max(sizes)))
        together = torch.cat([values[:size] for values, size in zip(of_process, sizes, strict=True)])
        return together, sum(sizes[: self.accelerator.process_index])


class FmriLMTrainer(StepTrainer):
    """Trainer of stages 2 and 3: text about scans, plain text and next codes, each with its weight.

    The loss is ``F2T + fmri_loss_weight * F2F + text_only_loss_weight * T2T`` (arXiv 2511.21760): cross-entropy
    on text behind scans, on the next code of each ROI where the batch holds `fmri_labels`, and on texts without
    a scan, which keep the language model's language; each a mean over its labels in the whole step. A mixture of
    experts that has `output_router_logits` adds its load balancing loss with its own weight, as a mean over prompts.

    Prompts with and without scans are run apart, so that texts are not padded to the length of scans, and logits are
    computed at the positions that predict a label of the batch.

    Parameters
    ----------
    text_only_loss_weight : float, default=0.5
    guide : LookUpGuide, optional
        Of the language model: heads are told to look where the `look_ups` of a batch say.
    look_up_loss_weight : float, default=1.0
        Weight of what they are told, a mean over look-ups.
    replay : ReadingBatches, optional
        One of its batches is shared out among the micro-batches of a step, so that what was learnt before is not
        forgotten; its cross-entropy is one more part of the loss.
    replay_every : int, default=1
        Steps from one such step to the next.
    *args, **kwargs
        As for [`Trainer`].
    """

    def __init__(
        self,
        *args,
        text_only_loss_weight: float = 0.5,
        guide: LookUpGuide | None = None,
        look_up_loss_weight: float = 1.0,
        replay: Any = None,
        replay_every: int = 1,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.replay, self.replay_every = replay, replay_every
        self.text_only_loss_weight = text_only_loss_weight
        self.guide, self.look_up_loss_weight = guide, look_up_loss_weight

    def prepare_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Put a share of the step's replayed batch beside each micro-batch."""
        if self.replay is None or self.state.global_step % self.replay_every:
            return
        shares = self.replay.shares(self.state.global_step, len(batches) * self.args.world_size)
        for batch, share in zip(batches, shares[self.args.process_index * len(batches) :]):
            batch["replay"] = {name: values.to(self.args.device) for name, values in share.items()}

    def count_units(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        counts = self._counts(inputs)
        again = self._counts(inputs["replay"]) if "replay" in inputs else None
        if again is not None:
            counts["look-ups"] += again["look-ups"]
        words = 0 if again is None else again["words about scans"] + again["other words"]
        return counts | {"replayed words": words}

    def _counts(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        has_scan = self._has_scan(inputs)
        n_labels = (inputs["labels"][:, 1:] != IGNORED).sum(1)
        return {
            "words about scans": n_labels[has_scan].sum(),
            "other words": n_labels[~has_scan].sum(),
            "codes": self._n_codes(inputs),
            "prompts": len(has_scan),
            "look-ups": len(inputs.get("look_ups", ())),
        }

    def loss_parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        replay = inputs.get("replay")
        parts, outputs = self._parts(model, {name: each for name, each in inputs.items() if name != "replay"})
        if replay is not None:
            again, _ = self._parts(model, replay)
            words = again["text_loss"].total + again["text_only_loss"].total
            parts["replay_loss"] = Part(words, "replayed words", 1.0)
            if "look_up_loss" in parts:
                told = parts["look_up_loss"]
                parts["look_up_loss"] = told._replace(total=told.total + again["look_up_loss"].total)
        return parts, outputs

    def _parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        unwrapped = self.accelerator.unwrap_model(self.model)
        names = ("text_loss", "text_only_loss", "fmri_loss", *(["look_up_loss"] if self.guide else []))
        totals = dict.fromkeys(names, torch.zeros((), device=self.args.device))
        outputs: Any = None
        for name, batch in zip(("text_loss", "text_only_loss"), self._with_and_without_scans(inputs)):
            if batch is None:
                continue
            # what each position predicts
            labels = F.pad(batch.pop("labels")[:, 1:], (0, 1), value=IGNORED)
            at = (labels != IGNORED).any(0).nonzero().flatten()
            if not len(at):
                at = at.new_zeros(1)  # the head takes part, too
            look_ups, skips = batch.pop("look_ups", None), self._scans_stand_first(batch, labels)
            if self.guide is None or look_ups is None:
                outputs = model(**batch, logits_to_keep=at, skip_hidden=skips)
            else:
                if skips:
                    masks = {name: batch.get(name) for name in ("attention_mask", "roi_mask", "padding_mask")}
                    seen = unwrapped.get_attention_mask(batch["input_ids"], **masks)
                    look_ups = moved(look_ups, ScanLayout.places_without_hidden(seen))
                with self.guide.listening(look_ups):
                    outputs = model(**batch, logits_to_keep=at, skip_hidden=skips)
                totals["look_up_loss"] = self.guide.total
            labels = labels[:, at]
            chosen = labels != IGNORED
            logits = outputs.logits[chosen].float()
            totals[name] = F.cross_entropy(logits, labels[chosen], reduction="sum")
            if outputs.fmri_loss is not None:
                totals["fmri_loss"] = outputs.fmri_loss * self._n_codes(batch)
            if outputs.aux_loss is not None:
                totals["aux_loss"] = totals.get("aux_loss", 0) + outputs.aux_loss * len(labels)
        kinds = {
            "text_loss": ("words about scans", 1.0),
            "text_only_loss": ("other words", self.text_only_loss_weight),
            "fmri_loss": ("codes", unwrapped.config.fmri_loss_weight),
            "aux_loss": ("prompts", unwrapped.aux_loss_weight),
            "look_up_loss": ("look-ups", self.look_up_loss_weight),
        }
        return {name: Part(total, *kinds[name]) for name, total in totals.items()}, outputs

    def _with_and_without_scans(self, inputs: Mapping[str, Any]) -> list[dict[str, Any] | None]:
        """The prompts of a batch that have a scan, and the others; None where no process has any.

        Processes run their models together. So one that lacks what another one has is given words that it learns
        nothing from.
        """
        has_scan = self._has_scan(inputs)
        n_rows = torch.stack([has_scan.sum(), (~has_scan).sum()])
        somewhere = self.accelerator.reduce(n_rows.clone(), reduction="sum")
        batches: list[dict[str, Any] | None] = []
        for with_scans in (True, False):
            if n_rows[int(not with_scans)]:
                batches.append(self._rows(inputs, has_scan == with_scans, with_scans))
            elif somewhere[int(not with_scans)]:
                word = int(self._fmri_token_id == 0)
                words = inputs["input_ids"].new_full((1, 2), word)
                batches.append({"input_ids": words, "labels": torch.full_like(words, IGNORED)})
            else:
                batches.append(None)
        return batches

    def _scans_stand_first(self, batch: Mapping[str, Any], labels: torch.Tensor) -> bool:
        """Whether each row's scans end before its first label, so that what is hidden of them can be left out."""
        columns = torch.arange(labels.shape[1], device=labels.device)
        is_scan = batch["input_ids"] == self._fmri_token_id
        if batch.get("text_segments") is not None or not is_scan.any():
            return False
        last_of_scans = torch.where(is_scan, columns, -1).amax(1)
        first_label = torch.where(labels != IGNORED, columns, labels.shape[1]).amin(1)
        return bool((last_of_scans < first_label).all())

    def _rows(self, inputs: Mapping[str, Any], rows: torch.Tensor, with_scans: bool) -> dict[str, Any]:
        """Some prompts of a batch, without the padding that they share."""
        of_scans = {name: inputs[name] for name in OF_SCANS if inputs.get(name) is not None}
        of_prompts = {name: value for name, value in inputs.items() if name not in OF_SCANS}
        if not rows.all():
            shown = torch.ones_like(inputs["input_ids"])[rows]
            if of_prompts.get("attention_mask") is not None:
                shown = of_prompts["attention_mask"][rows]
            columns = shown.any(0).nonzero().flatten()
            span = slice(int(columns[0]), int(columns[-1]) + 1)
            of_prompts = {name: value[rows, span] for name, value in of_prompts.items() if value is not None}
            if "look_ups" in of_scans:
                of_scans["look_ups"] = among(of_scans["look_ups"], rows, int(columns[0]))
        return {**of_prompts, **(of_scans if with_scans else {})}

    def _n_codes(self, inputs: Mapping[str, Any]) -> torch.Tensor | int:
        """How many next codes a batch has to predict."""
        if inputs.get("fmri_labels") is None:
            return 0
        masks = [inputs.get(name) for name in ("roi_mask", "padding_mask")]
        return self.accelerator.unwrap_model(self.model).count_next_codes(inputs["fmri_labels"], *masks)

    @property
    def _fmri_token_id(self) -> int:
        return self.accelerator.unwrap_model(self.model).config.fmri_token_id

    def _has_scan(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return (inputs["input_ids"] == self._fmri_token_id).any(1)
