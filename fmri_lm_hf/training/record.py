"""What is kept of a training: the checkpoint, its preprocessing, and a record of how it was made."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..__about__ import __version__
from ..files import write_json
from ..hub.download import fetched_commits
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments, StageArguments
from .attention_supervision import LookUpGuide
from .data import FmriLMCollator, TrainingScans
from .random_questions import replayed
from .step_trainer import StepTrainer
from .texts import check_pairs_are_read
from .trainer import FmriLMTrainer

# Memory of a training on a processor: what a step has used is kept for the next one.

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt(3)
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, in place of giving it back to the system each time.

    Each step of a training takes and frees the same large tensors. By default every one of them comes as fresh pages,
    which the system fills with zeros when they are first touched: 0.07 of the time of a step of GPT-2 size, more on
    some virtual machines. The peak of memory stays what it was; between steps it is not given back.

    Returns
    -------
    bool
        Whether it could be set: with glibc on Linux. An allocator that is preloaded is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


# Which checkpoint an interrupted training goes on from: the last one that was written to its end.

logger = logging.get_logger(__name__)


def last_complete_checkpoint(folder: str | os.PathLike, world_size: int = 1) -> str | None:
    """The latest checkpoint in a training's output folder that nothing interrupted; None where there is none.

    Parameters
    ----------
    folder : path
    world_size : int, default=1
        Processes of the training: each has written its state of randomness.

    Notes
    -----
    A training that was killed while it saved leaves a folder without a whole `trainer_state.json`, which is written
    last. Such a folder is passed over, with a warning, and overwritten when the training comes to its step again.
    """
    found = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdecimal():
            found[int(step)] = path
    for _, path in sorted(found.items(), reverse=True):
        if _is_complete(path, world_size):
            return str(path)
        logger.warning(f"{path.name} was not written to its end and is passed over.")
    return None


def _is_complete(checkpoint: Path, world_size: int) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if world_size == 1 or not any(checkpoint.glob("rng_state*.pth")):  # none where only models are saved
        return True
    return all((checkpoint / f"rng_state_{rank}.pth").is_file() for rank in range(world_size))


# The progress bar of a stage.


class StageProgress(ProgressCallback):
    """A progress bar that says what is being trained and carries the loss, in place of printed logs."""

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.title)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def show_progress(trainer: Trainer, title: str) -> None:
    """Give a trainer the bar of its stage, unless it was told to show none."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StageProgress(title))


logger = logging.get_logger(__name__)

OF_REPLAY = 1_000_003  # replayed scans have another seed than those that a reader was trained on
SCANS = "training_scans"  # of a stage; see `fmri_lm_hf.scans.likeness.ScanRecord`

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft")
_RECORDED = ("learning_rate", "num_train_epochs", "weight_decay", "warmup_steps", "bf16", "fp16", "seed")


def write_training_info(folder: str | os.PathLike, **facts: Any) -> Path:
    """Write `training_info.json` beside a checkpoint: what was trained, on what, with which versions.

    Parameters
    ----------
    folder : path
        The checkpoint's folder.
    **facts
        JSON values, such as ``stage``, ``simulated`` (whether the scans are), ``n_scans``, ``seed``,
        ``training_arguments``, ``log_history``.

    Returns
    -------
    Path
    """
    versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    versions["fmri-lm-hf"] = __version__  # a clone that is not installed has one as well
    path = Path(folder) / "training_info.json"
    write_json({**facts, "versions": versions}, path)
    return path


