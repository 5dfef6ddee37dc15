"""`report.html`: what the demo did, in pictures and a table, in one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from .data import DemoData

READERS = {
    "fmri_lm": "fMRI-LM (zero-shot question)",
    "connectivity_logistic": "logistic regression on connectivity",
    "majority": "majority class",
    "text_only": "fMRI-LM without the scan",
    "oracle": "oracle (knows what was planted)",
}
COLOURS = {
    "fmri_lm": "#2a6f97",
    "connectivity_logistic": "#89c2d9",
    "majority": "#ced4da",
    "text_only": "#adb5bd",
    "oracle": "#e9c46a",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #212529 }
img { max-width: 100% } table { border-collapse: collapse } td, th { padding: .3rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #dee2e6 }
.warning { background: #fff3cd; border-left: 4px solid #ffc107; padding: .5rem 1rem }
blockquote { border-left: 4px solid #89c2d9; margin-left: 0; padding-left: 1rem }
"""


def _picture(figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}"></p>'


def _figure(*args, **kwargs):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(*args, **kwargs)
    FigureCanvasAgg(figure)
    return figure


def _by_network(data: DemoData) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """ROIs in the order of their networks, and where each network begins."""
    names = data.atlas.network_names
    position = np.array([names.index(network) for network in data.atlas.networks])
    order = np.argsort(position, kind="stable")
    return order, [(name, int(np.searchsorted(position[order], i))) for i, name in enumerate(names)]


def draw_scan(data: DemoData, row: int):
    """Carpet plot and connectivity matrix of one scan."""
    order, networks = _by_network(data)
    values = data.inputs["input_values"][row].numpy()[order]
    length = int(data.inputs["padding_mask"][row].sum())
    values = values[:, :length]
    figure = _figure(figsize=(11, 4.2), layout="constrained")
    carpet, matrix = figure.subplots(1, 2, width_ratios=[1.6, 1])
    shown = carpet.imshow(
        values,
        aspect="auto",
        cmap="gray",
        vmin=-2,
        vmax=2,
        extent=(0, length * data.extractor.t_r, len(values), 0),
    )
    carpet.set(title=f"Carpet plot of {data.dataset[row]['scan_id']}", xlabel="time (s)")
    figure.colorbar(shown, ax=carpet, label="robust z", shrink=0.7)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(values))
    shown = matrix.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    matrix.set(title="Connectivity", xticks=[], yticks=[])
    figure.colorbar(shown, ax=matrix, label="correlation", shrink=0.7)
    for axes in (carpet, matrix):
        axes.set_yticks([start for _, start in networks], [name for name, _ in networks], fontsize=7)
        for _, start in networks[1:]:
            axes.axhline(start - (0 if axes is carpet else 0.5), color="tab:orange", linewidth=0.5)
    return figure


def draw_training(logs: dict[str, list[dict[str, float]]]):
    """Loss curves of every stage."""
    figure = _figure(figsize=(11, 2.8), layout="constrained")
    for axes, (stage, entries) in zip(np.atleast_1d(figure.subplots(1, len(logs))), logs.items()):
        names = [name for name in entries[0] if name == "loss" or name.endswith("_loss")]
        for name in names if len(names) > 2 else names[:1]:
            axes.plot(
                [entry["step"] for entry in entries], [entry.get(name) for entry in entries], label=name
            )
        axes.set(title=stage, xlabel="step")
        axes.legend(fontsize=6)
    return figure


def draw_scores(tasks: dict[str, dict[str, Any]]):
    """Balanced accuracy of every reader of every task."""
    readers = [name for name in READERS if any(name in task for task in tasks.values())]
    figure = _figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(readers)
    for i, reader in enumerate(readers):
        scores = [(task.get(reader) or {}).get("balanced_accuracy") or np.nan for task in tasks.values()]
        errors = [(task.get(reader) or {}).get("balanced_accuracy_se") or np.nan for task in tasks.values()]
        places = np.arange(len(tasks)) + i * width
        axes.bar(places, scores, width, yerr=errors, label=READERS[reader], color=COLOURS[reader])
    axes.set_xticks(np.arange(len(tasks)) + 0.4 - width / 2, list(tasks))
    axes.set(ylabel="balanced accuracy", ylim=(0, 1), title="On the site that was never seen")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def score_rows(tasks: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of the table of scores: task, reader, accuracy, balanced accuracy, AUC ("-" where not defined)."""
    rows = []
    for label, task in tasks.items():
        for reader, title in READERS.items():
            if reader in task:
                scores = [task[reader].get(name) for name in ("accuracy", "balanced_accuracy", "auc")]
                rows.append([label, title, *("-" if score is None else f"{score:.3f}" for score in scores)])
    return rows


def _table(tasks: dict[str, dict[str, Any]]) -> str:
    head = "<tr><th>task</th><th>reader</th><th>accuracy</th><th>balanced accuracy</th><th>AUC</th></tr>"
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in score_rows(tasks)]
    return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def write_report(
    path: Path,
    data: DemoData,
    logs: dict[str, list[dict[str, float]]],
    results: dict[str, Any],
    sections: list[tuple[str, str]],
) -> None:
    """Write the report.

    Parameters
    ----------
    path : Path
    data : DemoData
    logs : dict
        What each stage of training logged.
    results : dict
        Content of `results.json`.
    sections : list of (title, text)
        Further parts, such as answers about single scans; paragraphs are separated by blank lines.
    """
    source = "simulated scans" if results["simulated"] else "the scans given"
    warning = (
        "These weights were trained on simulated scans. They show that the program works and mean nothing clinically."
        if results["simulated"]
        else "A model of this size, trained in minutes on one cohort, is a check of the program and the data, not an "
        "instrument. Nothing here may guide decisions about a person."
    )
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>fMRI-LM demo</title><style>{_STYLE}</style>",
        "<h1>fMRI-LM demo</h1>",
        f"<p class='warning'><b>{warning}</b></p>",
        f"<p>{len(data.train)} training scans and {len(data.test)} scans of the held-out site, {source}; atlas "
        f"{html.escape(data.atlas.name)} with {data.atlas.n_rois} ROIs; {len(data.failures)} scans could not be used. "
        f"{results['seconds']:.0f} s, {results['peak_rss_mb']:.0f} MB at most.</p>",
        "<h2>Scores</h2>",
        _table(results["tasks"]),
        _picture(draw_scores(results["tasks"]), "balanced accuracy of the model and its baselines"),
        "<p>Error bars: bootstrap standard error over subjects.</p>",
        "<h2>A scan</h2>",
        _picture(draw_scan(data, int(data.test[0])), "carpet plot and connectivity matrix of a scan"),
        "<h2>Training</h2>",
        _picture(draw_training(logs), "training curves"),
    ]
    for title, text in sections:
        paragraphs = "".join(f"<blockquote>{html.escape(part)}</blockquote>" for part in text.split("\n\n"))
        parts.append(f"<h2>{html.escape(title)}</h2>{paragraphs}")
    if data.failures:
        listed = "".join(
            f"<li>{html.escape(failure['scan_id'])}: {html.escape(failure['reason'])}</li>"
            for failure in data.failures
        )
        parts.append(f"<h2>Scans that could not be used</h2><ul>{listed}</ul>")
    partial = path.with_name(path.name + ".tmp")
    partial.write_text("\n".join(parts), encoding="utf-8")
    partial.replace(path)
