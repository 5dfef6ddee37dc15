"""Encoder and decoder of the fMRI tokenizer: Transformers over the (ROI, time patch) grid of a scan.

The grid is time-major: all ROIs of time patch 0, then of patch 1. Anything per ROI is repeated as a whole for each
patch (`repeat`, not `repeat_interleave`), and `unflatten(1, (n_patches, n_rois))` gives both axes back.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_fmri_tokenizer import FmriTokenizerConfig

# Means over a network vary less between scans than single correlations; this brings both to a similar scale.
NETWORK_SCALE = 3.0
FIRST_SHARE = 0.9  # of the attention of a head of `PositionalAttention`, on its own places at initialisation


def unit_series(input_values: Tensor, padding_mask: Tensor) -> Tensor:
    """Scale series to mean 0 and length 1 over observed time points, zero elsewhere: (batch, n_rois, n_timepoints)."""
    observed = padding_mask[:, None].to(input_values.dtype)  # (batch, 1, n_timepoints)
    # Twice by the mask: padded points must count neither in the mean nor, as minus the mean, in the length.
    mean = (input_values * observed).sum(-1, keepdim=True) / observed.sum(-1, keepdim=True)
    return F.normalize((input_values - mean) * observed, dim=-1)


def connectivity_profiles(
    input_values: Tensor, roi_mask: Tensor, padding_mask: Tensor, roi_networks: list[int] | None = None
) -> Tensor:
    """Correlate each ROI with every ROI of the scan, over its observed time points, in units of the scan's RMS.

    Noise of a scanner shrinks all correlations of a scan alike; dividing by their root mean square removes that, so
    that scans of different sites can be compared.

    Parameters
    ----------
    input_values : torch.Tensor of shape (batch, n_rois, n_timepoints)
    roi_mask : torch.BoolTensor of shape (batch, n_rois)
    padding_mask : torch.BoolTensor of shape (batch, n_timepoints)
    roi_networks : list of int, optional
        Network of each ROI.

    Returns
    -------
    torch.Tensor of shape (batch, n_rois, n_rois [+ n_networks])
        Pearson correlations divided by the root mean square of those between different observed ROIs; zero on
        the diagonal and for missing ROIs. With `roi_networks`, then the means over the other observed ROIs of
        each network, times `NETWORK_SCALE`.
    """
    unit = unit_series(input_values, padding_mask) * roi_mask[..., None]
    return profiles_of(unit @ unit.transpose(1, 2), roi_mask, roi_networks)


def profiles_of(products: Tensor, roi_mask: Tensor, roi_networks: list[int] | None = None) -> Tensor:
    """Compute `connectivity_profiles` from inner products (batch, n_rois, n_rois), zero for missing ROIs."""
    # The diagonal is no correlation of two ROIs. Missing ROIs have zero rows, so they fall out of sums by themselves;
    # only counts have to leave them out.
    others = 1 - torch.eye(products.shape[-1], device=products.device, dtype=products.dtype)
    products = products * others
    n_observed = roi_mask.sum(-1)
    n_pairs = (n_observed * (n_observed - 1)).clamp_min(1)
    rms = (products.square().sum((1, 2)) / n_pairs).sqrt().clamp_min(1e-6)
    profiles = products / rms[:, None, None]
    if roi_networks is None:
        return profiles
    members = F.one_hot(torch.tensor(roi_networks, device=profiles.device), max(roi_networks) + 1)
    members = members.to(profiles.dtype)
    n_members = (others * roi_mask[:, None, :]) @ members  # (batch, n_rois, n_networks)
    return torch.cat([profiles, NETWORK_SCALE * (profiles @ members) / n_members.clamp_min(1)], dim=-1)


class PositionalAttention(nn.Module):
    """Attention whose weights are learnt for each pair of places, independent of the content (arXiv 2005.00743).

    At initialisation each head of a latent attends to places of the grid of its own, as far as there are enough heads.
    Otherwise all latents would attend to everything alike, and learn slowly to distinguish places.

    Parameters
    ----------
    config : FmriTokenizerConfig
    of_latents : bool
        Whether the latents attend to the grid, or the grid to the latents.
    """

    def __init__(self, config: FmriTokenizerConfig, of_latents: bool):
        super().__init__()
        self.num_heads, self.of_latents = config.num_attention_heads, of_latents
        sizes = (config.num_latent_tokens, config.n_rois * config.n_patches)
        self.logits = nn.Parameter(torch.empty(self.num_heads, *(sizes if of_latents else sizes[::-1])))
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def init_weights(self) -> None:
        """Assign the places of the grid to the heads of the latents, in order."""
        n_heads, *sizes = self.logits.shape
        n_latents, n_places = sizes if self.of_latents else sizes[::-1]
        n = max(n_heads * n_latents, n_places)
        head, place = (torch.arange(n) * size // n for size in (n_heads * n_latents, n_places))
        logits = torch.zeros(n_heads * n_latents, n_places)
        n_others = max(1, self.logits.shape[-1] - 1)
        logits[head, place] = math.log(n_others * FIRST_SHARE / (1 - FIRST_SHARE))
        logits = logits.view(n_latents, n_heads, n_places).transpose(0, 1)
        init.copy_(self.logits, logits if self.of_latents else logits.transpose(1, 2))

    def forward(self, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to the tokens (batch, n_keys, hidden_size) of the mask: (batch, n_queries, hidden_size)."""
        values = self.value(seen).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return self.proj((self.weights(mask) @ values).transpose(1, 2).flatten(2))

    def weights(self, mask: Tensor | None = None) -> Tensor:
        """Compute attention weights ([batch, ]num_heads, n_queries, n_keys); rows sum to 1."""
        logits = self.logits
        if mask is not None:
            # not -inf: a row without anything to see would be NaN, and its gradient NaN for all
            logits = logits.masked_fill(~mask[:, None, None], torch.finfo(logits.dtype).min)
        return logits.softmax(-1)


