"""Scores as `report.html`: one file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_text
from ..models.atlas import Atlas
from ..pages import html_table, new_figure, page, picture
from .few_shot import SHOT_READERS
from .predictors import OURS, READERS, title_of
from .tables import (
    HEAD,
    NUMBER_HEAD,
    SETS_HEAD,
    TRUTH_HEAD,
    VERDICT_HEAD,
    about_sites,
    about_wordings,
    confounding_tables,
    left_out,
    mark,
    not_beaten,
    number,
    number_rows,
    score_rows,
    set_rows,
    trust_sentences,
    truth_rows,
    verdict_rows,
)

COLOURS = {"model": "#2a6f97", "control": "#adb5bd", "baseline": "#89c2d9"}  # by kind of reader
OTHER = "#e9c46a"


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


# Few-shot curves, robustness, and what moved the answers, as tables and pictures of `report.html`.

LINES = {
    "adapter": COLOURS["model"],
    "in_context": "#61a5c2",
    "connectivity_logistic": "#e9c46a",
    "network_logistic": "#f4a261",
}


def few_shot_parts(few_shot: Mapping[str, Mapping[str, Mapping[str, Any]]] | None) -> list[str]:
    """What a few labelled scans taught, as parts of a page; none where it was not measured.

    Parameters
    ----------
    few_shot : mapping, optional
        What `evaluation.few_shot.few_shot` returned.
    """
    if not few_shot:
        return []
    rows, reasons = [], []
    for task, curve in few_shot.items():
        for k, readers in curve.items():
            for reader, scores in readers.items():
                title = _title(reader)
                if "left_out" in scores:
                    reasons.append(f"{task}, {k} scans a class, {title}: {scores['left_out']}")
                else:
                    told = [_with_sd(scores, name) for name in ("balanced_accuracy", "auc")]
                    rows.append([task, k, title, *told, str(len(scores["draws"]))])
    head = ("task", "scans a class", "who learns from them", "balanced accuracy", "AUC", "draws")
    meaning = "<p>Means over draws of the labelled scans ± SD between draws; all read the same draws.</p>"
    return [
        "<h2>Few labelled scans</h2>",
        picture(_curves(few_shot), "balanced accuracy by number of labelled scans"),
        html_table(head, rows),
        meaning,
        *([html_table(("left out",), [[reason] for reason in reasons])] if reasons else []),
    ]


def _title(reader: str) -> str:
    return SHOT_READERS[reader].title if reader in SHOT_READERS else title_of(reader)


def _with_sd(scores: Mapping[str, Any], name: str) -> str:
    value, sd = scores[name], scores.get(f"{name}_sd")
    if value is None:
        return "-"
    return number(value) if sd is None else f"{value:.3f} ± {sd:.3f}"


def _curves(few_shot: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
    figure = new_figure(figsize=(5 * len(few_shot), 3.4), layout="constrained")
    for axes, (task, curve) in zip(figure.subplots(1, len(few_shot), squeeze=False)[0], few_shot.items()):
        shots = [k for k in curve if k != "0"]
        for reader in SHOT_READERS:
            known = [k for k in shots if curve[k].get(reader, {}).get("balanced_accuracy") is not None]
            if known:
                means = [curve[k][reader]["balanced_accuracy"] for k in known]
                errors = [curve[k][reader].get("balanced_accuracy_sd", 0) for k in known]
                places = [shots.index(k) for k in known]
                colour = LINES.get(reader, "0.5")
                axes.errorbar(
                    places, means, errors, marker="o", capsize=2, color=colour, label=_title(reader)
                )
        zero = curve.get("0", {}).get(OURS, {}).get("balanced_accuracy")
        if zero is not None:
            axes.axhline(zero, color=COLOURS["model"], linestyle="--", linewidth=0.8, label=_title(OURS))
        axes.set_xticks(range(len(shots)), shots)
        axes.set(title=task, xlabel="labelled scans a class", ylabel="balanced accuracy")
        axes.legend(fontsize=6)
    return figure


def explanation_parts(results: Mapping[str, Any], atlas: Atlas | None) -> list[str]:
    """What moved the answers, as parts of a page; none where it was not looked for.

    Parameters
    ----------
    results : mapping
        With what `evaluation.explanation.explanations` returned.
    atlas : Atlas, optional
        Where its ROIs have places, the networks are also drawn on a brain.
    """
    found = {way: results[way] for way in WAYS if results.get(way)}
    parts = ["<h2>What moved the answers</h2>"] if found else []
    for way, of_tasks in found.items():
        title, told = WAYS[way]
        parts += [f"<h3>{title}</h3>", f"<p>{told}</p>"]
        for task, effects in of_tasks.items():
            parts += [f"<h4>{html.escape(task)}</h4>", *_effect_parts(effects, atlas, task)]
    return parts


WAYS = {
    "occlusion": (
        "By occlusion",
        "Changes of the answer's log-odds when a network's series are replaced by another person's; a pair's value is "
        "what neither network carries without the other.",
    ),
    "integrated_gradients": (
        "By integrated gradients",
        "Shares of networks' and pairs' tokens in what sets the answer's log-odds apart from those of other people.",
    ),
}


def _effect_parts(effects: Mapping[str, Any], atlas: Atlas | None, task: str) -> list[str]:
    if "left_out" in effects:
        return [html_table(("left out",), [[effects["left_out"]]])]
    listed = effects["of_pairs"][:10] or sorted(effects["of_networks"], key=lambda each: -each["size"])
    rows = [
        [" - ".join(each["networks"]), f"{each['for_answer']:+.3f}", f"{each['size']:.3f}"] for each in listed
    ]
    test = effects.get("randomisation_test", {})
    told = [f"{effects['n_scans']} scans, each beside {effects['n_others']} other people"]
    told += [f"likeness to {name} {number(value)}" for name, value in test.items()]
    return [
        picture(
            _matrix(effects), f"log-odds that networks and their pairs contributed to answers about {task}"
        ),
        *_brain(effects, atlas, task),
        html_table(("networks", "for the answer", "size"), rows),
        f"<p>{'; '.join(told)}.</p>",
    ]


def _matrix(found: Mapping[str, Any]) -> Any:
    """Pairs off the diagonal, networks on it."""
    names = [each["networks"][0] for each in found["of_networks"]]
    sizes = np.diag([each["size"] for each in found["of_networks"]])
    for each in found["of_pairs"]:
        i, j = (names.index(name) for name in each["networks"])
        sizes[i, j] = sizes[j, i] = each["size"]
    figure = new_figure(figsize=(2.5 + 0.45 * len(names), 1.8 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(sizes, cmap="magma_r", vmin=0)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(drawn, label="change of log-odds (diagonal: whole network)")
    return figure


def _brain(found: Mapping[str, Any], atlas: Atlas | None, task: str) -> list[str]:
    """The networks of a glass brain, by how far they moved the answers; nothing where ROIs have no places."""
    centres = None if atlas is None else roi_centres(atlas)
    if atlas is None or centres is None:
        return []
    from nilearn.plotting import plot_markers

    size = {each["networks"][0]: each["size"] for each in found["of_networks"]}
    figure = new_figure(figsize=(8, 2.8))
    values = [size[network] for network in atlas.networks]
    plot_markers(values, centres, node_size=18, node_cmap="magma_r", node_vmin=0, figure=figure)
    return [picture(figure, f"networks of the brain that moved answers about {task}")]


def robustness_parts(robustness: Mapping[str, Any] | None) -> list[str]:
    """What becomes of answers when scans are measured worse, as parts of a page; none where it was not measured.

    Parameters
    ----------
    robustness : mapping, optional
        What `evaluation.robustness.robustness` returned.
    """
    if not robustness:
        return []
    rows, reasons = [], []
    for change in robustness["changes"].values():
        for at in change["levels"]:
            told = [change["title"], f"{at['level']:g}", f"{at['unread']:.2f}"]
            rows += [
                [
                    *told,
                    task,
                    number(scores["balanced_accuracy"]),
                    number(scores["auc"]),
                    f"{scores['same_answer']:.3f}",
                ]
                for task, scores in at["tasks"].items()
            ] or [[*told, "-", "-", "-", "-"]]
            if at["reason"]:
                reasons.append(f"{change['title']} {at['level']:g}: {at['reason']}")
    head = ("change", "level", "unread", "task", "balanced accuracy", "AUC", "same answer")
    return [
        "<h2>The same scans, measured worse</h2>",
        picture(_robustness(robustness), "balanced accuracy by how much worse scans are measured"),
        f"<p>{robustness['n_scans']} scans; dashed: as they are. Nothing was trained again.</p>",
        html_table(head, rows),
        *([html_table(("could not be read",), [[reason] for reason in reasons])] if reasons else []),
    ]


def _robustness(robustness: Mapping[str, Any]) -> Any:
    changes = list(robustness["changes"].values())
    figure = new_figure(figsize=(3 * len(changes), 3), layout="constrained")
    for axes, change in zip(figure.subplots(1, len(changes), squeeze=False, sharey=True)[0], changes):
        for place, (task, before) in enumerate(robustness["as_they_are"].items()):
            known = [
                at
                for at in change["levels"]
                if at["tasks"].get(task, {}).get("balanced_accuracy") is not None
            ]
            scores = [at["tasks"][task]["balanced_accuracy"] for at in known]
            axes.plot([at["level"] for at in known], scores, "o-", color=f"C{place}", label=task)
            if before["balanced_accuracy"] is not None:
                axes.axhline(before["balanced_accuracy"], color=f"C{place}", linestyle="--", linewidth=0.8)
        axes.set_xlabel(change["title"], fontsize=8)
    figure.axes[0].set_ylabel("balanced accuracy")
    figure.axes[0].legend(fontsize=7)
    return figure


def roi_centres(atlas: Atlas) -> Sequence[Sequence[float]] | None:
    """Centre of each ROI in mm, from the atlas's coordinates or its image; None where it has neither."""
    if atlas.coordinates is not None:
        return atlas.coordinates
    image = atlas.labels_img
    if image is None or atlas.labels is None or len(getattr(image, "shape", ())) != 3:
        return None
    from nilearn.plotting import find_parcellation_cut_coords

    centres, values = find_parcellation_cut_coords(image, return_label_names=True)
    centre_of = {int(value): centre for value, centre in zip(values, centres, strict=True)}
    if set(atlas.labels) - set(centre_of):
        return None
    return [tuple(map(float, centre_of[label])) for label in atlas.labels]
