"""Small trainings of the three stages, and a program that runs them, in one process or in several.

torchrun --standalone --nproc_per_node 2 tests/training/small_runs.py FOLDER WAY ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "hub")]  # as pytest has them

from accelerate import PartialState
from peft import LoraConfig, get_peft_model
from small import fmri_tokenizer, language_model, missing_roi, processor, scans
from transformers import TrainerCallback, TrainingArguments, default_data_collator

from fmri_lm_hf.training.arguments import StageArguments
from fmri_lm_hf.training.data import FmriLMCollator
from fmri_lm_hf.training.trainer import FmriLMTrainer, FmriTrainer

STAGES = ("tokenizer", "alignment", "instruction")
N_EXAMPLES = 10  # no multiple of the batch


def conversation(answer: str, with_scan: bool = True) -> list[dict]:
    content = [{"type": "text", "text": "What is the sex ?"}]
    content = [{"type": "fmri"}, *content] if with_scan else content
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def arguments(folder: Path, **changes) -> TrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "num_train_epochs": 2,
        "learning_rate": 0.02,
        "optim": "sgd",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "seed": 0,
    }
    return StageArguments(**(defaults | changes))


def about_scans(model) -> list[dict]:
    """Scans of which one lacks a ROI, answers of different lengths; texts alone, of which one batch is made."""
    values = scans(N_EXAMPLES)
    roi_mask = missing_roi(N_EXAMPLES)
    codes = model.fmri_tokenizer.encode(values, roi_mask).fmri_codes
    features = model.get_fmri_features(values, roi_mask).detach()  # as the stages have them
    texts = {2: "the sex is male", 3: "What is the sex ? female . male", 6: "female"}
    return [
        {"text": texts[i]}
        if i in texts
        else {
            "conversation": conversation("female" if i % 2 else "the sex is male ."),
            "fmri_features": features[i],
            "roi_mask": roi_mask[i],
            "padding_mask": torch.ones(values.shape[-1], dtype=torch.bool),
            "fmri_labels": codes[i],
        }
        for i in range(N_EXAMPLES)
    ]


def make(stage: str, folder: Path, **changes):
    """The Trainer of a stage."""
    if stage == "tokenizer":
        torch.manual_seed(0)
        texts = torch.randn(N_EXAMPLES, 10)
        model = fmri_tokenizer(text_embed_dim=10, codebook_decay=0.8, num_quantizers=2)
        roi_mask = missing_roi(N_EXAMPLES)
        examples = [
            {"input_values": scans(N_EXAMPLES)[i], "roi_mask": roi_mask[i], "text_embeds": texts[i]}
            for i in range(N_EXAMPLES)
        ]
        without_texts = [{name: example[name] for name in ("input_values", "roi_mask")} for example in examples]
        return FmriTrainer(
            model,
            arguments(folder, **changes),
            data_collator=default_data_collator,
            train_dataset=examples,
            eval_dataset=without_texts,
        )
    model = language_model("llama" if stage == "alignment" else "gpt2")
    examples = about_scans(model)
    model.freeze_fmri_tokenizer()
    if stage == "instruction":
        model.fmri_head.requires_grad_(False)
        for example in examples:
            example.pop("fmri_labels", None)
        torch.manual_seed(0)
        targets = r"language_model\..*\.c_attn"
        model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, modules_to_save=["projector"]))
    return FmriLMTrainer(
        model,
        # texts alone come together, so that a process has only such ones
        arguments(folder, train_sampling_strategy="sequential", **changes),
        data_collator=FmriLMCollator(processor()),
        train_dataset=examples,
        eval_dataset=examples,
    )


class StopInTheMiddle(TrainerCallback):
    """Ends a training in the middle of its first epoch, behind a checkpoint."""

    def on_step_end(self, args, state, control, **options):
        control.should_save = control.should_training_stop = state.global_step == 2
        return control


def train_all(folder: Path, batch_size: int, accumulated: int, resumed: bool = False, **changes) -> None:
    """Train all stages, perhaps interrupted; write what they end with, and their logs, into the folder."""
    folder.mkdir(exist_ok=True)
    for stage in STAGES:
        options = {
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulated,
            "per_device_eval_batch_size": batch_size,
            **changes,
        }
        trainer = make(stage, folder / stage, **options)
        if resumed:
            trainer.add_callback(StopInTheMiddle)
            trainer.train()
            assert trainer.state.global_step == 2
            trainer = make(stage, folder / stage, **options)
        trainer.train(resume_from_checkpoint=resumed)
        if trainer.is_world_process_zero():
            result = {"weights": trainer.model.state_dict(), "log": trainer.state.log_history}
            torch.save(result, folder / f"{stage}.pt")


# ways in two processes: batch size, micro-batches of a step, and options of `train_all`
WAYS = {
    "processes": (2, 1, {}),
    "both": (1, 2, {"activation_checkpointing": True}),
    "resumed": (2, 1, {"resumed": True}),
}

if __name__ == "__main__":
    for way in sys.argv[2:]:
        size, n, options = WAYS[way]
        train_all(Path(sys.argv[1]) / way, size, n, **options)
    PartialState().wait_for_everyone()  # none leaves while another still writes
    PartialState().destroy_process_group()
