"""Describe a scan in sentences, each with the number of the scan that it states.

Sentences are computed from the scan: the coupling of its networks, its graph, its principal gradient and the signals
of its networks. `--about` chooses one of these, or a network. With `--read model` the language model describes the
coupling in its own words, and a mark shows whether each statement agrees with the scan. `fmri-lm ask --help` lists what
SCAN can be.

exit code: 0 described, 2 bad input, 3 the scan cannot be read

examples:
  fmri-lm describe example --out report.html
  fmri-lm describe example --about gradients
  fmri-lm describe sub-01_bold.nii.gz --about "default mode"
  fmri-lm describe sub-01.tsv --atlas schaefer_100_7networks --t-r 0.72 --json
  fmri-lm describe example --read model
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .one_scan import (
    DECLINED,
    OpenScan,
    about,
    add_scan_arguments,
    evidence_table,
    generate,
    load_model,
    open_scan,
    print_json,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..corpus.facts import Fact
    from ..corpus.queries import CheckedStatement, PairTruth
    from ..questions.answering import QuestionAnswerer
    from ..questions.measures import ScanMeasures
    from ..questions.query import Query


QUESTION = "Describe this scan."
COUPLING = "mean correlation of the ROIs of two networks, in units of the scan's RMS correlation"
RANKS = "Ranks: by magnitude, among all pairs of two networks, or among all single networks."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm describe`."""
    add_scan_arguments(parser)
    parser.add_argument(
        "--about",
        metavar="TOPIC",
        default="all",
        help="all, connectivity, graph, gradients, spectral, or a network of the atlas (default: all)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write an HTML page with pictures of the scan")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm describe`; return 0, or 3 if the scan cannot be read."""
    if args.read == "model" and args.about not in ("all", "connectivity"):
        raise ValueError(f"--read model describes the connectivity alone: leave out --about {args.about}.")
    scan = open_scan(args)
    answerer = scan.answerer()
    query = what_to_describe(args.about, answerer)
    opened = answerer.open(scan.inputs)
    if opened.measures is None:
        if args.json:
            print_json(scan, description=None, declined=True, reason=opened.reason, statements=[])
        else:
            print(f"{opened.reason}\n\n{scan.source}")
        return DECLINED
    if args.read == "model":
        page = told_by_model(scan, opened.measures, args)
    else:
        page = told_by_numbers(scan, opened.measures, query, args.json)
    if args.out is not None:
        from ..files import write_text

        write_text(scan_page(scan, opened.measures, page), args.out)
        print(f"The report is in {args.out}.", file=sys.stderr if args.json else sys.stdout)
    return 0


def what_to_describe(topic: str, answerer: QuestionAnswerer) -> Query:
    """Return the query for a topic, or for a network by any of its names.

    Raises
    ------
    ValueError
        If it is neither.
    """
    from ..questions.query import TOPICS, Query

    if topic in TOPICS:
        return Query("describe", (), {"about": topic})
    names = answerer.lexicon.network_names
    known = {name.casefold(): name for name in names}
    mentioned = [mention.networks for mention in answerer.lexicon.find(topic)]
    sure = {networks[0] for networks in mentioned if len(networks) == 1}
    network = known.get(topic.casefold()) or (sure.pop() if len(mentioned) == len(sure) == 1 else None)
    if network is None:
        raise ValueError(f"--about {topic} is none of {', '.join(TOPICS)}, nor one network of {', '.join(names)}.")
    return Query("describe", (network,), {"about": network})


# ----- by the numbers -----


def told_by_numbers(scan: OpenScan, measures: ScanMeasures, query: Query, as_json: bool) -> list[str]:
    """Print the description that is computed from the scan; return its part of the page."""
    from ..pages import heading, html_table
    from ..questions.answers import answer
    from ..questions.statements import number

    found = answer(query, measures)
    if as_json:
        statements = [statement.to_json() for statement in found.evidence]
        print_json(scan, description=found.text, statements=statements)
    else:
        lines = [line for one in found.evidence for line in wrapped(one.statement)]
        print("\n".join([*lines, "", *evidence_table(found.evidence), "", scan.source]))
    rows = [
        [one.statement, about(one), number(one.value), one.units, one.level or "", one.relative_to]
        for one in found.evidence
    ]
    head = ["statement", "about", "value", "units", "level", "relative to"]
    return [heading(f"{str(query)[0].upper()}{str(query)[1:]}"), html_table(head, rows, text=True)]


# ----- by the language model -----


def told_by_model(scan: OpenScan, measures: ScanMeasures, args: argparse.Namespace) -> list[str]:
    """Print the language model's own description, each statement checked; return its part of the page."""
    from ..corpus.queries import check_statements
    from ..pages import heading, html_table, paragraph

    description = generate(scan, *load_model(scan, args.model), QUESTION)
    # once each: greedy decoding may repeat itself
    statements = list(dict.fromkeys(check_statements(description, facts_of(measures), measures.network_names)))
    if args.json:
        print_json(scan, description=description, statements=[asdict(statement) for statement in statements])
    else:
        print_statements(statements)
        print(f"\n{scan.source}")
    rows = []
    for statement in statements:
        row = [mark(statement), statement.text, "", "", ""]
        if (pair := statement.truth) is not None:
            row[2:] = [f"{pair.value:.2f}", pair.bin, rank_label(pair)]
        rows.append(row)
    return [
        heading("Statements of the model"),
        html_table(["", "statement", "value", "bin", "rank by magnitude"], rows, text=True),
        paragraph(f"{agreement(statements)} Values: {COUPLING}. {RANKS}".strip()),
    ]


def facts_of(measures: ScanMeasures) -> list[Fact]:
    """State the bins of all pairs of a scan, which the model's words are compared with."""
    from ..corpus.queries import scan_facts

    names = measures.network_names
    pairs = [(first, second) for place, first in enumerate(names) for second in names[place:]]
    values = [measures.pair(*pair) for pair in pairs]
    return scan_facts([value or 0.0 for value in values], [value is not None for value in values], names)


def print_statements(statements: Sequence[CheckedStatement]) -> None:
    """Print a line for each statement: a mark, the sentence, the pair's value, bin and rank."""
    width = max((len(statement.text) for statement in statements), default=0)
    for statement in statements:
        if statement.is_true is None:
            print(statement.text)
            continue
        pair = statement.truth
        facts = "" if pair is None else f"{pair.value:>6.2f}  {pair.bin}, {rank_label(pair)}"
        print(f"{mark(statement)} {statement.text:<{width}} {facts}".rstrip())
    if summary := agreement(statements):
        print(f"\n{summary} Values: {COUPLING}.")


def mark(statement: CheckedStatement) -> str:
    """Return a check mark or a cross for a statement; a dash if the scan has no number to compare it with."""
    if statement.truth is None:
        return "-"
    return "✓" if statement.is_true else "✗"


def agreement(statements: Sequence[CheckedStatement]) -> str:
    """Write a sentence with the number of statements that agree with the scan; empty if none can be checked."""
    checked = [statement for statement in statements if statement.truth is not None]
    n_true = sum(bool(statement.is_true) for statement in checked)
    return f"{n_true} of {len(checked)} statements agree with the scan." if checked else ""


def rank_label(pair: PairTruth) -> str:
    """Write the rank of a pair by magnitude: ``strongest of 15``, ``2nd strongest of 15``."""
    from ..questions.statements import ordinal

    if pair.rank in (1, pair.n_pairs) and pair.n_pairs > 1:
        return f"{'strongest' if pair.rank == 1 else 'weakest'} of {pair.n_pairs}"
    return f"{ordinal(pair.rank)} strongest of {pair.n_pairs}"


# ----- the page -----


def scan_page(scan: OpenScan, measures: ScanMeasures, description: Sequence[str]) -> str:
    """Make a self-contained HTML page: the description with its values, and pictures of the scan."""
    from ..pages import heading, page, paragraph, picture

    title = "carpet plot and network connectivity matrix of the scan"
    caption = f"Left: signals of the ROIs, by network. Right: {COUPLING}."
    warning = [paragraph("This scan is simulated; it is not of a person.", "warning")] if scan.is_simulated else []
    parts = [
        paragraph(scan.source),
        *warning,
        *description,
        heading("The scan"),
        picture(draw_scan(scan, measures), title, caption),
        paragraph("For research. Not a medical device: no statement is a diagnosis."),
    ]
    return page(f"Description of {scan.name}", parts)


def draw_scan(scan: OpenScan, measures: ScanMeasures) -> Figure:
    """Draw a carpet plot of the ROIs by network, and the connectivity of every network pair."""
    import numpy as np

    from ..pages import new_figure

    names = list(measures.network_names)
    # ROIs sorted by network; the sort is stable, so that within a network they keep the order of the atlas
    number = np.array([names.index(name) if name in names else len(names) for name in scan.atlas.networks])
    order = np.argsort(number, kind="stable")[: int((number < len(names)).sum())]
    n_times = int(scan.inputs["padding_mask"][0].nonzero()[0].max()) + 1
    values = scan.inputs["input_values"][0][order, :n_times]
    starts = np.searchsorted(number[order], np.arange(len(names) + 1))

    figure = new_figure(figsize=(13, 5), layout="constrained")
    carpet, matrix = figure.subplots(1, 2, width_ratios=[1.5, 1])
    extent = (0.0, n_times * scan.extractor.t_r, float(len(values)), 0.0)
    carpet.imshow(values, aspect="auto", cmap="gray", vmin=-2, vmax=2, extent=extent, interpolation="nearest")
    carpet.set(title="Carpet plot", xlabel="time (s)")
    carpet.set_yticks((starts[:-1] + starts[1:]) / 2, names)
    for start in starts[1:-1]:
        carpet.axhline(start, color="tab:orange", linewidth=0.8)
    _draw_connectivity(figure, matrix, names, measures.connectivity)
    return figure


def _draw_connectivity(figure: Figure, matrix: Any, names: list[str], connectivity: Any) -> None:
    import numpy as np

    limit = max(1.5, float(np.nanmax(np.abs(connectivity), initial=0)))
    shown = matrix.imshow(connectivity, cmap="RdBu_r", vmin=-limit, vmax=limit)
    matrix.set(title="Network connectivity")
    matrix.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    matrix.set_yticks(range(len(names)), names)
    if len(names) <= 10:
        for (row, column), value in np.ndenumerate(connectivity):
            color = "white" if abs(value) > 0.6 * limit else "black"
            matrix.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(shown, ax=matrix, label="times RMS correlation", shrink=0.8)
