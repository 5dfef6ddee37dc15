"""How probable a model finds each of several answers to a question about scans."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .modeling_fmri_lm import FmriLMForCausalLM
from .processing_fmri_lm import FmriLMProcessor


def encode_question(
    processor: FmriLMProcessor, question: str, answers: Sequence[str], with_scan: bool = True
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a question about one scan and of each answer, in the form of the chat template.

    The ids of an answer include what the template writes behind it, so that their probability is that of the
    whole answer and not of every text that begins with it. With ``with_scan=False`` the question stands
    alone, as a text-only control.
    """
    if not answers:
        raise ValueError("No answers to choose from: give at least one candidate label.")
    content = [{"type": "fmri"}] if with_scan else []
    user = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    split = [processor.split_chat([user, {"role": "assistant", "content": answer}]) for answer in answers]
    return processor.tokenize(split[0][0][0]), [processor.tokenize(pieces[1][0]) for pieces in split]


@torch.inference_mode()
def answer_log_probabilities(
    model: FmriLMForCausalLM,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[Sequence[int]],
    **scans: torch.Tensor,
) -> torch.Tensor:
    """Log-probability of each whole answer for each scan.

    The prompt is read once a scan; all answers go on from its cache.

    Parameters
    ----------
    model : FmriLMForCausalLM
    prompt_ids : sequence of int
        Ids of a prompt about one scan (or none), from `encode_question`.
    answer_ids : sequence of sequences of int
    **scans : torch.Tensor
        `input_values` or `fmri_features`, and masks, each with one row a scan; none for a text-only prompt.

    Returns
    -------
    torch.Tensor of shape (n_scans, n_answers)
        Natural logarithms, summed over the tokens of an answer.
    """
    device = model.device
    scans = {name: values.to(device) for name, values in scans.items()}
    n_scans = max((len(values) for values in scans.values()), default=1)
    n_answers = len(answer_ids)

    prompt = torch.tensor(prompt_ids, device=device).expand(n_scans, -1)
    masks = {name: scans.get(name) for name in ("roi_mask", "padding_mask")}
    prompt_mask = model.get_attention_mask(prompt, **masks)
    read = model(input_ids=prompt, attention_mask=prompt_mask, use_cache=True, logits_to_keep=1, **scans)

    longest = max(map(len, answer_ids))
    answers = torch.zeros(n_answers, longest, dtype=torch.long, device=device)
    present = torch.zeros_like(answers)
    for row, ids in enumerate(answer_ids):
        answers[row, : len(ids)] = torch.tensor(ids, device=device)
        present[row, : len(ids)] = 1
    answers, present = (
        answers.repeat(n_scans, 1),
        present.repeat(n_scans, 1),
    )  # (n_scans * n_answers, longest)

    logits = read.logits.repeat_interleave(n_answers, dim=0)  # of the first token of each answer
    if longest > 1:
        read.past_key_values.batch_repeat_interleave(n_answers)
        first = int(model.get_position_ids(prompt[:1])[0, -1]) + 1
        going_on = model(
            input_ids=answers[:, :-1],
            attention_mask=torch.cat(
                [prompt_mask.repeat_interleave(n_answers, dim=0), present[:, :-1]], dim=1
            ),
            position_ids=torch.arange(first, first + longest - 1, device=device).expand(len(answers), -1),
            past_key_values=read.past_key_values,
        )
        logits = torch.cat([logits, going_on.logits], dim=1)  # (n_scans * n_answers, longest, vocab_size)
    log_probabilities = logits.float().log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)
    return (log_probabilities * present).sum(-1).view(n_scans, n_answers)


__all__ = ["answer_log_probabilities", "encode_question"]
