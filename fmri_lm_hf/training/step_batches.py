"""Which examples a step is made of: the same in one process and in many, in one run and in one that was resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

__all__ = ["StepBatches"]


class StepBatches(Sampler[list[int]]):
    """Batches of one process: its parts of the batches that all processes make up together.

    The order of an epoch is a function of seed and epoch. Examples are cut into batches of `world_size * batch_size`,
    and each of these into parts, one for each process. What is left at the end of an epoch is shared out as evenly as
    it goes, so that every example is met once; where fewer are left than there are processes, some are met twice.

    Parameters
    ----------
    n_examples : int
    batch_size : int
        Of one process.
    seed : int or None
        None for the order of the examples, in every epoch.
    rank, world_size : int
        This process, and how many there are.
    counts_epochs : bool
        Whether example `i` of epoch `e` is called ``e * n_examples + i``, for examples that are drawn anew.
    drop_last : bool
        Leave out what does not fill a batch of all processes.
    """

    def __init__(
        self,
        n_examples: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        counts_epochs: bool = False,
        drop_last: bool = False,
    ):
        self.n_examples, self.batch_size, self.seed = n_examples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.counts_epochs, self.drop_last = counts_epochs, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; the Trainer does it."""
        self.epoch = epoch

    def __len__(self) -> int:
        of_all = self.batch_size * self.world_size
        return self.n_examples // of_all if self.drop_last else -(-self.n_examples // of_all)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.n_examples)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_examples)
        if self.counts_epochs:
            order = order + self.epoch * self.n_examples
        of_all = self.batch_size * self.world_size
        for start in range(0, len(self) * of_all, of_all):
            together = order[start : start + of_all]
            if len(together) < self.world_size:
                together = np.resize(together, self.world_size)
            yield np.array_split(together, self.world_size)[self.rank].tolist()
