"""A report on tokens as a table, and as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmri_lm_hf.evaluation.report import COLOURS, OTHER, failure_parts
from fmri_lm_hf.files import write_text
from fmri_lm_hf.pages import html_table, new_figure, page, picture

HEAD = ("", "tokens", "codes", "connectivity", "chance", "n")
_VECTORS = HEAD[1:4]
_COLOURS = (COLOURS["model"], COLOURS["baseline"], OTHER)
_CONDITIONS = {
    "other_scan": "another scan",
    "halves": "other half of the scan",
    "lengths": "other half, half as long",
    "t_r": "other half, every second volume",
}
_CANDIDATES = {"anywhere": "", "same_site": ", among one site", "other_sites": ", at another site"}


def tokens_table(report: Mapping[str, Any]) -> str:
    """What a tokenizer keeps and says, as text with aligned columns."""
    lines = [*_sentences(report), ""]
    rows = [HEAD, *_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines += [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _sentences(report: Mapping[str, Any]) -> list[str]:
    said = []
    codes = report["codes"]
    if "levels" in codes:
        shares = ", ".join(f"{level['share_used']:.0%}" for level in codes["levels"])
        perplexities = ", ".join(f"{level['perplexity']:.0f}" for level in codes["levels"])
        said.append(
            f"Codes in use, of {codes['n_codes']}: {shares}; perplexity {perplexities} "
            f"({codes['n_tokens']} tokens of {report['n_scans']} scans)."
        )
    for name, title in (
        ("reconstruction", "Variance that the reconstruction lacks"),
        ("connectivity_r", "Connectivity of scan and reconstruction, correlation"),
        ("coskewness_r", "Co-skewness of scan and reconstruction, correlation"),
    ):
        parts = report[name]
        told = "; ".join(
            f"{part} {value['mean']:.2f} ± {value['sd']:.2f}"
            for part, value in parts.items()
            if part != "left_out"
        )
        said.append(f"{title}: {told}." if told else f"{title}: none. {parts['left_out']}")
    found = report["retrieval"]
    if "n" in found:
        told = "; ".join(
            f"{title} R@1 {found[way]['r@1']:.2f}, R@5 {found[way]['r@5']:.2f}"
            for way, title in (("scan_to_text", "a scan's text"), ("text_to_scan", "a text's scan"))
        )
        said.append(
            f"Retrieval among {found['n']}: {told}; chance {found['chance']['r@1']:.3f}, "
            f"{found['chance']['r@5']:.3f}."
        )
    else:
        said.append(f"Retrieval: none. {found['left_out']}")
    if report["n_seen_in_training"]:
        said.append(
            f"{report['n_seen_in_training']} of these scans are among those that the tokenizer was trained on: of "
            "scans that it has not seen it may keep less."
        )
    return said


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row for each thing that is measured on vectors of tokens, of codes and of connectivity alike."""
    for condition, title in _CONDITIONS.items():
        found = report["identification"][condition]
        for candidates, among in _CANDIDATES.items():
            rates = {name: found[name][candidates] for name in _VECTORS if candidates in found.get(name, {})}
            if rates:
                numbers = {name: each["rate"] for name, each in rates.items()}
                one = next(iter(rates.values()))
                yield _row(f"person found by {title}{among}", numbers, one["chance"], one["n"])
    for condition, found in report["icc"].items():
        if "left_out" not in found:
            medians = {name: found[name]["median"] for name in _VECTORS if name in found}
            yield _row(f"ICC, median: {_CONDITIONS[condition]}", medians, None, found["n"])
    probes = {"site": report["site"], "motion, thirds": report["motion"]}
    if "left_out" not in report["phenotypes"]:
        probes |= report["phenotypes"]
    for name, found in probes.items():
        if "left_out" not in found:
            accuracies = {
                vector: found[vector]["balanced_accuracy"] for vector in _VECTORS if vector in found
            }
            one = next(found[vector] for vector in _VECTORS if vector in found)
            yield _row(f"balanced accuracy: {name}", accuracies, one["chance"], one["n"])


def _row(title: str, numbers: Mapping[str, float | None], chance: float | None, n: int) -> tuple[str, ...]:
    values = [numbers.get(name) for name in _VECTORS]
    cells = ["-" if value is None else f"{value:.2f}" for value in values]
    return (title, *cells, "-" if chance is None else f"{chance:.2f}", str(n))


def write_tokens_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report.html`."""
    parts = [f"<p>{sentence}</p>" for sentence in _sentences(report)]
    if report.get("simulated"):
        told = "Measured on simulated scans, or with weights that were trained on them: it means nothing clinically."
        parts.insert(0, f"<p class='warning'>{told}</p>")
    parts += [html_table(HEAD, list(_rows(report)))]
    if "levels" in report["codes"]:
        parts.append(
            picture(_draw_codes(report["codes"]), "Codes in use and their perplexity, level by level")
        )
    kept = {
        f"{title}, {part}": value
        for name, title in (("connectivity_r", "connectivity"), ("coskewness_r", "co-skewness"))
        for part, value in report[name].items()
        if part != "left_out"
    }
    if kept:
        parts.append(picture(_draw_kept(kept), "How much of connectivity and co-skewness survives"))
    rows = [row for row in _rows(report) if not row[0].startswith("ICC")]
    if rows:
        parts.append(picture(_draw_rows(rows), "Persons found, and what can be predicted"))
    reasons = [
        [name, value["left_out"]]
        for name, value in report.items()
        if isinstance(value, Mapping) and "left_out" in value
    ]
    if reasons:
        parts += ["<h2>Left out</h2>", html_table(("", "why"), reasons)]
    parts += failure_parts(report["failures"])
    write_text(page("Tokens", parts), path)


def _draw_codes(codes: Mapping[str, Any]) -> Any:
    figure = new_figure(figsize=(8, 2.6), layout="constrained")
    levels = [str(number) for number in range(len(codes["levels"]))]
    for axes, name, title in zip(
        figure.subplots(1, 2), ("share_used", "perplexity"), ("share of codes in use", "perplexity")
    ):
        axes.bar(levels, [level[name] for level in codes["levels"]], color=COLOURS["model"])
        axes.set(title=title, xlabel="level", ylim=(0, 1 if name == "share_used" else codes["n_codes"]))
    return figure


def _draw_kept(kept: Mapping[str, Mapping[str, float]]) -> Any:
    figure = new_figure(figsize=(8, 0.8 + 0.4 * len(kept)), layout="constrained")
    axes = figure.subplots()
    means, deviations = ([value[name] for value in kept.values()] for name in ("mean", "sd"))
    axes.barh(list(kept), means, xerr=deviations, color=COLOURS["model"])
    axes.set(xlabel="correlation of scan and reconstruction (mean and SD over scans)", xlim=(0, 1))
    axes.invert_yaxis()
    return figure


def _draw_rows(rows: list[tuple[str, ...]]) -> Any:
    figure = new_figure(figsize=(9, 1 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, (column, name) in enumerate(enumerate(_VECTORS, start=1)):
        values = [np.nan if row[column] == "-" else float(row[column]) for row in rows]
        axes.barh(places + 0.26 * (shift - 1), values, 0.24, color=_COLOURS[shift], label=name)
    chances = [float(row[4]) for row in rows]
    axes.plot(chances, places, "|", color="black", markersize=16, label="chance")
    axes.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
