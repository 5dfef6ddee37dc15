"""Learned latent tokens in place of the (ROI, time patch) grid, after TiTok (arXiv 2406.07550).

The encoder reads the grid and the latents together and hands on the latents alone, so that a scan has
`num_latent_tokens` tokens whatever its atlas. The decoder reads them beside a grid of mask tokens and hands on that
grid.
"""

from __future__ import annotations

import torch
from torch import nn

from .configuration_fmri_tokenizer import FmriTokenizerConfig


class LatentTokens(nn.Module):
    """What the latents and the time patches of a grid begin with, on one side of the quantizer.

    ROIs have their embeddings in the Transformer; time patches, whose order a set of latents would not see
    otherwise, have theirs here. In the decoder these are the mask tokens.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.n_rois = config.n_rois
        self.latents = nn.Embedding(config.num_latent_tokens, config.hidden_size)
        self.patches = nn.Embedding(config.n_patches, config.hidden_size)

    def forward(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the grid (n_patches * n_rois, hidden_size), time-major, and of the latents."""
        # called, not read: a module whose weights are offloaded has them only while it is called
        patches = self.patches(torch.arange(self.patches.num_embeddings, device=device))
        latents = self.latents(torch.arange(self.latents.num_embeddings, device=device))
        return patches.repeat_interleave(self.n_rois, dim=0), latents


__all__ = ["LatentTokens"]
