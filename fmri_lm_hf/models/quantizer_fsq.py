"""Finite scalar quantization (arXiv 2309.15505): each dimension is rounded to one of a few levels."""

from __future__ import annotations

import math

import torch

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .quantizers import FmriQuantizer


class FiniteScalarQuantizer(FmriQuantizer):
    """Rounds each of `len(fsq_levels)` bounded dimensions; a code is the number of a cell of that grid.

    Every code is a combination of levels and every combination a code (`levels_from_codes`, `codes_from_levels`), so
    that there is no codebook to collapse and no commitment loss. Each of `num_quantizers` codes of a token has
    dimensions of its own.
    """

    has_commitment = False

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.levels = tuple(config.fsq_levels or ())

    def latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        bounded = self._bounded(self._of_codes(self.head(embeddings)))
        return (bounded / self._half(bounded)).flatten(-2)

    def forward(
        self, embeddings: torch.Tensor, token_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        latents = self.latents(embeddings)
        half = self._half(latents)
        rounded = (self._of_codes(latents.detach()) * half).round()
        codes = self.codes_from_levels((rounded + half).long())
        return latents, (rounded / half).flatten(-2), codes if self.n_levels > 1 else codes.squeeze(-1)

    def from_codes(self, fmri_codes: torch.Tensor) -> torch.Tensor:
        codes = torch.stack(self.levels_of(fmri_codes), dim=-1)
        levels = self.levels_from_codes(codes).to(self.head[-1].weight.dtype)
        half = self._half(levels)
        return ((levels - half) / half).flatten(-2)

    def levels_from_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """The level of each dimension, counted from 0: (..., n_dimensions) of codes (...)."""
        counts = self._of_dimensions(self.levels, codes)
        return codes[..., None] // self._of_dimensions(self._strides(), codes) % counts

    def codes_from_levels(self, levels: torch.Tensor) -> torch.Tensor:
        """Codes (...) of levels (..., n_dimensions), counted from 0."""
        return (levels * self._of_dimensions(self._strides(), levels)).sum(-1)

    def _of_codes(self, latents: torch.Tensor) -> torch.Tensor:
        """Dimensions (..., num_quantizers, n_dimensions) of each code, of latents (..., codebook_dim)."""
        return latents.unflatten(-1, (self.n_levels, len(self.levels)))

    def _bounded(self, values: torch.Tensor) -> torch.Tensor:
        """Values squeezed so that rounding them gives so many levels in each dimension, as in the paper."""
        # an even number of levels has none in the middle, so the range is shifted by half a level
        reach = [(count - 1) * (1 + 1e-3) / 2 for count in self.levels]
        offset = [0.5 * (count % 2 == 0) for count in self.levels]
        shift = [math.atanh(by / half) for by, half in zip(offset, reach)]
        squeezed = (values.float() + self._of_dimensions(shift, values.float())).tanh()
        bounded = squeezed * self._of_dimensions(reach, squeezed) - self._of_dimensions(offset, squeezed)
        return bounded.to(values.dtype)

    def _half(self, like: torch.Tensor) -> torch.Tensor:
        return self._of_dimensions([count // 2 for count in self.levels], like)

    def _strides(self) -> list[int]:
        return [math.prod(self.levels[:dimension]) for dimension in range(len(self.levels))]

    @staticmethod
    def _of_dimensions(values, like: torch.Tensor) -> torch.Tensor:
        # made where it is used: a buffer would have to be in the checkpoint, or be empty after loading
        return torch.tensor(values, device=like.device, dtype=like.dtype)


__all__ = ["FiniteScalarQuantizer"]
