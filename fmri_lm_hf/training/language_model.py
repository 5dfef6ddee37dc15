"""A small language model of a corpus's texts, in place of a pretrained one: for cohorts, tests and demos of any size.

    fmri-lm train language-model training/recipes/demo/language_model.yaml
    python training/train_language_model.py training/recipes/demo/language_model.yaml

A recipe is a YAML file of the arguments below; arguments behind it overrule it. Into `output_dir` come a Llama-like
model and its tokenizer, which the recipes of the stages take as `language_model` and `text_model`.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
)

from ..corpus.reading import DESCRIBE
from ..evaluation.tasks import load_tasks
from .arguments import StageArguments, argument, parse
from .reading import reading_texts
from .record import save_stage
from .texts import load_texts
from .trainer import show_progress

__all__ = ["LanguageModelStageArguments", "main", "train", "train_text_tokenizer"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
QUESTION_REPEATS = 20  # of questions and answers, which are few beside the descriptions


@dataclass
class LanguageModelStageArguments(StageArguments):
    """What the small language model reads, and its size."""

    required: ClassVar[tuple[str, ...]] = ("output_dir", "texts")

    texts: str | None = argument("texts: a corpus, a .txt, .jsonl or .parquet file, or a dataset with `text`")
    questions: dict | str | None = argument("questions about labels, whose words the vocabulary should have")
    reading_texts: int = argument(
        "made-up facts about network pairs whose questions and descriptions are read too", 0
    )
    vocab_size: int = argument("largest size of the subword vocabulary", 800)
    model: dict | str | None = argument("fields of LlamaConfig, such as hidden_size and num_hidden_layers")


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with arguments of the command line."""
    train(parse(LanguageModelStageArguments, __doc__ or "", words))


def train(arguments: LanguageModelStageArguments) -> Trainer:
    """Make a vocabulary and a model of the texts, and save both in `output_dir`."""
    assert arguments.texts
    assert not isinstance(arguments.model, str)
    texts = [text for text in load_texts(arguments.texts, ("text",))["text"] if text and text.strip()]
    if arguments.reading_texts:
        texts += reading_texts(arguments.reading_texts, arguments.seed)
    questions = list(DESCRIBE)
    if arguments.questions is not None:
        for task in load_tasks(arguments.questions).values():
            questions += [*task.ask, *task.classes]
    tokenizer = train_text_tokenizer([*texts, *questions * QUESTION_REPEATS], arguments.vocab_size)
    torch.manual_seed(arguments.seed)
    config = {
        "vocab_size": len(tokenizer),
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = LlamaForCausalLM(LlamaConfig(**(config | (arguments.model or {}))))
    trainer = Trainer(
        model,
        arguments,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=[{"input_ids": tokenizer(text + tokenizer.eos_token)["input_ids"]} for text in texts],
    )
    show_progress(trainer, "language model")
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    save_stage(trainer, tokenizer, stage="language model")
    return trainer


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


if __name__ == "__main__":
    main()
