"""Quantizers: features of tokens to latents, code vectors and codes, and codes back to code vectors.

A quantizer has `n_stages`, the number of codes of a token, and `codebook_size`. It maps features to latents, code
vectors and codes (`forward`), and codes back to code vectors (`from_codes`). Its state changes in training mode only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_fmri_tokenizer import FmriTokenizerConfig

# A code whose share has decayed to the first fraction of an even share is out of use, and is started again with the
# second: a small one, so that the tokens which choose it soon decide where it lies.
OUT_OF_USE, REVIVED = 0.1, 0.3
MAX_DISTANCES = 2**22  # held at a time, 16 MB


@dataclass(frozen=True)
class CodeStatistics:
    """Use of codes: tuples with a value for each stage of the quantizer.

    Attributes
    ----------
    used : tuple of int
        Number of codes that occur.
    dead : tuple of int
        Number of codes that do not.
    perplexity : tuple of float
        ``exp(-sum(p log p))`` over the shares of codes: the number of equally frequent codes with the same entropy.
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
        Whether a loss draws the encoder to the codes.
    step_ends : bool
        Whether an optimizer step ends with the next batch; False while it has more micro-batches to come.
    """

    has_commitment = True
    step_ends = True

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        assert config.codebook_size is not None  # set by the configuration itself
        self.n_stages, self.codebook_size = config.num_quantizers, config.codebook_size
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, config.codebook_dim),
        )

    @property
    def started(self) -> bool:
        """Whether the codes were fitted; always for a fixed grid of codes."""
        return True

    def start(self, latents: Tensor) -> None:
        """Fit the codes to latents of shape (n, codebook_dim); nothing to do for a fixed grid."""

    def latents(self, embeddings: Tensor) -> Tensor:
        """Compute latents (batch, n_tokens, codebook_dim) of features (batch, n_tokens, hidden_size)."""
        raise NotImplementedError

    def forward(self, embeddings: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize.

        Parameters
        ----------
        embeddings : torch.Tensor of shape (batch, n_tokens, hidden_size)
        token_mask : torch.BoolTensor of shape (batch, n_tokens)
            Tokens without observed data train no code.

        Returns
        -------
        latents, quantized : torch.Tensor of shape (batch, n_tokens, codebook_dim)
            The latents, and the nearest code vectors (their sum over stages), without gradient.
        codes : torch.LongTensor of shape (batch, n_tokens[, n_stages])
        """
        raise NotImplementedError

    def from_codes(self, fmri_codes: Tensor) -> Tensor:
        """Look up code vectors (batch, n_tokens, codebook_dim) of codes (batch, n_tokens[, n_stages])."""
        raise NotImplementedError

    def stages_of(self, fmri_codes: Tensor) -> tuple[Tensor, ...]:
        """Split into the codes of each stage, (batch, n_tokens), codes (batch, n_tokens[, n_stages])."""
        stages = fmri_codes.reshape(*fmri_codes.shape[:2], -1).unbind(-1)
        if len(stages) != self.n_stages:
            raise ValueError(
                f"`fmri_codes` has {len(stages)} stage(s), found shape {tuple(fmri_codes.shape)}; expected "
                f"(batch, n_tokens, {self.n_stages}), as `encode` returns it."
            )
        return stages

    def statistics(self, fmri_codes: Tensor, token_mask: Tensor | None = None) -> CodeStatistics:
        """Compute the use of codes among (batch, n_tokens[, n_stages]), or among the tokens in `token_mask`."""
        stages = self.stages_of(fmri_codes)
        if token_mask is not None:
            stages = tuple(codes[token_mask] for codes in stages)
        # only the codes that occur, not a count for every code: finite scalar quantization may have billions
        counts = [codes.flatten().unique(return_counts=True)[1].double() for codes in stages]
        used = tuple(len(count) for count in counts)
        return CodeStatistics(
            used=used,
            dead=tuple(self.codebook_size - n_used for n_used in used),
            perplexity=tuple(float(torch.special.entr(count / count.sum()).sum().exp()) for count in counts),
        )


