"""A subword vocabulary of texts, with a chat template: that of a small reader; and words that are added to it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..simulation.stream import PUBLISHED_NAMES, draw_network_names

# Names of networks for a language model that has none of a reader's words for them, but words of its own.

N_SHORT = 12  # names that training begins with: so many networks at most, and few tokens


class OwnNames:
    """Draws names: short ones first, then published ones, then also anatomical terms and made-up words.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    short_until, published_until : float
        Shares of the training.
    """

    def __init__(self, tokenizer: Any, short_until: float, published_until: float):
        self.short_until, self.published_until = short_until, published_until
        self.published = sorted(
            {
                name.lower(): name for name in reversed(PUBLISHED_NAMES)
            }.values(),  # none that differ by case alone
            key=lambda name: (len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]), name),
        )

    def __call__(self, n: int, rng: random.Random, done: float) -> list[str]:
        """`n` names of a scan's networks, when this share of the training is done."""
        if done < self.published_until:
            return rng.sample(self.published[: N_SHORT if done < self.short_until else None], n)
        return draw_network_names(n, np.random.default_rng(rng.getrandbits(32)))


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_text_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of texts, with a chat template and a token `<fmri>`.

    Parameters
    ----------
    texts : sequence of str
    vocab_size : int
        At most so many tokens; at least those of single bytes.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<fmri>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options: dict[str, Any] = {
        "special_tokens": special,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **options))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        padding_side="left",  # generation goes on at the right
        chat_template=CHAT_TEMPLATE,
    )


def add_words(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Give the words of texts that a tokenizer cuts into pieces tokens of their own.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        It is changed: the model's embeddings have to be resized.
    texts : iterable of str

    Returns
    -------
    list of str
        The new tokens; a word that comes behind a space holds the space, so that texts are decoded as they were.
    """
    words = dict.fromkeys(word for text in texts for word in re.findall(r" ?[^\W\d_]+", text))
    new = [word for word in words if len(tokenizer(word, add_special_tokens=False)["input_ids"]) > 1]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in new])
    return new
