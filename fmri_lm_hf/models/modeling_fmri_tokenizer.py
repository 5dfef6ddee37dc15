"""The fMRI tokenizer: ROI time series to discrete tokens and back (stage 1 of arXiv 2511.21760).

Encoder, vector quantizer and decoder work on (ROI, time patch) tokens in time-major order: all ROIs of time
patch 0, then all ROIs of patch 1. What a token sees of its ROI is configuration (`input_features`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .hub_mixin import PublishedOnHub

# Means over a network differ less between scans than single correlations do; this brings them to a like scale.
NETWORK_SCALE = 3.0


@dataclass
class FmriTokenizerEncoderOutput(ModelOutput):
    """What `FmriTokenizer.encode` returns.

    Attributes
    ----------
    fmri_codes : torch.LongTensor of shape (batch, n_tokens) or (batch, n_tokens, num_quantizers)
        Code indices; None for a tokenizer that is `encoder_only`.
    embeddings : torch.FloatTensor of shape (batch, n_tokens, hidden_size)
        Continuous encoder features.
    quantized : torch.FloatTensor of shape (batch, n_tokens, codebook_dim)
        The code vectors (their sum over levels); None for a tokenizer that is `encoder_only`.
    token_mask : torch.BoolTensor of shape (batch, n_tokens)
        False where a token's ROI is missing or its time patch lies wholly in the padding.
    """

    fmri_codes: torch.LongTensor | None = None
    embeddings: torch.FloatTensor | None = None
    quantized: torch.FloatTensor | None = None
    token_mask: torch.BoolTensor | None = None


@dataclass
class FmriTokenizerDecoderOutput(ModelOutput):
    """What `FmriTokenizer.decode` returns: a reconstruction of each input feature.

    Attributes
    ----------
    reconstruction : torch.FloatTensor of shape (batch, n_rois, n_timepoints)
        The normalised signal; None when the tokenizer does not see the signal.
    connectivity : torch.FloatTensor of shape (batch, n_rois, profile_size)
        Connectivity profiles, as `connectivity_profiles` has them; None when the tokenizer does not see them.
    """

    reconstruction: torch.FloatTensor | None = None
    connectivity: torch.FloatTensor | None = None


@dataclass
class FmriTokenizerOutput(ModelOutput):
    """What `FmriTokenizer.forward` returns: the weighted `loss`, its unweighted parts, codes and reconstructions.

    `codebook_usage` is the share of codes that the batch uses, averaged over levels. The other attributes are
    those of [`FmriTokenizerEncoderOutput`] and [`FmriTokenizerDecoderOutput`].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    domain_loss: torch.FloatTensor | None = None
    codebook_usage: torch.FloatTensor | None = None
    fmri_codes: torch.LongTensor | None = None
    embeddings: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    connectivity: torch.FloatTensor | None = None


def connectivity_profiles(
    input_values: torch.Tensor,
    roi_mask: torch.Tensor,
    padding_mask: torch.Tensor,
    roi_networks: list[int] | None = None,
) -> torch.Tensor:
    """Correlation of each ROI with every ROI of the scan, over its observed time points, in units of the scan's RMS.

    Noise that a scanner adds shrinks all correlations of a scan alike; dividing by their root mean square takes
    that out, so that scans of different sites can be compared.

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
    observed = padding_mask[:, None].to(input_values.dtype)  # (batch, 1, n_timepoints)
    centred = (
        input_values - (input_values * observed).sum(-1, keepdim=True) / observed.sum(-1, keepdim=True)
    ) * observed
    unit = F.normalize(centred, dim=-1) * roi_mask[..., None]
    correlation = unit @ unit.transpose(1, 2)
    others = 1 - torch.eye(correlation.shape[-1], device=correlation.device, dtype=correlation.dtype)
    correlation = correlation * others
    n_observed = roi_mask.sum(-1)
    n_pairs = (n_observed * (n_observed - 1)).clamp_min(1)
    rms = (correlation.square().sum((1, 2)) / n_pairs).sqrt().clamp_min(1e-6)
    profiles = correlation / rms[:, None, None]
    if roi_networks is None:
        return profiles
    members = F.one_hot(torch.tensor(roi_networks, device=profiles.device), max(roi_networks) + 1)
    members = members.to(profiles.dtype)
    n_members = (others * roi_mask[:, None, :]) @ members  # (batch, n_rois, n_networks)
    return torch.cat([profiles, NETWORK_SCALE * (profiles @ members) / n_members.clamp_min(1)], dim=-1)


class FmriAttention(nn.Module):
    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        batch, n_tokens, hidden = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, n_tokens, 3, self.num_heads, hidden // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, n_tokens, head_dim)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return self.proj(attended.transpose(1, 2).reshape(batch, n_tokens, hidden))


class FmriLayer(GradientCheckpointingLayer):
    """A pre-norm Transformer block with exact GELU, as in ViT."""

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = FmriAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
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

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, n_tokens, hidden_size) to the same shape; tokens outside `token_mask` are not attended to."""
        # called, not read: a module whose weights are offloaded has them only while it is called
        rois = torch.arange(self.roi_embeddings.num_embeddings, device=hidden_states.device)
        hidden_states = hidden_states + self.roi_embeddings(rois).repeat(self.n_patches, 1)
        # a look at values would break the graph of a compiled model
        sees_all = not torch.compiler.is_compiling() and bool(token_mask.all())
        attention_mask = None if sees_all else token_mask[:, None, None, :]
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        return self.norm(hidden_states)


