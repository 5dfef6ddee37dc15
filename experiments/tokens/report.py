"""Report on the tokens of a tokenizer: all measures as JSON, as a table for the terminal, and as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from experiments import text_table
from experiments.tokens import measures
from experiments.tokens.measures import VECTORS
from experiments.tokens.readings import WHOLE, read_tokens
from fmri_lm_hf.evaluation.confounds import strata_of
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.report import COLOURS, OTHER, failure_parts
from fmri_lm_hf.files import write_text
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.modeling_fmri_tokenizer import FmriTokenizer
from fmri_lm_hf.pages import heading, html_table, new_figure, page, paragraph, picture

HEAD = ("", *VECTORS, "chance", "n")
_COLOURS = (COLOURS["model"], COLOURS["baseline"], OTHER)
_CONDITIONS = {
    "other_scan": "another scan",
    "halves": "split halves",
    "lengths": "split halves, one half as long",
    "t_r": "split halves, one at twice the TR",
}
_CANDIDATES = {"anywhere": "", "same_site": ", within a site", "other_sites": ", across sites"}


def tokens_report(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    labels: Sequence[str] = (),
    holdout_site: str | None = None,
    texts: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a tokenizer on scans.

    Parameters
    ----------
    model : FmriTokenizer
        A `FmriTokenizerForPreTraining`, to measure retrieval.
    extractor : FmriFeatureExtractor
    scans : datasets.Dataset
        A scan dataset.
    labels : sequence of str
        Columns of classes to predict, besides sex and age.
    holdout_site : str, optional
        The scans of this site are measured, and probes of labels are trained on the other sites. Without it all scans
        are measured, and probes are cross-validated by subject.
    texts : mapping of str to torch.Tensor of shape (text_embed_dim,), optional
        Embedding of the description of each scan, by `scan_id`, for retrieval.
    seed : int
        Of folds, draws and the bootstrap.

    Returns
    -------
    dict
        The contents of `report.json`: ``codes``, ``reconstruction``, ``connectivity_r``, ``coskewness_r``,
        ``identification``, ``icc``, ``site``, ``motion``, ``phenotypes``, ``retrieval``; each with numbers, or with
        ``left_out``, the reason why there are none. Also ``n_scans``, ``failures`` and ``n_seen_in_training``.
    """
    sites = [str(site) for site in scans["site"]]
    if holdout_site is not None and holdout_site not in sites:
        raise ValueError(
            f"No scan is from site {holdout_site!r}: give one of the sites of the scans, "
            f"{', '.join(sorted(set(sites)))}."
        )
    if unknown := sorted(set(labels) - set(scans.column_names)):
        raise ValueError(
            f"The scan dataset has no column {', '.join(unknown)}: it has {', '.join(scans.column_names)}."
        )
    model = model.eval()
    measured = [row for row, site in enumerate(sites) if holdout_site in (None, site)]
    others = [row for row, site in enumerate(sites) if holdout_site not in (None, site)]
    readings = read_tokens(model, extractor, scans, measured)
    parts = measures.read_parts(model, extractor, scans, readings.rows, seed)
    training = read_tokens(model, extractor, scans, others, WHOLE, "Reading other sites") if others else None
    everybody = readings if training is None else readings.followed_by(training)
    pairs = {"other_scan": (readings, readings)} | parts
    confounds = strata_of(scans, readings.rows)
    columns = list(dict.fromkeys([*labels, *(name for name in ("sex", "age") if name in confounds)]))
    return {
        "n_scans": len(readings.rows),
        "failures": [{"scan_id": name, "reason": why} for name, why in readings.failures.items()],
        "n_seen_in_training": measures.n_seen_in_training(model, scans, readings.rows),
        "codes": _or_reason(measures.codes_in_use, model, readings),
        "reconstruction": _or_reason(measures.unexplained, readings),
        "connectivity_r": _or_reason(measures.survival, readings, "edges", "The tokenizer reconstructs nothing."),
        "coskewness_r": _or_reason(measures.survival, readings, "coskewness", "The tokenizer reconstructs no signal."),
        "identification": {name: _of_pair(measures.identification_rates, scans, pair) for name, pair in pairs.items()},
        "icc": {name: _of_pair(measures.reliability, scans, pairs[name]) for name in ("other_scan", "halves")},
        "site": _or_reason(measures.confound_probe, scans, everybody, "site", seed),
        "motion": _or_reason(measures.confound_probe, scans, readings, "motion", seed),
        "phenotypes": {
            column: _or_reason(measures.phenotype_probe, scans, readings, training, column, seed) for column in columns
        }
        or {"left_out": "No label columns were given, and sex and age are missing or the same for all scans."},
        "retrieval": _or_reason(measures.retrieval, model, extractor, scans, readings.rows, texts),
    }