class LatentTokens(nn.Module):
    """Input of the latents and of the grid to the Transformer, on one side of the quantizer (TiTok, arXiv 2406.07550).

    ROIs have their embeddings in the Transformer; time patches, whose order a set of latents would not see otherwise,
    have theirs here. In the decoder the grid consists of mask tokens. Parameters are those of `PositionalAttention`.
    """

    def __init__(self, config: FmriTokenizerConfig, of_latents: bool):
        super().__init__()
        self.n_rois, self.of_latents = config.n_rois, of_latents
        self.latents = nn.Embedding(config.num_latent_tokens, config.hidden_size)
        self.patches = nn.Embedding(config.n_patches, config.hidden_size)
        self.glance = PositionalAttention(config, of_latents)  # the name of its weights in checkpoints

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make the grid (batch, n_patches * n_rois, hidden_size), time-major, and the latents, from either.

        Parameters
        ----------
        tokens : torch.Tensor of shape (batch, n_tokens, hidden_size)
            The grid without embeddings of time patches, or the latents without their own embeddings.
        mask : torch.BoolTensor of shape (batch, n_tokens), optional
            The tokens that can be attended to.
        """
        # Called, not read: a module whose weights are offloaded has them only while it is called.
        patches = self.patches(torch.arange(self.patches.num_embeddings, device=tokens.device))
        latents = self.latents(torch.arange(self.latents.num_embeddings, device=tokens.device))
        patches = patches.repeat_interleave(self.n_rois, dim=0)
        if self.of_latents:
            grid = tokens + patches
            return grid, latents + self.glance(grid, mask)
        return patches + self.glance(tokens), latents + tokens


class FmriAttention(nn.Module):
    """Multi-head self-attention; `weights` shows what `forward` attends to."""

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        query, key, value = self._heads(hidden_states)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def weights(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Compute attention weights (batch, heads, n_tokens, n_tokens); rows sum to 1."""
        query, key, _ = self._heads(hidden_states)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, float("-inf"))
        return scores.softmax(-1)

    def _heads(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, n_tokens, hidden = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, n_tokens, 3, self.num_heads, hidden // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, n_tokens, head_dim)
        return query, key, value


class FmriLayer(GradientCheckpointingLayer):
    """A pre-norm Transformer block with exact GELU, as in ViT."""

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = FmriAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states), attention_mask)
        return hidden_states + self.fc2(F.gelu(self.fc1(self.norm2(hidden_states))))