class FmriEncoder(nn.Module):
    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.n_patches = config.n_patches
        self.signal_projection = (
            nn.Linear(config.patch_size, config.hidden_size) if "signal" in config.input_features else None
        )
        self.connectivity_projection = (
            nn.Linear(config.profile_size, config.hidden_size) if config.profile_size else None
        )
        self.transformer = FmriTransformer(config, config.num_hidden_layers)

    def forward(
        self, input_values: torch.Tensor, profiles: torch.Tensor | None, token_mask: torch.Tensor
    ) -> torch.Tensor:
        """Features of shape (batch, n_tokens, hidden_size)."""
        dtype = self.transformer.norm.weight.dtype  # scans are float32, whatever the weights are
        hidden_states: torch.Tensor | int = 0
        if self.signal_projection is not None:
            patches = input_values.to(dtype).unflatten(-1, (self.n_patches, self.patch_size))
            patches = patches.transpose(1, 2).flatten(1, 2)  # (batch, n_tokens, patch_size), time-major
            hidden_states = self.signal_projection(patches)
        if self.connectivity_projection is not None and profiles is not None:
            projected = self.connectivity_projection(profiles.to(dtype))  # (batch, n_rois, hidden_size)
            hidden_states = hidden_states + projected.repeat(1, self.n_patches, 1)
        return self.transformer(hidden_states, token_mask)


class FmriDecoder(nn.Module):
    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.n_patches, self.n_rois = config.n_patches, config.n_rois
        self.sizes = [
            config.n_timepoints if "signal" in config.input_features else 0,
            config.profile_size,
        ]
        self.input_projection = nn.Linear(config.codebook_dim, config.hidden_size)
        self.transformer = FmriTransformer(config, config.num_decoder_layers)
        self.head = nn.Sequential(
            nn.Linear(config.n_patches * config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, sum(self.sizes)),
        )

    def forward(self, quantized: torch.Tensor, token_mask: torch.Tensor) -> FmriTokenizerDecoderOutput:
        hidden_states = self.transformer(self.input_projection(quantized), token_mask)
        hidden_states = hidden_states.unflatten(1, (self.n_patches, self.n_rois))
        by_roi = hidden_states.transpose(1, 2).flatten(2)  # (batch, n_rois, n_patches * hidden_size)
        signal, profiles = self.head(by_roi).split(self.sizes, dim=-1)
        return FmriTokenizerDecoderOutput(
            reconstruction=signal if self.sizes[0] else None,
            connectivity=profiles if self.sizes[1] else None,
        )


