"""Stage 3: teach a fMRI language model to answer questions about scans.

    fmri-lm train instruction training/recipes/instruction.yaml
    python training/train_instruction.py training/recipes/instruction.yaml
    accelerate launch --num_processes 4 -m fmri_lm_hf.training.instruction training/recipes/instruction.yaml

Questions are made from label columns of the scan dataset (`questions`, see recipes/instruction.yaml) or read from
`conversations`. A recipe is a YAML file of the arguments below; arguments behind it overrule it. Into `output_dir`
come the model (with `lora_rank` its adapter), its processor and training_info.json.
`--resume_from_checkpoint true` continues an interrupted training.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import get_peft_model

from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments, argument, parse
from .backbone import lora_config
from .data import TrainingScans
from .record import train_on_conversations
from .texts import CorpusTexts, GivenConversations, LabelQuestions, described_by, joined
from .trainer import FmriLMTrainer
from .vocabulary import add_words


@dataclass
class InstructionArguments(LanguageModelArguments):
    """What is trained, and what is asked: `questions` or `conversations`."""

    required: ClassVar[tuple[str, ...]] = ("output_dir", "scans", "model")

    model: str | None = argument("checkpoint of stage 2: a folder or Hub id")
    questions: dict | str | None = argument(
        "questions about label columns: a mapping in the recipe, or a YAML file with it"
    )
    questions_per_conversation: int = argument(
        "labels asked about in one conversation; 0 for all, 1 for chat templates that rewrite earlier turns",
        0,
    )
    own_words: bool = argument(
        "give words of `questions` that the tokenizer cuts into pieces tokens of their own: for a language model of "
        "few words, such as a reader; not with LoRA",
        False,
    )
    conversations: str | None = argument(
        "conversations about scans: a .jsonl or .parquet file or a dataset with scan_id and messages"
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.questions is None) == (self.conversations is None):
            raise ValueError("Give either `questions` about label columns or `conversations`.")
        if self.own_words and (self.questions is None or self.lora_rank):
            raise ValueError(
                "`own_words` are those of `questions`, and their embeddings are trained: give `questions`, and set "
                "`lora_rank: 0`."
            )
        if self.share_described and self.corpus is None and not self.reading_questions:
            raise ValueError(
                "`share_described` needs the descriptions of a corpus: give `corpus`, or set it to 0."
            )


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with arguments of the command line."""
    train(parse(InstructionArguments, __doc__ or "", words))


def train(arguments: InstructionArguments) -> FmriLMTrainer:
    """Train a model to answer questions, and save it, or its adapter, in `output_dir`."""
    assert arguments.model
    scans = TrainingScans(arguments, arguments.corpus)
    processor = FmriLMProcessor.from_pretrained(arguments.model)
    converse: Any
    if arguments.questions is not None:
        questions = LabelQuestions(scans.dataset, arguments.questions, arguments.questions_per_conversation)
        asked = questions.scan_ids
        texts = None
        if arguments.corpus is not None and not arguments.reading_questions:
            texts = CorpusTexts(arguments.corpus, arguments.corpus_config, arguments.text_lengths)
            asked &= texts.scan_ids
        converse = joined((questions, 1.0), *described_by(arguments, texts, processor))
    else:
        converse = GivenConversations(scans.dataset, str(arguments.conversations))
        asked = converse.scan_ids

    candidates = [row for row, scan_id in enumerate(scans.scan_ids) if scan_id in asked]
    inputs, ids = scans.read(processor.feature_extractor, scans.split_rows(candidates))

    model = FmriLMForCausalLM.from_pretrained(arguments.model, dtype="float32")
    if arguments.own_words and add_words(processor.tokenizer, questions.texts()):
        torch.manual_seed(arguments.seed)
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.freeze_fmri_tokenizer()
    if model.fmri_head is not None:
        model.fmri_head.requires_grad_(False)  # no codes are predicted in this stage
    examples = scans.conversations(inputs, ids, converse, model, arguments)
    trained = model
    if arguments.lora_rank:
        adapted = lora_config(model, arguments, modules_to_save=["projector"], task_type="CAUSAL_LM")
        trained = get_peft_model(model, adapted)
    return train_on_conversations(
        trained,
        processor,
        arguments,
        scans,
        ids["train"],
        examples,
        stage="instruction",
        earlier={"alignment": arguments.model},
    )


if __name__ == "__main__":
    main()
