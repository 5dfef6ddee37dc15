"""Configuration of the fMRI tokenizer."""

# Annotations stay evaluated here: `strict` checks the types of fields only where they are not strings.
from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_safety import check_config_is_inert

INPUT_FEATURES = ("signal", "connectivity")


@strict
class FmriTokenizerConfig(PreTrainedConfig):
    """Shape of a [`FmriTokenizer`]: encoder, vector quantizer and decoder over (ROI, time patch) tokens.

    The defaults are the sizes of the published fMRI-LM with a ViT-base encoder (arXiv 2511.21760).

    Parameters
    ----------
    n_rois : int
        Number of regions of interest, in the order of the atlas.
    n_timepoints : int
        Length of `input_values`, a multiple of `patch_size`.
    patch_size : int
        Time points a token covers; a scan has ``n_rois * n_timepoints / patch_size`` tokens.
    input_features : list of {"signal", "connectivity"}, default=["signal"]
        What a token sees of its ROI: the patch of its time series (the published form), its correlation with
        every ROI of the scan, or both. The decoder reconstructs what the encoder sees.
    roi_networks : list of int, optional
        Number of each ROI's network, counted from 0. With it a connectivity profile also holds the ROI's mean
        correlation with every network, which carries less noise than single correlations do.
    hidden_size, num_hidden_layers, num_attention_heads : int
        Shape of the encoder, a pre-norm Transformer.
    intermediate_size : int, optional
        Width of the feed-forward layers, four times `hidden_size` when not given.
    num_decoder_layers : int, optional
        Layers of the decoder, `num_hidden_layers` when not given.
    layer_norm_eps : float
    encoder_only : bool, default=False
        Leave out quantizer and decoder, as in checkpoints that keep only what the language model reads.
    codebook_size, codebook_dim : int
        Number of codes of each codebook and their dimension.
    num_quantizers : int, default=1
        Levels of residual quantization. With more than one, `fmri_codes` has a last axis of levels.
    codebook_decay : float
        Decay of the moving averages that train the codebooks.
    commitment_loss_weight : float
    text_embed_dim : int, optional
        Dimension of the text embeddings that scans are aligned with in training; no alignment when None.
    contrastive_loss_weight, domain_loss_weight : float
        Weights of the two alignment losses: SigLIP, and the domain classifier behind a gradient reversal.
    initializer_range : float
    """

    model_type = "fmri_tokenizer"

    n_rois: int = 450
    n_timepoints: int = 160
    patch_size: int = 160
    input_features: list[str] = field(default_factory=lambda: ["signal"])
    roi_networks: list[int] | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    num_decoder_layers: int | None = None
    layer_norm_eps: float | int = 1e-6
    encoder_only: bool = False
    codebook_size: int = 8192
    codebook_dim: int = 128
    num_quantizers: int = 1
    codebook_decay: float | int = 0.99
    commitment_loss_weight: float | int = 1.0
    text_embed_dim: int | None = None
    contrastive_loss_weight: float | int = 1.0
    domain_loss_weight: float | int = 0.5
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_hidden_layers
        check_config_is_inert(kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check what holds between the fields; called when a configuration is made."""
        unknown = set(self.input_features) - set(INPUT_FEATURES)
        if unknown or not self.input_features or len(set(self.input_features)) != len(self.input_features):
            raise ValueError(
                f"`input_features` must name at least one of {list(INPUT_FEATURES)}, each once, "
                f"got {self.input_features}."
            )
        for name in (
            "n_rois",
            "n_timepoints",
            "patch_size",
            "hidden_size",
            "num_attention_heads",
            "codebook_size",
            "codebook_dim",
            "num_quantizers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.n_timepoints % self.patch_size:
            raise ValueError(
                f"`n_timepoints` must be a multiple of `patch_size`, got {self.n_timepoints} and {self.patch_size}."
            )
        if self.roi_networks is not None and (
            len(self.roi_networks) != self.n_rois
            or sorted(set(self.roi_networks)) != list(range(max(self.roi_networks) + 1))
        ):
            raise ValueError(
                f"`roi_networks` must hold a network number for each of {self.n_rois} ROIs, counted from 0 without "
                f"gaps, got {len(self.roi_networks)} numbers {sorted(set(self.roi_networks))}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "`hidden_size` must be a multiple of `num_attention_heads`, got "
                f"{self.hidden_size} and {self.num_attention_heads}."
            )

    @property
    def profile_size(self) -> int:
        """Length of a connectivity profile; 0 where tokens do not see connectivity."""
        if "connectivity" not in self.input_features:
            return 0
        return self.n_rois + (0 if self.roi_networks is None else max(self.roi_networks) + 1)

    @property
    def n_patches(self) -> int:
        """Time patches of a scan."""
        return self.n_timepoints // self.patch_size

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Tokens of each block of a scan, in order: its time patches. A block takes one position in a prompt."""
        return (self.n_rois,) * self.n_patches

    @property
    def n_tokens(self) -> int:
        """Tokens of a scan: all ROIs of time patch 0, then all ROIs of patch 1, and so on."""
        return sum(self.block_sizes)


__all__ = ["FmriTokenizerConfig"]