class FmriCodebook(nn.Module):
    """A codebook trained by exponential moving averages, started by k-means on the first batch.

    Its state is in buffers. It changes only in training mode, once per optimizer step and alike in all processes.
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
        self._step_latents: list[Tensor] = []  # of the micro-batches of this step

    def nearest(self, latents: Tensor) -> Tensor:
        """Find the index of the code nearest to each of the latents (..., codebook_dim), by Euclidean distance."""
        # |x - e|^2 without |x|^2, which is the same for every code; in parts, so that memory does not grow
        squares, codes = self.embedding.square().sum(-1), self.embedding.T
        parts = latents.reshape(-1, latents.shape[-1]).split(max(1, MAX_DISTANCES // len(self.embedding)))
        nearest = torch.cat([(squares - 2 * part @ codes).argmin(-1) for part in parts])
        return nearest.view(latents.shape[:-1])

    @torch.no_grad()
    def update(self, latents: Tensor, step_ends: bool = True) -> None:
        """Add latents of shape (n, codebook_dim); the codes move if the optimizer step ends with them.

        Micro-batches are collected until then. Moving the codes at each would let a step of four micro-batches forget
        four times as fast as the same step in one, and the micro-batches would be quantized by different codes.
        """
        self._step_latents.append(latents.to(self.embedding.dtype))  # autocast may have lowered their precision
        if not step_ends:
            return
        latents, self._step_latents = torch.cat(self._step_latents), []
        sums, counts = self._assign(latents)
        # Averages of sums and of counts, not of means: a code with few latents in a step then hardly moves.
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embedding_sum.lerp_(sums, 1 - self.decay)
        self._revive_unused(latents)
        self.embedding.copy_(self._project(self.embedding_sum / self.cluster_size.clamp_min(1e-6)[:, None]))

    def _project(self, codes: Tensor) -> Tensor:
        return F.normalize(codes, dim=-1) if self.unit_norm else codes

    def _assign(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and number of the latents nearest to each code, over all processes."""
        codes = self.nearest(latents)
        counts = torch.bincount(codes, minlength=len(self.embedding)).to(latents.dtype)
        sums = torch.zeros_like(self.embedding).index_add_(0, codes, latents)
        if _n_processes() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        return sums, counts

    def _sample(self, latents: Tensor, n: int) -> Tensor:
        """Draw n of all processes' latents; of fewer, some are repeated, with noise that keeps them apart.

        All processes draw, which keeps their generators in step, and then take the draw of the first one.
        """
        sizes = [len(latents)]
        if _n_processes() > 1:
            sizes = [0] * dist.get_world_size()
            dist.all_gather_object(sizes, len(latents))
        rank = dist.get_rank() if len(sizes) > 1 else 0
        # As if the latents of all processes were one table: `rows` are its rows, those of this process begin behind the
        # sizes of the ranks before. So a codebook does not depend on how many processes share the batch.
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
    def start(self, latents: Tensor, n_iterations: int = 10) -> None:
        """Fit the codes by k-means to latents of shape (n, codebook_dim), those of all processes."""
        latents = latents.to(self.embedding.dtype)
        self.embedding.copy_(self._project(self._sample(latents, len(self.embedding))))
        for _ in range(n_iterations):
            sums, counts = self._assign(latents)
            used = counts > 0
            # a code without latents stays where it was drawn, and is revived in training if need be
            self.embedding[used] = self._project(sums[used] / counts[used, None])
        self.cluster_size.copy_(counts)
        self.embedding_sum.copy_(sums)
        self.initialized.fill_(1)

    def _revive_unused(self, latents: Tensor) -> None:
        # The decision depends on averages that all processes share, so all of them come to `_sample`, or none: it talks
        # to the others, and one process alone in it would wait forever.
        even_share = self.cluster_size.mean()
        unused = self.cluster_size < OUT_OF_USE * even_share
        n_unused = int(unused.sum())
        if n_unused:
            self.cluster_size[unused] = REVIVED * even_share
            self.embedding_sum[unused] = self._sample(latents, n_unused) * REVIVED * even_share


