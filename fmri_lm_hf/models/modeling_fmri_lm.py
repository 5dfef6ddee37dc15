"""A causal language model that reads fMRI scans (stages 2 and 3 of arXiv 2511.21760).

Any causal language model of transformers serves as backbone, unpatched: scan tokens replace the embeddings of
placeholder tokens, a prepared mask lets the tokens of one time patch see each other, and prepared position ids
give them one shared position.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_contract import check_backbone
from .configuration_fmri_lm import FmriLMConfig, n_pair_tokens
from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .generation_fmri_lm import ScanGenerationMixin
from .modeling_fmri_tokenizer import FmriPreTrainedModel, FmriTokenizer
from .network_pairs import (
    N_FEATURES,
    PRESENT,
    NetworkPairEmbedding,
    network_pair_features,
    observed_pairs,
    pad_name_ids,
    place_factors,
)
from .scan_layout import ScanLayout


@dataclass
class FmriLMOutput(ModelOutput):
    """What `FmriLMForCausalLM.forward` returns.

    Attributes
    ----------
    loss : torch.FloatTensor of shape (1,)
        ``text_loss + fmri_loss_weight * fmri_loss``, as far as their labels are given; with either also
        ``router_aux_loss_coef * aux_loss``, where the language model has it.
    text_loss, fmri_loss : torch.FloatTensor of shape (1,)
    aux_loss : torch.FloatTensor of shape (1,)
        Load balancing loss of a mixture of experts, over all tokens that are not hidden. None unless the language
        model's configuration, or the call, has `output_router_logits`.
    logits : torch.FloatTensor of shape (batch, n_kept, vocab_size)
    past_key_values : Cache
    hidden_states, attentions : tuple of torch.FloatTensor
        Those of the language model, when asked for.
    """

    loss: torch.FloatTensor | None = None
    text_loss: torch.FloatTensor | None = None
    fmri_loss: torch.FloatTensor | None = None
    aux_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class FmriProjector(nn.Module):
    """Scan features to the embedding space of the language model: (LayerNorm,) Linear, GELU."""

    def __init__(self, config: FmriLMConfig):
        super().__init__()
        size, text = _feature_size(config), config.text_config
        self.norm = nn.LayerNorm(size) if config.projector_layer_norm else nn.Identity()
        self.linear = nn.Linear(size, text.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.linear(self.norm(features)))


def _feature_size(config: FmriLMConfig) -> int:
    """Size of what the projector reads of a ROI token."""
    fmri = config.fmri_config
    return fmri.hidden_size if config.fmri_embedding_source == "encoder" else fmri.codebook_dim


class FmriLMForCausalLM(ScanGenerationMixin, FmriPreTrainedModel):
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

    def __init__(self, config: FmriLMConfig):
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        for name in ("fmri_tokenizer", "projector", "roi_embeddings", "fmri_head", "network_pairs"):
            setattr(self, name, None)  # what the scan tokens of this configuration have no use for
        if config.reads_rois:
            self.fmri_tokenizer = FmriTokenizer._from_config(config.fmri_config)
            self.projector = FmriProjector(config)
            self.roi_embeddings = nn.Embedding(config.fmri_config.block_sizes[0], hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if config.reads_rois:
            n_codes = config.fmri_config.codebook_size * config.fmri_config.num_quantizers
            self.fmri_head = nn.Linear(hidden_size, n_codes, bias=False)
        if config.reads_network_pairs:
            self.network_pairs = NetworkPairEmbedding(config)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, NetworkPairEmbedding):
            init.ones_(module.name_order)
            init.copy_(module.name_place, place_factors(module.name_place.shape[1]))
            init.normal_(module.within, std=self.config.initializer_range)

    @classmethod
    def from_components(
        cls, fmri_tokenizer: FmriTokenizer | FmriTokenizerConfig, language_model: PreTrainedModel, **config
    ) -> FmriLMForCausalLM:
        """Join a trained tokenizer and a pretrained language model; projector and heads start fresh.

        Parameters
        ----------
        fmri_tokenizer : FmriTokenizer or FmriTokenizerConfig
            A configuration alone where `scan_tokens` are network pairs: the shape of the scans and their networks.
        language_model : PreTrainedModel
            Any causal language model. It is not copied: training the result trains it.
        **config
            Further fields of [`FmriLMConfig`], such as `fmri_token_id`.
        """
        check_backbone(language_model)
        quantization = getattr(language_model.config, "quantization_config", None)
        if getattr(quantization, "quant_method", None) == "gguf":
            # its weights were unpacked when the file was read; what is left is the name of the file
            del language_model.config.quantization_config
        trained = fmri_tokenizer if isinstance(fmri_tokenizer, FmriTokenizer) else None
        fmri_config = fmri_tokenizer if trained is None else trained.config
        with torch.device("meta"):  # without memory for two children that are replaced at once
            model = cls(FmriLMConfig(fmri_config=fmri_config, text_config=language_model.config, **config))
        if (trained is not None) != model.config.reads_rois:
            raise ValueError(
                f"`scan_tokens` are {model.config.scan_tokens}: give "
                + ("a FmriTokenizer" if model.config.reads_rois else "the configuration of one alone")
                + f", got {type(fmri_tokenizer).__name__}."
            )
        if trained is not None:
            model.fmri_tokenizer = trained.without_objectives().to(language_model.device)
        model.language_model = language_model
        for fresh in (model.projector, model.roi_embeddings, model.fmri_head, model.network_pairs):
            if fresh is not None:
                fresh.to_empty(device=language_model.device).apply(model._init_weights)
        # both must stay one object, so that resizing the vocabulary keeps them in step
        model.config.fmri_config, model.config.text_config = fmri_config, language_model.config
        model.generation_config = language_model.generation_config
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a model as `PreTrainedModel.from_pretrained` does; safetensors only.

        Without `dtype` every part comes in the precision in which it was saved.
        """
        if kwargs.get("dtype") not in (None, "auto"):  # one precision for all
            config = kwargs.get("config")
            if isinstance(config, FmriLMConfig):
                kwargs["config"] = config = copy.deepcopy(config)
                config.part_dtypes = None
            else:
                kwargs["part_dtypes"] = None
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the model as `PreTrainedModel.save_pretrained` does, and note which parts have another precision."""
        first = {name: next(module.parameters(), None) for name, module in self.named_children()}
        dtypes = {name: each.dtype for name, each in first.items() if each is not None}
        others = {
            name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items() if dtype != self.dtype
        }
        self.config.part_dtypes = others or None
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _get_dtype_plan(self, dtype):
        parts = {
            rf"^{name}\.": getattr(torch, part) for name, part in (self.config.part_dtypes or {}).items()
        }
        return super()._get_dtype_plan(dtype) | parts

    def freeze_fmri_tokenizer(self) -> None:
        """Stop training the tokenizer: its weights and its codebook stay as they are."""
        if self.fmri_tokenizer is not None:
            self.fmri_tokenizer.requires_grad_(False)
            self.fmri_tokenizer.eval()

    def train(self, mode: bool = True) -> FmriLMForCausalLM:
        """Switch to training mode; a frozen tokenizer stays out of it, so that its codebook does not move."""
        super().train(mode)
        if self.fmri_tokenizer is None:
            return self
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
        """What the language model's side reads of scans: (n_scans, n_scan_tokens, size).

        Rows for ROIs hold `hidden_size` or `codebook_dim` values, for the projector; those for network pairs what
        `network_pair_features` says, filled up with zeros where ROIs have more. Computed once, it can be passed to
        `forward` and `generate` as `fmri_features` in place of `input_values`, which saves the encoder when a scan is
        used many times.
        """
        parts = []
        if self.config.reads_rois:
            encoded = self.fmri_tokenizer.encode(input_values, roi_mask, padding_mask)
            parts.append(
                encoded.embeddings if self.config.fmri_embedding_source == "encoder" else encoded.quantized
            )
        if self.config.reads_network_pairs:
            parts.append(self._pair_features(input_values, roi_mask, padding_mask))
        widest = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part, (0, widest - part.shape[-1])) for part in parts], dim=1)

    def _pair_features(self, input_values, roi_mask, padding_mask) -> torch.Tensor:
        if roi_mask is None:
            roi_mask = torch.ones(input_values.shape[:2], dtype=torch.bool, device=input_values.device)
        if padding_mask is None:
            padding_mask = torch.ones_like(input_values[:, 0], dtype=torch.bool)
        networks = torch.tensor(self.config.fmri_config.roi_networks, device=input_values.device)
        n_networks = len(self.config.network_name_ids or ())
        return network_pair_features(
            input_values.float(), roi_mask.bool(), padding_mask.bool(), networks, n_networks
        )

    def get_fmri_embeddings(
        self, fmri_features: torch.Tensor, network_name_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings (n_scans, n_scan_tokens, lm_hidden_size) that enter the language model for scans.

        With `network_name_ids` the features are those of network pairs alone.
        """
        n_rois = self.config.n_roi_tokens if network_name_ids is None else 0
        parts = []
        if n_rois:
            # called, not read: a module whose weights are offloaded has them only while it is called
            blocks = self.config.fmri_config.block_sizes
            roi_embeddings = self.roi_embeddings(torch.arange(blocks[0], device=fmri_features.device))
            roi_embeddings = roi_embeddings.repeat(len(blocks), 1)
            of_rois = fmri_features[:, :n_rois, : _feature_size(self.config)]
            parts.append(self.projector(of_rois) + roi_embeddings)
        if self.config.reads_network_pairs:
            if network_name_ids is None:
                network_name_ids = pad_name_ids(self.config.network_name_ids or ())[None].to(
                    fmri_features.device
                )
            names = self.get_input_embeddings()(network_name_ids.clamp_min(0))
            parts.append(self.network_pairs(fmri_features[:, n_rois:], names, network_name_ids >= 0))
        return torch.cat(parts, dim=1)

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
        network_name_ids: torch.Tensor | None = None,
        text_segments: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_hidden: bool = False,
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
            Those of `get_position_ids`, going on from the cache if there is one, when not given.
        labels : torch.LongTensor of shape (batch, n_positions), optional
            Text labels, -100 where there is none; shifted inside.
        fmri_labels : torch.LongTensor of shape (n_scans, n_tokens[, num_quantizers]), optional
            Codes of the scans. From the tokens of time patch w the code of each ROI at w + 1 is predicted;
            a scan of one time patch, or of latent tokens, has no next patch and so no such loss. -100 is
            ignored, and so are tokens of missing ROIs and padded time patches.
        network_name_ids : torch.LongTensor of shape (n_scans, n_networks, n_ids), optional
            Text ids of the names of each scan's networks, -1 behind the end of a name, where they are not those of
            the configuration: scans of many atlases in one batch, read as `fmri_features` of network pairs alone.
        text_segments : torch.LongTensor of shape (batch, n_positions), optional
            Tokens of two different segments do not see each other; segment 0 is seen by all. So one reading of a
            scan serves many questions. Their `position_ids` go on from the scan.
        logits_to_keep : int or torch.LongTensor of shape (n_kept,), default=0
            Compute logits for the last so many positions only (0: for all), or, without `labels`, for these positions.
        skip_hidden : bool, default=False
            Leave tokens that nobody sees (of missing ROIs, and padding) out of a training step. Of each row only the
            logits behind its last such token are then defined, and `logits_to_keep` has to say which ones; without
            cache and `text_segments`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the text either as `input_ids` or as `inputs_embeds`.")
        is_scan = None
        if input_ids is not None:
            is_scan = input_ids == self.config.fmri_token_id
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_scan, 0))
        assert inputs_embeds is not None

        present: torch.Tensor | None = None
        if input_values is None and fmri_features is None:
            if fmri_labels is not None:
                raise ValueError("`fmri_labels` are codes of scans, but no scans were given.")
            if is_scan is not None:
                self._check_placeholders(is_scan, 0)
            layout = self._layout(inputs_embeds, None, attention_mask, position_ids, past_key_values)
        else:
            if is_scan is None:
                raise ValueError(
                    "Scans need `input_ids` with placeholders; they cannot be joined to `inputs_embeds`."
                )
            if fmri_features is None:
                fmri_features = self.get_fmri_features(input_values, roi_mask, padding_mask)
            block_sizes = self.config.block_sizes
            if network_name_ids is None:
                present = self._present(len(fmri_features), roi_mask, padding_mask, fmri_features.device)
            else:
                block_sizes = [n_pair_tokens(network_name_ids.shape[1])]
                present = fmri_features[..., PRESENT] > 0
                present[:, 0] = True  # the token of the scan as a whole
            self._check_placeholders(is_scan, len(fmri_features), sum(block_sizes))
            layout = self._layout(
                inputs_embeds, is_scan, attention_mask, position_ids, past_key_values, present, block_sizes
            )
            embeddings = self.get_fmri_embeddings(fmri_features, network_name_ids).to(inputs_embeds.dtype)
            inputs_embeds = inputs_embeds.masked_scatter(is_scan[..., None], embeddings)

        if self.training:
            inputs_embeds = inputs_embeds + self._took_part(
                inputs_embeds, present is None, fmri_labels is None
            )
            if use_cache is None and past_key_values is None:
                use_cache = False
            # lengths that depend on values would break a graph
            if skip_hidden and fmri_labels is None and not torch.compiler.is_compiling():
                if past_key_values is not None or text_segments is not None:
                    raise ValueError(
                        "`skip_hidden` takes whole prompts: without a cache and without `text_segments`."
                    )
                n_positions = inputs_embeds.shape[1]
                layout, inputs_embeds = layout.without_hidden(inputs_embeds)
                if isinstance(logits_to_keep, torch.Tensor):  # a number counts from the end, which stays
                    logits_to_keep = logits_to_keep - (n_positions - inputs_embeds.shape[1])
        output_hidden_states = kwargs.pop("output_hidden_states", None)
        text_config = self.language_model.config
        balances = kwargs.get("output_router_logits", getattr(text_config, "output_router_logits", False))
        outputs = (self._balanced if balances else self.language_model)(
            inputs_embeds=inputs_embeds,
            attention_mask=layout.backbone_mask(text_config, inputs_embeds, past_key_values, text_segments),
            position_ids=layout.position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=fmri_labels is not None or output_hidden_states,
            **({"layout": layout} if balances else {}),
            **kwargs,
        )
        layout.remember(outputs.past_key_values)
        text_loss = fmri_loss = None
        if labels is not None:
            text_loss = self.loss_function(
                outputs.logits, labels[:, -logits_to_keep:], vocab_size=self.config.text_config.vocab_size
            )
        if fmri_labels is not None:
            fmri_loss = self._next_code_loss(outputs.hidden_states[-1], is_scan, fmri_labels, present)
        losses = [text_loss, None if fmri_loss is None else self.config.fmri_loss_weight * fmri_loss]
        given = [loss for loss in losses if loss is not None]
        aux_loss = outputs.get("aux_loss")
        if given and aux_loss is not None:
            given.append(self.aux_loss_weight * aux_loss)
        return FmriLMOutput(
            loss=sum(given) if given else None,
            text_loss=text_loss,
            fmri_loss=fmri_loss,
            aux_loss=aux_loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )

    def _took_part(self, inputs_embeds, without_scan: bool, without_codes: bool) -> torch.Tensor:
        """A zero to which what this batch has no use for contributes.

        Processes that train together wait for the gradient of every weight, also of those that read scans while one of
        them has only text.
        """
        zero = inputs_embeds.new_zeros(())
        if without_scan:
            reads = [
                self.config.reads_rois and _feature_size(self.config),
                self.config.reads_network_pairs and N_FEATURES,
            ]
            nothing = inputs_embeds.new_zeros(1, self.config.n_scan_tokens, max(reads))
            zero = zero + 0 * self.get_fmri_embeddings(nothing).sum()
        if without_codes and self.config.reads_rois:
            zero = zero + 0 * self._code_logits(inputs_embeds[:1, :1]).sum()
        return zero.to(inputs_embeds.dtype)

    @property
    def aux_loss_weight(self) -> float:
        """Weight of the load balancing loss of a mixture of experts."""
        return getattr(self.language_model.config, "router_aux_loss_coef", 0.0)

    def _balanced(self, attention_mask, layout, **inputs):
        """Call a mixture of experts, whose load balancing loss wants the mask of tokens, not that of attention."""

        def attend(_, args, kwargs):
            return args, kwargs | {"attention_mask": attention_mask}

        tokens = layout.attention_mask
        tokens = None if tokens is None else tokens[:, -layout.position_ids.shape[1] :]
        hook = self.language_model.base_model.register_forward_pre_hook(attend, with_kwargs=True)
        try:
            return self.language_model(attention_mask=tokens, **inputs)
        finally:
            hook.remove()

    def fmri_logits(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Code logits of scans that stand alone: (batch, n_tokens, num_quantizers * codebook_size).

        The logits at the token of ROI r and time patch w are for the code of ROI r at patch w + 1.
        """
        if not self.config.reads_rois:
            raise ValueError(
                "Codes are those of ROI tokens, and the scan tokens of this model are network pairs."
            )
        hidden_states, _ = self.scan_tokens(input_values, roi_mask, padding_mask)
        return self._code_logits(hidden_states[:, : self.config.n_roi_tokens])

    def scan_tokens(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the language model makes of scans that stand alone: its last hidden state at each scan token.

        Returns
        -------
        hidden_states : torch.Tensor of shape (n_scans, n_scan_tokens, lm_hidden_size)
        token_mask : torch.BoolTensor of shape (n_scans, n_scan_tokens)
            False for tokens that stand for nothing observed.
        """
        embeddings, present = self.entering_tokens(input_values, roi_mask, padding_mask)
        is_scan = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        layout = self._layout(embeddings, is_scan, None, None, None, present)
        hidden_states = self.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=layout.backbone_mask(self.language_model.config, embeddings, None),
            position_ids=layout.position_ids,
            use_cache=False,
        ).last_hidden_state
        return hidden_states, present

    def entering_tokens(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the language model is given of scans: the embeddings of their tokens, in the form of `scan_tokens`."""
        embeddings = self.get_fmri_embeddings(self.get_fmri_features(input_values, roi_mask, padding_mask))
        return embeddings, self._present(len(embeddings), roi_mask, padding_mask, embeddings.device)

    @torch.no_grad()
    def read_scan(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **scans: torch.Tensor
    ) -> Cache:
        """Read the beginning of prompts, with its scans, once for all that is asked behind it.

        Parameters
        ----------
        input_ids : torch.LongTensor of shape (batch, n_positions)
            What all further prompts begin with, scans included.
        attention_mask : torch.LongTensor of shape (batch, n_positions), optional
            Zero for padding.
        **scans : torch.Tensor
            `input_values` or `fmri_features`, and masks, as for `forward`.

        Returns
        -------
        Cache
            Of these scans and these weights. With a copy of it as `past_key_values`, `generate` takes the ids of a
            whole prompt, without its scans, and writes what it would have written with them. For beams, repeat the
            copy first (``copy.batch_repeat_interleave(num_beams)``).
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **scans}
        return self(**inputs, use_cache=True, logits_to_keep=1).past_key_values

    def get_position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Positions (batch, n_positions): one for each text token and one for each time patch of a scan."""
        is_scan = input_ids == self.config.fmri_token_id
        return self._layout(input_ids, is_scan, attention_mask).position_ids

    def get_attention_mask(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The mask (batch, n_positions) that hides padding and the tokens of missing ROIs.

        `forward` and `generate` apply it themselves, and the cache that they fill remembers it.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        is_scan = input_ids == self.config.fmri_token_id
        n_scans = int(is_scan.sum()) // self.config.n_scan_tokens
        present = self._present(n_scans, roi_mask, padding_mask, input_ids.device)
        layout = self._layout(input_ids, is_scan, attention_mask, present=present)
        assert layout.attention_mask is not None
        return layout.attention_mask

    def _layout(
        self,
        new,
        is_scan,
        attention_mask,
        position_ids=None,
        cache=None,
        present=None,
        block_sizes: Sequence[int] | None = None,
    ) -> ScanLayout:
        """The layout of new ids or embeddings, behind a cache if there is one."""
        block_sizes = self.config.block_sizes if block_sizes is None else block_sizes
        return ScanLayout.of(new, is_scan, block_sizes, present, attention_mask, position_ids, cache)

    def _present(self, n_scans, roi_mask, padding_mask, device) -> torch.Tensor:
        """Which tokens of scans stand for observed data: (n_scans, n_scan_tokens)."""
        fmri, parts = self.config.fmri_config, []
        if self.config.reads_rois:
            masks = self.fmri_tokenizer.complete_masks(n_scans, roi_mask, padding_mask, device)
            parts.append(self.fmri_tokenizer.token_mask(*masks))
        if self.config.reads_network_pairs:
            if roi_mask is None:
                roi_mask = torch.ones(n_scans, fmri.n_rois, dtype=torch.bool, device=device)
            networks = torch.tensor(fmri.roi_networks, device=roi_mask.device)
            parts.append(observed_pairs(roi_mask, networks, len(self.config.network_name_ids or ())))
        return torch.cat(parts, dim=1)

    def _check_placeholders(self, is_scan: torch.Tensor, n_scans: int, n_tokens: int | None = None) -> None:
        if torch.compiler.is_compiling():  # a check of values would break the graph
            return
        n_tokens = self.config.n_scan_tokens if n_tokens is None else n_tokens
        found = is_scan.sum(1)
        if int(found.sum()) != n_scans * n_tokens or (found % n_tokens).any():
            raise ValueError(
                f"The prompts hold {found.tolist()} fMRI placeholders (id {self.config.fmri_token_id}), but "
                f"{n_scans} scan(s) of {n_tokens} tokens each were given. Write one `<fmri>` a scan and let "
                "`FmriLMProcessor` expand it, and pass its `input_values` along."
            )

    def _code_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # the head may be kept in a higher precision than the language model
        return self.fmri_head(hidden_states.to(self.fmri_head.weight.dtype))

    def count_next_codes(
        self,
        fmri_labels: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Over how many codes `forward` takes the mean that is `fmri_loss`: all but those of what was not observed."""
        present = self._present(len(fmri_labels), roi_mask, padding_mask, fmri_labels.device)
        return self._next_codes(fmri_labels, present).ne(-100).sum()

    def _next_codes(self, fmri_labels, present) -> torch.Tensor:
        """The codes to predict: (n_scans, n_rois * (n_patches - 1), num_quantizers), -100 where there is none."""
        fmri = self.config.fmri_config
        if not self.config.reads_rois:
            raise ValueError(
                "`fmri_labels` are codes of ROI tokens, and this model reads network pairs alone."
            )
        n_codes, per_block = fmri.n_tokens, fmri.block_sizes[0]
        expected = (len(present), n_codes, fmri.num_quantizers)
        # a single level needs no axis
        if tuple(fmri_labels.shape) not in (expected, expected[:2] if expected[2] == 1 else expected):
            raise ValueError(
                f"`fmri_labels` must have shape {expected}, as `encode` returns codes, found "
                f"{tuple(fmri_labels.shape)}."
            )
        labels = fmri_labels.reshape(expected).masked_fill(~present[:, :n_codes, None], -100)
        return labels[:, per_block:]

    def _next_code_loss(self, hidden_states, is_scan, fmri_labels, present) -> torch.Tensor:
        """Cross-entropy of each ROI's code at patch w + 1, from its token at patch w."""
        fmri = self.config.fmri_config
        n_predicting = fmri.n_tokens - fmri.block_sizes[0]
        labels = self._next_codes(fmri_labels, present).flatten()
        # the scan tokens in their order, found without a look at how many there are
        rows = torch.argsort(is_scan.flatten().int(), descending=True, stable=True)[: present.numel()]
        scan_states = hidden_states.flatten(0, 1)[rows].view(*present.shape, -1)
        logits = self._code_logits(scan_states[:, :n_predicting]).reshape(-1, fmri.codebook_size)
        # a mean that is zero, not NaN, where no token has a next code
        total = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=-100)
        return total / labels.ne(-100).sum().clamp_min(1)
