"""Configuration of the fMRI tokenizer, and the check that a configuration file loads no foreign code."""

# No `from __future__ import annotations`: `strict` checks the types of fields only if they are not strings.
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

INPUT_FEATURES = ("signal", "connectivity")
# Values of fields, beyond the types that `strict` checks.
CHOICES = {
    "quantizer": ("vq", "rvq", "fsq", "titok"),
    "reconstruction_loss": ("mse", "smooth_l1"),
    "contrastive_loss": ("clip", "soft_clip", "siglip", "soft_siglip"),
    "pooling": ("mean", "cls", "attention"),
}
AT_LEAST_ONE = (
    *("n_rois", "n_timepoints", "patch_size", "hidden_size", "num_attention_heads"),
    *("codebook_size", "codebook_dim", "num_quantizers", "connectivity_rank"),
)


@strict
class FmriTokenizerConfig(PreTrainedConfig):
    """Shape of a [`FmriTokenizer`]: encoder, vector quantizer and decoder over (ROI, time patch) tokens.

    The defaults are the sizes of the published fMRI-LM with a ViT-base encoder (arXiv 2511.21760).

    Parameters
    ----------
    n_rois : int
        Number of regions of interest (ROIs), in the order of the atlas.
    n_timepoints : int
        Length of `input_values` of shape (batch, n_rois, n_timepoints), a multiple of `patch_size`.
    patch_size : int
        Time points of a token; a scan has ``n_rois * n_timepoints / patch_size`` tokens.
    input_features : list of {"signal", "connectivity"}, default=["signal"]
        What a token sees of its ROI: the patch of its time series (the published form), its correlation with
        every ROI of the scan, or both. The decoder reconstructs what the encoder sees.
    roi_networks : list of int, optional
        Number of the network of each ROI, counted from 0. With it a connectivity profile also holds the mean
        correlation of the ROI with every network, which carries less noise than single correlations.
    connectivity_rank : int, optional
        The decoder gives each ROI a vector of this size, and reconstructs connectivity as their inner products, as
        that of a scan are those of its series; the token of each time patch sees its own projection of the profile of
        its ROI. Without it each profile is reconstructed by itself, from tokens that all see the same projection, as
        in checkpoints before 0.2, which keeps far less of it.
    hidden_size, num_hidden_layers, num_attention_heads : int
        Shape of the encoder, a pre-norm Transformer.
    intermediate_size : int, optional
        Width of the feed-forward layers; by default four times `hidden_size`.
    num_decoder_layers : int, optional
        Layers of the decoder; by default `num_hidden_layers`.
    layer_norm_eps : float
    encoder_only : bool, default=False
        Leave out quantizer and decoder, as in checkpoints that keep only what the language model reads.
    quantizer : {"vq", "rvq", "fsq", "titok"}, optional
        "vq": one codebook (the published form). "rvq": residual quantization in `num_quantizers` stages, each with a
        codebook for the residual of the stages before it. "fsq": finite scalar quantization (arXiv 2309.15505), without
        a codebook. "titok": `num_latent_tokens` learned tokens in place of those of ROIs and time patches (arXiv
        2406.07550), quantized as by "fsq" if there are `fsq_levels`, else as by "rvq". By default "vq", or "rvq" if
        `num_quantizers` is above 1.
    codebook_size, codebook_dim : int, optional
        Number of codes of each codebook and their dimension; by default 8192 and 128. With `fsq_levels` their
        product, and their number times `num_quantizers`.
    num_quantizers : int, default=1
        Quantizer stages, the codes of a token; with `fsq_levels` each stage has dimensions of its own. With more than
        one, `fmri_codes` has a last axis of stages.
    fsq_levels : list of int, optional
        Levels of each dimension of a code of finite scalar quantization, such as ``[8, 5, 5, 5]``.
    num_latent_tokens : int, optional
        Tokens of a scan with "titok".
    codebook_decay : float, default=0.9
        Decay of the moving averages that train the codebooks; 0.99 in the published program.
    codebook_warmup_steps : int, default=0
        Steps of training before codebooks are used, in which the decoder reads latents that are not quantized.
    reconstruction_loss : {"mse", "smooth_l1"}
        Loss of the observed part of signal and profiles.
    commitment_loss_weight : float
        Draws the encoder to the codes, except with "fsq".
    connectivity_loss_weight, coskewness_loss_weight : float, default=0
        Bring the correlations, and the co-skewness, of the reconstructed signal to those of the scan.
    text_embed_dim : int, optional
        Dimension of the text embeddings that scans are aligned with in training; None: no alignment.
    contrastive_loss : {"clip", "soft_clip", "siglip", "soft_siglip"}, default="siglip"
        Loss of scans against texts. In the soft forms, texts similar to the right one are partly right.
    contrastive_loss_weight : float
    soft_target_temperature : float
        For the soft forms: the smaller, the more similar descriptions have to be.
    pooling : {"mean", "cls", "attention"}, default="mean"
        The vector of a scan that is aligned: the mean of its tokens, one more token that sees them and is not seen, or
        their weighted mean.
    domain_loss_weight : float
        Weight of the classifier of scans and texts behind a gradient reversal.
    domain_ramp_steps : int, default=0
        Steps over which the reversed gradient grows to its full size (arXiv 1505.07818); 0: at once.
    initializer_range : float
    """

    model_type = "fmri_tokenizer"

    n_rois: int = 450
    n_timepoints: int = 160
    patch_size: int = 160
    input_features: list[str] = field(default_factory=lambda: ["signal"])
    roi_networks: list[int] | None = None
    connectivity_rank: int | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    num_decoder_layers: int | None = None
    layer_norm_eps: float | int = 1e-6
    encoder_only: bool = False
    quantizer: str | None = None
    codebook_size: int | None = None
    codebook_dim: int | None = None
    num_quantizers: int = 1
    fsq_levels: list[int] | None = None
    num_latent_tokens: int | None = None
    codebook_decay: float | int = 0.9
    codebook_warmup_steps: int = 0
    reconstruction_loss: str = "mse"
    commitment_loss_weight: float | int = 1.0
    connectivity_loss_weight: float | int = 0.0
    coskewness_loss_weight: float | int = 0.0
    text_embed_dim: int | None = None
    contrastive_loss: str = "siglip"
    contrastive_loss_weight: float | int = 1.0
    soft_target_temperature: float | int = 0.1
    pooling: str = "mean"
    domain_loss_weight: float | int = 0.5
    domain_ramp_steps: int = 0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_hidden_layers
        if self.quantizer is None:
            self.quantizer = "vq" if self.num_quantizers == 1 else "rvq"
        levels = self.fsq_levels
        if self.codebook_size is None:
            self.codebook_size = math.prod(levels) if levels else 8192
        if self.codebook_dim is None:
            self.codebook_dim = self.num_quantizers * len(levels) if levels else 128
        # Before transformers acts on them. Keys that are no fields of this class arrive in `kwargs`.
        check_config_is_inert(kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check the fields, each and together; called when a configuration is made."""
        features = self.input_features
        if not features or set(features) - set(INPUT_FEATURES) or len(set(features)) != len(features):
            raise ValueError(
                f"`input_features` must name at least one of {list(INPUT_FEATURES)}, each once, got {features}."
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {list(choices)}, got {getattr(self, name)!r}.")
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self._validate_quantizer()
        self._validate_objectives()
        for whole, part in (("n_timepoints", "patch_size"), ("hidden_size", "num_attention_heads")):
            found = getattr(self, whole), getattr(self, part)
            if found[0] % found[1]:
                raise ValueError(f"`{whole}` must be a multiple of `{part}`, got {found[0]} and {found[1]}.")
        networks = self.roi_networks
        if networks is not None and (
            len(networks) != self.n_rois or sorted(set(networks)) != list(range(max(networks) + 1))
        ):
            raise ValueError(
                f"`roi_networks` must hold a network number for each of {self.n_rois} ROIs, counted from 0 without "
                f"gaps, got {len(networks)} numbers {sorted(set(networks))}."
            )

    def _validate_quantizer(self):
        levels, kind = self.fsq_levels or [], self.quantizer
        takes_levels = kind in ("fsq", "titok")
        if (kind == "fsq" and not levels) or (levels and not takes_levels) or min(levels, default=2) < 2:
            raise ValueError(
                "`fsq_levels` must hold the levels of each dimension, at least 2, with `quantizer='fsq'`, may with "
                f"'titok' and must not with the others, got {self.fsq_levels} and {kind!r}."
            )
        size, dim = math.prod(levels), self.num_quantizers * len(levels)
        if levels and (self.codebook_size, self.codebook_dim) != (size, dim):
            raise ValueError(
                f"`codebook_size` and `codebook_dim` follow from `fsq_levels` and `num_quantizers`, {size} and {dim}: "
                f"leave them out, got {self.codebook_size} and {self.codebook_dim}."
            )
        n_latents = self.num_latent_tokens
        if (kind == "titok") != (n_latents is not None) or (n_latents is not None and n_latents < 1):
            raise ValueError(
                "`num_latent_tokens` must be at least 1 with `quantizer='titok'` and left out with any other, got "
                f"{n_latents} and {kind!r}."
            )
        if kind == "vq" and self.num_quantizers > 1:
            raise ValueError(
                f"`quantizer='vq'` has one code for a token, got `num_quantizers={self.num_quantizers}`: the others "
                "may have several."
            )

    def _validate_objectives(self):
        if not 0 <= self.codebook_decay < 1:
            raise ValueError(f"`codebook_decay` must be from 0 to below 1, got {self.codebook_decay}.")
        temperature = self.soft_target_temperature
        if temperature <= 0:
            raise ValueError(f"`soft_target_temperature` must be above 0, got {temperature}.")
        weights = [f"{name}_weight" for name in self.loss_weights if name != "reconstruction_loss"]
        for name in ("codebook_warmup_steps", "domain_ramp_steps", *weights):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        for name in ("connectivity_loss", "coskewness_loss"):
            if self.loss_weights[name] and "signal" not in self.input_features:
                raise ValueError(
                    f"`{name}_weight` is about a reconstructed signal: add 'signal' to `input_features`, got "
                    f"{self.input_features}."
                )

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each part of the loss of training, by its name in the output."""
        names = ("commitment_loss", "connectivity_loss", "coskewness_loss", "contrastive_loss", "domain_loss")
        return {"reconstruction_loss": 1.0} | {name: getattr(self, f"{name}_weight") for name in names}

    @property
    def profile_size(self) -> int:
        """Length of a connectivity profile; 0 if tokens do not see connectivity."""
        if "connectivity" not in self.input_features:
            return 0
        return self.n_rois + (0 if self.roi_networks is None else max(self.roi_networks) + 1)

    @property
    def n_patches(self) -> int:
        """Time patches of a scan."""
        return self.n_timepoints // self.patch_size

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Tokens of each block of a scan, in order: its time patches, or all its latent tokens.

        A block takes one position in a prompt.
        """
        if self.num_latent_tokens:
            return (self.num_latent_tokens,)
        return (self.n_rois,) * self.n_patches

    @property
    def n_tokens(self) -> int:
        """Tokens of a scan: all ROIs of time patch 0, then all ROIs of patch 1, and so on; or its latent tokens."""
        return sum(self.block_sizes)


# Attention that is part of transformers and torch. Anything else, such as "org/kernel", is compiled code fetched
# from the Hub when the model is built; whoever wants it can ask for it with `attn_implementation=` at loading.
_BUILT_IN_ATTENTION = ("eager", "sdpa", "flex_attention")
_BUILT_IN_EXPERTS = ("eager", "grouped_mm", "batched_mm")
_IMPLEMENTATIONS = {
    "_attn_implementation": _BUILT_IN_ATTENTION,
    "_attn_implementation_internal": _BUILT_IN_ATTENTION,
    "attn_implementation": _BUILT_IN_ATTENTION,
    "_experts_implementation": _BUILT_IN_EXPERTS,
    "experts_implementation": _BUILT_IN_EXPERTS,
}
# Quantization that an installed library does; other methods fetch kernels from the Hub.
_LIBRARY_QUANTIZATION = ("bitsandbytes",)
_SWITCHES = ("use_kernels", "kernel_config", "trust_remote_code", "custom_generate", "allow_all_kernels")


def check_config_is_inert(config: Mapping[str, Any], name: str = "config.json", *, is_nested: bool = False) -> None:
    """Refuse a configuration that would load foreign kernels or code when a model is built from it.

    Parameters
    ----------
    config : mapping
        A configuration as read from JSON; nested configurations may be dicts or configuration objects.
    name : str, default="config.json"
        What errors call it.
    is_nested : bool, default=False
        Whether it is a part of another configuration.

    Raises
    ------
    ValueError
        For `auto_map` or `custom_pipelines` in a nested configuration, an attention or experts implementation
        that is not part of transformers, kernels, or a quantization method that fetches kernels. The message
        names the key, the value and what to do.
    """

    def refuse(found: Any, expected: str) -> None:
        raise ValueError(
            f"{name}: `{key}` is {found!r}, which would load foreign code or kernels; expected {expected}. "
            "Remove it from the file if you trust the rest, or load from another repository."
        )

    for key, value in config.items():
        if key in _IMPLEMENTATIONS:
            for implementation in value.values() if isinstance(value, Mapping) else (value,):
                if implementation is not None and implementation not in _IMPLEMENTATIONS[key]:
                    refuse(implementation, f"one of {', '.join(_IMPLEMENTATIONS[key])}")
        elif key in _SWITCHES and value:
            refuse(value, "no such key")
        elif key in ("auto_map", "custom_pipelines"):
            # At the top these name the files of the checkpoint itself, which run with `trust_remote_code=True` only.
            if value and is_nested:
                refuse(value, "none in a nested configuration")
        elif key == "quantization_config" and value:
            method = value.get("quant_method") if isinstance(value, Mapping) else value
            if method not in _LIBRARY_QUANTIZATION:
                refuse(method, f"one of {', '.join(_LIBRARY_QUANTIZATION)}")
        else:
            for nested in value if isinstance(value, (list, tuple)) else (value,):
                nested = nested.to_dict() if hasattr(nested, "to_dict") else nested
                if isinstance(nested, Mapping):
                    check_config_is_inert(nested, f"{name}: {key}", is_nested=True)
