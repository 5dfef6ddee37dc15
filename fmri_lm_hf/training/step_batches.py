"""Which examples a step is made of: the same in one process and in many, in one run and in one that was resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

__all__ = ["StepBatches"]


class StepBatches(Sampler[list[int]]):
    """Micro-batches of one process: its part of the examples of each step.

    The order of an epoch is a function of seed and epoch. It is cut into steps of `world_size * per_step * batch_size`
    examples, and each of these into micro-batches, of which every process takes `per_step` neighbours. What is left at
    the end of an epoch is shared out as evenly as it goes, so that every example is met once; only where fewer are left
    than there are micro-batches, some are met twice.

    Parameters
    ----------
    n_examples : int
    batch_size : int
        Of a micro-batch.
    per_step : int
        Micro-batches of a process in a step.
    seed : int or None
        None for the order of the examples, in every epoch.
    rank, world_size : int
        This process, and how many there are.
    counts_epochs : bool
        Whether example `i` of epoch `e` is called ``e * n_examples + i``, for examples that are drawn anew.
    drop_last : bool
        Leave out what does not fill a micro-batch of every process.

    Examples
    --------
    >>> [list(StepBatches(10, 2, rank=rank, world_size=2)) for rank in (0, 1)]
    [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], [9]]]
    """

    def __init__(
        self,
        n_examples: int,
        batch_size: int,
        per_step: int = 1,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        counts_epochs: bool = False,
        drop_last: bool = False,
    ):
        self.n_examples, self.batch_size, self.per_step, self.seed = n_examples, batch_size, per_step, seed
        self.rank, self.world_size, self.counts_epochs = rank, world_size, counts_epochs
        if drop_last:
            n_examples -= n_examples % (batch_size * world_size)
        self.n_used = n_examples
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; the Trainer does it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_used // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.n_examples)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_examples)
        if self.counts_epochs:
            order = order + self.epoch * self.n_examples
        together = self.batch_size * self.world_size
        for start in range(0, self.n_used, together * self.per_step):
            of_step = order[start : min(start + together * self.per_step, self.n_used)]
            n_batches = -(-len(of_step) // together)
            if len(of_step) < n_batches * self.world_size:
                of_step = np.resize(of_step, n_batches * self.world_size)
            batches = np.array_split(of_step, n_batches * self.world_size)
            for batch in batches[self.rank * n_batches : (self.rank + 1) * n_batches]:
                yield batch.tolist()