class FmriTransformer(nn.Module):
    """ROI position embeddings (shared by the patches of a ROI), Transformer blocks, final LayerNorm."""

    def __init__(self, config: FmriTokenizerConfig, num_layers: int | None):
        super().__init__()
        self.n_patches = config.n_patches
        self.roi_embeddings = nn.Embedding(config.n_rois, config.hidden_size)
        self.layers = nn.ModuleList(FmriLayer(config) for _ in range(num_layers or 0))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, grid: Tensor, grid_mask: Tensor, latents: Tensor | None = None, observer: Tensor | None = None
    ) -> Tensor:
        """Encode a grid, with latents and an observer if there are any.

        Parameters
        ----------
        grid : torch.Tensor of shape (batch, n_grid, hidden_size)
        grid_mask : torch.BoolTensor of shape (batch, n_grid)
            False where the grid is not attended to.
        latents : torch.Tensor of shape ([batch, ]n_latents, hidden_size), optional
            Further tokens, which see and are seen.
        observer : torch.Tensor of shape (1, hidden_size), optional
            One more, which sees and is not seen: it does not change the others.

        Returns
        -------
        torch.Tensor of shape (batch, n_grid + n_latents + n_observers, hidden_size)
        """
        hidden_states, attention_mask = self._sequence(grid, grid_mask, latents, observer)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        return self.norm(hidden_states)

    @torch.no_grad()
    def rollout(self, grid: Tensor, grid_mask: Tensor, latents: Tensor, first: Tensor) -> Tensor:
        """Compute the share of the grid in each latent, by attention rollout (arXiv 2005.00928).

        Attention is averaged over heads, and half of the output of each layer is counted as the token itself. A latent
        starts with `first` (batch, n_latents, n_grid), its weights of `PositionalAttention`.

        Returns
        -------
        torch.Tensor of shape (batch, n_latents, n_grid)
            Zero outside of `grid_mask`; rows sum to 1.
        """
        hidden_states, attention_mask = self._sequence(grid, grid_mask, latents)
        # The layers run twice, once for their output and once for their weights: fused attention returns no weights.
        # flow[i, j]: how much of input j is in token i so far. A layer adds attention to the residual, half and half.
        itself = torch.eye(hidden_states.shape[1], device=grid.device)
        flow = itself
        for layer in self.layers:
            weights = layer.attention.weights(layer.norm1(hidden_states), attention_mask).float().mean(1)
            flow = (weights + itself) / 2 @ flow
            hidden_states = layer(hidden_states, attention_mask)
        n_grid = grid.shape[1]
        flow = flow.expand(len(grid), -1, -1)[:, n_grid:]
        # what comes from latents came from the grid before, by their first attention
        of_grid = flow[..., :n_grid] + flow[..., n_grid:] @ first
        return of_grid / of_grid.sum(-1, keepdim=True).clamp_min(1e-9)

    def _sequence(self, grid, grid_mask, latents=None, observer=None):
        """All tokens in a row with their ROI embeddings, and the mask of attention (None: all see all)."""
        rois = torch.arange(self.roi_embeddings.num_embeddings, device=grid.device)
        parts = [grid + self.roi_embeddings(rois).repeat(self.n_patches, 1)]
        for more in (latents, observer):
            if more is not None:
                parts.append(more.expand(len(grid), -1, -1))
        hidden_states = torch.cat(parts, dim=1)
        # Without a mask attention takes a faster kernel. To look at values would break the graph of a compiled model.
        sees_all = not torch.compiler.is_compiling() and bool(grid_mask.all())
        if sees_all and observer is None:
            return hidden_states, None
        seen = F.pad(grid_mask, (0, hidden_states.shape[1] - grid.shape[1]), value=True)[:, None, None, :]
        if observer is not None:  # the last token: a row of the mask that sees all, a column that only it sees
            token = torch.arange(hidden_states.shape[1], device=grid.device)
            is_observer = token == token[-1]
            seen = seen & (~is_observer[None, :] | is_observer[:, None])
        return hidden_states, seen


