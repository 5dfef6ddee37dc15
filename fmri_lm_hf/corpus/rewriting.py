"""Descriptions reworded by a language model, kept only if they still state the same facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .faithfulness import Faithfulness, faithfulness

__all__ = ["Rewrite", "rewrite"]

_INSTRUCTION = (
    "Rewrite this description of a brain scan in fluent English. Keep every measure, network, direction and number "
    "exactly, and add nothing. Answer with the rewritten description only.\n\n"
)


@dataclass(frozen=True)
class Rewrite:
    """The result of `rewrite`.

    `text` is the reworded description if `accepted`, else the original one; `report` is the check of the last wording
    that the model proposed.
    """

    text: str
    accepted: bool
    report: Faithfulness


def rewrite(
    text: str,
    facts: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    attempts: int = 3,
    temperature: float = 0.7,
    seed: int = 0,
) -> Rewrite:
    """Let a language model reword a description, and keep the original unless its facts came through unchanged.

    Parameters
    ----------
    text : str
        A description from `verbalise`.
    facts : sequence of fact
        The facts that it was made from. Those that it states must all be in the new wording, and nothing else.
    model : PreTrainedModel
        Any causal language model of transformers; an instruction-tuned one does best.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer; its chat template is used if it has one.
    attempts : int
        How many wordings to sample before the original is kept.
    temperature : float
    seed : int
        The same seed, model and text give the same wording. The global random state is left as it was.

    Examples
    --------
    >>> tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")  # doctest: +SKIP
    >>> model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")  # doctest: +SKIP
    >>> rewrite(verbalise(facts), facts, model, tokenizer).text  # doctest: +SKIP
    """
    import torch

    networks = {name for fact in facts for name in fact["network"]}
    original = faithfulness(text, facts)
    if original.contradicted or original.invented or not original.matched:
        wrong = (
            [what for _, what in original.contradicted]
            or original.invented
            or ["it states none of the facts"]
        )
        raise ValueError(
            f"The text to rewrite does not fit the facts: {wrong[0]}. Pass the facts it was made from."
        )
    if attempts < 1:
        raise ValueError(f"attempts is {attempts}; expected at least 1.")

    prompt = _INSTRUCTION + text
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        inputs = tokenizer(f"{prompt}\n\nRewritten: ", return_tensors="pt")
    inputs = inputs.to(model.device)
    n_prompt = inputs["input_ids"].shape[1]
    n_text = len(tokenizer(text)["input_ids"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(attempts):
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                max_new_tokens=2 * n_text + 32,
                pad_token_id=tokenizer.pad_token_id
                if tokenizer.pad_token_id is not None
                else tokenizer.eos_token_id,
            )
            proposal = tokenizer.decode(output[0, n_prompt:], skip_special_tokens=True).strip()
            report = faithfulness(proposal, original.matched, networks)
            if report.is_faithful:
                return Rewrite(proposal, True, report)
    return Rewrite(text, False, report)
