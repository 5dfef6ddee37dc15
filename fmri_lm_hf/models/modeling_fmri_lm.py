"""A causal language model that reads fMRI scans (stages 2 and 3 of arXiv 2511.21760).

Any causal language model of transformers serves as backbone, unpatched: scan tokens replace the embeddings of
placeholder tokens, a prepared mask lets the tokens of one time patch see each other, and prepared position ids
give them one shared position.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class FmriLMOutput(ModelOutput):
    """Output of `FmriLMForCausalLM.forward`.

    Attributes
    ----------
    loss : torch.FloatTensor of shape (1,)
        ``text_loss + fmri_loss_weight * fmri_loss``, each if its labels are given, plus
        ``router_aux_loss_coef * aux_loss`` for a mixture of experts.
    text_loss, fmri_loss : torch.FloatTensor of shape (1,)
    aux_loss : torch.FloatTensor of shape (1,)
        Load balancing loss of a mixture of experts, over all tokens that are not hidden. None unless the
        configuration of the language model, or the call, has `output_router_logits`.
    logits : torch.FloatTensor of shape (batch, n_kept, vocab_size)
    past_key_values : Cache
    hidden_states, attentions : tuple of torch.FloatTensor
        Those of the language model, if requested.
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
        size = _feature_size(config)
        self.norm = nn.LayerNorm(size) if config.projector_layer_norm else nn.Identity()
        self.linear = nn.Linear(size, config.text_config.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        return F.gelu(self.linear(self.norm(features)))


def _feature_size(config: FmriLMConfig) -> int:
    """Size of the features that the projector reads for a ROI token."""
    fmri = config.fmri_config
    return fmri.hidden_size if config.fmri_embedding_source == "encoder" else fmri.codebook_dim


class FmriLMForCausalLM(ScanGenerationMixin, FmriPreTrainedModel):
    """A causal language model that answers questions about fMRI scans (arXiv 2511.21760).

    Attention: the tokens of a time patch see each other and everything before them, and no later patch; text is causal
    and sees every scan token before it. Positions: a time patch takes one position, so that a scan of one patch moves
    the text after it by one. A prompt may hold several scans, which are read in order.

    Examples
    --------
    >>> from transformers import AutoModelForCausalLM, AutoProcessor
    >>> import fmri_lm_hf
    >>> model = AutoModelForCausalLM.from_pretrained("org/fmri-lm")
    >>> processor = AutoProcessor.from_pretrained("org/fmri-lm")
    >>> chat = [{"role": "user", "content": [
    ...     {"type": "fmri", "fmri": "sub-01_bold.nii.gz"}, {"type": "text", "text": "What is the sex?"}]}]
    >>> inputs = processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, t_r=2.0)
    >>> inputs["input_values"].shape  # (n_scans, n_rois, n_timepoints)
    torch.Size([1, 100, 160])
    >>> processor.decode_answer(model.generate(**inputs)[0, inputs["input_ids"].shape[1]:])
    'female'
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
            setattr(self, name, None)  # parts that the scan tokens of this configuration do not need
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
        """Join a trained tokenizer and a pretrained language model; projector and heads are initialised.

        Parameters
        ----------
        fmri_tokenizer : FmriTokenizer or FmriTokenizerConfig
            A configuration alone if `scan_tokens` are network pairs: the shape of the scans and their networks.
        language_model : PreTrainedModel
            Any causal language model that `check_backbone` accepts. It is not copied: training the result trains it.
        **config
            Further fields of [`FmriLMConfig`], such as `fmri_token_id`.
        """
        check_backbone(language_model)
        quantization = getattr(language_model.config, "quantization_config", None)
        if getattr(quantization, "quant_method", None) == "gguf":
            # the weights were unpacked when the file was read; only the name of the file is left
            del language_model.config.quantization_config
        trained = fmri_tokenizer if isinstance(fmri_tokenizer, FmriTokenizer) else None
        fmri_config = fmri_tokenizer if trained is None else trained.config
        with torch.device("meta"):  # no memory for parts that are replaced at once
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
        # What is new has no values yet: made on the meta device, it has to get memory and then be initialised.
        for fresh in (model.projector, model.roi_embeddings, model.fmri_head, model.network_pairs):
            if fresh is not None:
                fresh.to_empty(device=language_model.device).apply(model._init_weights)
        # The configurations of the parts and of the whole must be the same objects: `resize_token_embeddings` changes
        # the vocabulary of one, and with a copy the other would be saved with the old size.
        model.config.fmri_config, model.config.text_config = fmri_config, language_model.config
        model.generation_config = language_model.generation_config
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Self:
        """Load a model as `PreTrainedModel.from_pretrained` does, from safetensors only.

        Without `dtype` every part keeps the precision in which it was saved; `dtype` sets one for all parts.
        """
        if kwargs.get("dtype") not in (None, "auto"):
            config = kwargs.get("config")
            if isinstance(config, FmriLMConfig):
                kwargs["config"] = config = copy.deepcopy(config)
                config.part_dtypes = None
            else:
                kwargs["part_dtypes"] = None
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as `PreTrainedModel.save_pretrained` does, and note the parts that have another precision."""
        # `dtype` in config.json is one for all. Loaded by it, a tokenizer in float32 next to a language model in
        # bfloat16 would be rounded, and its codes would differ from those of training.
        first = {name: next(module.parameters(), None) for name, module in self.named_children()}
        dtypes = {name: parameter.dtype for name, parameter in first.items() if parameter is not None}
        others = {name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items() if dtype != self.dtype}
        self.config.part_dtypes = others or None
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _get_dtype_plan(self, dtype):
        parts = {rf"^{name}\.": getattr(torch, part) for name, part in (self.config.part_dtypes or {}).items()}
        return super()._get_dtype_plan(dtype) | parts

    def freeze_fmri_tokenizer(self) -> None:
        """Stop training the tokenizer: its weights and its codebook stay as they are."""
        if self.fmri_tokenizer is not None:
            self.fmri_tokenizer.requires_grad_(False)
            self.fmri_tokenizer.eval()

    def train(self, mode: bool = True) -> FmriLMForCausalLM:
        """Switch to training mode; a frozen tokenizer stays out of it, so that its codebook does not move."""
        super().train(mode)
        # A frozen codebook has no gradient, but in training mode its moving averages would move all the same, and the
        # codes that the language model has learned to read would change under it.
        tokenizer = self.fmri_tokenizer
        if tokenizer is not None and not any(weight.requires_grad for weight in tokenizer.parameters()):
            tokenizer.eval()
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
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the features of scans that the language model reads: (n_scans, n_scan_tokens, size).

        Rows for ROIs hold `hidden_size` or `codebook_dim` values, for the projector; rows for network pairs hold
        `network_pair_features`, padded with zeros if ROIs have more. Computed once, they replace `input_values` in
        `forward` and `generate` as `fmri_features`, which saves the encoder if a scan is used many times.
        """
        parts = []
        if self.config.reads_rois:
            encoded = self.fmri_tokenizer.encode(input_values, roi_mask, padding_mask)
            reads_encoder = self.config.fmri_embedding_source == "encoder"
            parts.append(encoded.embeddings if reads_encoder else encoded.quantized)
        if self.config.reads_network_pairs:
            if roi_mask is None:
                roi_mask = torch.ones_like(input_values[..., 0], dtype=torch.bool)
            if padding_mask is None:
                padding_mask = torch.ones_like(input_values[:, 0], dtype=torch.bool)
            networks = torch.tensor(self.config.fmri_config.roi_networks, device=input_values.device)
            masks, n_networks = (roi_mask.bool(), padding_mask.bool()), len(self.config.network_name_ids)
            # Correlations in float32, whatever the precision of the model is: in bfloat16 the ranks of pairs would tie.
            parts.append(network_pair_features(input_values.float(), *masks, networks, n_networks))
        widest = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part, (0, widest - part.shape[-1])) for part in parts], dim=1)

    def get_fmri_embeddings(self, fmri_features: Tensor, network_name_ids: Tensor | None = None) -> Tensor:
        """Embed scans for the language model: (n_scans, n_scan_tokens, lm_hidden_size).

        With `network_name_ids` the features are those of network pairs alone.
        """
        n_rois = self.config.n_roi_tokens if network_name_ids is None else 0
        parts = []
        if n_rois:
            # Called, not read: a module whose weights are offloaded has them only while it is called.
            blocks = self.config.fmri_config.block_sizes
            roi_embeddings = self.roi_embeddings(torch.arange(blocks[0], device=fmri_features.device))
            # Time-major: the embeddings of all ROIs once, then again for the next time patch. With
            # `repeat_interleave` every token would get the name of another ROI, and only several patches show it.
            roi_embeddings = roi_embeddings.repeat(len(blocks), 1)
            of_rois = fmri_features[:, :n_rois, : _feature_size(self.config)]
            parts.append(self.projector(of_rois) + roi_embeddings)
        if self.config.reads_network_pairs:
            if network_name_ids is None:
                network_name_ids = pad_name_ids(self.config.network_name_ids)[None].to(fmri_features.device)
            names = self.get_input_embeddings()(network_name_ids.clamp_min(0))
            parts.append(self.network_pairs(fmri_features[:, n_rois:], names, network_name_ids >= 0))
        return torch.cat(parts, dim=1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        input_values: Tensor | None = None,
        roi_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
        fmri_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        fmri_labels: Tensor | None = None,
        network_name_ids: Tensor | None = None,
        text_segments: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_hidden: bool = False,
        **kwargs,
    ) -> FmriLMOutput:
        """Run the model.

        Parameters
        ----------
        input_ids : torch.LongTensor of shape (batch, n_positions)
            Text ids, with `config.fmri_token_id` in place of each scan token: `config.n_scan_tokens` of them for every
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
            By default those of `get_position_ids`, continued from the cache if there is one.
        labels : torch.LongTensor of shape (batch, n_positions), optional
            Text labels, -100 where there is none; shifted inside.
        fmri_labels : torch.LongTensor of shape (n_scans, n_tokens[, num_quantizers]), optional
            Codes of the scans. The tokens of time patch w predict the code of each ROI at w + 1; a scan of one time
            patch, or of latent tokens, has no next patch and no such loss. -100 is ignored, and so are tokens of
            missing ROIs and padded time patches.
        network_name_ids : torch.LongTensor of shape (n_scans, n_networks, n_ids), optional
            Text ids of the names of each scan's networks, -1 after the end of a name, if they are not those of
            the configuration: scans of many atlases in one batch, read as `fmri_features` of network pairs alone.
        text_segments : torch.LongTensor of shape (batch, n_positions), optional
            Tokens of two different segments do not see each other; all see segment 0. One reading of a scan then
            serves many questions. Their `position_ids` continue from the scan.
        logits_to_keep : int or torch.LongTensor of shape (n_kept,), default=0
            Compute logits for the last so many positions only (0: for all), or, without `labels`, for these positions.
        skip_hidden : bool, default=False
            Leave tokens that nobody sees (of missing ROIs, and padding) out of a training step. Then only the logits
            after the last such token of a row are defined, and `logits_to_keep` has to say which ones. Not with a
            cache or `text_segments`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the text either as `input_ids` or as `inputs_embeds`.")
        is_scan, present, block_sizes = None, None, self.config.block_sizes
        if input_ids is not None:
            is_scan = input_ids == self.config.fmri_token_id
            # the id of the placeholder may lie outside the table of embeddings
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_scan, 0))
        assert inputs_embeds is not None

        if input_values is None and fmri_features is None:
            if fmri_labels is not None:
                raise ValueError("`fmri_labels` are codes of scans, but no scans were given.")
            if is_scan is not None:
                self._check_placeholders(is_scan, 0)
            is_scan = None
        else:
            if is_scan is None:
                raise ValueError("Scans need `input_ids` with placeholders; they cannot be joined to `inputs_embeds`.")
            if fmri_features is None:
                fmri_features = self.get_fmri_features(input_values, roi_mask, padding_mask)
            if network_name_ids is None:
                present = self._present(len(fmri_features), roi_mask, padding_mask, fmri_features.device)
            else:
                block_sizes = [n_pair_tokens(network_name_ids.shape[1])]
                present = fmri_features[..., PRESENT] > 0
                present[:, 0] = True  # the token of the scan as a whole
            self._check_placeholders(is_scan, len(fmri_features), sum(block_sizes))
            embeddings = self.get_fmri_embeddings(fmri_features, network_name_ids).to(inputs_embeds.dtype)
            # `masked_scatter` fills row by row, so the scans go to their placeholders in the order of both
            inputs_embeds = inputs_embeds.masked_scatter(is_scan[..., None], embeddings)
        layout = ScanLayout.of(
            inputs_embeds, is_scan, block_sizes, present, attention_mask, position_ids, past_key_values
        )

        if self.training:
            unused = self._zero_of_unused(inputs_embeds, present is None, fmri_labels is None)
            inputs_embeds = inputs_embeds + unused
            # nothing continues a training step, and gradient checkpointing forbids a cache
            if use_cache is None and past_key_values is None:
                use_cache = False
            # Not while compiling: how many tokens are seen depends on values, which would break the graph.
            if skip_hidden and fmri_labels is None and not torch.compiler.is_compiling():
                if past_key_values is not None or text_segments is not None:
                    raise ValueError("`skip_hidden` takes whole prompts: without a cache and without `text_segments`.")
                n_positions = inputs_embeds.shape[1]
                layout, inputs_embeds = layout.without_hidden(inputs_embeds)
                # What is left out is in front. A count of logits is from the end, which stays; a tensor of positions
                # is from the beginning and has to be moved.
                if isinstance(logits_to_keep, Tensor):
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
        # Without this note a further turn would see hidden ROIs, and not know its positions.
        layout.remember(outputs.past_key_values)
        losses, text_loss, fmri_loss, aux_loss = [], None, None, outputs.get("aux_loss")
        if labels is not None:
            # The labels of the same last positions as the logits; 0 keeps all of both, since -0 is 0. The loss shifts
            # them by one: the first position that is kept predicts, and its own label is not scored.
            text_loss = self.loss_function(
                outputs.logits, labels[:, -logits_to_keep:], vocab_size=self.config.text_config.vocab_size
            )
            losses.append(text_loss)
        if fmri_labels is not None:
            fmri_loss = self._next_code_loss(outputs.hidden_states[-1], is_scan, fmri_labels, present)
            losses.append(self.config.fmri_loss_weight * fmri_loss)
        if losses and aux_loss is not None:
            losses.append(self.aux_loss_weight * aux_loss)
        return FmriLMOutput(
            loss=sum(losses) if losses else None,
            text_loss=text_loss,
            fmri_loss=fmri_loss,
            aux_loss=aux_loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )

    def _zero_of_unused(self, inputs_embeds, without_scan: bool, without_codes: bool) -> Tensor:
        """Compute a zero that depends on the weights which this batch does not use.

        Processes that train together wait for the gradient of every weight. Without this, one with text alone would
        let the others, which have scans, wait forever.
        """
        zero = inputs_embeds.new_zeros(())
        if without_scan:
            size = max(
                self.config.reads_rois and _feature_size(self.config),
                self.config.reads_network_pairs and N_FEATURES,
            )
            no_scan = inputs_embeds.new_zeros(1, self.config.n_scan_tokens, size)
            zero = zero + 0 * self.get_fmri_embeddings(no_scan).sum()
        if without_codes and self.config.reads_rois:
            zero = zero + 0 * self._code_logits(inputs_embeds[:1, :1]).sum()
        return zero.to(inputs_embeds.dtype)

    @property
    def aux_loss_weight(self) -> float:
        """Weight of the load balancing loss of a mixture of experts."""
        return getattr(self.language_model.config, "router_aux_loss_coef", 0.0)

    def _balanced(self, attention_mask, layout, **inputs):
        """Call a mixture of experts.

        Its load balancing loss needs the mask of tokens, (batch, n_positions), and its layers need that of attention.
        The argument is one and the same, so the hook exchanges it on the way in.
        """

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
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the code logits of scans without text: (batch, n_tokens, num_quantizers * codebook_size).

        The logits at the token of ROI r and time patch w are for the code of ROI r at patch w + 1.
        """
        if not self.config.reads_rois:
            raise ValueError("Codes are those of ROI tokens, and the scan tokens of this model are network pairs.")
        hidden_states, _ = self.scan_tokens(input_values, roi_mask, padding_mask)
        return self._code_logits(hidden_states[:, : self.config.n_roi_tokens])

    def scan_tokens(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the last hidden states of the language model at the tokens of scans, without text.

        Returns
        -------
        hidden_states : torch.Tensor of shape (n_scans, n_scan_tokens, lm_hidden_size)
        token_mask : torch.BoolTensor of shape (n_scans, n_scan_tokens)
            False for tokens without observed data.
        """
        embeddings, present = self.entering_tokens(input_values, roi_mask, padding_mask)
        is_scan = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        layout = ScanLayout.of(embeddings, is_scan, self.config.block_sizes, present)
        hidden_states = self.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=layout.backbone_mask(self.language_model.config, embeddings, None),
            position_ids=layout.position_ids,
            use_cache=False,
        ).last_hidden_state
        return hidden_states, present

    def entering_tokens(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the embeddings of scans at the input of the language model, in the form of `scan_tokens`."""
        embeddings = self.get_fmri_embeddings(self.get_fmri_features(input_values, roi_mask, padding_mask))
        return embeddings, self._present(len(embeddings), roi_mask, padding_mask, embeddings.device)

    @torch.no_grad()
    def read_scan(self, input_ids: Tensor, attention_mask: Tensor | None = None, **scans: Tensor) -> Cache:
        """Read the beginning of prompts, with its scans, once for all questions that follow it.

        Parameters
        ----------
        input_ids : torch.LongTensor of shape (batch, n_positions)
            The beginning of all further prompts, scans included.
        attention_mask : torch.LongTensor of shape (batch, n_positions), optional
            Zero for padding.
        **scans : torch.Tensor
            `input_values` or `fmri_features`, and masks, as for `forward`.

        Returns
        -------
        Cache
            Of these scans and these weights. With a copy of it as `past_key_values`, `generate` takes the ids of a
            whole prompt, without its scans, and writes the same as with them. For beams, repeat the copy first
            (``copy.batch_repeat_interleave(num_beams)``).
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **scans}
        return self(**inputs, use_cache=True, logits_to_keep=1).past_key_values

    def get_position_ids(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute positions (batch, n_positions): one for each text token and one for each time patch of a scan."""
        is_scan = input_ids == self.config.fmri_token_id
        layout = ScanLayout.of(input_ids, is_scan, self.config.block_sizes, attention_mask=attention_mask)
        return layout.position_ids

    def get_attention_mask(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        roi_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the mask (batch, n_positions) that hides padding and the tokens of missing ROIs.

        `forward` and `generate` apply it themselves, and the cache that they fill remembers it.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        is_scan = input_ids == self.config.fmri_token_id
        n_scans = int(is_scan.sum()) // self.config.n_scan_tokens
        present = self._present(n_scans, roi_mask, padding_mask, input_ids.device)
        layout = ScanLayout.of(input_ids, is_scan, self.config.block_sizes, present, attention_mask)
        assert layout.attention_mask is not None
        return layout.attention_mask

    def _present(self, n_scans, roi_mask, padding_mask, device) -> Tensor:
        """Compute which tokens of scans stand for observed data: (n_scans, n_scan_tokens)."""
        fmri, parts = self.config.fmri_config, []
        if self.config.reads_rois:
            masks = self.fmri_tokenizer.complete_masks(n_scans, roi_mask, padding_mask, device)
            parts.append(self.fmri_tokenizer.token_mask(*masks))
        if self.config.reads_network_pairs:
            if roi_mask is None:
                roi_mask = torch.ones(n_scans, fmri.n_rois, dtype=torch.bool, device=device)
            networks = torch.tensor(fmri.roi_networks, device=roi_mask.device)
            parts.append(observed_pairs(roi_mask, networks, len(self.config.network_name_ids)))
        return torch.cat(parts, dim=1)

    def _check_placeholders(self, is_scan: Tensor, n_scans: int, n_tokens: int | None = None) -> None:
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

    def _code_logits(self, hidden_states: Tensor) -> Tensor:
        # the head may be kept in a higher precision than the language model
        return self.fmri_head(hidden_states.to(self.fmri_head.weight.dtype))

    def count_next_codes(
        self, fmri_labels: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Count the codes over which `forward` takes the mean that is `fmri_loss`.

        Micro-batches have different numbers of them: a trainer that accumulates has to weight their means by these.
        """
        present = self._present(len(fmri_labels), roi_mask, padding_mask, fmri_labels.device)
        return self._next_codes(fmri_labels, present).ne(-100).sum()

    def _next_codes(self, fmri_labels, present) -> Tensor:
        """The codes to predict: (n_scans, n_rois * (n_patches - 1), num_quantizers), -100 where there is none."""
        fmri = self.config.fmri_config
        if not self.config.reads_rois:
            raise ValueError("`fmri_labels` are codes of ROI tokens, and this model reads network pairs alone.")
        expected = (len(present), fmri.n_tokens, fmri.num_quantizers)
        without_axis = expected[:2] if fmri.num_quantizers == 1 else expected
        if tuple(fmri_labels.shape) not in (expected, without_axis):
            raise ValueError(
                f"`fmri_labels` must have shape {expected}, as `encode` returns codes, found "
                f"{tuple(fmri_labels.shape)}."
            )
        labels = fmri_labels.reshape(expected).masked_fill(~present[:, : fmri.n_tokens, None], -100)
        return labels[:, fmri.block_sizes[0] :]

    def _next_code_loss(self, hidden_states, is_scan, fmri_labels, present) -> Tensor:
        """Cross-entropy of each ROI's code at patch w + 1, from its token at patch w."""
        fmri = self.config.fmri_config
        n_predicting = fmri.n_tokens - fmri.block_sizes[0]
        labels = self._next_codes(fmri_labels, present).flatten()
        # The rows of scan tokens in their order. Indexing by the mask would do, but has to wait for the device to
        # count them; how many they are is known from `present`.
        rows = torch.argsort(is_scan.flatten().int(), descending=True, stable=True)[: present.numel()]
        scan_states = hidden_states.flatten(0, 1)[rows].view(*present.shape, -1)
        logits = self._code_logits(scan_states[:, :n_predicting]).reshape(-1, fmri.codebook_size)
        # a mean that is zero, not NaN, if no token has a next code
        total = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=-100)
        return total / labels.ne(-100).sum().clamp_min(1)
