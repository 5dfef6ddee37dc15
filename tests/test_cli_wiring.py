"""Every option of every command arrives at the library: two values of each, and what becomes of them.

The table is data: a `Command` says how to call it and which library call is recorded, an `Option` what is typed and
what arrives. `test_every_option_has_its_row` fails for an option without a row.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from questions.small_reader import KeywordReader

from fmri_lm_hf import cli
from fmri_lm_hf.bundled import WEIGHTS
from fmri_lm_hf.cli.scans import SOURCE_NAMES
from fmri_lm_hf.cli.train import STAGES
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.scans.splits import SplitManifest

N_OF_SITE = 20
SUBJECTS = [f"{site}{number:02}" for site in "AB" for number in range(N_OF_SITE)]

Recorder = Callable[[list[str], pytest.MonkeyPatch], Mapping[str, Any]]


def split(name: str) -> dict[str, list[str]]:
    """Subjects of the splits in the folder `one`, or `two`."""
    test = SUBJECTS[:4] if name == "one" else SUBJECTS[-4:]
    others = [subject for subject in SUBJECTS if subject not in test]
    return {"train": others[4:], "validation": others[:4], "test": test}


class Reached(Exception):
    """The recorded call was reached: the command need not go on."""


@dataclass(frozen=True)
class Option:
    """A row: what is typed for an option, and what arrives at the library.

    Attributes
    ----------
    name : str
        The option, or a positional argument by its destination.
    arrives_at : str
        Path into the recorded arguments, such as ``seed`` or ``config.seed``.
    values : dict
        At least two: what is typed (None: nothing; "": the option without a value) -> what arrives.
    instead : dict of str to str
        Options that are required where this one is left out.
    """

    name: str
    arrives_at: str
    values: dict[str | None, Any]
    instead: dict[str, str] = field(default_factory=dict)


def flag(name: str, arrives_at: str, given: Any = True, left_out: Any = False) -> Option:
    """A row of an option without a value."""
    return Option(name, arrives_at, {"": given, None: left_out})


@dataclass(frozen=True)
class Command:
    """A part of the table: a command with what it requires, and the call that is recorded.

    Attributes
    ----------
    name : str
        Such as ``corpus build``.
    required : dict of str to str
        Positional arguments by their destination, in order, and options.
    record : callable
        Runs the command with words, and returns the arguments of the library call.
    options : list of Option
    """

    name: str
    required: dict[str, str]
    record: Recorder
    options: list[Option]

    def argv(self, option: Option, typed: str | None) -> list[str]:
        """The words of the command, with one option as it is typed."""
        words = {**self.required, **({} if typed is not None else option.instead), option.name: typed}
        argv = self.name.split()
        for name, value in words.items():
            if value is not None:
                argv += [name] if name.startswith("-") else []
                argv += shlex.split(value)
        return argv


def call(*targets: str, prepare: Callable[[pytest.MonkeyPatch], None] | None = None) -> Recorder:
    """Record the first call of one of some functions, by parameter, and `target`, its name; there the command ends."""

    def record(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        recorded: dict[str, Any] = {}
        if prepare is not None:
            prepare(monkeypatch)
        for target in targets:
            owner, _, name = target.rpartition(".")
            function = getattr(find(owner), name)
            recording = spy(function, target, recorded)
            monkeypatch.setattr(find(owner), name, recording)
            for module in list(sys.modules.values()):  # wherever the command takes the function from
                if module.__name__.startswith("fmri_lm_hf.") and vars(module).get(name) is function:
                    monkeypatch.setattr(module, name, recording)
        with pytest.raises(Reached):
            cli.main(argv)
        return recorded

    return record


def spy(function: Callable, target: str, recorded: dict[str, Any]) -> Callable:
    signature = inspect.signature(function)

    def recording(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        recorded.update(bound.arguments, target=target, first=next(iter(bound.arguments.values()), None))
        raise Reached

    return recording


def find(name: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        owner, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(owner), attribute)


def follow(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[step] if isinstance(value, Mapping) else getattr(value, step)
    return value


# The table.


def understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions are read by keywords."""
    monkeypatch.setattr("fmri_lm_hf.questions.numpy_reader.load_question_reader", KeywordReader)


