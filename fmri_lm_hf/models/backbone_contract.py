"""Requirements for language models that read scans, checked when one is joined to an fMRI tokenizer.

Most language models of transformers meet them. The others would fail at their first scan, or read scans wrongly
without an error; they are refused with the reason.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from .scan_layout import ScanLayout

logger = logging.get_logger(__name__)

_INSTEAD = "Take a Transformer such as Llama, Qwen3, Mistral, Gemma or GPT-2."


def check_backbone(language_model: PreTrainedModel) -> None:
    """Refuse a language model that cannot read scans.

    The last part is a trial: a prompt of five random embeddings is read and continued, which costs two short passes.
    Models without weights (on the meta device, or partitioned over processes) skip it.

    Parameters
    ----------
    language_model : PreTrainedModel
        A causal language model. Its mode and its random state stay as they are.

    Raises
    ------
    ValueError
        If layers keep a running state in place of attention; if embeddings have another width than hidden states; if a
        prepared attention mask, position ids or a cache are not accepted or not honoured; if the weights are packed as
        in a GGUF file.
    """
    _check_shape(language_model)
    embeddings = language_model.get_input_embeddings().weight
    if embeddings.is_meta or not embeddings.numel():
        return
    # Not `train(mode)` afterwards: parts of the model may be in another mode than the whole, such as a frozen part.
    modes = [(module, module.training) for module in language_model.modules()]
    language_model.eval()
    try:
        _check_behaviour(language_model, embeddings)
    finally:
        for module, mode in modes:
            module.training = mode


def _check_shape(language_model: PreTrainedModel) -> None:
    config = language_model.config.get_text_config()
    if language_model._is_stateful or any(DynamicCache(config=config).is_linear):
        raise _refusal(
            language_model,
            "some or all of its layers keep a running state in place of attention, so that the tokens of a time "
            "patch cannot see each other, and its cache cannot be repeated for several answers",
        )
    embeddings = language_model.get_input_embeddings()
    if embeddings is None or language_model.get_output_embeddings() is None:
        raise _refusal(language_model, "it has no embeddings of words at its input or no head at its output")
    width = embeddings.weight.shape[-1]
    if width != config.hidden_size:
        raise _refusal(
            language_model,
            f"its word embeddings have {width} dimensions and its hidden states {config.hidden_size}, while scans "
            "enter and leave it with one width",
        )
    quantizer = getattr(language_model, "hf_quantizer", None)
    if getattr(quantizer, "packed_modules", None):
        raise _refusal(
            language_model,
            "its weights are kept in the blocks of a GGUF file, which can be neither trained nor saved",
            "Load it with `quantization_config=GgufConfig(dequantize=True)`.",
        )


# The trial prompt: a token of text, a patch of three scan tokens of which the last is hidden, a token of text.
_BLOCK, _PRESENT = (3,), (True, True, False)
_IS_SCAN = (False, True, True, True, False)
# Rows of the batch: the prompt; with another second scan token; with another hidden scan token; with other positions.
_PLAIN, _OTHER_SECOND, _OTHER_HIDDEN, _OTHER_POSITIONS = range(4)
_SMALL = 1e-5  # relative to the change at the token that was changed


@torch.no_grad()
def _check_behaviour(language_model: PreTrainedModel, embeddings: Tensor) -> None:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(3, len(_IS_SCAN), embeddings.shape[-1], generator=draw)
    prompts = noise[:1].repeat(4, 1, 1)
    prompts[_OTHER_SECOND, 2], prompts[_OTHER_HIDDEN, 3] = noise[1, 2], noise[2, 3]
    # On the scale of the model's own embeddings: with far larger ones attention may saturate, and no change would show.
    rows = embeddings[: min(len(embeddings), 64)].float()
    prompts = (prompts.to(embeddings.device) * rows.std()).to(embeddings.dtype)

    is_scan = torch.tensor(_IS_SCAN, device=embeddings.device).expand(4, -1)
    present = torch.tensor(_PRESENT, device=embeddings.device).expand(4, -1)
    layout = ScanLayout.of(prompts, is_scan, _BLOCK, present)
    position_ids = layout.position_ids.clone()
    position_ids[_OTHER_POSITIONS] = torch.arange(len(_IS_SCAN), device=embeddings.device)
    mask = layout.backbone_mask(language_model.config, prompts, None)
    outputs = _attempt(
        language_model,
        "a prepared attention mask with position ids",
        inputs_embeds=prompts,
        attention_mask=mask,
        position_ids=position_ids,
        use_cache=True,
    )
    logits = outputs.logits.float()
    # How far a change moves the logits of each token. Seen by the first scan token, the second must move it; seen by
    # nobody, the hidden one must move no token but itself; and text before the scan must not move at all.
    moved = (logits - logits[_PLAIN]).norm(dim=-1)  # (4, n_positions)
    second, hidden, positions = moved[_OTHER_SECOND], moved[_OTHER_HIDDEN], moved[_OTHER_POSITIONS]
    if second[1] <= _SMALL * second[2]:
        raise _refusal(
            language_model,
            "it does not honour the attention mask it is given, so that the tokens of a time patch would not see "
            "each other",
        )
    others = torch.cat([hidden[:3], hidden[4:]])
    if second[0] > _SMALL * second[2] or (others > _SMALL * hidden[3].clamp_min(second[2])).any():
        raise _refusal(
            language_model,
            "it does not honour the attention mask it is given, so that missing ROIs and later tokens would be seen",
        )
    if positions.max() <= _SMALL * second[2]:
        logger.warning(
            f"A language model of type '{language_model.config.model_type}' ignores position ids: the tokens of a time "
            "patch will have a position each, and not share one."
        )
    _check_cache(language_model, outputs, prompts, layout)


def _check_cache(language_model: PreTrainedModel, outputs: Any, prompts: Tensor, layout: ScanLayout) -> None:
    # Answers are scored by copies of one cache. Some models return a cache of their own class, without this method.
    cache = getattr(outputs, "past_key_values", None)
    if cache is None or not hasattr(cache, "batch_repeat_interleave"):
        raise _refusal(language_model, f"it returns no cache that can be repeated, but {type(cache).__name__}")
    layout.remember(cache)
    cache.batch_repeat_interleave(2)
    new = prompts[:, :1].repeat_interleave(2, dim=0)
    further = ScanLayout.of(new, None, _BLOCK, cache=cache)
    _attempt(
        language_model,
        "continuing a repeated cache",
        inputs_embeds=new,
        attention_mask=further.backbone_mask(language_model.config, new, cache),
        position_ids=further.position_ids,
        past_key_values=cache,
        use_cache=True,
    )


def _attempt(language_model: PreTrainedModel, what: str, **inputs: Any) -> Any:
    try:
        return language_model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _refusal(language_model, f"it fails on {what} ({type(error).__name__}: {error})") from error


def _refusal(language_model: PreTrainedModel, reason: str, instead: str = _INSTEAD) -> ValueError:
    return ValueError(
        f"A language model of type '{language_model.config.model_type}' cannot read scans: {reason}. {instead}"
    )
