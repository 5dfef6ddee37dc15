"""A tiny question encoder with random weights, and its tokenizer of a few words."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from fmri_lm_hf.questions.classes import MAX_LENGTH, PLACEHOLDERS
from fmri_lm_hf.questions.encoder import QuestionEncoder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("how", "strong", "is", "with", "?", "hub")


def tokenizer(words=(*SPECIAL, *WORDS, *PLACEHOLDERS)) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, as BERT frames them."""
    made = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]")
    fast.add_special_tokens({"additional_special_tokens": list(PLACEHOLDERS)})
    return fast


def config(vocab_size: int) -> BertConfig:
    """A BERT of two layers, with large weights, so that every connection shows."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.5,
    )


def encoder(vocab_size: int, seed: int = 0) -> QuestionEncoder:
    """A question encoder with random weights."""
    torch.manual_seed(seed)
    return QuestionEncoder(config(vocab_size)).eval()