class FmriCodebook(nn.Module):
    """A codebook trained by exponential moving averages, started by k-means on the first batch.

    Its state is in buffers and changes only in training mode. Codes that fell out of use are moved onto
    latents of the batch. With `unit_norm`, codes lie on the unit sphere (the published form).
    """

    def __init__(self, config: FmriTokenizerConfig, unit_norm: bool):
        super().__init__()
        self.decay, self.unit_norm = config.codebook_decay, unit_norm
        self.register_buffer("embedding", torch.zeros(config.codebook_size, config.codebook_dim))
        self.register_buffer("embedding_sum", torch.zeros(config.codebook_size, config.codebook_dim))
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))
        self.register_buffer("initialized", torch.zeros(1))

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Index of the code nearest to each of the latents (..., codebook_dim), by Euclidean distance."""
        # |x - e|^2 without |x|^2, which is the same for every code
        return (self.embedding.square().sum(-1) - 2 * latents @ self.embedding.T).argmin(-1)

    @torch.no_grad()
    def update(self, latents: torch.Tensor) -> None:
        """One step of training on latents of shape (n, codebook_dim)."""
        latents = latents.to(self.embedding.dtype)  # autocast may have lowered them
        if not self.initialized.item():
            self._start_by_kmeans(latents)
        sums, counts = self._assign(latents)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embedding_sum.lerp_(sums, 1 - self.decay)
        self._revive_unused(latents)
        self.embedding.copy_(self._project(self.embedding_sum / self.cluster_size.clamp_min(1e-6)[:, None]))

    def _project(self, codes: torch.Tensor) -> torch.Tensor:
        return F.normalize(codes, dim=-1) if self.unit_norm else codes

    def _assign(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.nearest(latents)
        counts = torch.bincount(codes, minlength=len(self.embedding)).to(latents.dtype)
        return torch.zeros_like(self.embedding).index_add_(0, codes, latents), counts

    def _sample(self, latents: torch.Tensor, n: int) -> torch.Tensor:
        """Draw n latents; a batch with fewer of them repeats some, with noise that keeps the codes apart."""
        order = torch.randperm(len(latents), device=latents.device)
        drawn = latents[order[torch.arange(n, device=latents.device) % len(latents)]]
        if n > len(latents):
            drawn = drawn + 0.01 * latents.std() * torch.randn_like(drawn)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(drawn, src=0)
        return drawn

    def _start_by_kmeans(self, latents: torch.Tensor, n_iterations: int = 10) -> None:
        self.embedding.copy_(self._project(self._sample(latents, len(self.embedding))))
        for _ in range(n_iterations):
            sums, counts = self._assign(latents)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(sums)
                dist.all_reduce(counts)
            used = counts > 0
            self.embedding[used] = self._project(sums[used] / counts[used, None])
        self.cluster_size.copy_(counts)
        self.embedding_sum.copy_(sums)
        self.initialized.fill_(1)

    def _revive_unused(self, latents: torch.Tensor) -> None:
        # a code is given up when its share has decayed to a hundredth of an even share
        unused = self.cluster_size < 0.01 * self.cluster_size.mean()
        n_unused = int(unused.sum())
        if n_unused:
            fresh = self._sample(latents, n_unused)
            self.cluster_size[unused] = self.cluster_size.mean()
            self.embedding_sum[unused] = fresh * self.cluster_size[unused, None]


class FmriQuantizer(nn.Module):
    """Linear-Tanh-Linear to the codebook dimension, then residual quantization over `num_quantizers` levels.

    The first level is the published one (latents and codes of unit length); further levels quantize what the
    levels before them left over.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, config.codebook_dim),
        )
        self.codebooks = nn.ModuleList(
            FmriCodebook(config, unit_norm=level == 0) for level in range(config.num_quantizers)
        )

    def forward(
        self, embeddings: torch.Tensor, token_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents, code vectors (both (batch, n_tokens, codebook_dim)) and codes."""
        latents = F.normalize(self.head(embeddings), dim=-1)
        residual, quantized, codes = latents.detach(), torch.zeros_like(latents), []
        for codebook in self.codebooks:
            if self.training:
                codebook.update(residual[token_mask])
            codes.append(codebook.nearest(residual))
            level = F.embedding(codes[-1], codebook.embedding)
            quantized, residual = quantized + level, residual - level
        return latents, quantized, torch.stack(codes, dim=-1) if len(codes) > 1 else codes[0]

    def from_codes(self, fmri_codes: torch.Tensor) -> torch.Tensor:
        """Code vectors (batch, n_tokens, codebook_dim) of codes (batch, n_tokens[, num_quantizers])."""
        levels = fmri_codes.reshape(*fmri_codes.shape[:2], -1).unbind(-1)
        if len(levels) != len(self.codebooks):
            raise ValueError(
                f"`fmri_codes` has {len(levels)} level(s), found shape {tuple(fmri_codes.shape)}; expected "
                f"(batch, n_tokens, {len(self.codebooks)}), as `encode` returns it."
            )
        return sum(F.embedding(codes, book.embedding) for codes, book in zip(levels, self.codebooks))


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class TextAlignment(nn.Module):
    """Losses that bring pooled scan embeddings to the frozen text embeddings of the scans' descriptions.

    SigLIP (arXiv 2303.15343): each scan against every text of the batch. Domain-adversarial
    (arXiv 1505.07818): a classifier tells scans from texts, and reversed gradients teach the encoder to
    leave it at a loss.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.text_embed_dim)
        self.domain_classifier = nn.Sequential(
            nn.Linear(config.text_embed_dim, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, 1)
        )
        self.log_scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(()))

    def forward(self, pooled: torch.Tensor, text_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Contrastive and domain loss of (batch, hidden_size) scans and (batch, text_embed_dim) texts."""
        scans = F.normalize(self.projection(pooled), dim=-1)
        texts = F.normalize(text_embeds.detach().to(scans.dtype), dim=-1)
        logits = scans @ texts.T * self.log_scale.exp() + self.bias
        is_pair = 2 * torch.eye(len(scans), device=scans.device) - 1
        contrastive = -F.logsigmoid(is_pair * logits).sum(-1).mean()
        is_scan = torch.arange(2 * len(scans), device=scans.device) < len(scans)
        guess = self.domain_classifier(torch.cat([_ReverseGradient.apply(scans), texts])).squeeze(-1)
        return contrastive, F.binary_cross_entropy_with_logits(guess, is_scan.to(guess.dtype))


class FmriPreTrainedModel(PublishedOnHub, PreTrainedModel):
    """Loading, saving and initialisation shared by the models of this package."""

    base_model_prefix = "fmri"
    main_input_name = "input_values"
    input_modalities: tuple[str, ...] = ("fmri",)
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    # The losses are means over the batch, not sums divided by `num_items_in_batch`.
    accepts_loss_kwargs = False

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FmriCodebook):
            init.normal_(module.embedding, std=module.embedding.shape[1] ** -0.5)
            init.zeros_(module.embedding_sum)
            init.zeros_(module.cluster_size)
            init.zeros_(module.initialized)
        elif isinstance(module, TextAlignment):
            # the initial temperature and bias of SigLIP
            init.constant_(module.log_scale, math.log(10))
            init.constant_(module.bias, -10.0)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a model as `PreTrainedModel.from_pretrained` does; safetensors only."""
        kwargs["use_safetensors"] = True
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights in '{pretrained_model_name_or_path}' cannot be read: a safetensors file is corrupt "
                f"or was cut short ({error}). Download or copy it again."
            ) from error

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs):
        """Read weights, of the model or of an adapter, from safetensors only.

        `use_safetensors` alone does not ensure that: an index may name any file, and adapters fall back to a pickle.
        """
        files = [Path(path) for path in checkpoint_files or ()]
        # of a local adapter, the name that it should have is given without a look whether it is there
        pickles = [path.with_suffix(".bin") for path in files if not path.exists()]
        others = [path for path in files if path.suffix != ".safetensors"]
        others += [path for path in pickles if path.exists()]
        if others:
            raise OSError(
                f"The weights in '{load_config.pretrained_model_name_or_path}' are named as {others[0].name!r}, "
                "which may be a pickle and was not read: expected safetensors files. Where you trust it, load it "
                "with torch and save it again with `save_pretrained`."
            )
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )


