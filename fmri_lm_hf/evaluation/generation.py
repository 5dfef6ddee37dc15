"""What a model writes about scans: nothing is sampled, so that the same scan gets the same text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ..models.answers import encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor

__all__ = ["Inputs", "batches", "generate_texts"]

BATCH = 32
Inputs = Mapping[str, torch.Tensor]


@torch.inference_mode()
def generate_texts(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    question: str,
    inputs: Inputs | None,
    max_new_tokens: int = 160,
) -> list[str]:
    """A model's answer to a question about each scan, or about none (then one answer)."""
    prompt, _ = encode_question(processor, question, ["-"], with_scan=inputs is not None)
    texts = []
    for batch in [{}] if inputs is None else batches(inputs):
        n = max((len(values) for values in batch.values()), default=1)
        ids = torch.tensor(prompt, device=model.device).expand(n, -1)
        generated = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            **{name: values.to(model.device) for name, values in batch.items()},
        )
        texts += [processor.decode_answer(row) for row in generated[:, ids.shape[1] :].cpu()]
    return texts


def batches(inputs: Inputs) -> Iterator[dict[str, torch.Tensor]]:
    """The scans, some at a time."""
    n_scans = len(next(iter(inputs.values())))
    for start in range(0, n_scans, BATCH):
        yield {name: values[start : start + BATCH] for name, values in inputs.items()}
