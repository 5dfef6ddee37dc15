"""Probabilities of answers to questions about scans.

A scan is read once. All questions continue copies of its cache, and all answers continue copies of the caches of their
questions. The cache itself remembers which of its tokens are hidden and which position comes next (`ScanLayout`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from .modeling_fmri_lm import FmriLMForCausalLM
from .processing_fmri_lm import FmriLMProcessor

MAX_ROWS = 512  # answers that are scored at once, each with a copy of the cache

# Token ids of a prompt, and of each of its answers.
Asked = tuple[Sequence[int], Sequence[Sequence[int]]]


def encode_question(
    processor: FmriLMProcessor,
    question: str | Sequence[dict[str, Any]],
    answers: Sequence[str],
    with_scan: bool = True,
) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of a question about one scan and of each answer, in the form of the chat template.

    The ids of an answer include what the template writes after it, so that their probability is that of the
    whole answer and not of every text that begins with it. The scan comes first, unless the question is a list of
    content blocks that places it. ``with_scan=False`` leaves the scan out, as a text-only control.
    """
    if not answers:
        raise ValueError("No answers to choose from: give at least one candidate label.")
    if isinstance(question, str):
        scan = [{"type": "fmri"}] if with_scan else []
        question = [*scan, {"type": "text", "text": question}]
    user = {"role": "user", "content": question}
    split = [processor.split_chat([user, {"role": "assistant", "content": answer}]) for answer in answers]
    return processor.tokenize(split[0][0][0]), [processor.tokenize(pieces[1][0]) for pieces in split]


def answer_log_probabilities(
    model: FmriLMForCausalLM, prompt_ids: Sequence[int], answer_ids: Sequence[Sequence[int]], **scans: Tensor
) -> Tensor:
    """Compute the log-probability of each whole answer to one question about each scan, (n_scans, n_answers).

    See `answers_to_questions`, for many questions.
    """
    return answers_to_questions(model, [(prompt_ids, answer_ids)], **scans)[0]


@torch.inference_mode()
def read_before(model: FmriLMForCausalLM, ids: Sequence[int], **scans: Tensor) -> Cache:
    """Read the beginning of a prompt once, for all questions that continue it.

    Parameters
    ----------
    model : FmriLMForCausalLM
    ids : sequence of int
        Such as a conversation about other scans, with their placeholders.
    **scans : torch.Tensor
        As for `answers_to_questions`; here one row for each scan of the beginning, in its order.
    """
    beginning = _rows([ids], model.device)
    return _continue(model, None, *beginning, logits_to_keep=1, **scans)[1]


