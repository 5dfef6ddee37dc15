"""Learned latent tokens in place of the (ROI, time patch) grid, after TiTok (arXiv 2406.07550).

The encoder reads the grid and the latents together and hands on the latents alone, so that a scan has
`num_latent_tokens` tokens whatever its atlas. The decoder reads them beside a grid of mask tokens and hands on that
grid. On either side a glance comes first, which tells the latents what is in the grid, or the grid what is in the
latents.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init

from .configuration_fmri_tokenizer import FmriTokenizerConfig

FIRST_SHARE = 0.9  # of a head's attention, at what it looks at first


class Glance(nn.Module):
    """Attention whose weights are learnt for each place, whatever is there (arXiv 2005.00743).

    Each head of a latent begins with a look at places of the grid of its own, as far as there are enough heads. Without
    that, all latents begin with a look at everything, and learn slowly to tell places apart.

    Parameters
    ----------
    config : FmriTokenizerConfig
    of_latents : bool
        Whether the latents look at the grid, or the grid at the latents.
    """

    def __init__(self, config: FmriTokenizerConfig, of_latents: bool):
        super().__init__()
        self.num_heads, self.of_latents = config.num_attention_heads, of_latents
        sizes = (config.num_latent_tokens, config.n_rois * config.n_patches)
        self.logits = nn.Parameter(torch.empty(self.num_heads, *(sizes if of_latents else sizes[::-1])))
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def init_weights(self) -> None:
        """Deal the places of the grid out to the heads of the latents, in order."""
        n_heads, *sizes = self.logits.shape
        n_latents, n_places = sizes if self.of_latents else sizes[::-1]
        n = max(n_heads * n_latents, n_places)
        of_head, of_place = (torch.arange(n) * size // n for size in (n_heads * n_latents, n_places))
        dealt = torch.zeros(n_heads * n_latents, n_places)
        n_others = max(1, self.logits.shape[-1] - 1)
        dealt[of_head, of_place] = math.log(n_others * FIRST_SHARE / (1 - FIRST_SHARE))
        dealt = dealt.view(n_latents, n_heads, n_places).transpose(0, 1)
        init.copy_(self.logits, dealt if self.of_latents else dealt.transpose(1, 2))

    def forward(self, seen: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What is seen of tokens (batch, n_keys, hidden_size), those of the mask: (batch, n_queries, hidden_size)."""
        values = self.value(seen).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return self.proj((self.weights(mask) @ values).transpose(1, 2).flatten(2))

    def weights(self, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Who looks at what: ([batch, ]num_heads, n_queries, n_keys), rows that sum to 1."""
        logits = self.logits
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None], torch.finfo(logits.dtype).min)
        return logits.softmax(-1)


class LatentTokens(nn.Module):
    """What the latents and the grid begin with, on one side of the quantizer.

    ROIs have their embeddings in the Transformer; time patches, whose order a set of latents would not see
    otherwise, have theirs here. In the decoder these are the mask tokens. Parameters are those of `Glance`.
    """

    def __init__(self, config: FmriTokenizerConfig, of_latents: bool):
        super().__init__()
        self.n_rois, self.of_latents = config.n_rois, of_latents
        self.latents = nn.Embedding(config.num_latent_tokens, config.hidden_size)
        self.patches = nn.Embedding(config.n_patches, config.hidden_size)
        self.glance = Glance(config, of_latents)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The grid (batch, n_patches * n_rois, hidden_size), time-major, and the latents, of either.

        Parameters
        ----------
        tokens : torch.Tensor of shape (batch, n_tokens, hidden_size)
            The grid without its time patches, or the latents without their places.
        mask : torch.BoolTensor of shape (batch, n_tokens), optional
            Those that can be looked at.
        """
        # called, not read: a module whose weights are offloaded has them only while it is called
        patches = self.patches(torch.arange(self.patches.num_embeddings, device=tokens.device))
        latents = self.latents(torch.arange(self.latents.num_embeddings, device=tokens.device))
        patches = patches.repeat_interleave(self.n_rois, dim=0)
        if self.of_latents:
            grid = tokens + patches
            return grid, latents + self.glance(grid, mask)
        return patches + self.glance(tokens), latents + tokens


__all__ = ["Glance", "LatentTokens"]
