"""Options of the training stages, read from a YAML recipe and the command line, which overrides it.

Every stage has one dataclass of options, a subclass of `TrainingArguments`. `--help` shows the options of this package
in groups: one for each class, with the first line of its docstring as title. `--help-all` adds those of
`TrainingArguments`.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from transformers import HfArgumentParser, TrainingArguments, set_seed

from ..deprecation import warn_renamed
from ..files import project_folder

Arguments = TypeVar("Arguments", bound="StageArguments")

# Old names of options, recipe keys and recipes -> new names; the old ones work for one release.
RENAMED_OPTIONS = {
    "look_up_layers": "supervised_layers",
    "look_up_loss_weight": "attention_loss_weight",
    "n_own_texts": "n_sampled_texts",
    "own_words": "extend_vocabulary",
    "reader": "reading",
    "share_own_texts": "share_sampled_texts",
}
RENAMED_RECIPES = {"reader": "reading", "tiny/reader": "tiny/reading"}


def argument(help: str, default: Any = None, shown: str | None = None) -> Any:
    """Declare an option, a field of a dataclass whose help ends with its default.

    Parameters
    ----------
    help : str
    default : optional
        Lists are copied. Without a default, the help has to say what happens when the option is not given.
    shown : str, optional
        Text for the default of a list.
    """
    if default is None:
        return dataclasses.field(default=None, metadata={"help": help})
    if isinstance(default, list):
        metadata = {"help": f"{help} (default: {shown or ' '.join(map(str, default)) or 'none'})"}
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata={"help": f"{help} (default: {default})"})


@dataclass
class StageArguments(TrainingArguments):
    """Run."""

    stage: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ("output_dir",)  # options without which the stage cannot run

    output_dir: str | None = argument("new or empty folder for checkpoints and the result; required")
    resume_from_checkpoint: str | None = argument(
        "true: continue from the last complete checkpoint in `output_dir`; or the folder of one"
    )
    seed: int = argument("seed of fresh weights, the order of examples and all draws", 42)

    def __post_init__(self):
        super().__post_init__()
        self.remove_unused_columns = False  # the Trainer would drop inputs that `forward` does not name
        # Every weight is used in each step, and codebooks move alike in all processes. So DDP has no unused
        # parameters to search for, and no buffers to broadcast.
        for name in ("ddp_find_unused_parameters", "ddp_broadcast_buffers"):
            if getattr(self, name) is None:
                setattr(self, name, False)


@dataclass
class ScanArguments(StageArguments):
    """Data."""

    required: ClassVar[tuple[str, ...]] = ("output_dir", "scans")

    scans: str | None = argument("scan dataset: a folder of `fmri-lm scans`, Parquet, or on the Hub; required")
    corpus: str | None = argument("texts about the scans: a folder of `fmri-lm corpus build`, or on the Hub")
    corpus_config: str | None = argument("part of the corpus, such as connectivity (default: all of it)")
    splits: str | None = argument(
        "splits.json that says which subjects train and validate (default: that of `corpus`; all scans train without)"
    )
    feature_store: str | None = argument("cache for outputs of frozen models (default: that of Hugging Face)")


@dataclass
class LoraArguments(StageArguments):
    """LoRA."""

    lora_rank: int = argument("rank of the adapters; 0 trains all weights", 0)
    lora_alpha: int = argument("adapters are scaled by lora_alpha / lora_rank", 32)
    lora_dropout: float = argument("dropout in the adapters", 0.0)


@dataclass
class AugmentationArguments(StageArguments):
    """Augmentation."""

    n_windows: int = argument("random time windows of each training scan, in addition to the whole scan", 0)
    shortest_window: float = argument("smallest share of a scan that a window holds", 0.4)
    roi_dropout: float = argument("probability that a ROI is hidden in a training example", 0.0)
    share_absent: float = argument("prompts with no scan, or noise, as a share of the scans", 0.0)


@dataclass
class ReadingQuestionArguments(StageArguments):
    """Questions about network pairs, for models with network-pair tokens."""

    reading_questions: int = argument("questions in each conversation, answered from the scan", 0)
    languages: list[str] = argument("their languages, one drawn for each conversation: en, fr, de", ["en"])
    supervised_layers: list[int] = argument(
        "attention supervision: a layer for names and a later one for pairs; 0 1 for the bundled model", []
    )
    attention_loss_weight: float = argument("weight of the attention supervision", 1.0)
    replayed_scans: int = argument("random scans of the stage `reading` in a step, against forgetting", 0)
    replay_every: int = argument("steps from one with such scans to the next", 1)


@dataclass
class LanguageModelArguments(ReadingQuestionArguments, AugmentationArguments, LoraArguments, ScanArguments):
    """Conversations."""

    text_lengths: list[str] = argument("lengths of the texts of the corpus", ["sentence", "paragraph"])
    share_described: float = argument(
        "share of conversations with a description: of the scan with `reading_questions`, else of the corpus",
        0.0,
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.roi_dropout < 1:
            raise ValueError(f"`roi_dropout` must be at least 0 and less than 1, got {self.roi_dropout}.")
        if not 0 < self.shortest_window <= 1:
            raise ValueError(f"`shortest_window` must be more than 0 and at most 1, got {self.shortest_window}.")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows one spelling of each option: HfArgumentParser adds `--a-b` to every `--a_b`."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=112)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return next(option for option in action.option_strings if option.startswith("--"))


def _parser(kind: type[StageArguments], with_all: bool) -> HfArgumentParser:
    """Make the parser of a stage, whose help shows the options of this package, or all."""
    parser = HfArgumentParser(
        kind,  # type: ignore[arg-type]
        prog=f"fmri-lm train {kind.stage}",
        usage="%(prog)s [RECIPE] [--option value ...]",
        description=sys.modules[kind.__module__].__doc__,
        formatter_class=_Help,
    )
    parser.add_argument("--help-all", action="help", help="also show the options of TrainingArguments")
    declared_in = {
        name: str(owner.__doc__).rstrip(".")
        for owner in reversed(kind.__mro__)  # base classes first: an option belongs to the last class that declares it
        if issubclass(owner, StageArguments)
        for name in inspect.get_annotations(owner)
    }
    # argparse cannot move an option to another group, so its own lists are changed; parsing does not depend on them
    groups: dict[str, Any] = {}
    for action in [action for action in parser._actions if not action.dest.startswith("help")]:
        if title := declared_in.get(action.dest):
            groups[title] = groups.get(title) or parser.add_argument_group(title)
            groups[title]._group_actions.append(action)
            parser._optionals._group_actions.remove(action)
        elif not with_all:
            action.help = argparse.SUPPRESS
    return parser


def parse(kind: type[Arguments], words: Sequence[str] | None = None) -> Arguments:
    """Read the options of a stage.

    Parameters
    ----------
    kind : type
        Dataclass with the options of the stage.
    words : sequence of str, optional
        ``[RECIPE] [--option value ...]``; the command line when None. A recipe is a YAML file, or the name of a recipe
        of this package, such as ``demo/tokenizer``. ``--tokenizer.hidden_size 64`` changes one entry of a mapping.

    Raises
    ------
    ValueError
        If the recipe does not exist, an option is unknown or missing, or the output folder is not empty.
    """
    words = list(sys.argv[1:] if words is None else words)
    parser = _parser(kind, with_all="--help-all" in words)
    has_recipe = bool(words) and not words[0].startswith("-")
    recipe = _read_recipe(words.pop(0)) if has_recipe else {}
    words = _change_entries(recipe, [_current_option(word) for word in words])
    if unknown := sorted(set(recipe) - {action.dest for action in parser._actions}):
        raise ValueError(f"The recipe has unknown options: {', '.join(unknown)}. `--help-all` lists all.")
    # Set as defaults, strings are converted like those of the command line: YAML reads 1e-4 as a string.
    parser.set_defaults(**recipe)
    (arguments,) = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    missing = [name for name in kind.required if getattr(arguments, name) is None]
    if missing:
        raise ValueError(
            f"Give {' and '.join(f'`{name}`' for name in missing)}, in the recipe or as `--{missing[0]}`."
        )
    # the option is a string, since it may name a folder; "false" would be one that does not exist
    resume = str(arguments.resume_from_checkpoint).lower()
    if resume in ("true", "false"):
        arguments.resume_from_checkpoint = resume == "true"  # type: ignore[assignment]  # `Trainer.train` takes both
    out = Path(str(arguments.output_dir))
    if not arguments.resume_from_checkpoint and out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f"The folder {out} is not empty. Give `resume_from_checkpoint: true` to continue the training in it, or "
            "another `output_dir`."
        )
    set_seed(arguments.seed)
    return arguments


def _read_recipe(name: str) -> dict[str, Any]:
    """Read the options of a recipe, under their current names."""
    path, folder = Path(name), project_folder("training/recipes")
    if not path.is_file() and not path.suffix:
        path = folder / f"{_current(name, RENAMED_RECIPES)}.yaml"
    if not path.is_file():
        known = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
        raise ValueError(f"There is no recipe {name}: give a YAML file, or one of {', '.join(known)}.")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, Mapping):
        raise ValueError(
            f"{path.name} is not a recipe: expected `option: value` lines, found {type(recipe).__name__}."
        )
    recipe = {_current(key): value for key, value in recipe.items()}
    if isinstance(recipe.get("reading"), Mapping):
        recipe["reading"] = {_current(key): value for key, value in recipe["reading"].items()}
    return recipe


def _current(name: str, renamed: Mapping[str, str] = RENAMED_OPTIONS) -> str:
    """Return the current name of an option or recipe; warn of an old name."""
    if name in renamed:
        warn_renamed(name, renamed[name])
    return renamed.get(name, name)


def _current_option(word: str) -> str:
    """Replace old names in an option of the command line, also in entries such as ``--reader.n_own_texts``."""
    if not word.startswith("--"):
        return word
    option, equals, value = word[2:].partition("=")
    parts = []
    for part in option.split("."):
        underscored = part.replace("-", "_")
        parts.append(_current(underscored) if underscored in RENAMED_OPTIONS else part)
    return f"--{'.'.join(parts)}{equals}{value}"


def _change_entries(recipe: dict[str, Any], words: list[str]) -> list[str]:
    """Apply ``--mapping.entry value`` (or ``=value``) to the recipe's mappings; return the other words."""
    others = []
    while words:
        word = words.pop(0)
        option, equals, value = word.removeprefix("--").partition("=")
        name, dot, entry = option.partition(".")
        if word.startswith("--") and dot and isinstance(recipe.get(name), Mapping):
            if not equals and not words:
                raise ValueError(f"{word} needs a value.")
            recipe[name] = {**recipe[name], entry: yaml.safe_load(value if equals else words.pop(0))}
        else:
            others.append(word)
    return others


def fields_of(kind: type, option: str, given: Any) -> dict[str, Any]:
    """Return the value of an option that holds fields of a dataclass, such as `tokenizer`; refuse unknown fields."""
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"`{option}` is {given!r}; expected a mapping of fields of {kind.__name__}, in a recipe.")
    chosen = dict(given or {})
    if unknown := sorted(set(chosen) - {field.name for field in dataclasses.fields(kind)}):
        raise ValueError(f"`{option}` has unknown fields: {', '.join(unknown)}. Expected fields of {kind.__name__}.")
    return chosen
