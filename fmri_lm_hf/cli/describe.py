"""Describe a scan in sentences, each with the number of the scan that it states.

Sentences are computed from the scan: the coupling of its networks, its graph, its principal gradient and the signals
of its networks. `--about` chooses one of these, or a network. With `--read model` the language model describes the
scan, coupling in its own words, and a mark shows whether each statement agrees with the numbers. `fmri-lm ask --help`
lists what SCAN can be.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_words import COUPLING, RANKS, Told, agreement, told_by_model
from .one_scan import DECLINED, OpenScan, about, add_scan_arguments, evidence_table, open_scan, print_json, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..questions.answering import QuestionAnswerer
    from ..questions.measures import ScanMeasures
    from ..questions.query import Query


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
    scan = open_scan(args)
    answerer = scan.answerer()
    query = what_to_describe(args.about, answerer)
    if args.read == "model" and query.networks:
        raise ValueError(
            f"--read model describes all, connectivity, graph, gradients or spectral, not one network: {args.about}."
        )
    opened = answerer.opened(scan.row, scan.reason)
    if opened.measures is None:
        if args.json:
            print_json(scan, description=None, declined=True, reason=opened.reason, statements=[])
        else:
            print(f"{opened.reason}\n\n{scan.source}")
        return DECLINED
    if args.read == "model":
        page = describe_by_model(scan, opened.measures, args)
    else:
        page = describe_by_numbers(scan, opened.measures, query, args.json)
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


def describe_by_numbers(scan: OpenScan, measures: ScanMeasures, query: Query, as_json: bool) -> list[str]:
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


def describe_by_model(scan: OpenScan, measures: ScanMeasures, args: argparse.Namespace) -> list[str]:
    """Print the language model's description, each statement with a mark; return its part of the page."""
    from ..pages import heading, html_table, paragraph

    text, told = told_by_model(scan, measures, args.about, args.model)
    if args.json:
        print_json(scan, description=text, statements=[one.to_json() for one in told])
    else:
        print_told(told)
        print(f"\n{scan.source}")
    rows = [[one.mark, one.text, one.value, one.detail] for one in told]
    return [
        heading("Statements of the model"),
        html_table(["", "statement", "value", "level and rank"], rows, text=True),
        paragraph(f"{agreement(told)} Values of couplings: {COUPLING}. {RANKS}".strip()),
    ]


def print_told(told: Sequence[Told]) -> None:
    """Print a line for each statement: a mark, the sentence, value, level and rank."""
    width = max((len(one.text) for one in told), default=0)
    for one in told:
        if one.is_true is None:
            print(one.text)
        else:
            print(f"{one.mark} {one.text:<{width}} {one.value:>6}  {one.detail}".rstrip())
    if summary := agreement(told):
        print(f"\n{summary} Values of couplings: {COUPLING}.")


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
    bold = scan.row["bold"]
    values = ((bold - np.nanmean(bold, 0)) / np.maximum(np.nanstd(bold, 0), 1e-8)).T[order]
    starts = np.searchsorted(number[order], np.arange(len(names) + 1))

    figure = new_figure(figsize=(13, 5), layout="constrained")
    carpet, matrix = figure.subplots(1, 2, width_ratios=[1.5, 1])
    extent = (0.0, len(bold) * scan.row["t_r"], float(len(values)), 0.0)
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
