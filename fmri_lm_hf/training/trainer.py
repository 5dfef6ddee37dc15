"""Trainers of the stages: losses of a batch, and what its micro-batches share.

Stage 1 trains a `FmriTokenizer` with `FmriTrainer`; the other stages train a `FmriLMForCausalLM` with `FmriLMTrainer`.
How the losses of batches become that of a step is in `step_trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributed.fsdp import register_fsdp_forward_method

from ..models.generation_fmri_lm import SCAN_INPUTS
from ..models.scan_layout import ScanLayout
from .attention_supervision import AttentionSupervision, move_positions, select_rows
from .feature_store import IGNORED
from .random_questions import ReadingBatches
from .step_trainer import Part, StepTrainer

# Inputs with a row for each scan or target; all others have a row for each prompt, of which only some have a scan.
OF_SCANS = (*SCAN_INPUTS, "fmri_labels", "attention_targets")


class FmriTrainer(StepTrainer):
    """Trainer of stage 1, whose losses are means over scans.

    The contrastive loss compares each scan with the texts of all scans of its step, in all micro-batches and
    processes. This needs no gradients of other processes, since embeddings of texts are frozen. The codebooks start
    from the scans of the first step, and move once a step. Evaluation compares a scan with the texts of its batch.
    """

    def count_units(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"scans": len(inputs["input_values"])}

    def loss_parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        quantizer = getattr(self.accelerator.unwrap_model(self.model), "quantizer", None)
        if quantizer is not None:
            # Codebooks move with the last micro-batch of a step. If they moved with each, the next one would read other
            # codes, and the result would depend on how the step is divided.
            quantizer.step_ends = self.accelerator.sync_gradients
        outputs, n_scans = model(**inputs), len(inputs["input_values"])
        # "loss" is the weighted sum of the other losses, which have weight 0 here: they are only logged
        parts = {
            name: Part(n_scans * value, "scans", float(name == "loss"))
            for name, value in outputs.items()
            if name.endswith("loss") or name.startswith("codebook_")
        }
        return parts, outputs

    def prepare_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Start the codebooks, and add to each micro-batch the texts of the others."""
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "start_quantizer"):
            # FSDP2 gathers weights for a forward pass only, and for methods that are registered as one. Registered on
            # each step, the method would be wrapped once more each time.
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
        """Gather rows of all processes, which may differ in number; also return where those of this process begin."""
        if self.accelerator.num_processes == 1:
            return rows, 0
        sizes = self.accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        gathered = self.accelerator.gather(F.pad(rows, (0, 0, 0, max(sizes) - len(rows))))
        of_process = gathered.unflatten(0, (len(sizes), max(sizes)))
        together = torch.cat([values[:size] for values, size in zip(of_process, sizes, strict=True)])
        return together, sum(sizes[: self.accelerator.process_index])


