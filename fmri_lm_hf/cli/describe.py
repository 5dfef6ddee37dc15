"""Describe a scan, and check every statement against the numbers of the scan.

The bundled model names the strongest and the weakest network pair and grades others. Each statement is shown with the
pair's connectivity: the mean correlation of its ROIs, in units of the root mean square (RMS) of all correlations of the
scan. A mark shows whether the statement agrees with it. `fmri-lm ask --help` lists what SCAN can be.

examples:
  fmri-lm describe example --out report.html
  fmri-lm describe sub-01_bold.nii.gz
  fmri-lm describe sub-01.tsv --atlas schaefer_100_7networks --t-r 0.72 --json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .ask import OpenScan, add_scan_arguments, open_scan, print_json, rank_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..corpus.queries import CheckedStatement

QUESTION = "Describe this scan."
UNITS = "mean correlation of the pair's ROIs, in units of the scan's RMS correlation"
RANKS = "Ranks: by magnitude, among all pairs of two networks, or among all single networks."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm describe`."""
    add_scan_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write an HTML page with pictures of the scan")


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm describe`."""
    from ..corpus.queries import check_statements

    scan = open_scan(args.scan, args.model, args.atlas, args.t_r, args.labels_img)
    description = scan.answer(QUESTION)
    # once each: greedy decoding may repeat itself
    statements = list(dict.fromkeys(check_statements(description, scan.facts, scan.network_names)))
    if args.json:
        print_json(scan, description=description, statements=[asdict(statement) for statement in statements])
    else:
        print_statements(statements)
        print(f"\n{scan.source}")
    if args.out is not None:
        from ..files import write_text

        write_text(scan_page(scan, statements), args.out)
        print(f"The report is in {args.out}.", file=sys.stderr if args.json else sys.stdout)


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
        print(f"\n{summary} Values: {UNITS}.")


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


def scan_page(scan: OpenScan, statements: Sequence[CheckedStatement]) -> str:
    """Make a self-contained HTML page: the statements with their values, and pictures of the scan."""
    from ..pages import heading, html_table, page, paragraph, picture

    parts = [paragraph(scan.source)]
    if scan.is_simulated:
        parts.append(paragraph("This scan is simulated; it is not of a person.", "warning"))
    rows = []
    for statement in statements:
        row = [mark(statement), statement.text, "", "", ""]
        if (pair := statement.truth) is not None:
            row[2:] = [f"{pair.value:.2f}", pair.bin, rank_label(pair)]
        rows.append(row)
    parts += [
        heading("Statements of the model"),
        html_table(["", "statement", "value", "bin", "rank by magnitude"], rows, text=True),
        paragraph(f"{agreement(statements)} Values: {UNITS}. {RANKS}".strip()),
    ]
    if scan.atlas is not None:
        title = "carpet plot and network connectivity matrix of the scan"
        parts += [
            heading("The scan"),
            picture(draw_scan(scan), title, f"Left: signals of the ROIs, by network. Right: {UNITS}."),
        ]
    parts.append(paragraph("For research. Not a medical device: no statement is a diagnosis."))
    return page(f"Description of {scan.name}", parts)


def draw_scan(scan: OpenScan) -> Figure:
    """Draw a carpet plot of the ROIs by network, and the connectivity of every network pair."""
    from ..pages import new_figure

    assert scan.atlas is not None
    names, extractor = list(scan.network_names), scan.processor.feature_extractor
    # ROIs sorted by network; the sort is stable, so that within a network they keep the order of the atlas
    number = np.array([names.index(name) for name in scan.atlas.networks])
    order = np.argsort(number, kind="stable")
    n_times = int(scan.inputs["padding_mask"][0].nonzero().max()) + 1
    values = scan.inputs["input_values"][0].numpy()[order, :n_times]
    starts = np.searchsorted(number[order], np.arange(len(names) + 1))

    figure = new_figure(figsize=(13, 5), layout="constrained")
    carpet, matrix = figure.subplots(1, 2, width_ratios=[1.5, 1])
    extent = (0.0, n_times * extractor.t_r, float(len(values)), 0.0)
    carpet.imshow(values, aspect="auto", cmap="gray", vmin=-2, vmax=2, extent=extent, interpolation="nearest")
    carpet.set(title="Carpet plot", xlabel="time (s)")
    carpet.set_yticks((starts[:-1] + starts[1:]) / 2, names)
    for start in starts[1:-1]:
        carpet.axhline(start, color="tab:orange", linewidth=0.8)

    connectivity = np.full((len(names), len(names)), np.nan)
    for fact in scan.facts:
        first, second = (names.index(name) for name in fact["network"])
        connectivity[first, second] = connectivity[second, first] = fact["value"]
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
    return figure
