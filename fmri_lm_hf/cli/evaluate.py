"""Judge a model on the scans of test subjects, with baselines and controls beside every score.

  fmri-lm evaluate output/instruction --scans my_scans --labels sex diagnosis --holdout-site B --out judged
  fmri-lm evaluate output/instruction --scans my_scans --tasks tasks.yaml --splits my_corpus/splits.json --out judged
  fmri-lm evaluate seed_0 seed_1 seed_2 --scans my_scans --labels sex --holdout-site B --out judged

--tasks is a YAML file with a question for each label column, in the form of a recipe's `questions`:

  diagnosis:
    ask: ["What is the diagnosis?"]
    answers: {1: patient, 2: control}
    forbidden: [symptom_score]         # its neighbours: nothing is predicted from them
    hypothesis: {patient: stronger connectivity between default and visual}   # answers without one label
  age:
    about: age group                   # in place of `ask`, or behind it: 200 wordings by a grammar
    below: {40: young, 60: in between, .inf: old}   # three and more are also scored as an order
    regression: true                   # and the number itself, estimated from the probabilities of the answers
  person:                              # several questions in one text, which the model writes
    ask: ["State the sex and the diagnosis of this person."]
    fields: {sex: {answers: {F: female, M: male}}, diagnosis: {answers: {1: patient, 2: control}}}
    answer: "Sex: {sex}. Diagnosis: {diagnosis}."

Baselines are fitted to the training subjects; test subjects are judged. Into --out go results.json, results.csv,
report.html, and tripod.md, a reporting checklist filled in as far as an evaluation knows. If MODEL is a folder,
results.json is put into it as well, so that its card shows the scores when it is pushed. The commits of what was
fetched from the Hub are printed, and recorded in results.json.

With --shots the model also learns from a few labelled scans, through an adapter and in context, beside linear readers
of the same scans; with --occlusion the networks that moved its answers are looked for, by occlusion and by integrated
gradients; with --robustness the same scans are measured worse and asked about again (docs/evaluation.md).

A score that is not above all of its controls (the model without the scan, with another person's scan, with randomised
phases, with noise; confounds alone; the majority class) is marked (!) wherever it is shown.

Leaks are looked for first (subjects, families and copies of scans in two splits; scans that the model was trained on;
statistics fitted to judged scans; and others, see `fmri_lm_hf.evaluation.leakage`), and refused. Every judgement on a
test split is written down in `.judged.jsonl` in the folder of the scan dataset (of the results, where that cannot be
written to), and it is said how often these scans were judged before: choose with `--split validation`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm evaluate`."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folder or Hub id of a model with its processor; several, such as trainings with other seeds, are judged "
        "one after the other, each into a folder of --out, with what varies between them in seeds.json",
    )
    parser.add_argument(
        "--scans", required=True, help="scan dataset with the labels: a folder, Parquet, or on the Hub"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--tasks",
        metavar="FILE",
        help="YAML file with the questions, or a cohort whose questions the package knows: ukb, abcd, hcp, hcp_aging, "
        "adni, adhd200, abide2",
    )
    asked.add_argument(
        "--labels", nargs="+", metavar="COLUMN", help="label columns of 2 to 10 classes to ask about"
    )
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--splits", type=Path, help="splits.json of a corpus: its test subjects are judged")
    judged.add_argument(
        "--holdout-site", metavar="SITE", help="judge the scans of this site, train baselines on the others"
    )
    judged.add_argument(
        "--leave-one-site-out",
        action="store_true",
        help="judge each site, baselines trained on all others; MODEL is not trained again (no --truth, no --wordings)",
    )
    parser.add_argument(
        "--readers",
        nargs="+",
        metavar="NAME",
        help="what stands beside the model, such as connectivity_logistic, majority, other_scan (default: all)",
    )
    parser.add_argument(
        "--truth",
        type=int,
        default=40,
        metavar="SCANS",
        help="test scans whose descriptions are checked, of a model that sees network pairs (default: 40; 0: none)",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=[],
        metavar="CODE",
        help="languages besides English in which levels of network pairs are asked for, with --truth: fr, de",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        type=int,
        default=[],
        metavar="K",
        help="also learn from K labelled training scans of each class, such as 0 2 8 32 (default: not)",
    )
    parser.add_argument(
        "--occlusion",
        type=int,
        default=0,
        metavar="SCANS",
        help="test scans to look into for the networks that moved the answers, by other people's series in their place "
        "and by integrated gradients (default: 0)",
    )
    parser.add_argument(
        "--robustness",
        type=int,
        default=0,
        metavar="SCANS",
        help="test scans to ask about again, measured worse: TR, length, noise, motion, missing ROIs (default: 0)",
    )
    parser.add_argument(
        "--wordings",
        type=int,
        default=10,
        metavar="N",
        help="other wordings of each question to ask, to see whether answers hang on them (default: 10; 0: none)",
    )
    parser.add_argument(
        "--split",
        choices=["test", "validation"],
        default="test",
        help="whose scans are judged; choose between models by validation, which is not counted (default: test)",
    )
    parser.add_argument(
        "--fitted",
        type=Path,
        metavar="FILE",
        help="JSON list of statistics, feature selections and harmonisations made elsewhere: name, subjects, sites",
    )
    parser.add_argument(
        "--no-confounding",
        action="store_true",
        help="do not look at confounds, which takes longest after the readers",
    )
    parser.add_argument(
        "--report-leaks",
        action="store_true",
        help="judge all the same where leaks are found, and show them with the scores",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm evaluate`."""
    from ..evaluation.tables import over_models, repeats_table
    from ..files import write_json

    if len(args.models) == 1:
        _judge(args.models[0], args.out, args)
        return
    names = [Path(model).name for model in args.models]
    names = [f"{name}-{place}" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
    results = {}
    for name, model in zip(names, args.models, strict=True):
        print(f"\n{name}")
        results[name] = _judge(model, args.out / name, args)
    found = over_models(results)
    write_json(found, args.out / "seeds.json")
    print("\n" + repeats_table(found))


def _judge(model_name: str, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Judge one model: print its scores, write them into `out`, return them."""
    from transformers import AutoModelForCausalLM, AutoProcessor

    from ..declarations import declared_in_features
    from ..evaluation.design import FittedStatistics
    from ..evaluation.evaluate import evaluate, evaluate_sites, hold_site_out, split_rows
    from ..evaluation.report import explanation_parts, few_shot_parts, robustness_parts, write_score_report
    from ..evaluation.tables import score_table, trust_sentences, truth_table, write_score_csv
    from ..evaluation.tasks import COHORTS, load_tasks, tasks_of_cohort, tasks_of_columns
    from ..evaluation.tripod import tripod_table
    from ..files import write_json, write_text
    from ..hub.download import dataset_folder, fetched_commits
    from ..scans.dataset import load_scan_dataset
    from ..scans.splits import SplitManifest

    if args.leave_one_site_out and (args.shots or args.occlusion or args.robustness):
        raise ValueError(
            "--shots, --occlusion and --robustness take one split of the scans: give --splits or --holdout-site in "
            "place of --leave-one-site-out."
        )
    scans, _ = load_scan_dataset(dataset_folder(args.scans))
    fitted = [] if args.splits is None else FittedStatistics.of_corpus(args.splits.parent)
    if args.fitted is not None:
        declared = json.loads(args.fitted.read_text(encoding="utf-8"))
        fitted += [FittedStatistics.from_dict(record) for record in declared]
    splits = None
    rows = {"train": list(range(len(scans))), "test": list(range(len(scans)))}
    if args.splits is not None:
        splits = SplitManifest.from_json(args.splits)
    elif args.holdout_site is not None:
        splits = hold_site_out(scans, args.holdout_site, args.seed)
    if splits is not None:
        rows = split_rows(scans, splits, args.split)
    if args.tasks in COHORTS:
        tasks, missing = tasks_of_cohort(args.tasks, scans.column_names)
        print(*missing, sep="\n")
    elif args.tasks is not None:
        tasks = load_tasks(args.tasks)
    else:
        tasks = tasks_of_columns(scans, args.labels, rows["train"], rows["test"])
    model = AutoModelForCausalLM.from_pretrained(model_name)
    processor = AutoProcessor.from_pretrained(model_name)
    if splits is None:
        results = evaluate_sites(model, processor, scans, tasks, args.readers, seed=args.seed)
    else:
        results = evaluate(
            model,
            processor,
            scans,
            tasks,
            splits,
            args.readers,
            n_truth=args.truth,
            languages=args.languages,
            shots=args.shots,
            n_occluded=args.occlusion,
            n_wordings=args.wordings,
            n_robustness=args.robustness,
            seed=args.seed,
            split=args.split,
            fitted=fitted,
            refuse_leaks=not args.report_leaks,
            confounding=not args.no_confounding,
        )
        results["splits_sha256"] = splits.sha256
        if args.split == "test":
            results |= _written_down(results, args, model_name, model)
    if args.holdout_site is not None:
        results["holdout_site"] = args.holdout_site
    results["simulated"] = "simulated" in declared_in_features(scans.features)
    results["commits"] = fetched_commits([model_name, args.scans])
    if args.scans in results["commits"]:
        results["dataset"] = args.scans  # under which the Hub shows the scores
    write_json(results, out / "results.json")
    write_score_csv(out / "results.csv", results)
    more = few_shot_parts(results.get("few_shot"))
    more += explanation_parts(results, processor.feature_extractor.atlas)
    more += robustness_parts(results.get("robustness"))
    write_text(tripod_table(results), out / "tripod.md")
    write_score_report(out / "report.html", results, more)
    if Path(model_name).is_dir():
        write_json(results, Path(model_name) / "results.json")
    print(score_table(results))
    print("\n".join(trust_sentences(results)))
    if "truth" in results:
        print("\n" + truth_table(results["truth"]))
    return results


def _written_down(
    results: Mapping[str, Any], args: argparse.Namespace, model_name: str, model: Any
) -> dict[str, Any]:
    """Write a judgement on test scans down, and say what was written down before."""
    from ..evaluation.history import Entry, Ledger, told
    from ..files import weights_hash

    entry = Entry(
        results["scans_sha256"],
        results["splits_sha256"],
        Path(model_name).name,
        weights_hash(model),
        tuple(results["tasks"]),
    )
    ledger = Ledger.beside(args.scans, args.out)
    earlier = ledger.earlier(entry)
    ledger.add(entry)
    return {"judged_before": len(earlier), "test_split": told(earlier, entry)}
