"""What all quantizers share: features to latents, and what can be said of codes.

A quantizer has `n_levels` and `codebook_size`, maps features to latents, code vectors and codes (`forward`), and codes
back to code vectors (`from_codes`). Its state changes in training mode only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .configuration_fmri_tokenizer import FmriTokenizerConfig


@dataclass(frozen=True)
class CodeStatistics:
    """How codes are used; a tuple with a value for each level of the quantizer.

    Attributes
    ----------
    used : tuple of int
        Codes that occur.
    dead : tuple of int
        Codes that do not.
    perplexity : tuple of float
        ``exp(-sum(p log p))`` over the shares of codes: as many equally frequent codes would say as much.
    """

    used: tuple[int, ...]
    dead: tuple[int, ...]
    perplexity: tuple[float, ...]


class FmriQuantizer(nn.Module):
    """Base of the quantizers: Linear-Tanh-Linear to the codebook dimension.

    Parameters
    ----------
    config : FmriTokenizerConfig

    Attributes
    ----------
    has_commitment : bool
        Whether the encoder is to be drawn to the codes.
    step_ends : bool
        Whether an optimizer step ends with the next batch; False while it has more micro-batches to come.
    """

    has_commitment = True
    step_ends = True

    @property
    def started(self) -> bool:
        """Whether there are codes that mean something."""
        return True

    def start(self, latents: torch.Tensor) -> None:
        """Start from latents of shape (n, codebook_dim); nothing where codes are a grid."""

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        assert config.codebook_size is not None  # a configuration that is made has one
        self.n_levels, self.codebook_size = config.num_quantizers, config.codebook_size
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, config.codebook_dim),
        )

    def latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        """What is quantized, (batch, n_tokens, codebook_dim), of features (batch, n_tokens, hidden_size)."""
        raise NotImplementedError

    def forward(
        self, embeddings: torch.Tensor, token_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize.

        Parameters
        ----------
        embeddings : torch.Tensor of shape (batch, n_tokens, hidden_size)
        token_mask : torch.BoolTensor of shape (batch, n_tokens)
            Tokens that are nothing observed train no code.

        Returns
        -------
        latents, quantized : torch.Tensor of shape (batch, n_tokens, codebook_dim)
            The latents, and the code vectors nearest to them (their sum over levels), without gradient.
        codes : torch.LongTensor of shape (batch, n_tokens[, n_levels])
        """
        raise NotImplementedError

    def from_codes(self, fmri_codes: torch.Tensor) -> torch.Tensor:
        """Code vectors (batch, n_tokens, codebook_dim) of codes (batch, n_tokens[, n_levels])."""
        raise NotImplementedError

    def levels_of(self, fmri_codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The codes of each level, (batch, n_tokens), from (batch, n_tokens[, n_levels])."""
        levels = fmri_codes.reshape(*fmri_codes.shape[:2], -1).unbind(-1)
        if len(levels) != self.n_levels:
            raise ValueError(
                f"`fmri_codes` has {len(levels)} level(s), found shape {tuple(fmri_codes.shape)}; expected "
                f"(batch, n_tokens, {self.n_levels}), as `encode` returns it."
            )
        return levels

    def statistics(self, fmri_codes: torch.Tensor, token_mask: torch.Tensor | None = None) -> CodeStatistics:
        """Which codes occur and how evenly, among (batch, n_tokens[, n_levels]) or those of them in `token_mask`."""
        levels = self.levels_of(fmri_codes)
        if token_mask is not None:
            levels = tuple(level[token_mask] for level in levels)
        # the codes that occur, not a count for each there is: finite scalar quantization may have billions
        counts = [level.flatten().unique(return_counts=True)[1].double() for level in levels]
        used = tuple(len(each) for each in counts)
        return CodeStatistics(
            used=used,
            dead=tuple(self.codebook_size - each for each in used),
            perplexity=tuple(float(torch.special.entr(each / each.sum()).sum().exp()) for each in counts),
        )


__all__ = ["CodeStatistics", "FmriQuantizer"]
