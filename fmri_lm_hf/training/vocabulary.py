"""Text tokenizers: train one, add words to one, and take a chat template apart."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..simulation.stream import PUBLISHED_NAMES, draw_network_names

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
N_SHORT = 12  # names of few tokens, with which the training begins


def train_text_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with a chat template and a token `<fmri>`.

    Parameters
    ----------
    texts : sequence of str
    vocab_size : int
        Largest number of tokens; single bytes are always tokens.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<fmri>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        padding_side="left",  # generation appends tokens on the right
        chat_template=CHAT_TEMPLATE,
    )


def add_words(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Add tokens to a tokenizer for words of texts that it splits into several.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Changed in place; the embeddings of its model have to be resized.
    texts : iterable of str

    Returns
    -------
    list of str
        The new tokens.
    """
    # a word after a space includes the space: without it, decoded texts would lose their spaces
    words = dict.fromkeys(word for text in texts for word in re.findall(r" ?[^\W\d_]+", text))
    new = [word for word in words if len(tokenizer(word, add_special_tokens=False)["input_ids"]) > 1]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in new])
    return new


@dataclass(frozen=True)
class ChatFormat:
    """Token ids that a chat template puts around a scan, a question and its answer.

    With them a prompt can hold many parallel questions about one scan.

    Attributes
    ----------
    prefix : tuple of int
        Before the scan: the beginning of the user's turn, with everything before it.
    separator : tuple of int
        Between question and answer.
    suffix : tuple of int
        After the answer.
    """

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    suffix: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> ChatFormat:
        """Read the format from a tokenizer's chat template.

        Raises
        ------
        ValueError
            If there is no template, or if it does not contain question and answer unchanged, in this order.
        """
        if tokenizer.chat_template is None:
            raise ValueError(
                "The language model's tokenizer has no chat template, which defines how questions and answers are "
                "written: set `tokenizer.chat_template` and save it, or use a model that has one."
            )
        question, answer = "<fmri>question", "answer"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        prefix, found_question, reply = text.partition(question)
        separator, found_answer, suffix = reply.partition(answer)
        if not (found_question and found_answer):
            raise ValueError(
                "The chat template does not write a question and its answer unchanged, one after the other; it writes "
                f"{text!r}. Use a model with another template."
            )
        parts = tokenizer([prefix, separator, suffix], add_special_tokens=False)["input_ids"]
        return cls(*map(tuple, parts))


class NetworkNames:
    """Draws names of networks for a language model without tokens for them.

    First names of few tokens, then published ones, then also anatomical terms and made-up words.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    short_until, published_until : float
        Shares of the training until which short and published names are drawn.
    """

    def __init__(self, tokenizer: Any, short_until: float, published_until: float):
        self.short_until, self.published_until = short_until, published_until
        distinct = {name.lower(): name for name in reversed(PUBLISHED_NAMES)}  # without names that differ only in case
        self.published = sorted(
            distinct.values(),
            key=lambda name: (len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]), name),
        )

    def __call__(self, n: int, rng: random.Random, done: float) -> list[str]:
        """Draw `n` names for the networks of a scan; `done` is the share of the training that is over."""
        if done < self.published_until:
            return rng.sample(self.published[: N_SHORT if done < self.short_until else None], n)
        return draw_network_names(n, np.random.default_rng(rng.getrandbits(32)))