def train_and_save(
    trainer: StepTrainer, preprocessing: Any, stage: str, adapter: PeftModel | None = None, **facts: Any
) -> None:
    """Train; then save the model, its preprocessing and, last, `training_info.json` in the output folder.

    Parameters
    ----------
    trainer : StepTrainer
        With the stage's arguments; local folders among them are recorded by their last name only, what comes from the
        Hub with its commit.
    preprocessing : FmriFeatureExtractor or FmriLMProcessor
    stage : str
    adapter : PeftModel, optional
        Whose weights are merged into the model's before it is saved.
    **facts
        More for `training_info.json`.
    """
    arguments = trainer.args
    assert isinstance(arguments, StageArguments)
    assert arguments.output_dir
    show_progress(trainer, stage)
    if arguments.device.type == "cpu":
        keep_freed_memory()
    checkpoint: str | bool | None = arguments.resume_from_checkpoint
    if checkpoint is True:
        checkpoint = last_complete_checkpoint(arguments.output_dir, arguments.world_size)
        if checkpoint is None:
            logger.warning("There is no complete checkpoint to go on from: the training starts anew.")
    trainer.train(resume_from_checkpoint=checkpoint)
    if adapter is not None:
        adapter.merge_and_unload()
    # all processes have a part of the weights where these are sharded
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        _save(trainer, arguments, weights, preprocessing, stage, facts)
    # a process that leaves while others still hold its connections may be aborted
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def train_on_conversations(
    model: Any,
    processor: FmriLMProcessor,
    arguments: LanguageModelArguments,
    scans: TrainingScans,
    trained_on: Sequence[str],
    examples: Mapping[str, Any],
    stage: str,
    earlier: Mapping[str, str],
    adapter: PeftModel | None = None,
    **options: Any,
) -> FmriLMTrainer:
    """How stages 2 and 3 end: train on examples of scans and conversations, and save.

    Parameters
    ----------
    model : FmriLMForCausalLM or PeftModel
    processor : FmriLMProcessor
    arguments : LanguageModelArguments
    scans : TrainingScans
    trained_on : sequence of str
        Ids of the training scans.
    examples : mapping of str to dataset
        ``train``, and ``validation`` where there is one.
    stage : str
    earlier : mapping of str to str
        Under what to keep the record of the stage before, and its checkpoint.
    adapter : PeftModel, optional
        As `train_and_save` takes it.
    **options
        Of `FmriLMTrainer`.
    """
    layers, replay = arguments.look_up_layers, None
    if arguments.replayed_scans:
        check_pairs_are_read(processor, "replayed_scans")
        replay = replayed(processor.tokenizer, arguments.replayed_scans, arguments.seed + OF_REPLAY)
    trainer = FmriLMTrainer(
        model,
        arguments,
        data_collator=FmriLMCollator(processor, with_look_ups=bool(layers)),
        guide=LookUpGuide(model.language_model, layers) if layers else None,
        look_up_loss_weight=arguments.look_up_loss_weight,
        replay=replay,
        replay_every=arguments.replay_every,
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
        **options,
    )
    before = {name: scans.earlier_info(checkpoint) for name, checkpoint in earlier.items()}
    train_and_save(trainer, processor, stage, adapter, **scans.facts(trained_on), **before)
    return trainer


def _save(
    trainer: StepTrainer,
    arguments: StageArguments,
    weights: dict[str, Any],
    preprocessing: Any,
    stage: str,
    facts: Mapping[str, Any],
) -> None:
    assert arguments.output_dir
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(arguments.output_dir, state_dict=weights)
    preprocessing.save_pretrained(arguments.output_dir)
    own = {name: getattr(arguments, name) for name in _own_options(type(arguments))}
    write_training_info(
        arguments.output_dir,
        stage=stage,
        **_scans_once(facts),
        arguments={name: _public(value) for name, value in own.items()},
        commits=fetched_commits(own.values()),
        training_arguments={name: getattr(arguments, name) for name in _RECORDED}
        | {
            "lr_scheduler_type": arguments.lr_scheduler_type.value,
            "batch_size": arguments.train_batch_size
            * arguments.gradient_accumulation_steps
            * arguments.world_size,
        },
        log_history=trainer.state.log_history,
    )
    if arguments.push_to_hub:
        trainer.push_to_hub()


def _scans_once(facts: Mapping[str, Any], above: Any = None) -> dict[str, Any]:
    """Facts in which a stage that was trained on the scans of the stage above does not list them again."""
    own = facts.get(SCANS, above)
    kept = {name: value for name, value in facts.items() if name != SCANS or value != above}
    return {
        name: _scans_once(value, own) if isinstance(value, Mapping) and name != SCANS else value
        for name, value in kept.items()
    }


def _own_options(kind: type[StageArguments]) -> list[str]:
    """The options that are the stage's own, not those of every `TrainingArguments`."""
    of_all = {field.name for field in fields(TrainingArguments)} | {"feature_store"}
    return [field.name for field in fields(kind) if field.name not in of_all]


def _public(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value
