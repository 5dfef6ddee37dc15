"""The fMRI tokenizer: ROI time series to discrete tokens and back (stage 1 of arXiv 2511.21760).

Encoder, quantizer and decoder work on (ROI, time patch) tokens in time-major order: all ROIs of time patch 0, then all
ROIs of patch 1. With `quantizer="titok"` a few learned latent tokens stand in their place. What a token sees of its ROI
is configuration (`input_features`). What only training needs is in `modeling_fmri_tokenizer_pretraining`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .fmri_transformer import FmriDecoder, FmriEncoder, Glance, connectivity_profiles
from .hub_mixin import PublishedOnHub
from .quantizers import CodeStatistics, FiniteScalarQuantizer, FmriCodebook, VectorQuantizer


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
    """What `FmriTokenizer.forward` returns: codes and reconstructions.

    The attributes are those of [`FmriTokenizerEncoderOutput`] and [`FmriTokenizerDecoderOutput`].
    """

    fmri_codes: torch.LongTensor | None = None
    embeddings: torch.FloatTensor | None = None
    quantized: torch.FloatTensor | None = None
    token_mask: torch.BoolTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    connectivity: torch.FloatTensor | None = None


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
        if isinstance(module, Glance):
            module.init_weights()
        elif isinstance(module, FmriCodebook):
            init.normal_(module.embedding, std=module.embedding.shape[1] ** -0.5)
            init.zeros_(module.embedding_sum)
            init.zeros_(module.cluster_size)
            init.zeros_(module.initialized)

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
    # what only training needs lies in the checkpoints of `FmriTokenizerForPreTraining`
    _keys_to_ignore_on_load_unexpected = [r"^(fmri_tokenizer\.)?(alignment|steps)\."]

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.encoder = FmriEncoder(config)
        quantizer_class = FiniteScalarQuantizer if config.fsq_levels else VectorQuantizer
        self.quantizer = None if config.encoder_only else quantizer_class(config)
        self.decoder = None if config.encoder_only else FmriDecoder(config)
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
        embeddings, _ = self.encoder(
            input_values,
            self._profiles(input_values, roi_mask, padding_mask),
            self._grid_mask(roi_mask, padding_mask),
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
        return FmriTokenizerDecoderOutput(*self.decoder(self.quantizer.from_codes(fmri_codes), token_mask))

    def forward(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> FmriTokenizerOutput:
        """Encode, quantize and reconstruct; parameters are those of `encode`."""
        encoded = self.encode(input_values, roi_mask, padding_mask)
        if self.quantizer is None:
            raise ValueError("This tokenizer is `encoder_only` and reconstructs nothing; use `encode`.")
        return FmriTokenizerOutput(**encoded, **self.decode(encoded.fmri_codes, encoded.token_mask))

    def scan_tokens(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (n_scans, n_tokens, hidden_size) of scans, and which of them stand for observed data.

        They are what is quantized; parameters are those of `encode`.
        """
        encoded = self.encode(input_values, roi_mask, padding_mask)
        return encoded.embeddings, encoded.token_mask

    def roi_attention(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Which ROIs, and when, each latent token looked at, by attention rollout (arXiv 2005.00928).

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
        input_values, roi_mask, padding_mask = self._observed(input_values, roi_mask, padding_mask)
        shares = self.encoder.grid_attention(
            input_values,
            self._profiles(input_values, roi_mask, padding_mask),
            self._grid_mask(roi_mask, padding_mask),
        )
        return shares.unflatten(-1, (self.config.n_patches, self.config.n_rois)).transpose(-1, -2)

    def code_statistics(
        self, fmri_codes: torch.Tensor, token_mask: torch.Tensor | None = None
    ) -> CodeStatistics:
        """Codes in use, dead codes and perplexity of each level, among codes of any number of scans.

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
        """The tokenizer without what only its training needs; it shares all weights."""
        return self

    def token_mask(self, roi_mask: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        """Which tokens stand for observed data: (batch, n_tokens), from the masks of ROIs and time points.

        Latent tokens always do.
        """
        mask = self._grid_mask(roi_mask, padding_mask)
        if not torch.compiler.is_compiling() and not mask.any(1).all():
            empty = (~mask.any(1)).nonzero().flatten().tolist()
            raise ValueError(
                f"Scan(s) {empty} of the batch have no observed ROI or no observed time point, by `roi_mask` and "
                "`padding_mask`: leave them out."
            )
        if self.config.num_latent_tokens:
            return mask.new_ones(len(mask), self.config.num_latent_tokens)
        return mask

    def _grid_mask(self, roi_mask: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        patches = padding_mask.unflatten(-1, (self.config.n_patches, self.config.patch_size)).any(-1)
        return (patches[:, :, None] & roi_mask[:, None, :]).flatten(1)

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
