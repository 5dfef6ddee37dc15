"""Generation of text about scans: `generate` of transformers with placeholders, and with scans in a cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from .scan_layout import ScanLayout

# Inputs with one row per scan (a prompt may hold several scans, or none): scans, and their masks and names.
SCANS = ("input_values", "fmri_features")
SCAN_INPUTS = (*SCANS, "roi_mask", "padding_mask", "network_name_ids")


class _NoPlaceholder(SuppressTokensLogitsProcessor):
    """Keeps the placeholder from being generated."""

    # A class of its own: a custom processor replaces the one of the same class that `generate` makes, and with it the
    # `suppress_tokens` of the generation configuration.


class _WithColumns(LogitsProcessor):
    """Runs a processor that looks up the scores of ids in the prompt, with columns for ids outside the vocabulary."""

    def __init__(self, processor: LogitsProcessor, n_columns: int):
        self.processor, self.n_columns = processor, n_columns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        widened = F.pad(scores, (0, self.n_columns), value=-torch.inf)
        return self.processor(input_ids, widened)[:, : scores.shape[1]]


class ScanGenerationMixin(GenerationMixin):
    """The part of [`FmriLMForCausalLM`] that generates text."""

    def generate(self, inputs=None, **kwargs):
        """Generate text as `GenerationMixin.generate` does; scans go in as in `forward`.

        The placeholder is never generated, since no scan would belong to it. A second turn that continues the cache of
        a first one may give all ids and scans again, all ids alone, or only the new ones.
        """
        input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        scans = next((kwargs[name] for name in SCANS if kwargs.get(name) is not None), None)
        if input_ids is not None and scans is not None:
            self._check_placeholders(input_ids == self.config.fmri_token_id, len(scans))
        self._check_assistant(kwargs)
        prompt = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
        device = self.device if prompt is None else prompt.device  # they differ if weights are offloaded
        no_scan = _NoPlaceholder([self.config.fmri_token_id], device=device)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or ()), no_scan])
        return super().generate(inputs, **kwargs)

    def _check_assistant(self, options: dict) -> None:
        """Refuse assistants that would draft a text without reading the scans."""
        config = options.get("generation_config") or self.generation_config
        if options.get("assistant_early_exit", config.assistant_early_exit) is not None:
            raise ValueError(
                "`assistant_early_exit` is not supported: give a smaller model that reads scans as `assistant_model`, "
                "or let candidates be copied from the prompt with `prompt_lookup_num_tokens`."
            )
        assistant = options.get("assistant_model")
        if assistant is None:
            return
        own, its = self.config, assistant.config
        if its.model_type != own.model_type:
            raise ValueError(
                f"`assistant_model` must be a model that reads scans, found one of type '{its.model_type}': join it to "
                "a tokenizer of scans first, or let candidates be copied from the prompt with "
                "`prompt_lookup_num_tokens`."
            )
        shapes = [(config.fmri_token_id, config.n_scan_tokens) for config in (own, its)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "`assistant_model` must read the same prompts: expected the placeholder id and the number of tokens of "
                f"a scan to be {shapes[0]}, found {shapes[1]}."
            )

    def _get_logits_processor(self, *args, **kwargs):
        processors = super()._get_logits_processor(*args, **kwargs)
        # With the placeholder outside the vocabulary, a repetition penalty, for example, would index past the scores.
        n_outside = self.config.fmri_token_id + 1 - self.config.text_config.vocab_size
        if n_outside <= 0:
            return processors
        return LogitsProcessorList(
            # guidance subtracts the scores of another pass, and does not look up ids
            processor
            if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor)
            else _WithColumns(processor, n_outside)
            for processor in processors
        )

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        scans = {name: kwargs.pop(name) for name in SCAN_INPUTS if kwargs.get(name) is not None}
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        new_ids = inputs.get("input_ids")
        if not scans or new_ids is None:
            return inputs | scans
        return inputs | self._new_scans(scans, input_ids, new_ids)

    def _new_scans(self, scans, input_ids, new_ids) -> dict[str, Tensor]:
        """Inputs of the scans in `new_ids`, the end of `input_ids`; scans in the cache are left out."""
        if new_ids.shape[1] == input_ids.shape[1]:
            return scans
        # A scan is read as a whole, so fewer new ids than a scan has tokens hold none. That is the case for every
        # generated token, which then costs no count of placeholders.
        if new_ids.shape[1] < self.config.n_scan_tokens:
            return {}
        # the scans that are new in a prompt are its last ones, and prompts may have different numbers of them
        n_all, n_new = self._n_scans(input_ids), self._n_scans(new_ids)
        of_prompt = torch.arange(sum(n_all)).split(n_all)
        rows = torch.cat([rows[len(rows) - n :] for rows, n in zip(of_prompt, n_new)])
        return {name: values[rows.to(values.device)] for name, values in scans.items()} if len(rows) else {}

    def _n_scans(self, input_ids: Tensor) -> list[int]:
        """Scans of each prompt."""
        is_scan = input_ids == self.config.fmri_token_id
        return (is_scan.sum(1) // self.config.n_scan_tokens).tolist()

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        input_ids = model_kwargs.get("input_ids", inputs_tensor)
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        attention_mask, cache = model_kwargs.get("attention_mask"), model_kwargs.get("past_key_values")
        if attention_mask is None or attention_mask.shape[1] == input_ids.shape[1]:
            return self.get_position_ids(input_ids, attention_mask)
        # Only the new ids behind a cache, with the mask of the whole. transformers would count the mask to find
        # positions, which gives each token of a block one of its own.
        is_scan, sizes = input_ids == self.config.fmri_token_id, self.config.block_sizes
        layout = ScanLayout.of(input_ids, is_scan, sizes, attention_mask=attention_mask, cache=cache)
        return layout.position_ids

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **kwargs):
        if expand_size == 1 or input_ids is None:
            return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        # Each copy of a prompt needs all scans of the prompt, in their order: a, b, a, b. What transformers does with
        # rows of a batch, a, a, b, b, would give every copy the wrong scans.
        n_scans = self._n_scans(input_ids)
        of_prompt = torch.arange(sum(n_scans), device=input_ids.device).split(n_scans)
        rows = torch.cat([rows for rows in of_prompt for _ in range(expand_size)])
        scans = {name: kwargs.pop(name)[rows] for name in SCAN_INPUTS if kwargs.get(name) is not None}
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs | scans

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids, **kwargs):
        """Leave the mask to `forward`, which knows where the scans are (called for static caches)."""
        return attention_mask
