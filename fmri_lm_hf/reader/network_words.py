"""Words of a reader's vocabulary that stand for networks: each atlas gives them its names.

A network's name is one token, whatever it is, and the token does not depend on the name. So names never met are read
as well as any, and a statement about a network is written in one step. Which word of the vocabulary a network has is
of no consequence: training gives every scan others.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers

__all__ = ["NETWORK_WORDS", "add_network_words", "name_networks", "say_named_alone"]

# Characters for private use: they stand in no text, so that only a network's name becomes one.
NETWORK_WORDS = tuple(chr(0xE000 + number) for number in range(24))


def add_network_words(tokenizer: Any) -> None:
    """Give a tokenizer words for networks, as yet without names."""
    # the space before a name belongs to its word, as it does to any word inside a sentence
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=True) for word in NETWORK_WORDS])


def name_networks(tokenizer: Any, names: Sequence[str]) -> Any:
    """A tokenizer whose words for networks are the names of an atlas, in any case; another one stays as it is.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    names : sequence of str
        Of the networks; the first name becomes the first word.

    Raises
    ------
    ValueError
        If there are more names than words, or a name is empty.
    """
    if NETWORK_WORDS[0] not in tokenizer.get_vocab():
        return tokenizer
    if len(names) > len(NETWORK_WORDS):
        raise ValueError(
            f"The atlas has {len(names)} networks, and this model has words for {len(NETWORK_WORDS)}. Join "
            "networks: `Atlas.with_networks(table)`, with a table of columns name and network."
        )
    if not all(name.strip() for name in names):
        raise ValueError(f"Each network needs a name to be asked about, found {list(names)}.")
    tokenizer = copy.deepcopy(tokenizer)
    named = dict(zip(names, NETWORK_WORDS))
    # "default mode" before "default", which it contains
    longest_first = sorted(named, key=len, reverse=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(rf"(?i)(?<!\w){re.escape(name)}(?!\w)"), named[name])
            for name in longest_first
        ]
    )
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            *(decoders.Replace(word, f" {name}") for name, word in named.items()),
        ]
    )
    return tokenizer


def say_named_alone(generation_config: Any, tokenizer: Any, n_names: int) -> None:
    """Keep words for networks that an atlas of so many networks gives no name from being written.

    A tokenizer that has no such words leaves `generation_config` as it is.
    """
    if NETWORK_WORDS[0] in tokenizer.get_vocab():
        unnamed = tokenizer.convert_tokens_to_ids(list(NETWORK_WORDS[n_names:]))
        generation_config.suppress_tokens = unnamed or None
