"""A causal language model that reads fMRI scans (stages 2 and 3 of arXiv 2511.21760).

Any causal language model of transformers serves as backbone, unpatched: scan tokens replace the embeddings of
placeholder tokens, a prepared mask lets the tokens of one time patch see each other, and prepared position ids
give them one shared position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_fmri_lm import FmriLMConfig
from .modeling_fmri_tokenizer import FmriPreTrainedModel, FmriTokenizer

# Inputs with one row per scan (a prompt may hold several scans, or none).
SCAN_INPUTS = ("input_values", "fmri_features", "roi_mask", "padding_mask")


@dataclass
class FmriLMOutput(ModelOutput):
    """What `FmriLMForCausalLM.forward` returns.

    Attributes
    ----------
    loss : torch.FloatTensor of shape (1,)
        ``text_loss + fmri_loss_weight * fmri_loss``, as far as their labels are given.
    text_loss, fmri_loss : torch.FloatTensor of shape (1,)
    logits : torch.FloatTensor of shape (batch, n_kept, vocab_size)
    past_key_values : Cache
    hidden_states, attentions : tuple of torch.FloatTensor
        Those of the language model, when asked for.
    """

    loss: torch.FloatTensor | None = None
    text_loss: torch.FloatTensor | None = None
    fmri_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class FmriProjector(nn.Module):
    """Scan features to the embedding space of the language model: (LayerNorm,) Linear, GELU."""

    def __init__(self, config: FmriLMConfig):
        super().__init__()
        fmri, text = config.fmri_config, config.text_config
        size = fmri.hidden_size if config.fmri_embedding_source == "encoder" else fmri.codebook_dim
        self.norm = nn.LayerNorm(size) if config.projector_layer_norm else nn.Identity()
        self.linear = nn.Linear(size, text.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.linear(self.norm(features)))


class FmriLMForCausalLM(FmriPreTrainedModel, GenerationMixin):
    """A causal language model that answers questions about fMRI scans.

    Attention: the tokens of one time patch see each other, everything before them and no later patch; text is
    causal and sees every scan token before it. Positions: a time patch takes one position in all, so that a
    scan of one patch moves the text behind it by one. Several scans in one prompt are read in order.
    """

    config: FmriLMConfig
    config_class = FmriLMConfig
    main_input_name = "input_ids"
    input_modalities = ("fmri", "text")
    _supports_flash_attn = False  # its kernels take no block mask and would silently fall back to causal
    _no_split_modules = ["FmriLayer"]

    def __init__(self, config: FmriLMConfig):
        super().__init__(config)
        self.fmri_tokenizer = FmriTokenizer._from_config(config.fmri_config)
        self.projector = FmriProjector(config)
        self.roi_embeddings = nn.Embedding(config.fmri_config.n_rois, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.fmri_head = nn.Linear(
            config.text_config.hidden_size,
            config.fmri_config.codebook_size * config.fmri_config.num_quantizers,
            bias=False,
        )
        self.post_init()

    @classmethod
    def from_components(
        cls, fmri_tokenizer: FmriTokenizer, language_model: PreTrainedModel, **config
    ) -> FmriLMForCausalLM:
        """Join a trained tokenizer and a pretrained language model; projector and heads start fresh.

        Parameters
        ----------
        fmri_tokenizer : FmriTokenizer
        language_model : PreTrainedModel
            Any causal language model. It is not copied: training the result trains it.
        **config
            Further fields of [`FmriLMConfig`], such as `fmri_token_id`.
        """
        with torch.device("meta"):  # without memory for two children that are replaced at once
            model = cls(
                FmriLMConfig(fmri_config=fmri_tokenizer.config, text_config=language_model.config, **config)
            )
        model.fmri_tokenizer = fmri_tokenizer.to(language_model.device)
        model.language_model = language_model
        for fresh in (model.projector, model.roi_embeddings, model.fmri_head):
            fresh.to_empty(device=language_model.device).apply(model._init_weights)
        # both must stay one object, so that resizing the vocabulary keeps them in step
        model.config.fmri_config, model.config.text_config = fmri_tokenizer.config, language_model.config
        model.generation_config = language_model.generation_config
        return model

    def freeze_fmri_tokenizer(self) -> None:
        """Stop training the tokenizer: its weights and its codebook stay as they are."""
        self.fmri_tokenizer.requires_grad_(False)
        self.fmri_tokenizer.eval()

    def train(self, mode: bool = True) -> FmriLMForCausalLM:
        """Switch to training mode; a frozen tokenizer stays out of it, so that its codebook does not move."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.fmri_tokenizer.parameters()):
            self.fmri_tokenizer.eval()
        return self

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings):
        self.language_model.set_output_embeddings(new_embeddings)

    def get_fmri_features(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the projector reads of scans: (n_scans, n_tokens, hidden_size or codebook_dim).

        Computed once, it can be passed to `forward` and `generate` as `fmri_features` in place of
        `input_values`, which saves the encoder when a scan is used many times.
        """
        encoded = self.fmri_tokenizer.encode(input_values, roi_mask, padding_mask)
        return encoded.embeddings if self.config.fmri_embedding_source == "encoder" else encoded.quantized

    def get_fmri_embeddings(self, fmri_features: torch.Tensor) -> torch.Tensor:
        """Embeddings (n_scans, n_tokens, lm_hidden_size) that enter the language model for scans."""
        roi_embeddings = self.roi_embeddings.weight.repeat(self.config.fmri_config.n_patches, 1)
        return self.projector(fmri_features) + roi_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        fmri_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        fmri_labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> FmriLMOutput:
        """Run the model.

        Parameters
        ----------
        input_ids : torch.LongTensor of shape (batch, n_positions)
            Text ids with `config.fmri_token_id` at the place of each scan token: `n_tokens` of them for every
            scan, as [`FmriLMProcessor`] writes them.
        input_values : torch.FloatTensor of shape (n_scans, n_rois, n_timepoints)
            The scans in the order of their placeholders.
        roi_mask : torch.BoolTensor of shape (n_scans, n_rois), optional
            False for missing ROIs: their tokens are not attended to.
        padding_mask : torch.BoolTensor of shape (n_scans, n_timepoints), optional
            False for padded time points.
        fmri_features : torch.FloatTensor, optional
            Result of `get_fmri_features`, in place of `input_values`.
        attention_mask : torch.LongTensor of shape (batch, n_past + n_positions), optional
            Zero for padding.
        position_ids : torch.LongTensor of shape (batch, n_positions), optional
            Result of `get_position_ids` when not given.
        labels : torch.LongTensor of shape (batch, n_positions), optional
            Text labels, -100 where there is none; shifted inside.
        fmri_labels : torch.LongTensor of shape (n_scans, n_tokens[, num_quantizers]), optional
            Codes of the scans. From the tokens of time patch w the code of each ROI at w + 1 is predicted;
            a scan of one time patch has no next patch and so no such loss. -100 is ignored, and so are tokens
            of missing ROIs and padded time patches.
        logits_to_keep : int, default=0
            Compute logits for the last so many positions only (0: for all).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the text either as `input_ids` or as `inputs_embeds`.")
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                "`attention_mask` must have shape (batch, n_past + n_positions), found "
                f"{tuple(attention_mask.shape)}; which scan tokens see each other is worked out inside."
            )
        is_fmri = None
        if input_ids is not None:
            is_fmri = input_ids.eq(self.config.fmri_token_id)
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_fmri, 0))
        assert inputs_embeds is not None
        n_past = 0 if past_key_values is None else int(past_key_values.get_seq_length())

        if input_values is not None or fmri_features is not None:
            if is_fmri is None:
                raise ValueError(
                    "Scans need `input_ids` with placeholders; they cannot be joined to `inputs_embeds`."
                )
            if fmri_features is None:
                fmri_features = self.get_fmri_features(input_values, roi_mask, padding_mask)
            self._check_placeholders(is_fmri, len(fmri_features))
            embeddings = self.get_fmri_embeddings(fmri_features).to(inputs_embeds.dtype)
            inputs_embeds = inputs_embeds.masked_scatter(is_fmri[..., None], embeddings)
            attention_mask = self._hide_missing(is_fmri, attention_mask, roi_mask, padding_mask, n_past)
        elif is_fmri is not None and is_fmri.any():
            self._check_placeholders(is_fmri, 0)

        if position_ids is None and input_ids is not None:
            if n_past:
                raise ValueError(
                    "With a filled cache the positions of new tokens depend on the scans before them: pass "
                    "`position_ids`, the last columns of `model.get_position_ids(all_input_ids, attention_mask)`."
                )
            position_ids = self.get_position_ids(input_ids, attention_mask)

        output_hidden_states = kwargs.pop("output_hidden_states", None)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=self._block_mask(is_fmri, inputs_embeds, attention_mask, past_key_values),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=fmri_labels is not None or output_hidden_states,
            **kwargs,
        )
        text_loss = fmri_loss = None
        if labels is not None:
            text_loss = self.loss_function(
                outputs.logits, labels[:, -logits_to_keep:], vocab_size=self.config.text_config.vocab_size
            )
        if fmri_labels is not None:
            fmri_loss = self._next_code_loss(
                outputs.hidden_states[-1][is_fmri], fmri_labels, roi_mask, padding_mask
            )
        losses = [text_loss, None if fmri_loss is None else self.config.fmri_loss_weight * fmri_loss]
        given = [loss for loss in losses if loss is not None]
        return FmriLMOutput(
            loss=sum(given) if given else None,
            text_loss=text_loss,
            fmri_loss=fmri_loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )

    def fmri_logits(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Code logits of scans that stand alone: (batch, n_tokens, num_quantizers * codebook_size).

        The logits at the token of ROI r and time patch w are for the code of ROI r at patch w + 1.
        """
        embeddings = self.get_fmri_embeddings(self.get_fmri_features(input_values, roi_mask, padding_mask))
        is_fmri = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        attention_mask = self._hide_missing(is_fmri, None, roi_mask, padding_mask)
        position_ids = self._positions(is_fmri, is_fmri)
        hidden_states = self.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=self._block_mask(is_fmri, embeddings, attention_mask, None),
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        return self._code_logits(hidden_states)

    def get_position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Positions (batch, n_positions): one for each text token and one for each time patch of a scan."""
        is_fmri = input_ids == self.config.fmri_token_id
        is_token = torch.ones_like(is_fmri) if attention_mask is None else attention_mask.bool() | is_fmri
        return self._positions(is_fmri, is_token)

    def _positions(self, is_fmri: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        opens_patch = (is_fmri.cumsum(1) - 1) % self.config.fmri_config.n_rois == 0
        advances = is_token & (~is_fmri | opens_patch)
        return (advances.cumsum(1) - 1).clamp_min(0)

    def _block_mask(self, is_fmri, inputs_embeds, attention_mask, past_key_values):
        """The mask in the form that the backbone wants, with the tokens of one time patch seeing each other."""
        block_ids = None
        if is_fmri is not None and is_fmri.any():
            patch = (is_fmri.cumsum(1) - 1) // self.config.fmri_config.n_rois
            n_past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
            # block ids are counted from the beginning of the cache
            block_ids = F.pad(torch.where(is_fmri, patch, -1), (n_past, 0), value=-1)
        return create_masks_for_generate(
            config=self.language_model.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            # Positions shared by a time patch would be taken for the borders of packed sequences.
            position_ids=None,
            block_sequence_ids=block_ids,
        )

    def get_attention_mask(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The mask (batch, n_positions) that hides padding and the tokens of missing ROIs.

        `forward` and `generate` apply it themselves; a caller that goes on with a cache by hand needs it.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return self._hide_missing(
            input_ids == self.config.fmri_token_id, attention_mask, roi_mask, padding_mask
        )

    def _hide_missing(self, is_fmri, attention_mask, roi_mask, padding_mask, n_past=0):
        """`attention_mask` with zeros at the tokens of missing ROIs and of padded time patches."""
        present = self._present(
            int(is_fmri.sum()) // self.config.fmri_config.n_tokens, roi_mask, padding_mask
        )
        if present is None or present.all():
            return attention_mask
        if attention_mask is None:
            attention_mask = torch.ones(
                is_fmri.shape[0], n_past + is_fmri.shape[1], dtype=torch.long, device=is_fmri.device
            )
        new = attention_mask[:, n_past:].masked_scatter(is_fmri, present.to(attention_mask.dtype))
        return torch.cat([attention_mask[:, :n_past], new], dim=1)

    def _present(self, n_scans, roi_mask, padding_mask) -> torch.Tensor | None:
        """Which tokens of scans stand for observed data, (n_scans, n_tokens); None where no mask says so."""
        if roi_mask is None and padding_mask is None:
            return None
        tokenizer = self.fmri_tokenizer
        return tokenizer.token_mask(*tokenizer.complete_masks(n_scans, roi_mask, padding_mask))

    def _check_placeholders(self, is_fmri: torch.Tensor, n_scans: int) -> None:
        n_tokens = self.config.fmri_config.n_tokens
        found = is_fmri.sum(1)
        if int(found.sum()) != n_scans * n_tokens or (found % n_tokens).any():
            raise ValueError(
                f"The prompts hold {found.tolist()} fMRI placeholders (id {self.config.fmri_token_id}), but "
                f"{n_scans} scan(s) of {n_tokens} tokens each were given. Write one `<fmri>` a scan and let "
                "`FmriLMProcessor` expand it, and pass its `input_values` along."
            )

    def _code_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # the head may be kept in a higher precision than the language model
        return self.fmri_head(hidden_states.to(self.fmri_head.weight.dtype))

    def _next_code_loss(self, hidden_states, fmri_labels, roi_mask, padding_mask) -> torch.Tensor:
        """Cross-entropy of each ROI's code at patch w + 1, from its token at patch w."""
        fmri = self.config.fmri_config
        expected = (len(hidden_states) // fmri.n_tokens, fmri.n_tokens, fmri.num_quantizers)
        # a single level needs no axis
        if tuple(fmri_labels.shape) not in (expected, expected[:2] if expected[2] == 1 else expected):
            raise ValueError(
                f"`fmri_labels` must have shape {expected}, as `encode` returns codes, found "
                f"{tuple(fmri_labels.shape)}."
            )
        fmri_labels = fmri_labels.reshape(expected)
        present = self._present(expected[0], roi_mask, padding_mask)
        if present is not None:
            fmri_labels = fmri_labels.masked_fill(~present[..., None], -100)
        hidden_states = hidden_states.view(-1, fmri.n_patches, fmri.n_rois, hidden_states.shape[-1])[:, :-1]
        labels = fmri_labels.unflatten(1, (fmri.n_patches, fmri.n_rois))[:, 1:]
        if not labels.ne(-100).any():
            return 0 * hidden_states.sum()
        return F.cross_entropy(
            self._code_logits(hidden_states).reshape(-1, fmri.codebook_size).float(), labels.reshape(-1)
        )

    # --- generation -------------------------------------------------------------------------------------------

    def generate(self, inputs=None, **kwargs):
        """Generate text as `GenerationMixin.generate` does; scans go in as in `forward`.

        The placeholder is never generated: no scan would stand behind it.
        """
        input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        if input_ids is not None:
            is_fmri = input_ids == self.config.fmri_token_id
            scans = [
                kwargs[name] for name in ("input_values", "fmri_features") if kwargs.get(name) is not None
            ]
            if scans:
                self._check_placeholders(is_fmri, len(scans[0]))
            # once for all steps, since later ones no longer see the scans' masks
            kwargs["attention_mask"] = self._hide_missing(
                is_fmri,
                kwargs.get("attention_mask"),
                kwargs.get("roi_mask"),
                kwargs.get("padding_mask"),
            )
        no_scan = SuppressTokensLogitsProcessor([self.config.fmri_token_id], device=self.device)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or ()), no_scan])
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, is_first_iteration=False, use_cache=True, **kwargs):
        if use_cache and not is_first_iteration:
            kwargs = {name: value for name, value in kwargs.items() if name not in SCAN_INPUTS}
        return super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, use_cache=use_cache, **kwargs
        )

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        input_ids = model_kwargs.get("input_ids", inputs_tensor)
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        return self.get_position_ids(input_ids, model_kwargs.get("attention_mask"))

    def _expand_inputs_for_generation(
        self, expand_size=1, is_encoder_decoder=False, input_ids=None, **kwargs
    ):
        if expand_size == 1 or input_ids is None:
            return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        # each copy of a prompt needs all of the prompt's scans, in their order
        n_scans = (input_ids == self.config.fmri_token_id).sum(1) // self.config.fmri_config.n_tokens
        of_prompt = torch.arange(int(n_scans.sum()), device=input_ids.device).split(n_scans.tolist())
        rows = torch.cat([rows for rows in of_prompt for _ in range(expand_size)])
        scans = {name: kwargs.pop(name)[rows] for name in SCAN_INPUTS if kwargs.get(name) is not None}
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        return input_ids, kwargs | scans

    @staticmethod
    def create_masks_for_generate(
        config, inputs_embeds, attention_mask, past_key_values, position_ids, **kwargs
    ):
        """Leave the mask to `forward`, which knows where the scans are (called for static caches)."""
        return attention_mask


__all__ = ["FmriLMForCausalLM", "FmriLMOutput"]
