"""What the training scripts share: their arguments, the scans of each split, LoRA, and what is written at the end."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from peft import LoraConfig
from torch import nn
from tqdm.auto import tqdm
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file, logging

from fmri_lm_hf import FmriFeatureExtractor, ScanError
from fmri_lm_hf.hub.download import fetch
from fmri_lm_hf.scans.dataset import load_scan_dataset
from fmri_lm_hf.scans.splits import SplitManifest
from fmri_lm_hf.training.trainer import write_training_info

logger = logging.get_logger("fmri_lm_hf.training")


def argument(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a dataclass of arguments, with what `--help` says about it."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help})
    shown = help if default in (dataclasses.MISSING, None) else f"{help} (default: {default})"
    return dataclasses.field(default=default, metadata={"help": shown})


@dataclass
class ScanArguments:
    """Which scans are trained on."""

    _argument_group_name: ClassVar[str] = "scans"

    scans: str = argument(
        "scan dataset: a folder that `fmri-lm scans` made, Parquet, or a dataset on the Hub"
    )
    splits: str | None = argument(
        "splits.json of a corpus: its training subjects are trained on, and its validation subjects are what "
        "`--eval_strategy epoch` evaluates; without it, and without a corpus, all scans are trained on",
        None,
    )


@dataclass
class LoraArguments:
    """Whether all weights of the language model are trained, or low-rank changes of them."""

    _argument_group_name: ClassVar[str] = "LoRA"

    lora_rank: int = argument("rank of adapters to train instead of all weights; 0 trains all weights", 0)
    lora_alpha: int = argument("adapters are scaled by lora_alpha / lora_rank", 32)
    lora_dropout: float = argument("dropout in the adapters", 0.0)


def parse(description: str, *kinds: type) -> tuple[Any, ...]:
    """Arguments from a recipe, from the command line, or from a recipe that the command line changes.

    Parameters
    ----------
    description : str
        Of the script, for `--help`.
    *kinds : type
        Dataclasses of arguments; `TrainingArguments` are added to them.

    Returns
    -------
    tuple
        An instance of each.
    """
    parser = HfArgumentParser(
        (*kinds, TrainingArguments),
        description=description,
        usage="%(prog)s [RECIPE.yaml] [--argument value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = sys.argv[1:]
    if words and words[0].endswith((".yaml", ".yml")):
        recipe = yaml.safe_load(Path(words[0]).read_text(encoding="utf-8")) or {}
        actions = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(recipe) - set(actions)):
            raise ValueError(
                f"{words[0]} has unknown arguments: {', '.join(unknown)}. `--help` lists them all."
            )
        for name in recipe:
            actions[name].required = False
        # as defaults they are converted like words of the command line: YAML takes 1e-4 for a string
        parser.set_defaults(**recipe)
        words = words[1:]
    *given, training = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    out = Path(training.output_dir)
    if str(training.resume_from_checkpoint).lower() == "true":
        training.resume_from_checkpoint = True
    if not training.resume_from_checkpoint and out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f"The folder {out} is not empty. Give `resume_from_checkpoint: true` to continue the training that is "
            "there, or another `output_dir`."
        )
    training.remove_unused_columns = False  # examples are no table, and the collators choose
    training.prediction_loss_only = True
    set_seed(training.seed)
    return (*given, training)


def dataset_folder(name: str) -> Path:
    """Where a dataset lies: its folder or file, or a snapshot of the repository of that name on the Hub."""
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Path(name)
    folder, commit = fetch(name, repo_type="dataset")
    print(f"{name}: commit {commit}")
    return folder


class Scans:
    """A scan dataset and its splits by subject.

    Parameters
    ----------
    arguments : ScanArguments
    corpus : str, optional
        A corpus of these scans, whose splits are used.

    Attributes
    ----------
    dataset : datasets.Dataset
    atlas : Atlas or None
    n_rois : int
    """

    def __init__(self, arguments: ScanArguments, corpus: str | None = None):
        self.folder = dataset_folder(arguments.scans)
        self.dataset, self.atlas = load_scan_dataset(self.folder)
        self.n_rois = self.dataset.features["bold"].shape[1]
        self._manifest = None if arguments.splits is None else SplitManifest.from_json(arguments.splits)
        if corpus is not None and (dataset_folder(corpus) / "splits.json").exists():
            of_corpus = SplitManifest.from_json(dataset_folder(corpus) / "splits.json")
            if self._manifest not in (None, of_corpus) and self._manifest.sha256 != of_corpus.sha256:
                raise ValueError(
                    f"`splits` ({self._manifest.sha256[:12]}) are not those of the corpus "
                    f"({of_corpus.sha256[:12]}), whose texts compare scans with its own training subjects. Leave "
                    "`splits` out, or build the corpus with `fmri-lm corpus build --splits`."
                )
            self._manifest = of_corpus

    @property
    def manifest_sha256(self) -> str | None:
        """Hash of the split manifest; None when all scans are trained on."""
        return None if self._manifest is None else self._manifest.sha256

    def split_rows(
        self, training: TrainingArguments, extractor: FmriFeatureExtractor, rows: Sequence[int] | None = None
    ) -> dict[str, list[int]]:
        """Usable scans of "train", and of "validation" if the training evaluates; no subject is in both.

        Parameters
        ----------
        training : TrainingArguments
        extractor : FmriFeatureExtractor
            Scans that it refuses are left out, with a warning that says why.
        rows : sequence of int, optional
            The scans to choose from, such as those that have a text; all when None.
        """
        subjects = [str(subject) for subject in self.dataset["subject_id"]]
        candidates = range(len(subjects)) if rows is None else rows
        if self._manifest is None:
            if training.eval_strategy != "no":
                raise ValueError(
                    "Evaluation needs held-out subjects: give `splits`, the splits.json of a corpus."
                )
            return {"train": self._usable(candidates, extractor)}
        split_of = self._manifest.split_of()
        chosen: dict[str, list[int]] = {}
        for split in ("train",) if training.eval_strategy == "no" else ("train", "validation"):
            members = [row for row in candidates if split_of.get(subjects[row]) == split]
            if not members:
                raise ValueError(
                    f"None of {len(candidates)} scans is of a {split} subject: the splits name "
                    f"{len(self._manifest.subjects.get(split, []))} of them. Do scans and splits belong together?"
                )
            chosen[split] = self._usable(members, extractor)
        return chosen

    def _usable(self, rows: Sequence[int], extractor: FmriFeatureExtractor) -> list[int]:
        good = []
        for row in tqdm(rows, desc="Checking scans", unit="scan"):
            scan = self.dataset[row]
            try:
                extractor(scan)
            except ScanError as error:
                logger.warning(f"Scan {scan['scan_id']} is left out: {error}")
            else:
                good.append(row)
        if not good:
            raise ScanError(f"None of {len(rows)} scans can be used; the reasons are logged above.")
        return good

    def facts(self, rows: Sequence[int]) -> dict[str, Any]:
        """What `training_info.json` says about the scans that were trained on; it names no subject."""
        subjects = self.dataset["subject_id"]
        file = (self.folder if self.folder.is_dir() else self.folder.parent) / "provenance.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return {
            "simulated": {**record.get("parameters", {}), **record}.get("simulated") is True,
            "n_scans": len(rows),
            "n_subjects": len({subjects[row] for row in rows}),
            "manifest_sha256": self.manifest_sha256,
        }

    def earlier_info(self, checkpoint: str) -> dict[str, Any]:
        """`training_info.json` of the stage before, without its log; a warning when its splits were others."""
        file = cached_file(checkpoint, "training_info.json", _raise_exceptions_for_missing_entries=False)
        if file is None:
            return {}
        info = json.loads(Path(file).read_text(encoding="utf-8"))
        if info.get("manifest_sha256") != self.manifest_sha256:
            before, now = (str(each)[:12] for each in (info.get("manifest_sha256"), self.manifest_sha256))
            logger.warning(
                f"{checkpoint} was trained with the splits {before}, this training has {now}: make sure that no "
                "subject who will be tested was trained on there."
            )
        return {name: value for name, value in info.items() if name not in ("log_history", "versions")}


def lora_config(model: Any, arguments: LoraArguments, **options: Any) -> LoraConfig:
    """Adapters on every linear layer of the language model but its head, and nowhere else.

    Parameters
    ----------
    model : FmriLMForCausalLM
    arguments : LoraArguments
    **options
        Further fields of `LoraConfig`.
    """
    language_model = model.language_model
    layers = {
        name.rsplit(".", 1)[-1]
        for name, module in language_model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not language_model.get_output_embeddings()
    }
    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(layers))})",
        **options,
    )


def finish(trainer: Trainer, preprocessing: Any, arguments: Sequence[Any], **facts: Any) -> None:
    """Save what was trained, its preprocessing and, last, `training_info.json` in the output folder.

    Parameters
    ----------
    trainer : Trainer
    preprocessing : FmriFeatureExtractor or FmriLMProcessor
    arguments : sequence of dataclasses
        Those of the script; local folders are recorded by their last name only.
    **facts
        For `training_info.json`.
    """
    if not trainer.is_world_process_zero():
        return
    training = trainer.args
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(training.output_dir)
    preprocessing.save_pretrained(training.output_dir)
    recorded = ("learning_rate", "num_train_epochs", "weight_decay", "warmup_steps", "bf16", "fp16", "seed")
    n_per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    write_training_info(
        training.output_dir,
        **facts,
        arguments={name: _public(value) for each in arguments for name, value in vars(each).items()},
        training_arguments={name: getattr(training, name) for name in recorded}
        | {"lr_scheduler_type": training.lr_scheduler_type.value, "batch_size": n_per_step},
        log_history=trainer.state.log_history,
    )


def _public(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value


__all__ = [
    "LoraArguments",
    "ScanArguments",
    "Scans",
    "argument",
    "dataset_folder",
    "finish",
    "lora_config",
    "parse",
]