def _or_reason(measure: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Return a measure, or ``left_out`` with the reason why it cannot be computed."""
    try:
        return measure(*args)
    except Unavailable as reason:
        return {"left_out": str(reason)}


def _of_pair(measure: Callable[..., dict[str, Any]], scans: datasets.Dataset, pair: Any) -> dict[str, Any]:
    return {"left_out": pair} if isinstance(pair, str) else _or_reason(measure, scans, *pair)


# ---------------------------------------------------------------------------------------- the report as text and page


def tokens_table(report: Mapping[str, Any]) -> str:
    """The report as text for the terminal."""
    return "\n".join([*_sentences(report), "", text_table([HEAD, *_rows(report)])])


def write_tokens_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report.html`."""
    parts = []
    if report.get("simulated"):
        warning = "Measured on simulated scans, or with weights trained on them: it has no clinical meaning."
        parts.append(paragraph(warning, "warning"))
    rows = list(_rows(report))
    parts += [*map(paragraph, _sentences(report)), html_table(HEAD, rows)]
    if "levels" in report["codes"]:
        parts.append(picture(_draw_codes(report["codes"]), "Codes in use and their perplexity, by quantizer stage"))
    kept = {
        f"{title}, {part}": value
        for name, title in (("connectivity_r", "connectivity"), ("coskewness_r", "co-skewness"))
        for part, value in report[name].items()
        if part != "left_out"
    }
    if kept:
        parts.append(picture(_draw_kept(kept), "Correlation of scans and their reconstructions"))
    if rates := [row for row in rows if not row[0].startswith("ICC")]:
        parts.append(picture(_draw_rates(rates), "Subject identification and balanced accuracies"))
    left_out = [
        [name, value["left_out"]]
        for name, value in report.items()
        if isinstance(value, Mapping) and "left_out" in value
    ]
    if left_out:
        parts += [heading("Left out"), html_table(("", "reason"), left_out, text=True)]
    write_text(page("Tokens", [*parts, *failure_parts(report["failures"])]), path)


def _sentences(report: Mapping[str, Any]) -> list[str]:
    """The measures that do not compare kinds of vectors, in sentences."""
    sentences = []
    codes = report["codes"]
    if "levels" in codes:
        shares = ", ".join(f"{stage['share_used']:.0%}" for stage in codes["levels"])
        perplexities = ", ".join(f"{stage['perplexity']:.0f}" for stage in codes["levels"])
        sentences.append(
            f"Codes in use, of {codes['n_codes']}, by stage: {shares}; perplexity {perplexities} "
            f"({codes['n_tokens']} tokens of {report['n_scans']} scans)."
        )
    for name, title in (
        ("reconstruction", "Variance that the reconstruction does not explain"),
        ("connectivity_r", "Connectivity of scan and reconstruction, correlation"),
        ("coskewness_r", "Co-skewness of scan and reconstruction, correlation"),
    ):
        found = report[name]
        numbers = [f"{part} {v['mean']:.2f} ± {v['sd']:.2f}" for part, v in found.items() if part != "left_out"]
        sentences.append(f"{title}: {'; '.join(numbers)}." if numbers else f"{title}: none. {found['left_out']}")
    found = report["retrieval"]
    if "n" in found:
        rates = "; ".join(
            f"{title} R@1 {found[way]['r@1']:.2f}, R@5 {found[way]['r@5']:.2f}"
            for way, title in (("scan_to_text", "scan to text"), ("text_to_scan", "text to scan"))
        )
        chance = f"chance {found['chance']['r@1']:.3f}, {found['chance']['r@5']:.3f}"
        sentences.append(f"Retrieval among {found['n']}: {rates}; {chance}.")
    else:
        sentences.append(f"Retrieval: none. {found['left_out']}")
    if report["n_seen_in_training"]:
        sentences.append(
            f"The tokenizer was trained on {report['n_seen_in_training']} of these scans: its numbers for unseen scans "
            "may be lower."
        )
    return sentences


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The measures that compare vectors of tokens, of codes and of connectivity, one a row."""
    for condition, title in _CONDITIONS.items():
        found = report["identification"][condition]
        for candidates, among in _CANDIDATES.items():
            rates = {name: found[name][candidates] for name in VECTORS if candidates in found.get(name, {})}
            yield from _row(f"subject identification, {title}{among}", rates, "rate")
    for condition, found in report["icc"].items():
        medians = {name: {**found[name], "n": found["n"]} for name in VECTORS if name in found}
        yield from _row(f"ICC, median: {_CONDITIONS[condition]}", medians, "median")
    probes = {"site": report["site"], "motion, thirds": report["motion"]}
    if "left_out" not in report["phenotypes"]:
        probes |= report["phenotypes"]
    for name, found in probes.items():
        scores = {vector: found[vector] for vector in VECTORS if vector in found}
        yield from _row(f"balanced accuracy: {name}", scores, "balanced_accuracy")


def _row(title: str, found: Mapping[str, Mapping[str, Any]], key: str) -> Iterator[tuple[str, ...]]:
    """One row, or none where nothing was found."""
    if found:
        first = next(iter(found.values()))  # chance and n are the same for all vectors
        values = [*(found.get(name, {}).get(key) for name in VECTORS), first.get("chance")]
        yield (title, *("-" if value is None else f"{value:.2f}" for value in values), str(first["n"]))


def _draw_codes(codes: Mapping[str, Any]) -> Any:
    figure = new_figure(figsize=(8, 2.6), layout="constrained")
    stages = [str(number) for number in range(len(codes["levels"]))]
    for axes, name, title in zip(
        figure.subplots(1, 2), ("share_used", "perplexity"), ("share of codes in use", "perplexity")
    ):
        axes.bar(stages, [stage[name] for stage in codes["levels"]], color=COLOURS["model"])
        axes.set(title=title, xlabel="quantizer stage", ylim=(0, 1 if name == "share_used" else codes["n_codes"]))
    return figure


def _draw_kept(kept: Mapping[str, Mapping[str, float]]) -> Any:
    figure = new_figure(figsize=(8, 0.8 + 0.4 * len(kept)), layout="constrained")
    axes = figure.subplots()
    means, deviations = ([value[name] for value in kept.values()] for name in ("mean", "sd"))
    axes.barh(list(kept), means, xerr=deviations, color=COLOURS["model"])
    axes.set(xlabel="correlation of scan and reconstruction (mean and SD over scans)", xlim=(0, 1))
    axes.invert_yaxis()
    return figure


def _draw_rates(rows: list[tuple[str, ...]]) -> Any:
    figure = new_figure(figsize=(9, 1 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, (name, colour) in enumerate(zip(VECTORS, _COLOURS)):
        values = [np.nan if row[shift + 1] == "-" else float(row[shift + 1]) for row in rows]
        axes.barh(places + 0.26 * (shift - 1), values, 0.24, color=colour, label=name)
    axes.plot([float(row[4]) for row in rows], places, "|", color="black", markersize=16, label="chance")
    axes.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
