"""Scores as `report.html`: one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_text
from .confounding_tables import confounding_tables, trust_sentences
from .readers import OURS, READERS, title_of
from .tables import (
    HEAD,
    NUMBER_HEAD,
    SETS_HEAD,
    TRUTH_HEAD,
    VERDICT_HEAD,
    about_sites,
    about_wordings,
    left_out,
    mark,
    not_beaten,
    number_rows,
    score_rows,
    set_rows,
    truth_rows,
    verdict_rows,
)

__all__ = [
    "answer_parts",
    "confounding_parts",
    "draw_answers",
    "draw_scores",
    "failure_parts",
    "html_table",
    "left_out_parts",
    "new_figure",
    "page",
    "picture",
    "score_parts",
    "trust_parts",
    "truth_parts",
    "verdict_parts",
    "write_score_report",
]

COLOURS = {"model": "#2a6f97", "control": "#adb5bd", "baseline": "#89c2d9"}  # by kind of reader
OTHER = "#e9c46a"
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


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as part of a page."""
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def draw_scores(results: Mapping[str, Any]) -> Any:
    """The score of every reader of every task with its interval, the model's as a line through all."""
    tasks = results["tasks"]
    most = max(len(readers) for readers in tasks.values())
    figure = new_figure(figsize=(10, 1 + (0.8 + 0.24 * most) * len(tasks)), layout="constrained")
    for axes, (task, readers) in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks.items()):
        metric = results["asked"][task]["scored_by"]
        for place, (reader, scores) in enumerate(readers.items()):
            value = scores.get(metric)
            if value is None:
                continue
            colour = COLOURS[READERS[reader].kind] if reader in READERS else OTHER
            low, high = scores.get(f"{metric}_interval") or (value, value)
            axes.plot([low, high], [place, place], color=colour, linewidth=4, alpha=0.6)
            axes.plot(value, place, "o", color=colour)
            if reader == OURS:
                axes.axvline(value, color=colour, linewidth=0.7, linestyle="--")
        axes.set_yticks(range(len(readers)), [title_of(reader) for reader in readers], fontsize=8)
        axes.set(title=f"{task}{mark(results, task, OURS)}", xlabel=metric.replace("_", " "))
        axes.invert_yaxis()
    return figure


def draw_answers(results: Mapping[str, Any]) -> Any:
    """What the model answers to each task: confusion of classes, reliability, and risk when only the surest count."""
    figure = new_figure(figsize=(10, 3.1 * len(results["asked"])), layout="constrained")
    for row, (task, asked) in zip(
        figure.subplots(len(results["asked"]), 3, squeeze=False), results["asked"].items()
    ):
        confusion, reliable, risky = row
        counts, names = np.array(results["confusion"][task]), asked["classes"]
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        confusion.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            confusion.text(
                j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
            )
        columns = [*names, "no answer"][: counts.shape[1]]
        confusion.set_xticks(range(len(columns)), columns, fontsize=8, rotation=30)
        confusion.set_yticks(range(len(names)), names, fontsize=8)
        confusion.set(title=f"{task}: counts", xlabel="answer", ylabel="truth")
        found = results["calibration"][task].get(OURS)
        if found is None:  # what was written has no probability
            reliable.set_axis_off()
            risky.set_axis_off()
            continue
        bins, risks = found["reliability"], found["risk_coverage"]
        reliable.plot([0, 1], [0, 1], color="0.7", linestyle="--")
        sizes = 20 + 150 * np.array([each["n"] for each in bins]) / asked["n_test"]
        confidence = [each["confidence"] for each in bins]
        reliable.scatter(confidence, [each["accuracy"] for each in bins], sizes, color=COLOURS["model"])
        reliable.set(
            title=f"ECE {found['ece']:.3f}, Brier {found['brier']:.3f}", xlim=(0, 1.02), ylim=(-0.02, 1.02)
        )
        reliable.set(xlabel="probability of the answer", ylabel="share right")
        coverage = [each["coverage"] for each in risks]
        risky.plot(coverage, [each["risk"] for each in risks], "o-", color=COLOURS["model"])
        risky.set(
            title="only the surest answers", xlabel="share answered", ylabel="share wrong", ylim=(-0.02, 1.02)
        )
    return figure


