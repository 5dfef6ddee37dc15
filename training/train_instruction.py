"""Stage 3: teach a fMRI language model to answer questions about scans.

    python training/train_instruction.py training/recipes/instruction.yaml
    accelerate launch --num_processes 4 training/train_instruction.py training/recipes/instruction.yaml --lora_rank 16

Questions are made from label columns of the scan dataset (`questions`, see recipes/instruction.yaml) or read from
`conversations`. A recipe is a YAML file of the arguments below; arguments behind it overrule it. Into `output_dir`
come the model (with `lora_rank` its adapter), its processor and training_info.json.
`--resume_from_checkpoint true` continues an interrupted training.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml
from common import LoraArguments, ScanArguments, Scans, argument, finish, lora_config, parse
from peft import get_peft_model
from texts import GivenConversations, LabelQuestions

from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.training.data import ScanConversations, ScanInputs
from fmri_lm_hf.training.trainer import FmriLMCollator, FmriLMTrainer


@dataclass
class ModelArguments:
    """What is trained."""

    _argument_group_name: ClassVar[str] = "model"

    model: str = argument("checkpoint of stage 2: a folder or Hub id")
    roi_dropout: float = argument("largest share of a scan's ROIs that are hidden while training", 0.0)


@dataclass
class QuestionArguments:
    """What is asked: `questions` or `conversations`."""

    _argument_group_name: ClassVar[str] = "questions"

    questions: dict | str | None = argument(
        "questions about label columns: a mapping in the recipe, or a YAML file with it", None
    )
    questions_per_conversation: int = argument(
        "labels asked about in one conversation; 0 for all, 1 for chat templates that rewrite earlier turns",
        0,
    )
    conversations: str | None = argument(
        "conversations about scans: a .jsonl or .parquet file or a dataset with scan_id and messages", None
    )

    def __post_init__(self):
        if (self.questions is None) == (self.conversations is None):
            raise ValueError("Give either `questions` about label columns or `conversations`.")
        if isinstance(self.questions, str):
            self.questions = yaml.safe_load(Path(self.questions).read_text(encoding="utf-8"))


def main() -> None:
    *given, training = parse(__doc__, ScanArguments, ModelArguments, QuestionArguments, LoraArguments)
    scan_arguments, model_arguments, questions, lora = given
    scans = Scans(scan_arguments)
    converse: LabelQuestions | GivenConversations
    if questions.conversations is None:
        converse = LabelQuestions(scans.dataset, questions.questions, questions.questions_per_conversation)
    else:
        converse = GivenConversations(scans.dataset, questions.conversations)

    processor = FmriLMProcessor.from_pretrained(model_arguments.model)
    model = FmriLMForCausalLM.from_pretrained(model_arguments.model, dtype="float32")
    model.freeze_fmri_tokenizer()
    if lora.lora_rank:
        adapted = lora_config(model, lora, modules_to_save=["projector"], task_type="CAUSAL_LM")
        model = get_peft_model(model, adapted)
    extractor = processor.feature_extractor
    examples = {
        split: ScanConversations(ScanInputs(scans.dataset, extractor, rows), converse)
        for split, rows in scans.split_rows(training, extractor, converse.rows).items()
    }
    trainer = FmriLMTrainer(
        model,
        training,
        data_collator=FmriLMCollator(processor),
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
        roi_dropout=model_arguments.roi_dropout,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    finish(
        trainer,
        processor,
        given,
        stage="instruction",
        **scans.facts(examples["train"].scans.rows),
        alignment=scans.earlier_info(model_arguments.model),
    )


if __name__ == "__main__":
    main()
