"""Stage 3: train a language model that reads scans to answer questions about them.

    fmri-lm train instruction training/recipes/instruction.yaml
    python training/train_instruction.py training/recipes/instruction.yaml
    accelerate launch --num_processes 4 -m fmri_lm_hf.training.instruction training/recipes/instruction.yaml

Questions are made from label columns of the scan dataset (`questions`, see recipes/instruction.yaml) or read from
`conversations`. A recipe is a YAML file of the options below; options after it override it. The model (with
`lora_rank` its adapter), its processor and training_info.json are saved in `output_dir`.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import get_peft_model

from ..models.abstention import recorded_answers
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments, argument, parse
from .backbone import lora_config
from .data import Converse, TrainingScans
from .run import train_on_conversations
from .texts import CorpusTexts, GivenConversations, LabelQuestions, joined, reading_or_corpus
from .trainer import FmriLMTrainer
from .vocabulary import add_words


@dataclass
class InstructionArguments(LanguageModelArguments):
    """Model and questions."""

    stage: ClassVar[str] = "instruction"
    required: ClassVar[tuple[str, ...]] = ("output_dir", "scans", "model")

    model: str | None = argument("checkpoint of stage 2: a folder or Hub id; required")
    questions: dict | str | None = argument("questions about label columns: a mapping in the recipe, or its file")
    questions_per_conversation: int = argument(
        "labels in one conversation; 0: all; 1 for chat templates that rewrite earlier turns", 0
    )
    extend_vocabulary: bool = argument(
        "add words of `questions` to a small vocabulary, such as that of the bundled model; not with LoRA",
        False,
    )
    conversations: str | None = argument(
        "in place of `questions`: a .jsonl or .parquet file, or a dataset, with scan_id and messages"
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.questions is None) == (self.conversations is None):
            raise ValueError("Give either `questions` about label columns or `conversations`.")
        if self.extend_vocabulary and (self.questions is None or self.lora_rank):
            raise ValueError(
                "`extend_vocabulary` adds words of `questions`, whose embeddings are trained: give `questions`, and "
                "set `lora_rank: 0`."
            )
        if self.share_described and self.corpus is None and not self.reading_questions:
            raise ValueError("`share_described` needs descriptions: give `corpus`, or set `share_described: 0`.")


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with the options of the command line."""
    train(parse(InstructionArguments, words))


def train(arguments: InstructionArguments) -> FmriLMTrainer:
    """Train a model to answer questions, and save it, or its adapter, in `output_dir`."""
    assert arguments.model
    scans = TrainingScans(arguments)
    processor = FmriLMProcessor.from_pretrained(arguments.model)
    converse: Converse
    new_words: list[str] = []
    if arguments.questions is not None:
        questions = LabelQuestions(scans.dataset, arguments.questions, arguments.questions_per_conversation)
        asked, texts = questions.scan_ids, None  # scans with a conversation
        answers = questions.answers
        if arguments.corpus is not None and not arguments.reading_questions:
            texts = CorpusTexts(arguments.corpus, arguments.corpus_config, arguments.text_lengths)
            asked = asked & texts.scan_ids
        if arguments.extend_vocabulary:
            new_words = add_words(processor.tokenizer, questions.texts())
        converse = joined((questions, 1.0), *reading_or_corpus(arguments, texts, processor))
    else:
        given = GivenConversations(scans.dataset, str(arguments.conversations))
        asked, converse, answers = given.scan_ids, given, given.answers
    rows = scans.split_rows([row for row, scan_id in enumerate(scans.scan_ids) if scan_id in asked])

    model: Any = FmriLMForCausalLM.from_pretrained(arguments.model, dtype="float32")
    if new_words:
        torch.manual_seed(arguments.seed)
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    # Pipelines decline labels that are not recorded here. An adapter is saved without the configuration of its model.
    recorded = recorded_answers(model, processor) or {}
    answers = {question: list(those) for question, those in (*recorded.items(), *answers.items())}
    model.config.answers = answers
    processor.answers = answers if arguments.lora_rank else None
    model.freeze_fmri_tokenizer()
    if model.fmri_head is not None:
        model.fmri_head.requires_grad_(False)  # not used in this stage: DDP refuses trained weights without a gradient
    if arguments.lora_rank:
        config = lora_config(model, arguments, modules_to_save=["projector"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    return train_on_conversations(
        model, processor, arguments, scans, rows, converse, earlier={"alignment": arguments.model}
    )


if __name__ == "__main__":
    main()