class FmriLMTrainer(StepTrainer):
    """Trainer of language models that read scans, with losses of text about scans, plain text and next codes.

    The loss is ``F2T + fmri_loss_weight * F2F + text_only_loss_weight * T2T`` (arXiv 2511.21760): cross-entropy
    of text after scans, of the next code of each ROI if the batch has `fmri_labels`, and of texts without a scan,
    which preserve the language; each a mean over its labels in the whole step. A mixture of experts with
    `output_router_logits` adds its load balancing loss with its own weight, as a mean over prompts.

    Prompts with and without scans run in separate forward passes, so that texts are not padded to the length of scans,
    and logits are computed only at positions that predict a label of the batch.

    Parameters
    ----------
    text_only_loss_weight : float, default=0.5
    supervision : AttentionSupervision, optional
        Attention supervision of the language model, by the `attention_targets` of a batch.
    attention_loss_weight : float, default=1.0
        Weight of its loss, a mean over targets.
    replay : ReadingBatches, optional
        Random scans against forgetting: one of its batches is divided among the micro-batches of a step, and its
        cross-entropy is added to the loss.
    replay_every : int, default=1
        Replay in every n-th step.
    *args, **kwargs
        Arguments of [`Trainer`].
    """

    def __init__(
        self,
        *args,
        text_only_loss_weight: float = 0.5,
        supervision: AttentionSupervision | None = None,
        attention_loss_weight: float = 1.0,
        replay: ReadingBatches | None = None,
        replay_every: int = 1,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.replay, self.replay_every = replay, replay_every
        self.text_only_loss_weight = text_only_loss_weight
        self.supervision, self.attention_loss_weight = supervision, attention_loss_weight

    def prepare_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Add a share of the step's replayed batch to each micro-batch.

        The number of the step alone decides which batch is replayed, so that a resumed training replays the same ones.
        The batch is divided among the micro-batches of all processes: the loss then does not depend on their number.
        """
        if self.replay is None or self.state.global_step % self.replay_every:
            return
        shares = self.replay.shares(self.state.global_step, len(batches) * self.args.world_size)
        for batch, share in zip(batches, shares[self.args.process_index * len(batches) :]):
            batch["replay"] = {name: values.to(self.args.device) for name, values in share.items()}

    def count_units(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        counts = self._count(inputs) | {"replayed words": 0}
        if "replay" in inputs:
            replayed = self._count(inputs["replay"])
            counts["replayed words"] = replayed["words about scans"] + replayed["other words"]
            counts["attention targets"] += replayed["attention targets"]
        return counts

    def _count(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count the units of a batch without its replayed prompts."""
        has_scan = self._has_scan(inputs)
        n_labels = (inputs["labels"][:, 1:] != IGNORED).sum(1)  # no position predicts the first token
        return {
            "words about scans": n_labels[has_scan].sum(),
            "other words": n_labels[~has_scan].sum(),
            "codes": self._n_codes(inputs),
            "prompts": len(has_scan),
            "attention targets": len(inputs.get("attention_targets", ())),
        }

    def loss_parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        replay = inputs.get("replay")
        parts, outputs = self._parts(model, {name: each for name, each in inputs.items() if name != "replay"})
        if replay is not None:
            replayed, _ = self._parts(model, replay)
            words = replayed["text_loss"].total + replayed["text_only_loss"].total
            parts["replay_loss"] = Part(words, "replayed words", 1.0)
            if "attention_loss" in parts:
                total = parts["attention_loss"].total + replayed["attention_loss"].total
                parts["attention_loss"] = parts["attention_loss"]._replace(total=total)
        return parts, outputs

    def _parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        """Compute the parts of the loss for the prompts with scans and those without, replayed prompts aside."""
        unwrapped = self.accelerator.unwrap_model(self.model)
        names = [
            "text_loss",
            "text_only_loss",
            "fmri_loss",
            *(["attention_loss"] if self.supervision else []),
        ]
        totals = dict.fromkeys(names, torch.zeros((), device=self.args.device))
        outputs: Any = None
        for name, batch in zip(names, self._with_and_without_scans(inputs)):
            if batch is None:
                continue
            # Position i predicts token i + 1. Logits are computed at the columns in which any row predicts a label, and
            # at one column if there is none: a process whose head has no gradient would leave the others waiting for
            # ever when gradients are reduced.
            labels = F.pad(batch.pop("labels")[:, 1:], (0, 1), value=IGNORED)
            at = (labels != IGNORED).any(0).nonzero().flatten()
            if not len(at):
                at = at.new_zeros(1)
            targets, skips = batch.pop("attention_targets", None), self._scans_come_first(batch, labels)
            if self.supervision is None or targets is None:
                outputs = model(**batch, logits_to_keep=at, skip_hidden=skips)
            else:
                if skips:  # the model drops hidden tokens, which moves the others, and so the targets
                    masks = {name: batch.get(name) for name in ("attention_mask", "roi_mask", "padding_mask")}
                    seen = unwrapped.get_attention_mask(batch["input_ids"], **masks)
                    targets = move_positions(targets, ScanLayout.places_without_hidden(seen))
                with self.supervision.over(targets):
                    outputs = model(**batch, logits_to_keep=at, skip_hidden=skips)
                totals["attention_loss"] = self.supervision.total
            labels = labels[:, at]
            chosen = labels != IGNORED
            logits = outputs.logits[chosen].float()
            totals[name] = F.cross_entropy(logits, labels[chosen], reduction="sum")
            if outputs.fmri_loss is not None:  # a mean; the step needs the sum
                totals["fmri_loss"] = outputs.fmri_loss * self._n_codes(batch)
            if outputs.aux_loss is not None:
                totals["aux_loss"] = totals.get("aux_loss", 0) + outputs.aux_loss * len(labels)
        kinds = {
            "text_loss": ("words about scans", 1.0),
            "text_only_loss": ("other words", self.text_only_loss_weight),
            "fmri_loss": ("codes", unwrapped.config.fmri_loss_weight),
            "aux_loss": ("prompts", unwrapped.aux_loss_weight),
            "attention_loss": ("attention targets", self.attention_loss_weight),
        }
        return {name: Part(total, *kinds[name]) for name, total in totals.items()}, outputs

    def _with_and_without_scans(self, inputs: Mapping[str, Any]) -> list[dict[str, Any] | None]:
        """Split a batch into prompts with and without a scan; None for a kind that no process has.

        All processes have to run the same passes, since each pass exchanges gradients and shards. So a process without
        prompts of a kind that another one has runs a dummy of two tokens without labels.
        """
        has_scan = self._has_scan(inputs)
        n_rows = torch.stack([has_scan.sum(), (~has_scan).sum()])
        n_anywhere = self.accelerator.reduce(n_rows.clone(), reduction="sum")
        batches: list[dict[str, Any] | None] = []
        for kind, with_scans in enumerate((True, False)):
            if n_rows[kind]:
                batches.append(self._rows(inputs, has_scan == with_scans, with_scans))
            elif n_anywhere[kind]:
                word = int(self._fmri_token_id == 0)
                words = inputs["input_ids"].new_full((1, 2), word)
                batches.append({"input_ids": words, "labels": torch.full_like(words, IGNORED)})
            else:
                batches.append(None)
        return batches

    def _scans_come_first(self, batch: Mapping[str, Any], labels: torch.Tensor) -> bool:
        """Whether each row's scans end before its first label, so that their hidden tokens can be left out.

        Without them the other tokens move, by a different number of columns in each row. Counted from the end of the
        row, though, tokens after the scans keep their place, and with them the columns of `logits_to_keep`.
        """
        columns = torch.arange(labels.shape[1], device=labels.device)
        is_scan = batch["input_ids"] == self._fmri_token_id
        if batch.get("text_segments") is not None or not is_scan.any():
            return False
        # With next codes or a compiled graph the model ignores `skip_hidden`: moved targets would then be wrong.
        if batch.get("fmri_labels") is not None or self.args.torch_compile:
            return False
        last_of_scans = torch.where(is_scan, columns, -1).amax(1)
        first_label = torch.where(labels != IGNORED, columns, labels.shape[1]).amin(1)
        return bool((last_of_scans < first_label).all())

    def _rows(self, inputs: Mapping[str, Any], rows: torch.Tensor, with_scans: bool) -> dict[str, Any]:
        """Select prompts of a batch, and cut off the padding that they share."""
        of_scans = {name: inputs[name] for name in OF_SCANS if inputs.get(name) is not None}
        of_prompts = {name: value for name, value in inputs.items() if name not in OF_SCANS}
        if not rows.all():
            shown = torch.ones_like(inputs["input_ids"])[rows]
            if of_prompts.get("attention_mask") is not None:
                shown = of_prompts["attention_mask"][rows]
            columns = shown.any(0).nonzero().flatten()
            span = slice(int(columns[0]), int(columns[-1]) + 1)
            of_prompts = {name: value[rows, span] for name, value in of_prompts.items() if value is not None}
            if "attention_targets" in of_scans:
                targets = select_rows(of_scans["attention_targets"], rows, int(columns[0]))
                of_scans["attention_targets"] = targets
        return {**of_prompts, **(of_scans if with_scans else {})}

    def _n_codes(self, inputs: Mapping[str, Any]) -> torch.Tensor | int:
        """Count the next codes that a batch predicts."""
        if inputs.get("fmri_labels") is None:
            return 0
        masks = [inputs.get(name) for name in ("roi_mask", "padding_mask")]
        return self.accelerator.unwrap_model(self.model).count_next_codes(inputs["fmri_labels"], *masks)

    @property
    def _fmri_token_id(self) -> int:
        return self.accelerator.unwrap_model(self.model).config.fmri_token_id

    def _has_scan(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return (inputs["input_ids"] == self._fmri_token_id).any(1)
