"""Names of networks for a language model that has none of a reader's words for them, but words of its own."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ..simulation.network_names import PUBLISHED_NAMES, draw_network_names

__all__ = ["OwnNames"]

N_SHORT = 12  # names that training begins with: so many networks at most, and few tokens


class OwnNames:
    """Draws names: short ones first, then published ones, then also anatomical terms and made-up words.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    short_until, published_until : float
        Shares of the training.
    """

    def __init__(self, tokenizer: Any, short_until: float, published_until: float):
        self.short_until, self.published_until = short_until, published_until
        self.published = sorted(
            {
                name.lower(): name for name in reversed(PUBLISHED_NAMES)
            }.values(),  # none that differ by case alone
            key=lambda name: (len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]), name),
        )

    def __call__(self, n: int, rng: random.Random, done: float) -> list[str]:
        """`n` names of a scan's networks, when this share of the training is done."""
        if done < self.published_until:
            return rng.sample(self.published[: N_SHORT if done < self.short_until else None], n)
        return draw_network_names(n, np.random.default_rng(rng.getrandbits(32)))