class FmriEncoder(nn.Module):
    """Encoder: patches of the signal, connectivity profiles, or both, to the features of a scan's tokens."""

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.n_patches = config.n_patches
        self.signal_projection = (
            nn.Linear(config.patch_size, config.hidden_size) if "signal" in config.input_features else None
        )
        # a profile is that of the whole scan; each time patch may get a projection of its own
        self.n_projections = config.n_patches if config.connectivity_rank else 1
        self.connectivity_projection = (
            nn.Linear(config.profile_size, self.n_projections * config.hidden_size) if config.profile_size else None
        )
        self.latent_tokens = LatentTokens(config, of_latents=True) if config.num_latent_tokens else None
        self.transformer = FmriTransformer(config, config.num_hidden_layers)

    def forward(
        self, input_values: Tensor, profiles: Tensor | None, grid_mask: Tensor, observer: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Encode tokens to features (batch, n_tokens, hidden_size), and an observer to (batch, hidden_size)."""
        grid, latents = self._inputs(input_values, profiles, grid_mask)
        features = self.transformer(grid, grid_mask, latents, observer)
        observed = None
        if observer is not None:
            features, observed = features[:, :-1], features[:, -1]
        return features if latents is None else features[:, grid.shape[1] :], observed

    def grid_attention(self, input_values, profiles, grid_mask) -> Tensor:
        """Compute the attention of each latent to the grid: (batch, n_latents, n_patches * n_rois); rows sum to 1."""
        assert self.latent_tokens is not None  # the tokenizer asks only if there are latents
        grid, latents = self._inputs(input_values, profiles, grid_mask)
        first = self.latent_tokens.glance.weights(grid_mask).float().mean(1)  # over heads
        return self.transformer.rollout(grid, grid_mask, latents, first)

    def _inputs(self, input_values, profiles, grid_mask) -> tuple[Tensor, Tensor | None]:
        dtype = self.transformer.norm.weight.dtype  # scans are float32, whatever the weights are
        grid: Tensor | int = 0
        if self.signal_projection is not None:
            patches = input_values.to(dtype).unflatten(-1, (self.n_patches, self.patch_size))
            patches = patches.transpose(1, 2).flatten(1, 2)  # (batch, n_grid, patch_size), time-major
            grid = self.signal_projection(patches)
        if self.connectivity_projection is not None and profiles is not None:
            projected = self.connectivity_projection(profiles.to(dtype)).unflatten(-1, (self.n_projections, -1))
            projected = projected.transpose(1, 2).expand(-1, self.n_patches, -1, -1)
            grid = grid + projected.flatten(1, 2)  # (batch, n_grid, hidden_size), time-major
        return (grid, None) if self.latent_tokens is None else self.latent_tokens(grid, grid_mask)


class FmriDecoder(nn.Module):
    """Decoder: code vectors to signal and profiles of every ROI.

    With `connectivity_rank`, profiles are those of the inner products of one vector per ROI, as correlations are
    those of series: pairs of ROIs are not decoded one by one, but follow from the vectors of both.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.n_patches, self.n_rois, self.roi_networks = config.n_patches, config.n_rois, config.roi_networks
        rank = config.connectivity_rank if config.profile_size else None
        self.has_rank = rank is not None
        self.sizes = [
            config.n_timepoints if "signal" in config.input_features else 0,
            rank or config.profile_size,
        ]
        self.input_projection = nn.Linear(config.codebook_dim, config.hidden_size)
        self.latent_tokens = LatentTokens(config, of_latents=False) if config.num_latent_tokens else None
        self.transformer = FmriTransformer(config, config.num_decoder_layers)
        self.head = nn.Sequential(
            nn.Linear(config.n_patches * config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, sum(self.sizes)),
        )

    def forward(self, quantized: Tensor, token_mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Decode tokens of the mask: signal (batch, n_rois, n_timepoints), profiles (batch, n_rois, profile_size)."""
        hidden_states = self.input_projection(quantized)
        if self.latent_tokens is None:
            grid_mask = token_mask
            hidden_states = self.transformer(hidden_states, token_mask)
        else:
            grid, latents = self.latent_tokens(hidden_states)
            grid_mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)
            hidden_states = self.transformer(grid, grid_mask, latents)[:, : grid.shape[1]]
        # all time patches of an ROI side by side: the head gives its whole series at once
        by_roi = hidden_states.unflatten(1, (self.n_patches, self.n_rois)).transpose(1, 2).flatten(2)
        signal, profiles = self.head(by_roi).split(self.sizes, dim=-1)
        if self.has_rank:
            roi_mask = grid_mask.unflatten(1, (self.n_patches, self.n_rois)).any(1)
            vectors = profiles.float() * roi_mask[..., None]  # (batch, n_rois, connectivity_rank)
            profiles = profiles_of(vectors @ vectors.transpose(1, 2), roi_mask, self.roi_networks)
        return signal if self.sizes[0] else None, profiles if self.sizes[1] else None
