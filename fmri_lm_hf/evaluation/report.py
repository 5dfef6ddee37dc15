"""Scores as a table for the terminal and as `report.html`: one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_text
from .readers import title_of

__all__ = [
    "draw_scores",
    "failure_parts",
    "html_table",
    "new_figure",
    "page",
    "picture",
    "score_parts",
    "score_rows",
    "score_table",
    "truth_parts",
    "truth_rows",
    "truth_table",
    "write_score_report",
]

COLOURS = {
    "fmri_lm": "#2a6f97",
    "connectivity_logistic": "#89c2d9",
    "majority": "#ced4da",
    "without_scan": "#adb5bd",
    "other_scan": "#6c757d",
    "oracle": "#e9c46a",
}
HEAD = ("task", "reader", "accuracy", "balanced", "AUC")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #212529 }
img { max-width: 100% } table { border-collapse: collapse } td, th { padding: .3rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #dee2e6 }
.warning { background: #fff3cd; border-left: 4px solid #ffc107; padding: .5rem 1rem }
blockquote { border-left: 4px solid #89c2d9; margin-left: 0; padding-left: 1rem }
"""


def new_figure(*args: Any, **kwargs: Any) -> Any:
    """A figure of matplotlib that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(*args, **kwargs)
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Any, alt: str) -> str:
    """A figure as part of a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}"></p>'


def page(title: str, parts: Sequence[str]) -> str:
    """A page of HTML parts under a title."""
    start = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return "\n".join([start, f"<h1>{html.escape(title)}</h1>", *parts])


def score_rows(tasks: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the table of scores: task, reader, accuracy, balanced accuracy, AUC ("-" where not defined)."""
    rows = []
    for task, readers in tasks.items():
        for reader, metrics in readers.items():
            scores = [metrics.get(name) for name in ("accuracy", "balanced_accuracy", "auc")]
            rows.append(
                [task, title_of(reader), *("-" if score is None else f"{score:.3f}" for score in scores)]
            )
    return rows


def score_table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores as text."""
    rows = [list(HEAD), *score_rows(tasks)]
    return "\n".join(f"{a:<12} {b:<36} {c:>9} {d:>9} {e:>6}" for a, b, c, d, e in rows)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as part of a page."""
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def draw_scores(tasks: Mapping[str, Mapping[str, Any]]) -> Any:
    """Balanced accuracy of every reader of every task."""
    readers = list(dict.fromkeys(name for task in tasks.values() for name in task))
    figure = new_figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(readers)
    for i, reader in enumerate(readers):
        scores = [(task.get(reader) or {}).get("balanced_accuracy") or np.nan for task in tasks.values()]
        errors = [(task.get(reader) or {}).get("balanced_accuracy_se") or np.nan for task in tasks.values()]
        places = np.arange(len(tasks)) + i * width
        axes.bar(places, scores, width, yerr=errors, label=title_of(reader), color=COLOURS[reader])
    axes.set_xticks(np.arange(len(tasks)) + 0.4 - width / 2, list(tasks))
    axes.set(ylabel="balanced accuracy", ylim=(0, 1), title="On scans of test subjects")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


TRUTH_HEAD = ("what the model says of scans", "true", "true of another scan", "most common answer")


def truth_rows(truth: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the table of truths: what is said, and how much of it is true, as shares."""
    pairs, said, mirage = truth["pair_level"], truth["descriptions"], truth["mirage"]
    shares = [
        ["level of a network pair, one of five", pairs["exact"], pairs["other_scan"], pairs["most_common"]],
        ["statements of descriptions", said["precision"], said["other_scan_precision"], None],
        ["answers about a scan that is there", mirage["real_answered"], None, None],
        ["says so where no scan, or noise, is there", 1 - mirage["absent_described"], None, None],
    ]
    return [[name, *("-" if each is None else f"{each:.3f}" for each in row)] for name, *row in shares]


def truth_table(truth: Mapping[str, Mapping[str, Any]]) -> str:
    """The truths as text."""
    rows = [list(TRUTH_HEAD), *truth_rows(truth)]
    return "\n".join(f"{a:<42} {b:>6} {c:>21} {d:>19}" for a, b, c, d in rows)


def truth_parts(truth: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """The truths as parts of a page; none where they were not checked."""
    return [] if truth is None else ["<h2>Truth</h2>", html_table(TRUTH_HEAD, truth_rows(truth))]


def score_parts(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The scores as parts of a page: table and picture."""
    return [
        "<h2>Scores</h2>",
        html_table(HEAD, score_rows(tasks)),
        picture(draw_scores(tasks), "balanced accuracy of the model and its baselines"),
        "<p>Error bars: bootstrap standard error over subjects.</p>",
    ]


def failure_parts(failures: Sequence[Mapping[str, str]]) -> list[str]:
    """Scans that could not be used, as parts of a page."""
    if not failures:
        return []
    listed = (f"<li>{html.escape(each['scan_id'])}: {html.escape(each['reason'])}</li>" for each in failures)
    return [f"<h2>Scans that could not be used</h2><ul>{''.join(listed)}</ul>"]


def write_score_report(path: Path, results: Mapping[str, Any]) -> None:
    """Write what `evaluate` returned as a page."""
    questions = [
        [name, about["question"], " / ".join(about["classes"]), str(about["n_train"]), str(about["n_test"])]
        for name, about in results["asked"].items()
    ]
    head = ("task", "question", "answers", "training scans", "test scans")
    parts = [*score_parts(results["tasks"]), *truth_parts(results.get("truth"))]
    parts += ["<h2>Questions</h2>", html_table(head, questions)]
    write_text(page("fMRI-LM evaluation", [*parts, *failure_parts(results["failures"])]), path)
