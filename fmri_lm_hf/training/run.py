"""Run a stage: resume where it stopped, train, save the checkpoint, and record how it was made."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import ProgressCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..__about__ import __version__
from ..files import write_json
from ..hub.download import fetched_commits
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments, StageArguments
from .attention_supervision import AttentionSupervision
from .data import Converse, FmriLMCollator, ScanConversations, TrainingScans
from .random_questions import replayed
from .step_trainer import StepTrainer
from .texts import check_pairs_are_read
from .trainer import FmriLMTrainer

logger = logging.get_logger(__name__)

N_NOISE = 64  # scans of noise
REPLAY_SEED = 1_000_003  # replayed scans have another seed than those of the stage `reading`
SCANS = "training_scans"  # of a stage; see `fmri_lm_hf.scans.likeness.ScanRecord`
_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft")
_RECORDED = ("learning_rate", "num_train_epochs", "weight_decay", "warmup_steps", "bf16", "fp16", "seed")


def train_on_conversations(
    model: Any,
    processor: FmriLMProcessor,
    arguments: LanguageModelArguments,
    scans: TrainingScans,
    rows: Mapping[str, Sequence[int]],
    converse: Converse,
    earlier: Mapping[str, str],
    adapter: PeftModel | None = None,
    next_codes: bool = False,
    plain_texts: Any = None,
    plain_text_share: float = 0.0,
    **options: Any,
) -> FmriLMTrainer:
    """Train on conversations about scans, and save: what stages 2 and 3 share.

    Parameters
    ----------
    model : FmriLMForCausalLM or PeftModel
        Its frozen tokenizer encodes the scans on the device of the arguments: once, whole and through `n_windows`
        random time windows.
    processor : FmriLMProcessor
    arguments : LanguageModelArguments
    scans : TrainingScans
    rows : mapping of str to sequence of int
        Of "train" and, if the training evaluates, "validation".
    converse : callable
        As for `ScanConversations`.
    earlier : mapping of str to str
        Under which name to keep the record of the stage before, and its checkpoint.
    adapter : PeftModel, optional
        As `train_and_save` takes it.
    next_codes : bool
        Whether the next codes of scans are predicted.
    plain_texts : sequence of mappings, optional
        With `input_ids`.
    plain_text_share : float
        Plain texts in an epoch, as a share of the scans.
    **options
        Of `FmriLMTrainer`.
    """
    inputs, ids = scans.read(processor.feature_extractor, rows)
    model.to(arguments.device)
    windows: list[dict[str, Any] | None] = [None]
    windows += [
        {"shortest": arguments.shortest_window, "seed": arguments.seed + i} for i in range(arguments.n_windows)
    ]
    views = [scans.store.encode(inputs, model, window, next_codes) for window in windows]
    n_scans = len(ids["train"])
    examples = ScanConversations(
        views,
        ids["train"],
        converse,
        plain_texts,
        n_plain=0 if plain_texts is None else round(plain_text_share * n_scans),
        absent=scans.store.encode_noise(N_NOISE, model, next_codes) if arguments.share_absent else None,
        n_absent=round(arguments.share_absent * n_scans),
        roi_dropout=arguments.roi_dropout,
        seed=arguments.seed,
    )
    layers, replay = arguments.supervised_layers, None
    if arguments.replayed_scans:
        check_pairs_are_read(processor, "replayed_scans")
        replay = replayed(processor.tokenizer, arguments.replayed_scans, arguments.seed + REPLAY_SEED)
    trainer = FmriLMTrainer(
        model,
        arguments,
        data_collator=FmriLMCollator(processor, with_targets=bool(layers)),
        supervision=AttentionSupervision(model.language_model, layers) if layers else None,
        attention_loss_weight=arguments.attention_loss_weight,
        replay=replay,
        replay_every=arguments.replay_every,
        train_dataset=examples,
        # as they are: whole scans, without plain texts
        eval_dataset=ScanConversations(views[:1], ids["validation"], converse) if "validation" in ids else None,
        **options,
    )
    before = {name: scans.earlier_info(checkpoint) for name, checkpoint in earlier.items()}
    train_and_save(trainer, processor, adapter, **scans.facts(ids["train"]), **before)
    return trainer


def train_and_save(trainer: StepTrainer, preprocessing: Any, adapter: PeftModel | None = None, **facts: Any) -> None:
    """Train; then save the model, its preprocessing and, last, `training_info.json` in the output folder.

    Parameters
    ----------
    trainer : StepTrainer
        With the stage's arguments; local folders among them are recorded by their last name only, what comes from the
        Hub with its commit.
    preprocessing : FmriFeatureExtractor or FmriLMProcessor
    adapter : PeftModel, optional
        Whose weights are merged into the model's before it is saved.
    **facts
        More for `training_info.json`.
    """
    arguments = trainer.args
    assert isinstance(arguments, StageArguments)
    assert arguments.output_dir
    if not arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StageProgress(arguments.stage))
    checkpoint: str | bool | None = arguments.resume_from_checkpoint
    if checkpoint is True:
        checkpoint = last_complete_checkpoint(arguments.output_dir, arguments.world_size)
        if checkpoint is None:
            logger.warning("There is no complete checkpoint to resume from: the training starts anew.")
    trainer.train(resume_from_checkpoint=checkpoint)
    # merged in place, so that the model that is saved has the names and shapes of one that never had adapters
    if adapter is not None:
        adapter.merge_and_unload()
    # every process has a part of the weights where these are sharded, so all take part
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(arguments.output_dir, state_dict=weights)
        preprocessing.save_pretrained(arguments.output_dir)
        _record(arguments, facts, trainer.state.log_history)
        if arguments.push_to_hub:
            trainer.push_to_hub()
    # a process that leaves while others still hold its connections may be aborted
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


class StageProgress(ProgressCallback):
    """A progress bar with the name of the stage and the loss, in place of printed logs."""

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


def last_complete_checkpoint(folder: str | os.PathLike, world_size: int = 1) -> str | None:
    """The latest complete checkpoint in a training's output folder; None if there is none.

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


def _record(arguments: StageArguments, facts: Mapping[str, Any], log_history: list[dict[str, float]]) -> None:
    """Write `training_info.json` of a stage into its output folder."""
    of_trainer = {field.name for field in fields(TrainingArguments)} | {"feature_store"}
    own = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name not in of_trainer}
    per_step = arguments.gradient_accumulation_steps * arguments.world_size
    write_training_info(
        str(arguments.output_dir),
        stage=arguments.stage,
        **_scans_once(facts),
        arguments={name: _public(value) for name, value in own.items()},
        commits=fetched_commits(own.values()),
        training_arguments={name: getattr(arguments, name) for name in _RECORDED}
        | {
            "lr_scheduler_type": arguments.lr_scheduler_type.value,
            "batch_size": arguments.train_batch_size * per_step,
        },
        log_history=log_history,
    )


def _scans_once(facts: Mapping[str, Any], above: Any = None) -> dict[str, Any]:
    """Facts in which a stage that was trained on the scans of the stage above does not list them again."""
    own = facts.get(SCANS, above)
    kept = {name: value for name, value in facts.items() if name != SCANS or value != above}
    return {
        name: _scans_once(value, own) if isinstance(value, Mapping) and name != SCANS else value
        for name, value in kept.items()
    }


def _public(value: Any) -> Any:
    """A value without the folders of this machine: of a path its last name."""
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value
