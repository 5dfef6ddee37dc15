"""Arguments of the stages: a recipe in YAML, the command line, or a recipe that the command line changes.

Each stage owns its options as fields of a `TrainingArguments` subclass, so that one object says all about a run.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from transformers import HfArgumentParser, TrainingArguments, set_seed

from ..files import project_folder

Arguments = TypeVar("Arguments", bound="StageArguments")


def argument(help: str, default: Any = None) -> Any:
    """A field of a dataclass of arguments, with what `--help` says about it."""
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": help})
    shown = help if default is None else f"{help} (default: {default})"
    return dataclasses.field(default=default, metadata={"help": shown})


@dataclass
class StageArguments(TrainingArguments):
    """What every stage is told: all of `TrainingArguments`."""

    required: ClassVar[tuple[str, ...]] = ("output_dir",)  # what a recipe must have

    def __post_init__(self):
        super().__post_init__()
        self.remove_unused_columns = False  # examples are no table, and the collators choose
        # every weight takes part in each step, and codebooks move alike in all processes
        for name in ("ddp_find_unused_parameters", "ddp_broadcast_buffers"):
            if getattr(self, name) is None:
                setattr(self, name, False)


@dataclass
class ScanArguments(StageArguments):
    """The scans of a stage, and who of them is trained on."""

    required: ClassVar[tuple[str, ...]] = ("output_dir", "scans")

    scans: str | None = argument(
        "scan dataset: a folder that `fmri-lm scans` made, Parquet, or a dataset on the Hub"
    )
    splits: str | None = argument(
        "splits.json of a corpus: its training subjects are trained on, and its validation subjects are what "
        "`--eval_strategy epoch` evaluates; without it, and without a corpus, all scans are trained on"
    )
    feature_store: str | None = argument(
        "folder where what frozen models say of scans is kept between runs (default: in the cache of Hugging Face)"
    )


@dataclass
class AdapterArguments(StageArguments):
    """LoRA, in stages that train a language model."""

    lora_rank: int = argument("rank of adapters to train instead of all weights; 0 trains all weights", 0)
    lora_alpha: int = argument("adapters are scaled by lora_alpha / lora_rank", 32)
    lora_dropout: float = argument("dropout in the adapters", 0.0)


@dataclass
class LanguageModelArguments(AdapterArguments, ScanArguments):
    """What stages 2 and 3 share: what is said of scans, and how these are varied."""

    corpus: str | None = argument(
        "corpus of the scans, whose descriptions are asked for: a folder of `fmri-lm corpus build`, or on the Hub"
    )
    corpus_config: str | None = argument("all (default), or a family such as connectivity")
    text_lengths: list[str] = argument(
        "texts of these lengths are used, one drawn each time", ["sentence", "paragraph"]
    )
    n_windows: int = argument(
        "random windows in time of each training scan that are met beside the whole scan, as other samples of the "
        "same person's connectivity",
        0,
    )
    shortest_window: float = argument("least share of a scan that a window holds", 0.4)
    roi_dropout: float = argument("share of ROIs that is hidden while training, others each time", 0.0)
    reading_questions: int = argument(
        "questions about network pairs in each conversation, answered from the scan itself; needs network-pair tokens",
        0,
    )
    look_up_layers: list[int] = argument(
        "two layers of the language model whose heads are told where the names and the pair stand that "
        "`reading_questions` are about (0 1 for a reader that comes with the package); nothing is told by default",
        [],
    )
    look_up_loss_weight: float = argument("weight of what they are told", 1.0)
    replayed_scans: int = argument(
        "random scans that are asked about beside a step as in the training of a reader, so that reading is not "
        "forgotten; needs network-pair tokens",
        0,
    )
    replay_every: int = argument("steps from one step with `replayed_scans` to the next", 1)
    languages: list[str] = argument(
        "of the `reading_questions`, one drawn for each conversation: en, fr, de; descriptions are in English",
        ["en"],
    )
    share_described: float = argument(
        "share of the conversations that ask for a description: of the scan itself where `reading_questions` are "
        "asked, else a text of the corpus",
        0.0,
    )
    share_absent: float = argument(
        "prompts without a scan, or with noise in its place, as a share of the scans: the answer is that there is none",
        0.0,
    )

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("roi_dropout", 0.0), ("shortest_window", None)):
            value = getattr(self, name)
            if not (0 < value <= 1 if least is None else least <= value < 1):
                allowed = "more than 0 and at most 1" if least is None else "at least 0 and less than 1"
                raise ValueError(f"`{name}` must be {allowed}, got {value}.")


def parse(kind: type[Arguments], description: str, words: Sequence[str] | None = None) -> Arguments:
    """Read the arguments of a stage.

    Parameters
    ----------
    kind : type
        Dataclass of the stage's arguments.
    description : str
        Of the stage, for `--help`.
    words : sequence of str, optional
        ``[RECIPE] [--argument value ...]``, those of the command line when None. A recipe is a YAML file, or the
        name of one that comes with the package, such as ``demo/tokenizer``. ``--tokenizer.hidden_size 64`` changes
        one entry of a mapping.

    Raises
    ------
    ValueError
        For a recipe that cannot be found, arguments that do not exist or are missing, or an output folder that holds
        something already.
    """
    parser = HfArgumentParser(
        kind,
        description=description,
        usage="%(prog)s [RECIPE.yaml] [--argument value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = list(sys.argv[1:] if words is None else words)
    if words and not words[0].startswith("-"):
        recipe = _read_recipe(words.pop(0))
        actions = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(recipe) - set(actions)):
            raise ValueError(
                f"The recipe has unknown arguments: {', '.join(unknown)}. `--help` lists them all."
            )
        words = _change_entries(recipe, words)
        # as defaults they are converted like words of the command line: YAML takes 1e-4 for a string
        parser.set_defaults(**recipe)
    (arguments,) = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    missing = [name for name in kind.required if getattr(arguments, name) is None]
    if missing:
        raise ValueError(
            f"Give {' and '.join(f'`{name}`' for name in missing)}, in the recipe or as `--{missing[0]}`."
        )
    if str(arguments.resume_from_checkpoint).lower() == "true":
        arguments.resume_from_checkpoint = True  # type: ignore[assignment]  # as `Trainer.train` takes it
    out = Path(str(arguments.output_dir))
    if not arguments.resume_from_checkpoint and out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f"The folder {out} is not empty. Give `resume_from_checkpoint: true` to continue the training that is "
            "there, or another `output_dir`."
        )
    set_seed(arguments.seed)
    return arguments


def _read_recipe(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.is_file() and not path.suffix:
        path = project_folder("training/recipes") / f"{name}.yaml"
    if not path.is_file():
        folder = project_folder("training/recipes")
        known = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
        raise ValueError(
            f"There is no recipe {name}: give a YAML file, or one of the package's own: {', '.join(known)}."
        )
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, Mapping):
        raise ValueError(
            f"{path.name} is no recipe: expected `argument: value` lines, found {type(recipe).__name__}."
        )
    return dict(recipe)


def _change_entries(recipe: dict[str, Any], words: list[str]) -> list[str]:
    """Apply ``--mapping.entry value`` to the recipe's mappings; return the other words."""
    others = []
    while words:
        word = words.pop(0)
        name, dot, entry = word.removeprefix("--").partition(".")
        if word.startswith("--") and dot and isinstance(recipe.get(name), Mapping):
            if not words:
                raise ValueError(f"{word} needs a value.")
            recipe[name] = {**recipe[name], entry: yaml.safe_load(words.pop(0))}
        else:
            others.append(word)
    return others