def any_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scan exists, and has no ROI names."""
    monkeypatch.setattr("fmri_lm_hf.cli.one_scan.find_scan", Path)
    monkeypatch.setattr("fmri_lm_hf.cli.one_scan.atlas_of_table", lambda *args: None)


def described(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `describe` does with a description: whether JSON is printed, the page that is written."""
    recorded: dict[str, Any] = {"is_json": False, "page": None}
    understood(monkeypatch)
    monkeypatch.setattr("fmri_lm_hf.cli.describe.print_json", lambda *args, **more: recorded.update(is_json=True))
    monkeypatch.setattr("fmri_lm_hf.cli.describe.scan_page", lambda *args: "a page")
    monkeypatch.setattr("fmri_lm_hf.files.write_text", lambda text, path: recorded.update(page=path))
    assert cli.main(argv) == 0
    return recorded


EXTRACTOR = "fmri_lm_hf.models.feature_extraction_fmri.FmriFeatureExtractor"
ANSWERER = "fmri_lm_hf.questions.answering.QuestionAnswerer"
ONE_SCAN = "fmri_lm_hf.cli.one_scan"


def scan_commands(name: str, required: dict[str, str], by_model: str, by_numbers: str) -> list[Command]:
    """The options that `ask` and `describe` share."""
    return [
        Command(
            name,
            required | {"scan": "a.npz"},
            call("fmri_lm_hf.models.abstention.read_or_decline", prepare=any_scan),
            [
                Option("scan", "scan", {name: Path(name) for name in ("a.tsv", "b.nii.gz")}),
                Option("--t-r", "t_r", {"0.72": 0.72, None: None}),
            ],
        ),
        Command(
            name,
            required,
            call(f"{EXTRACTOR}.from_pretrained"),
            [Option("--model", "pretrained_model_name_or_path", {"my_model": "my_model", None: WEIGHTS})],
        ),
        Command(
            name,
            required,
            call("fmri_lm_hf.models.atlas.Atlas.load"),
            [Option("--atlas", "name", {each: each for each in ("dosenbach_2010", "seitzman_2018")})],
        ),
        Command(
            name,
            {**required, "--atlas": "one/atlas.json"},
            call("fmri_lm_hf.models.atlas.Atlas.from_json"),
            [Option("--labels-img", "labels_img", {"a.nii.gz": Path("a.nii.gz"), None: None})],
        ),
        Command(
            name,
            required,
            call(ANSWERER, prepare=understood),
            [
                Option(
                    "--names",
                    "names",
                    {"one/names.json": {"default": ["one net"]}, "two/names.json": {"default": ["two net"]}, None: {}},
                )
            ],
        ),
        Command(
            name,
            required,
            call(by_model, by_numbers, prepare=understood),
            [Option("--read", "target", {"model": by_model, "numbers": by_numbers})],
        ),
    ]


ASK = {"scan": "example", "question": "hub"}
DESCRIBE = {"scan": "example", "--about": "connectivity"}
SCAN_COMMANDS = [
    Command(
        "ask",
        ASK,
        call("fmri_lm_hf.questions.numpy_reader.question_reader"),
        [Option("--understand", "name", {"smollm2": "smollm2", None: "bundled"})],
    ),
    *scan_commands("ask", ASK, f"{ONE_SCAN}.load_model", ANSWERER),
    *scan_commands("describe", DESCRIBE, f"{ONE_SCAN}.load_model", "fmri_lm_hf.cli.describe.describe_by_numbers"),
    Command(
        "ask",
        ASK,
        call(f"{ANSWERER}.find", prepare=understood),
        [Option("question", "question", {"'What is it?'": "What is it?", "Which?": "Which?"})],
    ),
    Command(
        "ask",
        ASK,
        call("fmri_lm_hf.cli.ask.print_as_json", "fmri_lm_hf.cli.ask.print_findings", prepare=understood),
        [flag("--json", "target", "fmri_lm_hf.cli.ask.print_as_json", "fmri_lm_hf.cli.ask.print_findings")],
    ),
    Command(
        "describe",
        {"scan": "example"},
        call("fmri_lm_hf.questions.answers.answer", prepare=understood),
        [Option("--about", "query.extra.about", {"graph": "graph", "DMN": "default", None: "all"})],
    ),
    Command(
        "describe",
        DESCRIBE,
        described,
        [Option("--out", "page", {"page.html": Path("page.html"), None: None}), flag("--json", "is_json")],
    ),
]