class FmriTokenizer(FmriPreTrainedModel):
    """fMRI ROI time series to discrete tokens and back.

    Examples
    --------
    >>> import torch
    >>> from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig
    >>> config = FmriTokenizerConfig(n_rois=8, n_timepoints=40, patch_size=20, hidden_size=16,
    ...                              num_hidden_layers=1, num_attention_heads=2, codebook_size=16, codebook_dim=4)
    >>> tokenizer = FmriTokenizer(config).eval()
    >>> encoded = tokenizer.encode(torch.randn(3, 8, 40))
    >>> tuple(encoded.fmri_codes.shape), tuple(tokenizer.decode(encoded.fmri_codes).reconstruction.shape)
    ((3, 16), (3, 8, 40))
    """

    config: FmriTokenizerConfig
    config_class = FmriTokenizerConfig
    _no_split_modules = ["FmriLayer"]

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.encoder = FmriEncoder(config)
        self.quantizer = None if config.encoder_only else FmriQuantizer(config)
        self.decoder = None if config.encoder_only else FmriDecoder(config)
        self.alignment = TextAlignment(config) if config.text_embed_dim else None
        self.post_init()

    def encode(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> FmriTokenizerEncoderOutput:
        """Encode scans.

        Parameters
        ----------
        input_values : torch.Tensor of shape (batch, n_rois, n_timepoints)
            Normalised time series, as `FmriFeatureExtractor` makes them.
        roi_mask : torch.BoolTensor of shape (batch, n_rois), optional
            False for missing ROIs.
        padding_mask : torch.BoolTensor of shape (batch, n_timepoints), optional
            False for time points that were added to reach `n_timepoints`.
        """
        input_values, roi_mask, padding_mask = self._observed(input_values, roi_mask, padding_mask)
        token_mask = self.token_mask(roi_mask, padding_mask)
        embeddings = self.encoder(
            input_values, self._profiles(input_values, roi_mask, padding_mask), token_mask
        )
        if self.quantizer is None:
            return FmriTokenizerEncoderOutput(embeddings=embeddings, token_mask=token_mask)
        _, quantized, codes = self.quantizer(embeddings, token_mask)
        return FmriTokenizerEncoderOutput(codes, embeddings, quantized, token_mask)

    def decode(
        self, fmri_codes: torch.Tensor, token_mask: torch.Tensor | None = None
    ) -> FmriTokenizerDecoderOutput:
        """Reconstruct the input features from codes of shape (batch, n_tokens[, num_quantizers])."""
        if self.quantizer is None or self.decoder is None:
            raise ValueError(
                "This tokenizer is `encoder_only`: its checkpoint holds neither codebook nor decoder, so there is "
                "nothing to decode codes with. Load a stage 1 checkpoint instead."
            )
        if token_mask is None:
            token_mask = torch.ones(fmri_codes.shape[:2], dtype=torch.bool, device=fmri_codes.device)
        return self.decoder(self.quantizer.from_codes(fmri_codes), token_mask)

    def forward(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
    ) -> FmriTokenizerOutput:
        """Encode, quantize, reconstruct, and measure the losses of stage 1.

        Parameters are those of `encode`, and `text_embeds` of shape (batch, text_embed_dim): embeddings of
        the texts that describe the scans, which adds the alignment losses.
        """
        if self.quantizer is None or self.decoder is None:
            raise ValueError("This tokenizer is `encoder_only` and has no loss; use `encode`.")
        input_values, roi_mask, padding_mask = self._observed(input_values, roi_mask, padding_mask)
        token_mask = self.token_mask(roi_mask, padding_mask)
        profiles = self._profiles(input_values, roi_mask, padding_mask)
        embeddings = self.encoder(input_values, profiles, token_mask)
        latents, quantized, codes = self.quantizer(embeddings, token_mask)
        # straight-through: the decoder reads the code, the encoder receives its gradient
        decoded = self.decoder(latents + (quantized - latents).detach(), token_mask)

        losses = {"commitment_loss": F.mse_loss(latents[token_mask], quantized[token_mask].detach())}
        reconstruction_loss = torch.zeros((), device=embeddings.device)
        if decoded.reconstruction is not None:
            observed = roi_mask[:, :, None] & padding_mask[:, None, :]  # (batch, n_rois, n_timepoints)
            reconstruction_loss = F.mse_loss(decoded.reconstruction[observed].float(), input_values[observed])
        if profiles is not None:
            observed = roi_mask[:, :, None] & F.pad(
                roi_mask, (0, self.config.profile_size - self.config.n_rois), value=True
            ).unsqueeze(1)
            profile_loss = F.mse_loss(decoded.connectivity[observed].float(), profiles[observed])
            reconstruction_loss = reconstruction_loss + profile_loss
        losses["reconstruction_loss"] = reconstruction_loss
        loss = reconstruction_loss + self.config.commitment_loss_weight * losses["commitment_loss"]
        if text_embeds is not None:
            if self.alignment is None:
                raise ValueError(
                    "`text_embeds` were given, but the configuration has no `text_embed_dim`: "
                    f"set it to {text_embeds.shape[-1]} to align scans with them."
                )
            pooled = (embeddings * token_mask[..., None]).sum(1) / token_mask.sum(1, keepdim=True)
            losses["contrastive_loss"], losses["domain_loss"] = self.alignment(pooled, text_embeds)
            loss = loss + self.config.contrastive_loss_weight * losses["contrastive_loss"]
            loss = loss + self.config.domain_loss_weight * losses["domain_loss"]
        return FmriTokenizerOutput(
            loss=loss,
            **losses,
            codebook_usage=self._usage(codes[token_mask]),
            fmri_codes=codes,
            embeddings=embeddings,
            reconstruction=decoded.reconstruction,
            connectivity=decoded.connectivity,
        )

    def token_mask(self, roi_mask: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        """Which tokens stand for observed data: (batch, n_tokens), from the masks of ROIs and time points."""
        patches = padding_mask.unflatten(-1, (self.config.n_patches, self.config.patch_size)).any(-1)
        mask = (patches[:, :, None] & roi_mask[:, None, :]).flatten(1)
        if not torch.compiler.is_compiling() and not mask.any(1).all():
            empty = (~mask.any(1)).nonzero().flatten().tolist()
            raise ValueError(
                f"Scan(s) {empty} of the batch have no observed ROI or no observed time point, by `roi_mask` and "
                "`padding_mask`: leave them out."
            )
        return mask

    def complete_masks(
        self,
        n_scans: int,
        roi_mask: torch.Tensor | None,
        padding_mask: torch.Tensor | None,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both masks as booleans of checked shapes; one that is None hides nothing."""
        masks = []
        for name, mask, size in (
            ("roi_mask", roi_mask, self.config.n_rois),
            ("padding_mask", padding_mask, self.config.n_timepoints),
        ):
            if mask is None:
                mask = torch.ones(n_scans, size, dtype=torch.bool, device=device)
            if tuple(mask.shape) != (n_scans, size):
                raise ValueError(
                    f"`{name}` must have shape {(n_scans, size)}, one row a scan, found {tuple(mask.shape)}."
                )
            masks.append(mask.bool())
        return masks[0], masks[1]

    def _usage(self, codes: torch.Tensor) -> torch.Tensor:
        levels = codes.reshape(len(codes), -1).unbind(-1)
        shares = [len(level.unique()) / self.config.codebook_size for level in levels]
        return torch.tensor(sum(shares) / len(shares), device=codes.device)

    def _profiles(self, input_values, roi_mask, padding_mask) -> torch.Tensor | None:
        if not self.config.profile_size:
            return None
        return connectivity_profiles(input_values, roi_mask, padding_mask, self.config.roi_networks)

    def _observed(
        self, input_values: torch.Tensor, roi_mask: torch.Tensor | None, padding_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The checked inputs; values that were not observed become zero, whatever stood there."""
        expected = (self.config.n_rois, self.config.n_timepoints)
        if input_values.ndim != 3 or tuple(input_values.shape[1:]) != expected:
            raise ValueError(
                "`input_values` must have shape (batch, n_rois, n_timepoints) = "
                f"(batch, {expected[0]}, {expected[1]}), found {tuple(input_values.shape)}. "
                "`FmriFeatureExtractor` brings scans into this form."
            )
        roi_mask, padding_mask = self.complete_masks(
            len(input_values), roi_mask, padding_mask, input_values.device
        )
        observed = roi_mask[:, :, None] & padding_mask[:, None, :]
        return input_values.float().masked_fill(~observed, 0), roi_mask, padding_mask


__all__ = [
    "FmriTokenizer",
    "FmriTokenizerDecoderOutput",
    "FmriTokenizerEncoderOutput",
    "FmriTokenizerOutput",
]