class VectorQuantizer(FmriQuantizer):
    """Nearest codes, in `num_quantizers` stages.

    The first stage is the published one (latents and codes of unit length); each further stage quantizes the residual
    of the stages before it.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.codebooks = nn.ModuleList(
            FmriCodebook(config, unit_norm=stage == 0) for stage in range(config.num_quantizers)
        )

    def latents(self, embeddings: Tensor) -> Tensor:
        return F.normalize(self.head(embeddings), dim=-1)

    def forward(self, embeddings: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.latents(embeddings)
        residual, quantized, codes = latents.detach(), torch.zeros_like(latents), []
        if self.training and not self.started:
            self.start(residual[token_mask])
        # Detached: codes are fitted by averages, and the encoder gets its gradient straight-through, in the tokenizer.
        for codebook in self.codebooks:
            codes.append(codebook.nearest(residual))
            vectors = F.embedding(codes[-1], codebook.embedding)
            if self.training:  # after the look-up: all micro-batches of a step read the same codes
                codebook.update(residual[token_mask], self.step_ends)
            quantized, residual = quantized + vectors, residual - vectors
        return latents, quantized, torch.stack(codes, dim=-1) if len(codes) > 1 else codes[0]

    @property
    def started(self) -> bool:
        """Whether the codebooks were fitted."""
        return bool(self.codebooks[-1].initialized)

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Fit the codebooks by k-means, one stage after the other, to latents of shape (n, codebook_dim)."""
        for codebook in self.codebooks:
            codebook.start(latents)
            latents = latents - F.embedding(codebook.nearest(latents), codebook.embedding)

    def from_codes(self, fmri_codes: Tensor) -> Tensor:
        stages = self.stages_of(fmri_codes)
        return sum(F.embedding(codes, book.embedding) for codes, book in zip(stages, self.codebooks))


def _n_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class FiniteScalarQuantizer(FmriQuantizer):
    """Finite scalar quantization (arXiv 2309.15505): each dimension is rounded to one of a few levels.

    A code is the number of a cell of the grid of `len(fsq_levels)` dimensions. Every code is a combination of levels
    and every combination a code (`levels_from_codes`, `codes_from_levels`), so that there is no codebook to collapse
    and no commitment loss. Each stage, one of `num_quantizers` codes of a token, has dimensions of its own.
    """

    has_commitment = False

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.levels = tuple(config.fsq_levels or ())
        self.strides = [math.prod(self.levels[:dimension]) for dimension in range(len(self.levels))]

    def latents(self, embeddings: Tensor) -> Tensor:
        bounded = self._bounded(self._by_stage(self.head(embeddings)))
        return (bounded / self._half(bounded)).flatten(-2)

    def forward(self, embeddings: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.latents(embeddings)
        half = self._half(latents)
        rounded = (self._by_stage(latents.detach()) * half).round()
        codes = self.codes_from_levels((rounded + half).long())
        return latents, (rounded / half).flatten(-2), codes if self.n_stages > 1 else codes.squeeze(-1)

    def from_codes(self, fmri_codes: Tensor) -> Tensor:
        codes = torch.stack(self.stages_of(fmri_codes), dim=-1)
        levels = self.levels_from_codes(codes).to(self.head[-1].weight.dtype)
        half = self._half(levels)
        return ((levels - half) / half).flatten(-2)

    def levels_from_codes(self, codes: Tensor) -> Tensor:
        """Compute the level of each dimension, counted from 0: (..., n_dimensions) of codes (...)."""
        return codes[..., None] // _as_tensor(self.strides, codes) % _as_tensor(self.levels, codes)

    def codes_from_levels(self, levels: Tensor) -> Tensor:
        """Compute codes (...) of levels (..., n_dimensions), counted from 0."""
        return (levels * _as_tensor(self.strides, levels)).sum(-1)

    def _by_stage(self, latents: Tensor) -> Tensor:
        """Dimensions (..., n_stages, n_dimensions) of each code, of latents (..., codebook_dim)."""
        return latents.unflatten(-1, (self.n_stages, len(self.levels)))

    def _bounded(self, values: Tensor) -> Tensor:
        """Values squeezed so that rounding them gives the levels of each dimension, as in the paper."""
        # an even number of levels has none in the middle, so the range is shifted by half a level
        reach = [(count - 1) * (1 + 1e-3) / 2 for count in self.levels]
        offset = [0.5 * (count % 2 == 0) for count in self.levels]
        shift = [math.atanh(by / half) for by, half in zip(offset, reach)]
        # in float32: with the 8 bits of bfloat16 the borders between levels would move
        squeezed = (values.float() + _as_tensor(shift, values.float())).tanh()
        bounded = squeezed * _as_tensor(reach, squeezed) - _as_tensor(offset, squeezed)
        return bounded.to(values.dtype)

    def _half(self, like: Tensor) -> Tensor:
        return _as_tensor([count // 2 for count in self.levels], like)


def _as_tensor(values, like: Tensor) -> Tensor:
    # Made at each use. A buffer would have to be in the checkpoint, or be empty after loading: `from_pretrained` builds
    # models on the meta device, and fills only what the file holds.
    return torch.tensor(values, device=like.device, dtype=like.dtype)
