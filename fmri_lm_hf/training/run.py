"""Run a stage: resume, train, save the checkpoint, and record how it was made."""

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

N_NOISE = 64  # scans of noise for `share_absent`
REPLAY_SEED = 1_000_003  # added to the seed, so that replayed scans are not those of the stage `reading`
SCANS = "training_scans"  # key of `training_info.json`; see `fmri_lm_hf.scans.likeness.ScanRecord`
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
    """Train on conversations about scans, and save: the part that stages 2 and 3 share.

    Parameters
    ----------
    model : FmriLMForCausalLM or PeftModel
        Its frozen tokenizer encodes the scans before the training, on the device of the arguments: whole, and in
        `n_windows` random time windows.
    processor : FmriLMProcessor
    arguments : LanguageModelArguments
    scans : TrainingScans
    rows : mapping of str to sequence of int
        Rows of "train" and, if the training evaluates, "validation".
    converse : callable
        See `ScanConversations`.
    earlier : mapping of str to str
        Checkpoint of the stage before, by the key for its record in `training_info.json`.
    adapter : PeftModel, optional
        See `train_and_save`.
    next_codes : bool
        Predict the next codes of scans.
    plain_texts : sequence of mappings, optional
        Texts as `input_ids`.
    plain_text_share : float
        Plain texts in an epoch, as a share of the scans.
    **options
        Further arguments of `FmriLMTrainer`.
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
        # only the first view, the whole scans: evaluation has no windows, hidden ROIs, noise or plain texts
        eval_dataset=ScanConversations(views[:1], ids["validation"], converse) if "validation" in ids else None,
        **options,
    )
    before = {name: scans.earlier_info(checkpoint) for name, checkpoint in earlier.items()}
    train_and_save(trainer, processor, adapter, **scans.facts(ids["train"]), **before)
    return trainer


def train_and_save(trainer: StepTrainer, preprocessing: Any, adapter: PeftModel | None = None, **facts: Any) -> None:
    """Train, then save the model, its preprocessing and `training_info.json` in the output folder.

    Parameters
    ----------
    trainer : StepTrainer
        Trainer with the arguments of the stage. Of local folders among them only the last name is recorded, of Hub
        repositories also the commit.
    preprocessing : FmriFeatureExtractor or FmriLMProcessor
    adapter : PeftModel, optional
        Adapter to merge into the model before it is saved.
    **facts
        Further entries of `training_info.json`.
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
            logger.warning("There is no complete checkpoint to resume from: the training starts from the beginning.")
    trainer.train(resume_from_checkpoint=checkpoint)
    # merged in place: the saved model then has the names and shapes of a model without adapters
    if adapter is not None:
        adapter.merge_and_unload()
    # Called by all processes, not only by the one that saves: sharded weights are gathered from all of them, and a
    # process that skips this leaves the others waiting for ever.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(arguments.output_dir, state_dict=weights)
        preprocessing.save_pretrained(arguments.output_dir)
        _record(arguments, facts, trainer.state.log_history)
        if arguments.push_to_hub:
            trainer.push_to_hub()
    # a process that exits while others still hold connections to it can abort them
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


class StageProgress(ProgressCallback):
    """Shows a progress bar with the name of the stage and the loss, in place of printed logs."""

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
    """Find the latest complete checkpoint in an output folder; None if there is none.

    Parameters
    ----------
    folder : path
    world_size : int, default=1
        Processes of the training, each of which saves its random state.

    Notes
    -----
    A training that is killed while it saves leaves a folder without a complete `trainer_state.json`, which is written
    last. Such a folder is skipped with a warning, and overwritten when the training reaches that step again.
    """
    checkpoints = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdecimal():
            checkpoints[int(step)] = path
    for _, path in sorted(checkpoints.items(), reverse=True):
        if _is_complete(path, world_size):
            return str(path)
        logger.warning(f"The checkpoint {path.name} is incomplete and is skipped.")
    return None


def _is_complete(checkpoint: Path, world_size: int) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if world_size == 1 or not any(checkpoint.glob("rng_state*.pth")):  # there are none with `save_only_model`
        return True
    return all((checkpoint / f"rng_state_{rank}.pth").is_file() for rank in range(world_size))


def write_training_info(folder: str | os.PathLike, **facts: Any) -> Path:
    """Write `training_info.json` next to a checkpoint: what was trained, on what, with which versions.

    Parameters
    ----------
    folder : path
        Folder of the checkpoint.
    **facts
        JSON values, such as ``stage``, ``simulated`` (of the scans), ``n_scans``, ``seed``, ``training_arguments``,
        ``log_history``.

    Returns
    -------
    Path
    """
    versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    versions["fmri-lm-hf"] = __version__  # not from metadata, which a clone on the path does not have
    path = Path(folder) / "training_info.json"
    write_json({**facts, "versions": versions}, path)
    return path


def _record(arguments: StageArguments, facts: Mapping[str, Any], log_history: list[dict[str, float]]) -> None:
    """Write `training_info.json` of a stage into its output folder."""
    # without the feature store, a folder of this machine that has no effect on the result
    inherited = {field.name for field in fields(TrainingArguments)} | {"feature_store"}
    own = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name not in inherited}
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
    """Drop the training scans of a stage where they are those of the stage above, which lists them already."""
    own = facts.get(SCANS, above)
    kept = {name: value for name, value in facts.items() if name != SCANS or value != above}
    return {
        name: _scans_once(value, own) if isinstance(value, Mapping) and name != SCANS else value
        for name, value in kept.items()
    }


def _public(value: Any) -> Any:
    """Reduce a local path to its last name, so that no folder of this machine is published."""
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value
