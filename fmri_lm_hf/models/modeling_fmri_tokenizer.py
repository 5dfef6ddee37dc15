"""The fMRI tokenizer: ROI time series to discrete tokens and back (stage 1 of arXiv 2511.21760).

Encoder, quantizer and decoder work on (ROI, time patch) tokens in time-major order: all ROIs of time patch 0, then all
ROIs of patch 1. With `quantizer="titok"` a few learned latent tokens take their place. `input_features` decides what a
token sees of its ROI. What only training needs is in `modeling_fmri_tokenizer_pretraining`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .fmri_transformer import FmriDecoder, FmriEncoder, PositionalAttention, connectivity_profiles
from .hub_mixin import PublishedOnHub
from .quantizers import CodeStatistics, FiniteScalarQuantizer, FmriCodebook, VectorQuantizer

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class FmriTokenizerEncoderOutput(ModelOutput):
    """Output of `FmriTokenizer.encode`.

    Attributes
    ----------
    fmri_codes : torch.LongTensor of shape (batch, n_tokens) or (batch, n_tokens, num_quantizers)
        Code indices; None for a tokenizer that is `encoder_only`.
    embeddings : torch.FloatTensor of shape (batch, n_tokens, hidden_size)
        Continuous encoder features.
    quantized : torch.FloatTensor of shape (batch, n_tokens, codebook_dim)
        The code vectors (their sum over stages); None for a tokenizer that is `encoder_only`.
    token_mask : torch.BoolTensor of shape (batch, n_tokens)
        False if the ROI of a token is missing or its time patch lies wholly in the padding.
    """

    fmri_codes: torch.LongTensor | None = None
    embeddings: torch.FloatTensor | None = None
    quantized: torch.FloatTensor | None = None
    token_mask: torch.BoolTensor | None = None


@dataclass
class FmriTokenizerDecoderOutput(ModelOutput):
    """Output of `FmriTokenizer.decode`: a reconstruction of each input feature.

    Attributes
    ----------
    reconstruction : torch.FloatTensor of shape (batch, n_rois, n_timepoints)
        The normalised signal; None if the tokenizer does not see the signal.
    connectivity : torch.FloatTensor of shape (batch, n_rois, profile_size)
        Connectivity profiles, as of `connectivity_profiles`; None if the tokenizer does not see them.
    """

    reconstruction: torch.FloatTensor | None = None
    connectivity: torch.FloatTensor | None = None


@dataclass
class FmriTokenizerOutput(FmriTokenizerDecoderOutput, FmriTokenizerEncoderOutput):
    """Output of `FmriTokenizer.forward`: codes and reconstructions.

    The attributes are those of [`FmriTokenizerEncoderOutput`], then of [`FmriTokenizerDecoderOutput`].
    """


class EncoderInputs(NamedTuple):
    """Arguments of the encoder. What was not observed is zero and masked."""

    input_values: Tensor  # (batch, n_rois, n_timepoints), float32
    profiles: Tensor | None  # (batch, n_rois, profile_size)
    grid_mask: Tensor  # (batch, n_patches * n_rois), time-major


class FmriPreTrainedModel(PublishedOnHub, PreTrainedModel):
    """Loading, saving and initialisation shared by the models of this package."""

    base_model_prefix = "fmri"
    main_input_name = "input_values"
    input_modalities: tuple[str, ...] = ("fmri",)
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    # The losses are means over the batch: a Trainer must not hand over the number of items of a whole step.
    accepts_loss_kwargs = False

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, PositionalAttention):
            module.init_weights()
        elif isinstance(module, FmriCodebook):
            init.normal_(module.embedding, std=module.embedding.shape[1] ** -0.5)
            init.zeros_(module.embedding_sum)
            init.zeros_(module.cluster_size)
            init.zeros_(module.initialized)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Self:
        """Load a model as `PreTrainedModel.from_pretrained` does, from safetensors only."""
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
        others = [path for path in files if path.suffix != ".safetensors"]
        # the file of a local adapter is named whether it exists or not; peft would then read the pickle in its place
        pickles = [path.with_suffix(".bin") for path in files if not path.exists()]
        others += [path for path in pickles if path.exists()]
        if others:
            raise OSError(
                f"The weights in '{load_config.pretrained_model_name_or_path}' are named as {others[0].name!r}, "
                "which may be a pickle and was not read: expected safetensors files. If you trust it, load it "
                "with torch and save it again with `save_pretrained`."
            )
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )


class FmriTokenizer(FmriPreTrainedModel):
    """A tokenizer of ROI time series: to discrete tokens and back (stage 1 of fMRI-LM, arXiv 2511.21760).

    `input_values` of shape (batch, n_rois, n_timepoints) become `fmri_codes` of shape (batch, n_tokens), with a last
    axis of stages for a residual quantizer. Series are normalised per ROI, at the repetition time of the feature
    extractor of the checkpoint.

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
    # what only training needs lies in the checkpoints of `FmriTokenizerForPreTraining`
    _keys_to_ignore_on_load_unexpected = [r"^(fmri_tokenizer\.)?(alignment|steps)\."]

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.encoder = FmriEncoder(config)
        quantizer_class = FiniteScalarQuantizer if config.fsq_levels else VectorQuantizer
        # titok takes either: what is quantized, tokens of the grid or latents, does not matter to a quantizer
        self.quantizer = None if config.encoder_only else quantizer_class(config)
        self.decoder = None if config.encoder_only else FmriDecoder(config)
        self.post_init()

    def encode(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
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
        inputs, _, token_mask = self._prepare(input_values, roi_mask, padding_mask)
        embeddings, _ = self.encoder(*inputs)
        if self.quantizer is None:
            return FmriTokenizerEncoderOutput(embeddings=embeddings, token_mask=token_mask)
        # In training mode this also moves the codebooks: whoever only reads a tokenizer has to call `eval` first.
        _, quantized, codes = self.quantizer(embeddings, token_mask)
        return FmriTokenizerEncoderOutput(codes, embeddings, quantized, token_mask)

    def decode(self, fmri_codes: Tensor, token_mask: Tensor | None = None) -> FmriTokenizerDecoderOutput:
        """Reconstruct the input features from codes of shape (batch, n_tokens[, num_quantizers])."""
        if self.quantizer is None or self.decoder is None:
            raise ValueError(
                "This tokenizer is `encoder_only`: its checkpoint holds neither codebook nor decoder, so it cannot "
                "decode codes. Load a stage 1 checkpoint instead."
            )
        if token_mask is None:
            token_mask = torch.ones(fmri_codes.shape[:2], dtype=torch.bool, device=fmri_codes.device)
        return FmriTokenizerDecoderOutput(*self.decoder(self.quantizer.from_codes(fmri_codes), token_mask))

    def forward(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> FmriTokenizerOutput:
        """Encode, quantize and reconstruct; parameters are those of `encode`."""
        encoded = self.encode(input_values, roi_mask, padding_mask)
        if self.quantizer is None:
            raise ValueError("This tokenizer is `encoder_only` and reconstructs nothing; use `encode`.")
        return FmriTokenizerOutput(**encoded, **self.decode(encoded.fmri_codes, encoded.token_mask))

    def scan_tokens(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the features (n_scans, n_tokens, hidden_size) before quantization, and the mask of observed tokens.

        Parameters are those of `encode`.
        """
        encoded = self.encode(input_values, roi_mask, padding_mask)
        return encoded.embeddings, encoded.token_mask

    def roi_attention(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the attention of each latent token to ROIs and time patches, by attention rollout (arXiv 2005.00928).

        Parameters are those of `encode`.

        Returns
        -------
        torch.Tensor of shape (batch, num_latent_tokens, n_rois, n_patches)
            Shares, which sum to 1 for each latent; zero for missing ROIs and padded time patches.
        """
        if not self.config.num_latent_tokens:
            raise ValueError(
                f"The tokens of `quantizer={self.config.quantizer!r}` stand for one ROI each; only the latent tokens "
                "of 'titok' look at many."
            )
        inputs, _, _ = self._prepare(input_values, roi_mask, padding_mask)
        shares = self.encoder.grid_attention(*inputs)
        return shares.unflatten(-1, (self.config.n_patches, self.config.n_rois)).transpose(-1, -2)

    def code_statistics(self, fmri_codes: Tensor, token_mask: Tensor | None = None) -> CodeStatistics:
        """Compute the use of codes in each stage, among the codes of any number of scans.

        Parameters
        ----------
        fmri_codes : torch.LongTensor of shape (n_scans, n_tokens[, num_quantizers])
            As `encode` returns them.
        token_mask : torch.BoolTensor of shape (n_scans, n_tokens), optional
            Tokens to count.
        """
        if self.quantizer is None:
            raise ValueError("This tokenizer is `encoder_only` and has no codes to count.")
        return self.quantizer.statistics(fmri_codes, token_mask)

    def without_objectives(self) -> FmriTokenizer:
        """Return the tokenizer without the parts that only training needs; it shares all weights."""
        return self

    def token_mask(self, roi_mask: Tensor, padding_mask: Tensor) -> Tensor:
        """Compute which tokens stand for observed data, (batch, n_tokens), from complete masks of ROIs and time points.

        A latent token reads the whole scan, so it always does.
        """
        return self._of_tokens(self._grid_mask(roi_mask, padding_mask))

    def _of_tokens(self, grid_mask: Tensor) -> Tensor:
        n_latents = self.config.num_latent_tokens
        return grid_mask.new_ones(len(grid_mask), n_latents) if n_latents else grid_mask

    def _grid_mask(self, roi_mask: Tensor, padding_mask: Tensor) -> Tensor:
        """Which places of the grid were observed: (batch, n_patches * n_rois), a patch if any of its points was."""
        patches = padding_mask.unflatten(-1, (self.config.n_patches, self.config.patch_size)).any(-1)
        mask = (patches[:, :, None] & roi_mask[:, None, :]).flatten(1)  # time-major
        # A scan without anything to attend to is NaN throughout, and with it the mean of its batch.
        if not torch.compiler.is_compiling() and not mask.any(1).all():
            empty = (~mask.any(1)).nonzero().flatten().tolist()
            raise ValueError(
                f"Scan(s) {empty} of the batch have no observed ROI or no observed time point, by `roi_mask` and "
                "`padding_mask`: leave them out."
            )
        return mask

    def complete_masks(
        self, n_scans: int, roi_mask: Tensor | None, padding_mask: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Complete both masks, as booleans of checked shapes; None hides nothing."""
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

    def _prepare(
        self, input_values: Tensor, roi_mask: Tensor | None, padding_mask: Tensor | None
    ) -> tuple[EncoderInputs, tuple[Tensor, Tensor], Tensor]:
        """Checked inputs of the encoder, the masks of ROIs and time points, and the mask of tokens."""
        expected = (self.config.n_rois, self.config.n_timepoints)
        if input_values.ndim != 3 or tuple(input_values.shape[1:]) != expected:
            raise ValueError(
                "`input_values` must have shape (batch, n_rois, n_timepoints) = "
                f"(batch, {expected[0]}, {expected[1]}), found {tuple(input_values.shape)}. "
                "`FmriFeatureExtractor` brings scans into this form."
            )
        masks = self.complete_masks(len(input_values), roi_mask, padding_mask, input_values.device)
        roi_mask, padding_mask = masks
        # Zero, whatever was there: NaN at a masked place would spread through every product, mask or not.
        observed = roi_mask[:, :, None] & padding_mask[:, None, :]
        # float32 for correlations, even if the weights are bfloat16
        input_values = input_values.float().masked_fill(~observed, 0)
        profiles = None
        if self.config.profile_size:
            profiles = connectivity_profiles(input_values, *masks, self.config.roi_networks)
        grid_mask = self._grid_mask(*masks)
        return EncoderInputs(input_values, profiles, grid_mask), masks, self._of_tokens(grid_mask)
