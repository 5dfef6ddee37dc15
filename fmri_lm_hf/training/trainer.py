"""The Trainers of the stages.

Stage 1 trains a `FmriTokenizer` with `FmriTrainer`. The other stages train a `FmriLMForCausalLM` with `FmriLMTrainer`,
on examples of one scan and one conversation, or of plain text alone, which `FmriLMCollator` batches.
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

# inputs about scans; the others have a row for each prompt
OF_SCANS = (*SCAN_INPUTS, "fmri_labels", "attention_targets")


class FmriTrainer(StepTrainer):
    """Trainer of stage 1, whose losses are means over scans.

    The contrastive loss compares each scan with the texts of all scans of its step, in all micro-batches and
    processes; texts are frozen, so that nothing but the loss of a scan depends on them. The codebooks start from the
    scans of the first step, and move once a step. Evaluation compares a scan with the texts of its batch.
    """

    def count_units(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"scans": len(inputs["input_values"])}

    def loss_parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        quantizer = getattr(self.accelerator.unwrap_model(self.model), "quantizer", None)
        if quantizer is not None:
            # codebooks move with the last micro-batch, so that all of a step read the same codes
            quantizer.step_ends = self.accelerator.sync_gradients
        outputs, n_scans = model(**inputs), len(inputs["input_values"])
        # the output's "loss" is the weighted sum of the others, which are there to be logged
        parts = {
            name: Part(n_scans * value, "scans", float(name == "loss"))
            for name, value in outputs.items()
            if name.endswith("loss") or name.startswith("codebook_")
        }
        return parts, outputs

    def prepare_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Start the codebooks, and give each micro-batch the texts of the others."""
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "start_quantizer"):
            # FSDP2 has whole weights only within a forward pass, or within a method registered (once) as one
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
    """Trainer of language models that read scans: text about scans, plain text and next codes, each with its weight.

    The loss is ``F2T + fmri_loss_weight * F2F + text_only_loss_weight * T2T`` (arXiv 2511.21760): cross-entropy
    on text after scans, on the next code of each ROI where the batch holds `fmri_labels`, and on texts without
    a scan, which keep the language model's language; each a mean over its labels in the whole step. A mixture of
    experts that has `output_router_logits` adds its load balancing loss with its own weight, as a mean over prompts.

    Prompts with and without scans are run apart, so that texts are not padded to the length of scans, and logits are
    computed at the positions that predict a label of the batch.

    Parameters
    ----------
    text_only_loss_weight : float, default=0.5
    supervision : AttentionSupervision, optional
        Of the language model, whose heads attend where the `attention_targets` of a batch say.
    attention_loss_weight : float, default=1.0
        Weight of this supervision, a mean over targets.
    replay : ReadingBatches, optional
        One of its batches is shared out among the micro-batches of a step, against forgetting; its cross-entropy is
        one more part of the loss.
    replay_every : int, default=1
        Steps from one such step to the next.
    *args, **kwargs
        As for [`Trainer`].
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

        Which batch that is follows from the number of the step alone, so that a resumed training replays what an
        uninterrupted one would have. It is cut into as many shares as the step has micro-batches in all processes, so
        that the step's loss does not depend on how the step is cut.
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
        """Units of a batch without what is replayed."""
        has_scan = self._has_scan(inputs)
        n_labels = (inputs["labels"][:, 1:] != IGNORED).sum(1)  # the first token is predicted by none
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
        """Parts of the loss of a batch without what is replayed: its prompts with scans, and the others."""
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
            # Position i predicts token i + 1. Logits are computed at the columns in which any row predicts a label;
            # at least at one, since a head that one process leaves out would hang the others, which reduce it.
            labels = F.pad(batch.pop("labels")[:, 1:], (0, 1), value=IGNORED)
            at = (labels != IGNORED).any(0).nonzero().flatten()
            if not len(at):
                at = at.new_zeros(1)
            targets, skips = batch.pop("attention_targets", None), self._scans_come_first(batch, labels)
            if self.supervision is None or targets is None:
                outputs = model(**batch, logits_to_keep=at, skip_hidden=skips)
            else:
                if skips:  # the model leaves hidden tokens out: targets go where it puts the others
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
            if outputs.fmri_loss is not None:  # a mean, of which the step needs the sum
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
        """The prompts of a batch that have a scan, and the others; None where no process has any.

        Processes run their models together: gradients and shards are exchanged in each pass. So a process that lacks
        what another one has runs a prompt of two words without labels, from which nothing is learnt.
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
        """Whether each row's scans end before its first label, so that what is hidden of them can be left out.

        Leaving tokens out moves the others, by another number of columns in each row. Counted from the end of a row,
        though, what follows its scans stays in place, and with it all that `logits_to_keep` names.
        """
        columns = torch.arange(labels.shape[1], device=labels.device)
        is_scan = batch["input_ids"] == self._fmri_token_id
        if batch.get("text_segments") is not None or not is_scan.any():
            return False
        # the model leaves nothing out where next codes are predicted or a graph is compiled: then targets must not move
        if batch.get("fmri_labels") is not None or self.args.torch_compile:
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
            if "attention_targets" in of_scans:
                targets = select_rows(of_scans["attention_targets"], rows, int(columns[0]))
                of_scans["attention_targets"] = targets
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
