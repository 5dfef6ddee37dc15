"""What a chat template writes around a scan, a question and its answer, as token ids.

A conversation can then be put together from the ids of its parts: many questions about one scan, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ChatForm"]


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
