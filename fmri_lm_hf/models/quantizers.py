"""What all quantizers share: features to latents, and what can be said of codes.

A quantizer has `n_levels` and `codebook_size`, maps features to latents, code vectors and codes (`forward`), and codes
back to code vectors (`from_codes`). Its state changes in training mode only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
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


# Vector quantization with codebooks that moving averages train; several levels quantize what is left over.

# A code whose share has decayed to the first part of an even share is out of use, and begins anew with the second part
# of one: little, so that the tokens which choose it soon decide where it lies.
OUT_OF_USE, REVIVED = 0.1, 0.3
MAX_DISTANCES = 2**22  # held at a time, 16 MB


class FmriCodebook(nn.Module):
    """A codebook trained by exponential moving averages, started by k-means on the first batch.

    Its state is in buffers and changes only in training mode, once an optimizer step and the same in all processes.
    Codes that fell out of use are moved onto latents of the step. With `unit_norm`, codes lie on the unit sphere (the
    published form).

    Notes
    -----
    Codes are averages over the last ``1 / (1 - codebook_decay)`` steps or so, while latents move with every step of
    the encoder. Averages that are too long leave codes where latents were, and few of them in use
    (`benchmarks/quantizers.py`).
    """

    def __init__(self, config: FmriTokenizerConfig, unit_norm: bool):
        super().__init__()
        self.decay, self.unit_norm = config.codebook_decay, unit_norm
        self.register_buffer("embedding", torch.zeros(config.codebook_size, config.codebook_dim))
        self.register_buffer("embedding_sum", torch.zeros(config.codebook_size, config.codebook_dim))
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))
        self.register_buffer("initialized", torch.zeros(1))
        self._seen: list[torch.Tensor] = []  # latents of the micro-batches of this step

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Index of the code nearest to each of the latents (..., codebook_dim), by Euclidean distance."""
        # |x - e|^2 without |x|^2, which is the same for every code; in parts, so that memory does not grow
        squares, codes = self.embedding.square().sum(-1), self.embedding.T
        parts = latents.reshape(-1, latents.shape[-1]).split(max(1, MAX_DISTANCES // len(self.embedding)))
        nearest = torch.cat([(squares - 2 * part @ codes).argmin(-1) for part in parts])
        return nearest.view(latents.shape[:-1])

    @torch.no_grad()
    def update(self, latents: torch.Tensor, step_ends: bool = True) -> None:
        """Take in latents of shape (n, codebook_dim); the codes move where the optimizer step ends with them."""
        self._seen.append(latents.to(self.embedding.dtype))  # autocast may have lowered them
        if not step_ends:
            return
        latents, self._seen = torch.cat(self._seen), []
        sums, counts = self._assign(latents)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embedding_sum.lerp_(sums, 1 - self.decay)
        self._revive_unused(latents)
        self.embedding.copy_(self._project(self.embedding_sum / self.cluster_size.clamp_min(1e-6)[:, None]))

    def _project(self, codes: torch.Tensor) -> torch.Tensor:
        return F.normalize(codes, dim=-1) if self.unit_norm else codes

    def _assign(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum and number of the latents nearest to each code, over all processes."""
        codes = self.nearest(latents)
        counts = torch.bincount(codes, minlength=len(self.embedding)).to(latents.dtype)
        sums = torch.zeros_like(self.embedding).index_add_(0, codes, latents)
        if _is_distributed():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        return sums, counts

    def _sample(self, latents: torch.Tensor, n: int) -> torch.Tensor:
        """Draw n of all processes' latents; of fewer, some come again, with noise that keeps them apart."""
        sizes = [len(latents)]
        if _is_distributed():
            sizes = [0] * dist.get_world_size()
            dist.all_gather_object(sizes, len(latents))
        rank = dist.get_rank() if len(sizes) > 1 else 0
        places = torch.arange(n, device=latents.device) % sum(sizes)
        rows = torch.randperm(sum(sizes), device=latents.device)[places]
        noise = latents.new_empty(n if n > sum(sizes) else 0, latents.shape[1]).normal_()
        if len(sizes) > 1:
            dist.broadcast(rows, src=0)
            dist.broadcast(noise, src=0)
        rows = rows - sum(sizes[:rank])
        is_here = (rows >= 0) & (rows < len(latents))
        drawn = latents.new_zeros(n, latents.shape[1])
        drawn[is_here] = latents[rows[is_here]]
        if len(sizes) > 1:
            dist.all_reduce(drawn)
        return drawn + 0.01 * drawn.std() * noise if len(noise) else drawn

    @torch.no_grad()
    def start(self, latents: torch.Tensor, n_iterations: int = 10) -> None:
        """Begin with the k-means of latents of shape (n, codebook_dim), those of all processes."""
        latents = latents.to(self.embedding.dtype)
        self.embedding.copy_(self._project(self._sample(latents, len(self.embedding))))
        for _ in range(n_iterations):
            sums, counts = self._assign(latents)
            used = counts > 0
            self.embedding[used] = self._project(sums[used] / counts[used, None])
        self.cluster_size.copy_(counts)
        self.embedding_sum.copy_(sums)
        self.initialized.fill_(1)

    def _revive_unused(self, latents: torch.Tensor) -> None:
        even_share = self.cluster_size.mean()
        unused = self.cluster_size < OUT_OF_USE * even_share
        n_unused = int(unused.sum())
        if n_unused:
            self.cluster_size[unused] = REVIVED * even_share
            self.embedding_sum[unused] = self._sample(latents, n_unused) * REVIVED * even_share


class VectorQuantizer(FmriQuantizer):
    """Nearest codes, on `num_quantizers` levels.

    The first level is the published one (latents and codes of unit length); further levels quantize what the
    levels before them left over.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.codebooks = nn.ModuleList(
            FmriCodebook(config, unit_norm=level == 0) for level in range(config.num_quantizers)
        )

    def latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.head(embeddings), dim=-1)

    def forward(
        self, embeddings: torch.Tensor, token_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        latents = self.latents(embeddings)
        residual, quantized, codes = latents.detach(), torch.zeros_like(latents), []
        if self.training and not self.started:
            self.start(residual[token_mask])
        for codebook in self.codebooks:
            codes.append(codebook.nearest(residual))
            level = F.embedding(codes[-1], codebook.embedding)
            if self.training:  # behind the look-up: all micro-batches of a step read the same codes
                codebook.update(residual[token_mask], self.step_ends)
            quantized, residual = quantized + level, residual - level
        return latents, quantized, torch.stack(codes, dim=-1) if len(codes) > 1 else codes[0]

    @property
    def started(self) -> bool:
        """Whether the codebooks were started."""
        return bool(self.codebooks[-1].initialized)

    @torch.no_grad()
    def start(self, latents: torch.Tensor) -> None:
        """Start the codebooks by k-means on latents of shape (n, codebook_dim)."""
        for codebook in self.codebooks:
            codebook.start(latents)
            latents = latents - F.embedding(codebook.nearest(latents), codebook.embedding)

    def from_codes(self, fmri_codes: torch.Tensor) -> torch.Tensor:
        levels = self.levels_of(fmri_codes)
        return sum(F.embedding(codes, book.embedding) for codes, book in zip(levels, self.codebooks))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


# Finite scalar quantization (arXiv 2309.15505): each dimension is rounded to one of a few levels.


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
