"""The Trainer behind all stages: a loss of the whole step, its parts in the log, and a fixed order of examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, IterableDataset, Sampler
from transformers import Trainer

from ..hub.trainer import PublishesThroughHub


class Part(NamedTuple):
    """A part of the loss of a batch: a sum over units, the kind of unit, and its weight in the loss."""

    total: torch.Tensor
    unit: str
    weight: float


class StepTrainer(PublishesThroughHub, Trainer):
    """Trainer whose loss does not depend on how a step is divided into micro-batches and processes.

    A part of the loss is a sum over units (scans, words) divided by the number of such units in all micro-batches of
    all processes. Every part is logged as its mean over the steps since the last log, and in evaluation as its mean
    over the units of the whole dataset. Examples come in the order of `StepBatches`.

    Subclasses implement `count_units` and `loss_parts`, and may change all micro-batches of a step in `prepare_step`.

    Raises
    ------
    ValueError
        If one process has several GPUs: `DataParallel` would split batches after their units are counted.

    Notes
    -----
    The Trainer's own `num_items_in_batch` counts one kind of label. A step here has several (words about scans, plain
    words, codes, scans), each with its own denominator. The Trainer collects all micro-batches of a step in
    `get_batch_samples` before the first of them runs; there units are counted by kind, and `compute_loss` divides by
    these counts.
    """

    # `compute_loss` divides by the counts of the whole step, so the Trainer must not divide by micro-batches again
    loss_is_scaled_for_ga = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"One process has {self.args.n_gpu} GPUs, among which its batches would be split unseen. Start one "
                "process for each GPU (`accelerate launch`), or use one GPU (`CUDA_VISIBLE_DEVICES=0`)."
            )
        self._trained: dict[str, dict[int, torch.Tensor]] = {}  # part -> step -> mean since the last log
        self._evaluated: dict[str, tuple[torch.Tensor, float, float]] = {}  # part -> sum, number, weight
        # Without these the Trainer computes no loss in evaluation for batches without its label columns, and keeps
        # the logits of the whole dataset in memory, which nobody reads.
        self.can_return_loss = True
        self.args.prediction_loss_only = True
        if self.args.label_names is None:
            self.label_names: list[str] = []

    def count_units(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count the units of each kind in a batch (numbers or 0-d tensors); the same kinds for every batch."""
        raise NotImplementedError

    def loss_parts(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Part], Any]:
        """Run the model on a batch; return the parts of its loss, the same ones in all processes, and the output."""
        raise NotImplementedError

    def prepare_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Change all micro-batches of a step of this process, such as by adding to them."""

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the micro-batches of a step, and the number of units of each kind in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self.prepare_step(batches)
        counts = [self.count_units(batch) for batch in batches]
        totals = {unit: float(sum(count[unit] for count in counts)) for unit in counts[0]}
        return batches, self._over_processes(totals)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the share of a batch in the loss of its step, or the loss of a single batch."""
        in_step = model.training and num_items_in_batch is not None
        counts = num_items_in_batch if in_step else self.count_units(inputs)
        parts, outputs = self.loss_parts(model, inputs)
        loss = torch.zeros((), device=self.args.device)
        for name, (total, unit, weight) in parts.items():
            # A batch without units of a kind has a sum of zero. If the whole step has none, dividing by one keeps
            # 0 / 0 = NaN out of the loss.
            n_units = float(counts[unit])
            mean = total / max(n_units, 1.0)
            loss = loss + weight * mean
            if not model.training:
                before, n_before, _ = self._evaluated.get(name, (0, 0.0, weight))
                self._evaluated[name] = (total.detach() + before, n_before + n_units, weight)
            elif n_units:  # else the step has no such part, and a zero would lower its mean in the log
                of_steps, step = self._trained.setdefault(name, {}), self.state.global_step
                of_steps[step] = of_steps.get(step, 0) + mean.detach()
        outputs.loss = loss
        if in_step:
            # DDP and FSDP average gradients over processes, but the shares of the processes have to be added up
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """Evaluate with means over the units of the whole dataset as loss and parts."""
        self._evaluated.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        totals = self._over_processes({name: float(total) for name, (total, _, _) in self._evaluated.items()})
        counts = self._over_processes({name: n for name, (_, n, _) in self._evaluated.items()})
        means = {name: totals[name] / counts[name] for name in totals if counts[name]}
        loss = sum(self._evaluated[name][2] * mean for name, mean in means.items())
        means["loss"] = loss  # the Trainer's is a mean over batches
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in means.items()})
        return output

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Log, with the parts of the loss since the last log."""
        if "loss" in logs and self._trained:
            means = {name: float(sum(of.values())) / len(of) for name, of in self._trained.items()}
            self._trained.clear()
            logs |= {name: mean for name, mean in self._over_processes(means).items() if name != "loss"}
        super().log(logs, *args, **kwargs)

    def _over_processes(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum values over processes, which all have the same names."""
        if self.accelerator.num_processes == 1 or not values:
            return dict(values)
        names = sorted(values)
        stacked = torch.tensor([values[name] for name in names], device=self.args.device)
        return dict(zip(names, self.accelerator.reduce(stacked, reduction="sum").tolist(), strict=True))

    def get_train_dataloader(self) -> DataLoader:
        """Load batches in the order of `StepBatches`; leave other sampling strategies to the Trainer."""
        strategy = self.args.train_sampling_strategy
        if not _is_sized(self.train_dataset) or strategy not in ("random", "sequential"):
            return super().get_train_dataloader()
        return self._loader(
            self.train_dataset,
            self._train_batch_size,
            per_step=self.args.gradient_accumulation_steps,
            seed=self.args.seed if strategy == "random" else None,
            counts_epochs=getattr(self.train_dataset, "draws_each_epoch", False),
            drop_last=self.args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Load batches that divide the dataset among processes without using an example twice."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if not _is_sized(dataset):
            return super().get_eval_dataloader(eval_dataset)
        return self._loader(dataset, self.args.eval_batch_size)

    def _loader(self, dataset: Any, batch_size: int, **order: Any) -> DataLoader:
        args = self.args
        batches = StepBatches(len(dataset), batch_size, rank=args.process_index, world_size=args.world_size, **order)
        loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # `num_processes=1`: Accelerate moves batches to the device and skips those of a resumed epoch, but must not
        # divide them among processes, since `StepBatches` has done so.
        return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        # Process 0 writes `trainer_state.json` next, which marks a complete checkpoint. Without waiting, a kill at this
        # moment could leave a "complete" checkpoint without the random state of another process.
        self.accelerator.wait_for_everyone()


@dataclass(eq=False)
class StepBatches(Sampler[list[int]]):
    """Micro-batches of one process: its part of the examples of each step.

    The order of an epoch is a function of seed and epoch. It is divided into steps of `world_size * per_step *
    batch_size` examples, and each of these into micro-batches, of which every process takes `per_step` consecutive
    ones. Examples that are left at the end of an epoch are divided evenly, so that each is used once; some are used
    twice only if fewer are left than there are micro-batches.

    Parameters
    ----------
    n_examples : int
    batch_size : int
        Examples of a micro-batch.
    per_step : int
        Micro-batches of a process in a step.
    seed : int or None
        None keeps the order of the dataset in every epoch.
    rank, world_size : int
        Number of this process, and of all processes.
    counts_epochs : bool
        Give example `i` of epoch `e` the index ``e * n_examples + i``, for datasets that draw examples anew.
    drop_last : bool
        Leave out examples that do not fill a micro-batch of every process.

    Examples
    --------
    >>> [list(StepBatches(10, 2, rank=rank, world_size=2)) for rank in (0, 1)]
    [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], [9]]]
    """

    n_examples: int
    batch_size: int
    per_step: int = 1
    seed: int | None = None
    rank: int = 0
    world_size: int = 1
    counts_epochs: bool = False
    drop_last: bool = False

    def __post_init__(self):
        self.epoch, self.n_used = 0, self.n_examples
        self.n_together = self.batch_size * self.world_size  # examples that all processes run at the same time
        if self.drop_last:
            self.n_used -= self.n_examples % self.n_together

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by the Trainer."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_used // self.n_together)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.n_examples)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_examples)
        if self.counts_epochs:
            order = order + self.epoch * self.n_examples
        for start in range(0, self.n_used, self.n_together * self.per_step):
            of_step = order[start : min(start + self.n_together * self.per_step, self.n_used)]
            # Every process needs as many micro-batches as the others: one that is done early takes no part in their
            # exchange of gradients, and they wait for ever.
            per_process = -(-len(of_step) // self.n_together)
            n_batches = per_process * self.world_size
            if len(of_step) < n_batches:
                of_step = np.resize(of_step, n_batches)
            for batch in np.array_split(of_step, n_batches)[self.rank * per_process :][:per_process]:
                yield batch.tolist()


def _is_sized(dataset: Any) -> bool:
    return dataset is not None and not isinstance(dataset, IterableDataset)
