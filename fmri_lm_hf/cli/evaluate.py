"""Evaluate a model on the scans of test subjects, next to baselines and controls.

  fmri-lm evaluate model --scans my_scans --labels sex diagnosis --holdout-site B --out evaluation
  fmri-lm evaluate model --scans my_scans --tasks tasks.yaml --splits my_corpus/splits.json --out evaluation
  fmri-lm evaluate seed_0 seed_1 seed_2 --scans my_scans --labels sex --holdout-site B --out evaluation

A task file has a question for each label column, like a recipe's `questions` (docs/guides/evaluation.md):

  diagnosis:
    ask: ["What is the diagnosis?"]
    answers: {1: patient, 2: control}
    forbidden: [symptom_score]     # would give the label away: nothing is predicted from it
  age:
    about: age group               # in place of `ask`: 200 wordings
    below: {40: young, 60: in between, .inf: old}
    regression: true               # score the number, too

--out gets results.json, results.csv, report.html, and tripod.md, a reporting checklist; a local MODEL gets a copy of
results.json for its card. A score that is not above all controls is marked (!). Leakage is checked first and refused.
Evaluations of test subjects are recorded next to the scans: choose between models by `--split validation`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..deprecation import RenamedOption

if TYPE_CHECKING:
    import datasets

    from ..evaluation.results import EvaluationConfig
    from ..evaluation.tasks import Task
    from ..scans.splits import SplitManifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm evaluate`."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder or Hub id; several are compared")

    data = parser.add_argument_group("data")
    data.add_argument("--scans", required=True, help="scan dataset with labels: a folder, Parquet, or Hub id")
    data.add_argument("--out", type=Path, required=True, help="folder of the results")
    tasks = data.add_mutually_exclusive_group(required=True)
    tasks.add_argument("--labels", nargs="+", metavar="COLUMN", help="label columns of 2 to 10 classes")
    cohorts = "ukb, abcd, hcp, hcp_aging, adni, adhd200 or abide2"
    tasks.add_argument("--tasks", metavar="FILE", help=f"task file, or the tasks of {cohorts}")
    tested = data.add_mutually_exclusive_group(required=True)
    tested.add_argument("--splits", type=Path, metavar="FILE", help="splits.json of a corpus")
    tested.add_argument("--holdout-site", metavar="SITE", help="test one site, train baselines on all others")
    in_turn = "test each site in turn; MODEL is not trained again"
    tested.add_argument("--leave-one-site-out", action="store_true", help=in_turn)
    whose = "whose scans are scored (default: test)"
    data.add_argument("--split", choices=["test", "validation"], default="test", help=whose)
    data.add_argument("--fitted", type=Path, metavar="FILE", help="JSON list of statistics fitted elsewhere")
    data.add_argument("--report-leaks", action="store_true", help="report leakage in place of refusing it")

    scores = parser.add_argument_group("scores")
    predictors = "baselines and controls, such as connectivity_logistic, majority, other_scan (default: all)"
    scores.add_argument("--predictors", nargs="+", metavar="NAME", help=predictors)
    scores.add_argument("--readers", nargs="+", action=RenamedOption, dest="predictors", help=argparse.SUPPRESS)
    scores.add_argument("--seed", type=int, default=0, help="seed of the bootstrap and the controls (default: 0)")

    further = parser.add_argument_group("further analyses")
    further.add_argument("--no-confounding", action="store_true", help="skip the analysis of confounds")
    for option, default, metavar, text in (
        ("--wordings", 10, "N", "further wordings of each question"),
        ("--truth", 40, "SCANS", "check descriptions and answers about network pairs"),
        ("--occlusion", 0, "SCANS", "occlude networks to find those that answers depend on"),
        ("--robustness", 0, "SCANS", "ask about degraded scans: TR, length, noise, motion, missing ROIs"),
    ):
        help_text = f"{text} (default: {default})"
        further.add_argument(option, type=int, default=default, metavar=metavar, help=help_text)
    further.add_argument("--languages", nargs="+", default=[], metavar="CODE", help="with --truth: fr, de")
    shots = "train on K labelled scans of each class"
    further.add_argument("--shots", nargs="+", type=int, default=[], metavar="K", help=shots)


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm evaluate`."""
    from transformers import AutoModelForCausalLM, AutoProcessor

    from ..evaluation.evaluate import evaluate, evaluate_sites, hold_site_out
    from ..evaluation.history import History
    from ..evaluation.results import compare
    from ..evaluation.tables import comparison_text
    from ..files import write_json
    from ..scans.dataset import load_scan_dataset
    from ..scans.splits import SplitManifest

    if args.leave_one_site_out and (args.shots or args.occlusion or args.robustness):
        raise ValueError(
            "--shots, --occlusion and --robustness need one split of the scans: give --splits or --holdout-site in "
            "place of --leave-one-site-out."
        )
    config = _config(args)
    scans, _ = load_scan_dataset(_local_folder(args.scans))
    splits = None
    if args.splits is not None:
        splits = SplitManifest.from_json(args.splits)
    elif args.holdout_site is not None:
        splits = hold_site_out(scans, args.holdout_site, args.seed)
    tasks = _tasks(args, scans, splits)
    reports = {}
    for number, model_name in enumerate(args.models, start=1):
        name, out = Path(model_name).name, args.out
        if len(args.models) > 1:
            # seed_0/model and seed_1/model have the same name: without a number one would overwrite the other's results
            is_unique = [Path(other).name for other in args.models].count(name) == 1
            label = name if is_unique else f"{name}-{number}"
            out = args.out / label
            print(f"\n{label}")
        model = AutoModelForCausalLM.from_pretrained(model_name)
        processor = AutoProcessor.from_pretrained(model_name)
        if splits is None:
            report = evaluate_sites(model, processor, scans, tasks, config)
        else:
            report = evaluate(model, processor, scans, tasks, splits, config)
            History.of_scans(args.scans, out).record(report, model, name)
        report.commits = _commits(model_name, args.scans)
        report.dataset = args.scans if args.scans in report.commits else None
        report.save(out, processor.feature_extractor.atlas)
        # a copy for the card, which is generated from it when the model is pushed
        if Path(model_name).is_dir():
            report.to_json(Path(model_name) / "results.json")
        print(report.summary())
        reports[out.name] = report
    if len(reports) > 1:
        comparison = compare(reports)
        write_json(comparison, args.out / "seeds.json")
        print("\n" + comparison_text(comparison))