DEMO = Command(
    "demo",
    {},
    call("fmri_lm_hf.demo.run_demo"),
    [
        Option("--out", "out", {"there": Path("there"), None: Path("demo_output")}),
        Option("--scans", "scans", {"mine": Path("mine"), None: None}),
        Option("--atlas", "atlas", {"a.json": Path("a.json"), None: None}),
        Option("--labels", "labels", {"age iq": ["age", "iq"], None: ["sex", "diagnosis"]}),
        Option("--holdout-site", "holdout_site", {"C": "C", None: "B"}),
        Option(
            "--input-features",
            "options.tokenizer",
            {
                "signal connectivity": ["--tokenizer.input_features", "[signal, connectivity]"],
                None: ["--tokenizer.input_features", "[connectivity]"],
            },
        ),
        flag(
            "--read-codes",
            "options.alignment",
            ["--fmri_embedding_source", "codes"],
            ["--fmri_embedding_source", "encoder"],
        ),
        Option("--seed", "seed", {"7": 7, None: 0}),
    ],
)


# What follows a stage is the stage's own.
MAINS = {stage: f"fmri_lm_hf.training.{stage}.main" for stage in STAGES}
TRAIN = Command(
    "train",
    {"stage": "tokenizer", "words": ""},
    call(*MAINS.values()),
    [
        Option("stage", "target", MAINS),
        Option(
            "words",
            "words",
            {"r.yaml --seed 1": ["r.yaml", "--seed", "1"], "s.yaml": ["s.yaml"]},
        ),
    ],
)


