"""Probabilities of answers to questions about scans.

A scan is read once; all questions continue from copies of its cache, and all answers from copies of the caches of their
questions. `Past` keeps what a cache alone does not hold: the mask of hidden tokens, and the next position.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .modeling_fmri_lm import FmriLMForCausalLM
from .processing_fmri_lm import FmriLMProcessor

MAX_ROWS = 512  # answers that are scored at once, each with a copy of the cache

# Ids of a prompt, and of each of its answers.
Asked = tuple[Sequence[int], Sequence[Sequence[int]]]


def encode_question(
    processor: FmriLMProcessor,
    question: str | Sequence[dict[str, Any]],
    answers: Sequence[str],
    with_scan: bool = True,
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a question about one scan and of each answer, in the form of the chat template.

    The ids of an answer include what the template writes behind it, so that their probability is that of the
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
    """Log-probability of each whole answer to one question about each scan, (n_scans, n_answers).

    See `answers_to_questions`, for many questions.
    """
    return answers_to_questions(model, [(prompt_ids, answer_ids)], **scans)[0]


@torch.inference_mode()
def read_before(model: FmriLMForCausalLM, ids: Sequence[int], **scans: Tensor) -> Past:
    """Read the beginning of a prompt once, for all questions that continue it.

    Parameters
    ----------
    model : FmriLMForCausalLM
    ids : sequence of int
        Such as a conversation about other scans, with their placeholders.
    **scans : torch.Tensor
        As for `answers_to_questions`; here one row for each scan of the beginning, in its order.
    """
    past = Past(model, 1)
    past.read_scans(torch.tensor([list(ids)], device=model.device), scans)
    return past


@torch.inference_mode()
def answers_to_questions(
    model: FmriLMForCausalLM, asked: Sequence[Asked], before: Past | None = None, **scans: Tensor
) -> list[Tensor]:
    """Log-probability of each whole answer to each of several questions about each scan.

    A scan is read once, with the common beginning of the prompts. Each question continues from there, and each answer
    from its question; none sees another.

    Parameters
    ----------
    model : FmriLMForCausalLM
    asked : sequence of (prompt ids, ids of its answers)
        From `encode_question`; each prompt about the same scan (or about none).
    before : Past, optional
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
        If prompts differ before the end of their scan.
    """
    n_scans = max((len(values) for values in scans.values()), default=1)
    prompts = [list(prompt) for prompt, _ in asked]
    # tokens that all prompts begin with; the last token of each stays its own, since its logits are needed
    n_own = min(map(len, prompts)) - 1
    n_shared = next((k for k in range(n_own) if len({prompt[k] for prompt in prompts}) > 1), n_own)
    if any(model.config.fmri_token_id in prompt[n_shared:] for prompt in prompts):
        raise ValueError(
            "The prompts differ before the end of their scan, so that it cannot be read once for all of them: write "
            "each question behind the scan, or ask one at a time."
        )
    past = Past(model, n_scans) if before is None else before.repeated(n_scans)
    if n_shared:
        past.read_scans(torch.tensor(prompts[0][:n_shared], device=model.device).expand(n_scans, -1), scans)
    n_answers = max(len(answers) for _, answers in asked)
    n_at_once = max(1, MAX_ROWS // (n_scans * n_answers))
    rest = [(prompt[n_shared:], answers) for prompt, (_, answers) in zip(prompts, asked, strict=True)]
    chunks = [rest[start : start + n_at_once] for start in range(0, len(rest), n_at_once)]
    return [scores for chunk in chunks for scores in _scores(past, chunk, n_answers)]


class Past:
    """A cache of `n_rows` rows, with its mask of hidden tokens and the next position of each row."""

    def __init__(self, model: FmriLMForCausalLM, n_rows: int):
        self.model = model
        self.cache: Any = None
        self.mask = torch.ones(n_rows, 0, dtype=torch.long, device=model.device)
        self.first = torch.zeros(n_rows, dtype=torch.long, device=model.device)

    def repeated(self, n: int) -> Past:
        """With each row `n` times."""
        again = Past(self.model, 0)
        again.cache = copy.deepcopy(self.cache)
        if again.cache is not None:
            again.cache.batch_repeat_interleave(n)
        again.mask = self.mask.repeat_interleave(n, dim=0)
        again.first = self.first.repeat_interleave(n)
        return again

    def read_scans(self, ids: Tensor, scans: Mapping[str, Tensor]) -> None:
        """Continue with the same text in every row, and its scans."""
        scans = {name: values.to(self.model.device) for name, values in scans.items()}
        masks = {name: scans.get(name) for name in ("roi_mask", "padding_mask")}
        self.mask = torch.cat([self.mask, self.model.get_attention_mask(ids, **masks)], dim=1)
        positions = self.first[:, None] + self.model.get_position_ids(ids)
        self.cache = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **scans,
        ).past_key_values
        self.first = positions[:, -1] + 1

    def read(self, ids: Tensor, present: Tensor, **options: Any) -> Tensor:
        """Continue with tokens of every row, those not `present` hidden; return logits."""
        positions = self.first[:, None] + (present.cumsum(1) - 1).clamp_min(0)
        self.mask = torch.cat([self.mask, present], dim=1)
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **options,
        )
        self.cache, self.first = output.past_key_values, self.first + present.sum(1)
        return output.logits


def _scores(past: Past, asked: Sequence[Asked], n_answers: int) -> list[Tensor]:
    """Log-probabilities of the answers to questions that continue the same past: for each (n_scans, n_answers)."""
    n_scans, device = len(past.mask), past.mask.device
    # padded on the left, so that the last token of every question is in the last column
    questions, present = _rows([question for question, _ in asked], device, left=True)
    past = past.repeated(len(asked))
    first_logits = past.read(questions.repeat(n_scans, 1), present.repeat(n_scans, 1), logits_to_keep=1)

    # the same number of answers for every question, filled up with empty ones
    all_ids = [ids for _, answers in asked for ids in [*answers, *[()] * (n_answers - len(answers))]]
    answers, present = (each.repeat(n_scans, 1) for each in _rows(all_ids, device))
    logits = first_logits.repeat_interleave(n_answers, dim=0)  # of the first token of each answer
    if answers.shape[1] > 1:
        later = past.repeated(n_answers).read(answers[:, :-1], present[:, :-1])
        logits = torch.cat([logits, later], dim=1)  # (n_scans * n_asked * n_answers, longest, vocab_size)
    # in float32: sums over tokens in bfloat16 would be too coarse to rank answers
    log_probabilities = logits.float().log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)
    scores = (log_probabilities * present).sum(-1).view(n_scans, len(asked), n_answers)
    return [scores[:, number, : len(answers)] for number, (_, answers) in enumerate(asked)]


def _rows(ids: Sequence[Sequence[int]], device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids of different lengths as one tensor, and where they are: both (n, longest)."""
    longest = max(map(len, ids))
    rows = torch.zeros(len(ids), longest, dtype=torch.long, device=device)
    present = torch.zeros_like(rows)
    for row, each in enumerate(ids):
        place = slice(longest - len(each), None) if left else slice(0, len(each))
        rows[row, place] = torch.tensor(each, dtype=torch.long, device=device)
        present[row, place] = 1
    return rows, present
