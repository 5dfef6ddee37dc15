"""What a chat template writes around a scan, a question and its answer, as token ids.

A conversation can then be put together from the ids of its parts: many questions about one scan, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, set_seed


@dataclass(frozen=True)
class ChatForm:
    """The fixed parts of a question about a scan.

    Attributes
    ----------
    before : tuple of int
        Before the scan: the beginning of the user's turn, with whatever the template puts in front of it.
    between : tuple of int
        Between question and answer.
    behind : tuple of int
        Behind the answer.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    behind: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, fmri_token: str = "<fmri>") -> ChatForm:
        """That of a tokenizer's chat template.

        Raises
        ------
        ValueError
            When it has none, or one that does not write a question and its answer as they are, one behind the other.
        """
        if tokenizer.chat_template is None:
            raise ValueError(
                "The language model's tokenizer has no chat template, which says how a question and its answer are "
                "written: set `tokenizer.chat_template` and save it, or take a model that has one."
            )
        question, answer = "question", "answer"
        text = tokenizer.apply_chat_template(
            [
                {"role": "user", "content": fmri_token + question},
                {"role": "assistant", "content": answer},
            ],
            tokenize=False,
        )
        before, found_question, rest = text.partition(fmri_token + question)
        between, found_answer, behind = rest.partition(answer)
        if not (found_question and found_answer):
            raise ValueError(
                "The chat template does not write a question and its answer as they are, one behind the other, but "
                f"makes of them {text!r}: take a model with another template."
            )
        return cls(
            *(
                tuple(tokenizer(part, add_special_tokens=False)["input_ids"])
                for part in (before, between, behind)
            )
        )


# What a pretrained language model writes of itself, to be learnt again while it learns to read scans.


@torch.inference_mode()
def own_texts(
    language_model: PreTrainedModel,
    tokenizer: Any,
    n: int,
    n_tokens: int = 96,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[int]]:
    """Texts that a language model writes with nothing to go on, as token ids.

    Half of them are conversations, which begin as the chat template begins a user's turn; half follow an empty line.

    Parameters
    ----------
    language_model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
        Its own, with a chat template.
    n : int
    n_tokens : int, default=96
        Length of each text, without its beginning.
    seed : int, default=0
    batch_size : int, default=64
        Texts that are written at once.

    Returns
    -------
    list of list of int
    """
    language_model.eval()
    set_seed(seed)
    # nothing ends a text early, since what follows the end of a turn is an answer to it; and a placeholder of a scan
    # is no text
    sampling = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=n_tokens,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=tokenizer.convert_tokens_to_ids(["<fmri>"]),
    )
    beginnings = [
        list(ChatForm.of(tokenizer).before),
        tokenizer("\n\n", add_special_tokens=False)["input_ids"],
    ]
    texts: list[list[int]] = []
    with tqdm(total=n, desc="Texts of the language model's own", unit="text") as progress:
        for number, beginning in enumerate(beginnings):
            left = (n + number) // 2
            while left > 0:
                size = min(batch_size, left)
                ids = torch.tensor([beginning] * size, device=language_model.device)
                written = language_model.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_config=sampling
                )
                texts += written.tolist()
                left -= size
                progress.update(size)
    return texts