def atlas_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the image gives a small atlas without problems."""
    monkeypatch.setattr(Atlas, "from_labels_img", lambda *args: Atlas.numbered(2))
    check = SimpleNamespace(n_voxels=np.array([3, 4]), problems=[])
    monkeypatch.setattr("fmri_lm_hf.scans.atlas_check.check_atlas", lambda atlas: check)


ATLAS = {"image": "one/a.nii.gz", "--out": "x.json"}
ATLAS_COMMANDS = [
    Command(
        "atlas",
        ATLAS,
        call("fmri_lm_hf.models.atlas.Atlas.from_labels_img"),
        [
            Option("image", "labels_img", {name: Path(name) for name in ("one/a.nii.gz", "two/b.nii")}),
            Option("--table", "table", {"t.tsv": Path("t.tsv"), None: None}),
            Option("--name", "name", {"mine": "mine", None: "a"}),
        ],
    ),
    Command(
        "atlas",
        ATLAS,
        call("fmri_lm_hf.models.atlas.Atlas.to_json", prepare=atlas_call),
        [Option("--out", "path", {"x.json": Path("x.json"), "new/y.json": Path("new/y.json")})],
    ),
]

BUILD = call("fmri_lm_hf.scans.build.build_scan_dataset")
SCANS = {"source": "fmriprep", "input": "one", "--out": "made"}
OF_EVERY_SOURCE = [
    Option("input", "source.root", {"one": Path("one"), "two": Path("two")}),
    Option("--out", "out", {"made": Path("made"), "there": Path("there")}),
    Option("--atlas", "source.atlas.name", {"one/atlas.json": "one", "two/atlas.json": "two"}),
    Option("--site", "source.site", {"B": "B", None: None}),
    Option("--t-r", "source.t_r", {"2.0": {"": 2.0}, "a=0.72 b=2": {"a": 0.72, "b": 2.0}, None: {}}),
    Option("--match", "source.match", {"'*rest*'": "*rest*", None: "*"}),
    flag("--controlled", "controlled"),
    Option("--workers", "workers", {"3": 3, None: 1}),
    Option("--scheduler", "scheduler", {"tcp://a:1": "tcp://a:1", None: None}),
    Option("--shard-mb", "shard_bytes", {"2": 2_000_000, None: 300_000_000}),
    Option("--participant-label", "source.selection.wanted", {"sub-01 02": {"sub": ("01", "02")}, None: {}}),
    Option("--session", "source.selection.wanted", {"ses-1 2": {"ses": ("1", "2")}, None: {}}),
    Option("--task", "source.selection.wanted", {"rest": {"task": ("rest",)}, None: {}}),
    Option("--run", "source.selection.wanted", {"1 2": {"run": ("1", "2")}, None: {}}),
    Option(
        "--bids-filter-file",
        "source.selection.wanted.task",
        {"one/filter.json": ("one",), "two/filter.json": ("two",)},
    ),
    Option("--max-masked", "source.thresholds.max_masked", {"0.1": 0.1, None: 0.5}),
    Option("--min-coverage", "source.thresholds.min_coverage", {"0.1": 0.1, None: 0.5}),
    Option("--min-minutes", "source.thresholds.min_minutes", {"4.5": 4.5, None: 1.0}),
    Option("--max-censored", "source.thresholds.max_censored", {"0.1": 0.1, None: 0.8}),
    Option("--max-mean-fd", "source.thresholds.max_mean_fd", {"0.3": 0.3, None: None}),
    Option("--min-dof", "source.thresholds.min_dof", {"5": 5, None: 20}),
]
OF_ONE_SOURCE = {
    "fmriprep": [
        Option("--space", "source.space", {"fsaverage5": "fsaverage5", None: "MNI152NLin2009cAsym"}),
        Option("--strategy", "source.strategy", {"scrubbing": "scrubbing", None: "simple"}),
    ],
    "xcpd": [Option("--segmentation", "source.segmentation", {"4S456": "4S456", None: None})],
    "files": [
        Option("--pattern", "source.pattern", {"'{subject}.tsv'": "{subject}.tsv", None: None}),
        Option("--mat-key", "source.mat_key", {"ts": "ts", None: "tc"}),
    ],
    "abide_pcp": [
        Option("--pipeline", "source.pipeline", {"dparsf": "dparsf", None: "cpac"}),
        Option("--rois", "source.rois", {"rois_cc200": "rois_cc200", None: "rois_aal"}),
        Option("--n-subjects", "source.n_subjects", {"4": 4, None: None}),
    ],
    "adhd": [Option("--n-subjects", "source.n_subjects", {"4": 4, None: None})],
    "development_fmri": [Option("--n-subjects", "source.n_subjects", {"4": 4, None: None})],
}
SCANS_COMMANDS = [
    *(
        Command("scans", {**SCANS, "source": name}, BUILD, OF_EVERY_SOURCE + OF_ONE_SOURCE.get(name, []))
        for name in SOURCE_NAMES
    ),
    Command("scans", SCANS, BUILD, [Option("source", "source.name", {name: name for name in SOURCE_NAMES})]),
    Command(
        "scans",
        SCANS,
        call("fmri_lm_hf.scans.sources.bids.read_participants"),
        [
            Option(
                "--participants",
                "path",
                {"two/participants.tsv": Path("two/participants.tsv"), None: Path("one/participants.tsv")},
            )
        ],
    ),
    Command(
        "scans",
        {**SCANS, "--atlas": "one/atlas.json"},
        call("fmri_lm_hf.models.atlas.Atlas.from_json"),
        [Option("--labels-img", "labels_img", {"a.nii.gz": Path("a.nii.gz"), None: None})],
    ),
    Command(
        "scans",
        SCANS,
        call("fmri_lm_hf.scans.build.find_scans", "fmri_lm_hf.scans.build.build_scan_dataset"),
        [
            flag(
                "--dry-run",
                "target",
                "fmri_lm_hf.scans.build.find_scans",
                "fmri_lm_hf.scans.build.build_scan_dataset",
            )
        ],
    ),
]

FAMILIES = ["connectivity", "gradients", "graph", "ica"]
CORPUS = Command(
    "corpus build",
    {"scans": "one", "--out": "made"},
    call("fmri_lm_hf.corpus.build.build_corpus"),
    [
        Option("scans", "scans", {"one": Path("one"), "two": Path("two")}),
        Option("--out", "out", {"made": Path("made"), "there": Path("there")}),
        Option("--atlas", "atlas.name", {"one/atlas.json": "one", "two/atlas.json": "two"}),
        Option(
            "--networks",
            "atlas.network_names",
            {"one/networks.tsv": ("one",), "two/networks.tsv": ("two",)},
        ),
        Option("--families", "config.families", {"graph ica": ["graph", "ica"], None: FAMILIES}),
        Option("--lengths", "config.lengths", {"full": ["full"], None: ["sentence", "paragraph", "full"]}),
        Option("--wordings", "config.wordings", {"3": 3, None: 1}),
        Option("--describe", "config.describe", {"age": ["age"], "": [], None: None}),
        Option("--components", "config.n_components", {"5": 5, None: 20}),
        Option("--seed", "config.seed", {"7": 7, None: 0}),
        Option("--fractions", "config.fractions", {"0.5 0.2 0.3": [0.5, 0.2, 0.3], None: [0.8, 0.1, 0.1]}),
        Option("--group-by", "config.group_by", {"family_id": "family_id", None: None}),
        Option("--holdout-site", "config.holdout_sites", {"A B": ["A", "B"], None: []}),
        Option(
            "--splits",
            "config.splits",
            {f"{name}/splits.json": split(name) for name in ("one", "two")},
        ),
        Option("--scan-dataset", "config.scan_dataset", {"org/scans": "org/scans", None: None}),
        Option("--license", "config.license", {"cc0-1.0": "cc0-1.0", None: None}),
        flag("--controlled", "config.controlled"),
        flag("--simulated", "config.simulated"),
        Option("--workers", "workers", {"3": 3, None: 1}),
        Option("--scheduler", "scheduler", {"tcp://a:1": "tcp://a:1", None: None}),
        flag("--quiet", "progress", False, True),
    ],
)


def small_scans(*_: Any) -> tuple[datasets.Dataset, None]:
    """One scan of each of `SUBJECTS`, with two labels."""
    rows = {"scan_id": SUBJECTS, "subject_id": SUBJECTS, "site": [name[0] for name in SUBJECTS]}
    sex, hand = (["F", "M"] * N_OF_SITE)[: len(SUBJECTS)], (["l", "l", "r", "r"] * N_OF_SITE)[: len(SUBJECTS)]
    return datasets.Dataset.from_dict({**rows, "sex": sex, "hand": hand}), None


def with_small_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are their names, and the scans four rows."""
    extractor = SimpleNamespace(atlas=None)
    for name in ("AutoModelForCausalLM", "AutoProcessor"):
        loader = SimpleNamespace(
            from_pretrained=lambda folder: SimpleNamespace(name=folder, feature_extractor=extractor)
        )
        monkeypatch.setattr(f"transformers.{name}", loader)
    monkeypatch.setattr("fmri_lm_hf.scans.dataset.load_scan_dataset", small_scans)