@torch.inference_mode()
def answers_to_questions(
    model: FmriLMForCausalLM, asked: Sequence[Asked], before: Cache | None = None, **scans: Tensor
) -> list[Tensor]:
    """Compute the log-probability of each whole answer to each of several questions about each scan.

    A scan is read once, with the common beginning of the prompts. Each question continues from there, and each answer
    from its question; none sees another.

    Parameters
    ----------
    model : FmriLMForCausalLM
    asked : sequence of (prompt ids, ids of its answers)
        From `encode_question`; each prompt about the same scan (or about none).
    before : Cache, optional
        From `read_before`: the beginning that every prompt continues.
    **scans : torch.Tensor
        `input_values` or `fmri_features`, and masks, each with one row per scan; none for text-only prompts.

    Returns
    -------
    list of torch.Tensor of shape (n_scans, n_answers)
        For each question, natural logarithms, summed over the tokens of an answer.

    Raises
    ------
    ValueError
        If prompts differ before the end of their scan, or the model gives logits that are not finite.
    """
    n_scans = max((len(values) for values in scans.values()), default=1)
    prompts = [list(prompt) for prompt, _ in asked]
    # tokens that all prompts begin with; the last token of each stays its own, since its logits are needed
    n_own = min(map(len, prompts)) - 1
    n_shared = next((k for k in range(n_own) if len({prompt[k] for prompt in prompts}) > 1), n_own)
    if any(model.config.fmri_token_id in prompt[n_shared:] for prompt in prompts):
        raise ValueError(
            "The prompts differ before the end of their scan, so that it cannot be read once for all of them: write "
            "each question after the scan, or ask one at a time."
        )
    cache = _repeated(before, n_scans)
    if n_shared:
        shared = _rows([prompts[0][:n_shared]], model.device, n_scans)
        cache = _continue(model, cache, *shared, logits_to_keep=1, **scans)[1]
    # The cache is copied for every answer of every question: in memory it grows with the product, so questions go in
    # chunks, however many there are.
    n_answers = max(len(answers) for _, answers in asked)
    n_at_once = max(1, MAX_ROWS // (n_scans * n_answers))
    remaining = [(prompt[n_shared:], answers) for prompt, (_, answers) in zip(prompts, asked, strict=True)]
    chunks = [remaining[start : start + n_at_once] for start in range(0, len(remaining), n_at_once)]
    return [scores for chunk in chunks for scores in _scores(model, cache, chunk, n_scans, n_answers)]


def _scores(
    model: FmriLMForCausalLM, cache: Cache | None, asked: Sequence[Asked], n_scans: int, n_answers: int
) -> list[Tensor]:
    """Log-probabilities of the answers to questions that continue one cache: for each (n_scans, n_answers)."""
    # Rows are ordered by scan, then question, then answer: a cache is repeated row by row, ids as a whole.
    # Questions are padded on the left: the logits of the last column are those of the first token of an answer.
    questions = _rows([question for question, _ in asked], model.device, n_scans, left=True)
    logits, of_questions = _continue(model, _repeated(cache, len(asked)), *questions, logits_to_keep=1)

    # the same number of answers for every question, filled up with empty ones
    all_ids = [ids for _, answers in asked for ids in [*answers, *[()] * (n_answers - len(answers))]]
    answers, present = _rows(all_ids, model.device, n_scans)
    logits = logits.repeat_interleave(n_answers, dim=0)  # of the first token of each answer
    if answers.shape[1] > 1:
        of_answers = _repeated(of_questions, n_answers)
        # the last token of the longest answer predicts nothing that is scored
        later, _ = _continue(model, of_answers, answers[:, :-1], present[:, :-1])
        logits = torch.cat([logits, later], dim=1)  # (n_scans * n_asked * n_answers, longest, vocab_size)
    # in float32: sums over tokens in bfloat16 would be too coarse to rank answers
    log_probabilities = logits.float().log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)
    scores = (log_probabilities * present).sum(-1).view(n_scans, len(asked), n_answers)
    if not torch.isfinite(scores).all():
        raise ValueError(
            "The model gives logits that are not finite (NaN or infinite), so its answers have no probabilities: load "
            'it with `dtype="float32"`, or check the weights and the scan for NaN.'
        )
    return [scores[:, number, : len(answers)] for number, (_, answers) in enumerate(asked)]


def _continue(
    model: FmriLMForCausalLM, cache: Cache | None, ids: Tensor, present: Tensor, **inputs: Any
) -> tuple[Tensor, Cache]:
    """Continue a cache with ids for every row, those not `present` hidden: their logits, and the longer cache."""
    n_past = 0 if cache is None else cache.get_seq_length()
    for name, value in inputs.items():
        inputs[name] = value.to(model.device) if isinstance(value, Tensor) else value
    # ones for the cache: it knows itself which of its tokens are hidden
    attention_mask = F.pad(present, (n_past, 0), value=1)
    inputs |= {"input_ids": ids, "attention_mask": attention_mask, "past_key_values": cache}
    output = model(**inputs, use_cache=True)
    return output.logits, output.past_key_values


def _repeated(cache: Cache | None, n: int) -> Cache | None:
    """A copy of a cache with each row `n` times."""
    cache = copy.deepcopy(cache)
    if cache is not None:
        cache.batch_repeat_interleave(n)
    return cache


def _rows(
    ids: Sequence[Sequence[int]], device: torch.device, n_times: int = 1, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Ids of different lengths as one tensor, all rows `n_times`, and where they are: both (n_times * n, longest)."""
    longest = max(map(len, ids))
    rows = torch.zeros(len(ids), longest, dtype=torch.long)
    present = torch.zeros_like(rows)
    for row, row_ids in enumerate(ids):
        place = slice(longest - len(row_ids), None) if left else slice(0, len(row_ids))
        rows[row, place] = torch.tensor(row_ids, dtype=torch.long)
        present[row, place] = 1
    return rows.to(device).repeat(n_times, 1), present.to(device).repeat(n_times, 1)