def truth_parts(truth: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """The truths as parts of a page; none where they were not checked."""
    return [] if truth is None else ["<h2>Truth</h2>", html_table(TRUTH_HEAD, truth_rows(truth))]


def score_parts(results: Mapping[str, Any]) -> list[str]:
    """The scores as parts of a page: tables and picture."""
    numbers = number_rows(results)
    return [
        "<h2>Scores</h2>",
        *(
            f"<p class='warning'>{html.escape(told)}</p>"
            for told in [*about_sites(results), *not_beaten(results)]
        ),
        html_table(HEAD, score_rows(results)),
        *(["<h3>As numbers</h3>", html_table(NUMBER_HEAD, numbers)] if numbers else []),
        picture(draw_scores(results), "scores of the model and of what stands beside it"),
        "<p>Bars: 95 % intervals of a bootstrap over subjects.</p>",
    ]


def verdict_parts(results: Mapping[str, Any]) -> list[str]:
    """How far the model is above each reader beside it, as parts of a page."""
    rows = verdict_rows(results)
    told = "<p>Differences of the deciding metric on the same draws of subjects; p: share of draws without one.</p>"
    return ["<h2>Against controls and baselines</h2>", html_table(VERDICT_HEAD, rows), told] if rows else []


def answer_parts(results: Mapping[str, Any]) -> list[str]:
    """Confusion and calibration as parts of a page."""
    alt = "confusion of classes, reliability, and risk against coverage"
    parts = ["<h2>Answers and their probabilities</h2>", picture(draw_answers(results), alt)]
    if rows := set_rows(results):
        told = (
            "Sets of answers that are to hold the right one for nine scans of ten (split conformal): each half of the "
            "people is judged by sets that were calibrated on the other half. The smaller, the more a reader knows."
        )
        parts += ["<h3>Sets of answers</h3>", f"<p>{told}</p>", html_table(SETS_HEAD, rows)]
    return parts


def trust_parts(results: Mapping[str, Any]) -> list[str]:
    """What has to be known before any score, as parts of a page."""
    kind = " class='warning'" if results.get("leaks") else ""
    return [f"<p{kind}>{html.escape(told)}</p>" for told in trust_sentences(results)]


def confounding_parts(results: Mapping[str, Any]) -> list[str]:
    """What was found about confounds, as parts of a page."""
    return [
        part
        for table in confounding_tables(results)
        for part in (
            f"<h2>{html.escape(table.title)}</h2>",
            html_table(table.head, table.rows),
            f"<p>{html.escape(table.told)}</p>",
        )
    ]


def left_out_parts(results: Mapping[str, Any]) -> list[str]:
    """Readers that could not be had, as parts of a page."""
    told = [
        f"<li>{html.escape(f'{task}, {title_of(name)}: {why}')}</li>" for task, name, why in left_out(results)
    ]
    return [f"<h2>Left out</h2><ul>{''.join(told)}</ul>"] if told else []


def failure_parts(failures: Sequence[Mapping[str, str]]) -> list[str]:
    """Scans that could not be used, as parts of a page."""
    if not failures:
        return []
    listed = (f"<li>{html.escape(each['scan_id'])}: {html.escape(each['reason'])}</li>" for each in failures)
    return [f"<h2>Scans that could not be used</h2><ul>{''.join(listed)}</ul>"]


def write_score_report(path: Path, results: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Write what `evaluate` returned as a page, with more parts behind the scores."""
    questions = [
        [name, about["question"], " / ".join(about["classes"]), str(about["n_train"]), str(about["n_test"])]
        for name, about in results["asked"].items()
    ]
    head = ("task", "question", "answers", "training scans", "test scans")
    parts = [*score_parts(results), *verdict_parts(results), *answer_parts(results)]
    parts += [*truth_parts(results.get("truth")), *more]
    parts = [*trust_parts(results), *parts, *confounding_parts(results)]
    parts += ["<h2>Questions</h2>", html_table(head, questions)]
    parts += [f"<p>{html.escape(told)}</p>" for told in about_wordings(results)]
    parts += [*left_out_parts(results), *failure_parts(results["failures"])]
    write_text(page("fMRI-LM evaluation", parts), path)