def evaluated(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The folder that the report of an evaluation is saved in."""
    recorded: dict[str, Any] = {}

    class Report(SimpleNamespace):
        def save(self, folder: Path, atlas: Atlas) -> None:
            recorded["folder"] = folder
            raise Reached

    with_small_scans(monkeypatch)
    target = "fmri_lm_hf.evaluation.evaluate.evaluate_sites"
    monkeypatch.setattr(target, lambda *args, **more: Report())
    with pytest.raises(Reached):
        cli.main(argv)
    return recorded


EVALUATE = {"models": "m", "--scans": "one", "--out": "o", "--labels": "sex", "--holdout-site": "B"}
BY_TASKS = {**EVALUATE, "--labels": None}
BY_SPLITS = {**EVALUATE, "--holdout-site": None}
EVALUATION = call(
    "fmri_lm_hf.evaluation.evaluate.evaluate",
    "fmri_lm_hf.evaluation.evaluate.evaluate_sites",
    prepare=with_small_scans,
)
EVALUATE_COMMANDS = [
    Command(
        "evaluate",
        EVALUATE,
        EVALUATION,
        [
            Option("models", "model.name", {"m": "m", "n m": "n"}),
            Option("--labels", "tasks", {"sex": ["sex"], "hand sex": ["hand", "sex"]}),
            Option(
                "--holdout-site",
                "splits.subjects.test",
                {site: sorted(name for name in SUBJECTS if name[0] == site) for site in "AB"},
            ),
            *(
                Option(name, "config.predictors", {"majority noise": ["majority", "noise"], None: None})
                for name in ("--predictors", "--readers")
            ),
            Option("--truth", "config.n_truth", {"5": 5, None: 40}),
            Option("--languages", "config.languages", {"fr de": ["fr", "de"], None: []}),
            Option("--shots", "config.shots", {"0 2": [0, 2], None: []}),
            Option("--occlusion", "config.n_occluded", {"5": 5, None: 0}),
            Option("--robustness", "config.n_robustness", {"5": 5, None: 0}),
            Option("--wordings", "config.n_wordings", {"5": 5, None: 10}),
            flag("--no-confounding", "config.confounding", False, True),
            flag("--report-leaks", "config.refuse_leakage", False, True),
            Option("--seed", "config.seed", {"7": 7, None: 0}),
            Option("--fitted", "config.fitted", {"one/fitted.json": ["one"], None: []}),
        ],
    ),
    Command(
        "evaluate",
        BY_TASKS,
        EVALUATION,
        [Option("--tasks", "tasks", {"one/tasks.yaml": ["one"], "two/tasks.yaml": ["two"]})],
    ),
    Command(
        "evaluate",
        BY_SPLITS,
        EVALUATION,
        [
            Option(
                "--splits",
                "splits.subjects.test",
                {f"{name}/splits.json": split(name)["test"] for name in ("one", "two")},
            )
        ],
    ),
    Command(
        "evaluate",
        {**BY_SPLITS, "--splits": "one/splits.json"},
        EVALUATION,
        [Option("--split", "config.split", {"validation": "validation", None: "test"})],
    ),
    Command(
        "evaluate",
        EVALUATE,
        call("fmri_lm_hf.scans.dataset.load_scan_dataset"),
        [Option("--scans", "path", {"one": Path("one"), "two": Path("two")})],
    ),
    Command(
        "evaluate",
        {**BY_SPLITS, "--leave-one-site-out": ""},
        evaluated,
        [Option("--out", "folder", {"o": Path("o"), "there": Path("there")})],
    ),
]
SITES = [
    Command(
        "evaluate",
        {**BY_SPLITS},
        EVALUATION,
        [
            Option(
                "--leave-one-site-out",
                "target",
                {
                    "": "fmri_lm_hf.evaluation.evaluate.evaluate_sites",
                    None: "fmri_lm_hf.evaluation.evaluate.evaluate",
                },
                instead={"--holdout-site": "B"},
            )
        ],
    )
]

PUSH = Command(
    "push",
    {"folder": "one", "repo_id": "org/name"},
    call("fmri_lm_hf.hub.push_to_hub"),
    [
        Option("folder", "first", {"one": "one", "two": "two"}),
        Option("repo_id", "repo_id", {"org/name": "org/name", "name": "name"}),
        flag("--private", "private", True, None),
        Option("--revision", "revision", {"v1": "v1", None: None}),
        flag("--create-pr", "create_pr"),
        Option("--message", "commit_message", {"'a b'": "a b", None: None}),
        Option("--description", "commit_description", {"'a b'": "a b", None: None}),
        Option("--tags", "tags", {"a b": ["a", "b"], None: None}),
        Option("--license", "license", {"cc0-1.0": "cc0-1.0", None: None}),
        Option("--base-model", "base_model", {"org/base": "org/base", None: None}),
        Option("--max-shard-size", "max_shard_size", {"1MB": "1MB", None: "2GB"}),
        flag("--allow-incomplete", "allow_incomplete"),
        flag("--confirm-controlled", "confirm_controlled"),
    ],
)
VERIFY = Command(
    "verify",
    {"repo_id": "org/name"},
    call("fmri_lm_hf.hub.verify_download"),
    [
        Option("repo_id", "repo_id", {"org/name": "org/name", "org/other": "org/other"}),
        Option("--revision", "revision", {"v1": "v1", None: None}),
        flag("--dataset", "repo_type", "dataset", "model"),
        flag("--repair", "repair"),
    ],
)
CONVERT = Command(
    "convert-upstream",
    {"checkpoint": "c.pt", "out": "o"},
    call("fmri_lm_hf.conversion.convert_upstream"),
    [
        Option("checkpoint", "checkpoint", {"c.pt": Path("c.pt"), "d.pt": Path("d.pt")}),
        Option("out", "out", {"o": Path("o"), "p": Path("p")}),
        Option("--text-config", "text_config", {"org/name": "org/name", None: None}),
        Option("--encoder-heads", "encoder_heads", {"4": 4, None: None}),
        Option("--lora-alpha", "lora_alpha", {"8.5": 8.5, None: None}),
        Option("--delimiter-ids", "delimiter_ids", {"5,6 7": [[5, 6], [7]], None: None}),
        Option("--atlas", "atlas", {"a.json": "a.json", None: None}),
        Option("--normalization", "normalization", {"n.npz": Path("n.npz"), None: None}),
        Option("--n-timepoints", "n_timepoints", {"40": 40, None: None}),
        flag("--merge", "merge"),
    ],
)


def unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scan is drawn, and nothing asked."""
    monkeypatch.setattr("fmri_lm_hf.simulation.question_scans.simulated_scans", lambda *args: [])
    monkeypatch.setattr("fmri_lm_hf.evaluation.question_benchmark.run_entrant", lambda *args: [])


BENCHMARK = {"--out": "o", "--entrant": "numbers"}
SIMULATED, REAL = (
    "fmri_lm_hf.simulation.question_scans.simulated_scans",
    "fmri_lm_hf.demo.real_scans.scans_for_questions",
)
BENCHMARK_COMMANDS = [
    Command(
        "benchmark",
        {"model": None, **BENCHMARK},
        call("fmri_lm_hf.evaluation.question_benchmark.run_entrant"),
        [
            Option("model", "entrant.model", {"m": "m", None: None}),
        ],
    ),
    Command(
        "benchmark",
        {"--out": "o"},
        call("fmri_lm_hf.evaluation.question_benchmark.run_entrant"),
        [Option("--entrant", "entrant.__name__", {"keywords decline": "keywords", "most-common": "most_common"})],
    ),
    Command(
        "benchmark",
        BENCHMARK,
        call("fmri_lm_hf.evaluation.question_benchmark.load_questions"),
        [Option("--questions", "files", {name: (Path(name),) for name in ("one/q.jsonl", "two/q.jsonl")})],
    ),
    Command(
        "benchmark",
        BENCHMARK,
        call(SIMULATED, REAL),
        [Option("--scans", "target", {"simulated": SIMULATED, "real": REAL})],
    ),
    Command("benchmark", BENCHMARK, call(SIMULATED), [Option("--seeds", "seeds", {"2": range(2), None: range(3)})]),
    Command(
        "benchmark",
        BENCHMARK,
        call("fmri_lm_hf.evaluation.question_scores.save_results", prepare=unanswered),
        [Option("--out", "out", {"there": Path("there"), "o": Path("o")})],
    ),
]

COMMANDS = [
    *SCAN_COMMANDS,
    DEMO,
    *ATLAS_COMMANDS,
    *SCANS_COMMANDS,
    CORPUS,
    TRAIN,
    *EVALUATE_COMMANDS,
    *SITES,
    *BENCHMARK_COMMANDS,
    PUSH,
    VERIFY,
    CONVERT,
]


# The tests.


def cases() -> Iterator[Any]:
    for command in COMMANDS:
        source = command.required.get("source")
        for option in command.options:
            for typed, expected in option.values.items():
                name = " ".join(filter(None, (command.name, source, option.name)))
                yield pytest.param(command, option, typed, expected, id=f"{name}={typed}")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("command, option, typed, expected", cases())
def test_an_option_arrives(command, option, typed, expected, files, monkeypatch):
    recorded = command.record(command.argv(option, typed), monkeypatch)
    found = follow(recorded, option.arrives_at)
    if option.name == "--fitted":
        found = [each.name for each in found]
    elif isinstance(found, Mapping) and isinstance(expected, list):
        found = list(found)
    assert found == expected


def test_two_values_of_an_option_arrive_as_two():
    for command in COMMANDS:
        for option in command.options:
            arriving = [repr(value) for value in option.values.values()]
            assert len(arriving) > 1, (command.name, option.name)
            assert len(set(arriving)) == len(arriving), (command.name, option.name)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_has_its_row(name):
    for words, parser in parsers_of(name):
        declared = {
            max(action.option_strings, key=len) if action.option_strings else action.dest for action in parser._actions
        } - {"--help"}
        rows = {option.name for command in COMMANDS if command.name == words for option in command.options}
        assert declared - rows == set(), f"fmri-lm {words}: options without a row in this table"
        assert rows - declared == set(), f"fmri-lm {words}: rows without an option"


def test_every_source_has_its_rows():
    assert {command.required["source"] for command in COMMANDS if command.name == "scans"} == set(SOURCE_NAMES)


@functools.cache
def parsers_of(name: str) -> list[tuple[str, argparse.ArgumentParser]]:
    """The parser of a command; of one with actions, those of its actions."""
    found = [(name, _actions(cli.build_parser(name))[name])]
    inner = _actions(found[0][1])
    return [(f"{name} {action}", parser) for action, parser in inner.items()] or found


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: choice
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, choice in action.choices.items()
    }


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """The working folder: `one` and `two`, each with every file that an option names."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "participants.tsv").write_text(f"participant_id\tsex\nsub-{name}\tF\n", encoding="utf-8")
        (folder / "names.json").write_text(json.dumps({"default": [f"{name} net"]}), encoding="utf-8")
        (folder / "filter.json").write_text(json.dumps({"bold": {"task": name}}), encoding="utf-8")
        (folder / "fitted.json").write_text(json.dumps([{"name": name, "subjects": ["s"]}]), encoding="utf-8")
        task = f"{name}: {{column: sex, ask: ['Which sex?'], answers: {{F: female, M: male}}}}\n"
        (folder / "tasks.yaml").write_text(task, encoding="utf-8")
        atlas = Atlas.numbered(2, name)
        atlas.to_json(folder / "atlas.json")
        table = "".join(f"{roi}\t{name}\n" for roi in atlas.roi_names)
        (folder / "networks.tsv").write_text(f"name\tnetwork\n{table}", encoding="utf-8")
        manifest = SplitManifest(split(name)).to_dict()
        (folder / "splits.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path