def _config(args: argparse.Namespace) -> EvaluationConfig:
    from ..evaluation.design import FittedStatistics
    from ..evaluation.results import EvaluationConfig

    fitted = [] if args.splits is None else FittedStatistics.of_corpus(args.splits.parent)
    if args.fitted is not None:
        declared = json.loads(args.fitted.read_text(encoding="utf-8"))
        fitted += [FittedStatistics.from_dict(record) for record in declared]
    return EvaluationConfig(
        predictors=args.predictors,
        split=args.split,
        n_wordings=args.wordings,
        confounding=not args.no_confounding,
        n_truth=args.truth,
        languages=args.languages,
        shots=args.shots,
        n_occluded=args.occlusion,
        n_robustness=args.robustness,
        fitted=fitted,
        refuse_leakage=not args.report_leaks,
        seed=args.seed,
    )


def _tasks(args: argparse.Namespace, scans: datasets.Dataset, splits: SplitManifest | None) -> Mapping[str, Task]:
    from ..evaluation.evaluate import split_rows
    from ..evaluation.tasks import COHORTS, load_tasks, tasks_of_cohort, tasks_of_columns

    if args.tasks in COHORTS:
        tasks, missing = tasks_of_cohort(args.tasks, scans.column_names)
        print(*missing, sep="\n")
        return tasks
    if args.tasks is not None:
        return load_tasks(args.tasks)
    # Where each site is left out in turn, every scan is once a training and once a test scan.
    every = list(range(len(scans)))
    rows = {"train": every, "test": every} if splits is None else split_rows(scans, splits, args.split)
    return tasks_of_columns(scans, args.labels, rows["train"], rows["test"])


def _local_folder(scans: str) -> Path:
    """Find the folder of a scan dataset: a local one, or a snapshot of the Hub, whose code is imported only then."""
    if Path(scans).exists():
        return Path(scans)
    from ..hub.download import dataset_folder

    return dataset_folder(scans)


def _commits(*names: str) -> dict[str, str]:
    """Return the commits of models and scans that were fetched from the Hub."""
    fetched = [name for name in names if not Path(name).exists()]
    if not fetched:
        return {}
    from ..hub.download import fetched_commits

    return fetched_commits(fetched)
