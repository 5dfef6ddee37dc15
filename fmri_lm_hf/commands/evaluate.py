"""Judge a model on the scans of test subjects, with baselines and controls beside every score.

  fmri-lm evaluate output/instruction --scans my_scans --labels sex diagnosis --holdout-site B --out judged
  fmri-lm evaluate output/instruction --scans my_scans --tasks tasks.yaml --splits my_corpus/splits.json --out judged

--tasks is a YAML file with a question for each label column, in the form of a recipe's `questions`:

  sex:
    ask: [What is the sex?]
    answers: {F: female, M: male}
  age:
    ask: [How old is this person?]
    below: {50: younger, .inf: older}

Baselines are fitted to the training subjects; test subjects are judged. Into --out go results.json and report.html.
If MODEL is a folder, results.json is put into it as well, so that its card shows the scores when it is pushed. The
commits of what was fetched from the Hub are printed, and recorded in results.json.
Leaks are looked for first (subjects, families and copies of scans in two splits; scans that the model was trained on;
statistics fitted to judged scans; and others, see `fmri_lm_hf.evaluation.leaks`), and refused. Every judgement on a
test split is written down in `.judged.jsonl` in the folder of the scan dataset (of the results, where that cannot be
written to), and it is said how often these scans were judged before: choose with `--split validation`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm evaluate`."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a model with its processor")
    parser.add_argument(
        "--scans", required=True, help="scan dataset with the labels: a folder, Parquet, or on the Hub"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--tasks", type=Path, help="YAML file with the questions")
    asked.add_argument(
        "--labels", nargs="+", metavar="COLUMN", help="label columns of 2 to 10 classes to ask about"
    )
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--splits", type=Path, help="splits.json of a corpus: its test subjects are judged")
    judged.add_argument(
        "--holdout-site", metavar="SITE", help="judge the scans of this site, train baselines on the others"
    )
    parser.add_argument(
        "--truth",
        type=int,
        default=40,
        metavar="SCANS",
        help="test scans whose descriptions are checked, of a model that sees network pairs (default: 40; 0: none)",
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
        help="JSON list of what was fitted elsewhere (statistics, feature selection, harmonisation): name, subjects, sites",
    )
    parser.add_argument(
        "--report-leaks",
        action="store_true",
        help="judge all the same where leaks are found, and show them with the scores",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm evaluate`."""
    from transformers import AutoModelForCausalLM, AutoProcessor

    from ..evaluation.confounding_tables import leak_sentences
    from ..evaluation.design import FittedStatistics
    from ..evaluation.evaluate import evaluate, split_rows
    from ..evaluation.ledger import Entry, Ledger, told
    from ..evaluation.report import score_table, truth_table, write_score_csv, write_score_report
    from ..evaluation.tasks import load_tasks, tasks_of_columns
    from ..files import write_json
    from ..hashes import weights_hash
    from ..hub.dataset_location import dataset_folder
    from ..hub.download import fetched_commits
    from ..scans.dataset import load_scan_dataset
    from ..scans.splits import SplitManifest, make_splits

    folder = dataset_folder(args.scans)
    scans, _ = load_scan_dataset(folder)
    fitted = [] if args.splits is None else FittedStatistics.of_corpus(args.splits.parent)
    if args.fitted is not None:
        declared = json.loads(args.fitted.read_text(encoding="utf-8"))
        fitted += [FittedStatistics.from_dict(record) for record in declared]
    if args.splits is not None:
        splits = SplitManifest.from_json(args.splits)
    else:
        columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
        splits = make_splits(columns, fractions=(1, 0, 0), holdout_sites=[args.holdout_site], seed=args.seed)
    if args.tasks is not None:
        tasks = load_tasks(args.tasks)
    else:
        rows = split_rows(scans, splits, args.split)
        tasks = tasks_of_columns(scans, args.labels, rows["train"], rows["test"])
    model = AutoModelForCausalLM.from_pretrained(args.model)
    processor = AutoProcessor.from_pretrained(args.model)
    results = evaluate(
        model,
        processor,
        scans,
        tasks,
        splits,
        n_truth=args.truth,
        seed=args.seed,
        split=args.split,
        fitted=fitted,
        refuse_leaks=not args.report_leaks,
    )
    if args.split == "test":
        ledger = Ledger.beside(args.scans, args.out)
        entry = Entry(
            results["scans_sha256"], splits.sha256, Path(args.model).name, weights_hash(model), tuple(tasks)
        )
        earlier = ledger.earlier(entry)
        ledger.add(entry)
        results |= {"judged_before": len(earlier), "test_split": told(earlier, entry)}
    results |= {"splits_sha256": splits.sha256, "commits": fetched_commits([args.model, args.scans])}
    write_json(results, args.out / "results.json")
    write_score_csv(args.out / "results.csv", results)
    write_score_report(args.out / "report.html", results)
    if Path(args.model).is_dir():
        write_json(results, Path(args.model) / "results.json")
    print(score_table(results))
    print(
        "\n".join([*leak_sentences(results), *([results["test_split"]] if "test_split" in results else [])])
    )
    if "truth" in results:
        print("\n" + truth_table(results["truth"]))
