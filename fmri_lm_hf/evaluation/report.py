"""`report.html` of an evaluation: tables and pictures of everything that was measured, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.atlas import Atlas
from ..pages import bullets, heading, html_table, new_figure, page, paragraph, picture
from .predictors import MODEL, PREDICTORS, title_of
from .results import EvaluationReport
from .tables import (
    Table,
    conformal_table,
    confounding_tables,
    left_out,
    mark,
    number,
    number_table,
    question_table,
    score_table,
    site_notes,
    truth_table,
    validity_notes,
    verdict_table,
    warnings,
    wording_notes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .attribution import Explanation
    from .few_shot import FewShotScores
    from .truth import TruthResults

COLOURS = {"model": "#2a6f97", "control": "#adb5bd", "baseline": "#89c2d9"}  # by kind of predictor
OTHER = "#e9c46a"
SHOT_COLOURS = {
    "adapter": COLOURS["model"],
    "in_context": "#61a5c2",
    "connectivity_logistic": "#e9c46a",
    "network_logistic": "#f4a261",
}
EXPLANATIONS = {
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


def report_page(report: EvaluationReport, atlas: Atlas | None = None) -> str:
    """Write a report as a page; with an atlas whose ROIs have coordinates, networks are also drawn on a brain."""
    explanations = {"occlusion": report.occlusion, "integrated_gradients": report.integrated_gradients}
    missing = [f"{task}, {title_of(name)}: {why}" for task, name, why in left_out(report)]
    kind = "warning" if report.leaks else ""
    parts = [
        *(paragraph(note, kind) for note in validity_notes(report)),
        *score_parts(report),
        *table_parts(verdict_table(report)),
        heading("Answers and their probabilities"),
        picture(_answers(report), "confusion of classes, reliability, and risk against coverage"),
        *table_parts(conformal_table(report), level=3),
        *truth_parts(report.truth),
        *few_shot_parts(report.few_shot),
        *explanation_parts(explanations, atlas),
        *robustness_parts(report.robustness),
        *(part for table in confounding_tables(report) for part in table_parts(table)),
        *table_parts(question_table(report)),
        *(paragraph(note) for note in wording_notes(report)),
        *([heading("Left out"), bullets(missing)] if missing else []),
        *failure_parts(report.failures),
        *failure_parts(report.unreadable, "Scans that were scored, but are not readable"),
    ]
    return page("fMRI-LM evaluation", parts)


def table_parts(table: Table, level: int = 2) -> list[str]:
    """Show a table under its title as parts of a page; none where it has no rows."""
    if not table.rows:
        return []
    note = [paragraph(table.note)] if table.note else []
    return [heading(table.title, level), html_table(table.head, table.rows), *note]


def score_parts(report: EvaluationReport) -> list[str]:
    """Show scores as parts of a page: warnings, tables and a picture."""
    scores = score_table(report)
    return [
        heading(scores.title),
        *(paragraph(note, "warning") for note in [*site_notes(report), *warnings(report)]),
        html_table(scores.head, scores.rows),
        *table_parts(number_table(report), level=3),
        picture(_scores(report), "scores of the model, baselines and controls"),
        paragraph("Bars: 95 % intervals of a bootstrap over subjects."),
    ]


def truth_parts(truth: TruthResults | None) -> list[str]:
    """Show truth as parts of a page; none where it was not checked."""
    return [] if truth is None else table_parts(truth_table(truth))


def failure_parts(failures: Sequence[Mapping[str, Any]], title: str = "Scans that could not be used") -> list[str]:
    """List scans and reasons as parts of a page; none where there are no such scans."""
    listed = [f"{each['scan_id']}: {each['reason']}" for each in failures]
    return [heading(title), bullets(listed)] if listed else []


def few_shot_parts(few_shot: Mapping[str, Mapping[str, Mapping[str, FewShotScores]]] | None) -> list[str]:
    """Show scores by number of labelled scans as parts of a page; none where they were not measured."""
    if not few_shot:
        return []
    rows, reasons = [], []
    for task, curve in few_shot.items():
        for k, predictors in curve.items():
            for name, scores in predictors.items():
                title = _shot_title(name)
                if "left_out" in scores:
                    reasons.append([f"{task}, {k} scans a class, {title}: {scores['left_out']}"])
                else:
                    values = [_with_sd(scores, metric) for metric in ("balanced_accuracy", "auc")]
                    rows.append([task, k, title, *values, str(len(scores["draws"]))])
    head = ("task", "scans a class", "predictor", "balanced accuracy", "AUC", "draws")
    return [
        heading("Few labelled scans"),
        picture(_curves(few_shot), "balanced accuracy by number of labelled scans"),
        html_table(head, rows),
        paragraph("Means over draws of the labelled scans ± SD between draws; all predictors have the same draws."),
        *([html_table(("left out",), reasons)] if reasons else []),
    ]


def _shot_title(name: str) -> str:
    from .few_shot import FEW_SHOT_PREDICTORS

    return FEW_SHOT_PREDICTORS[name].title if name in FEW_SHOT_PREDICTORS else title_of(name)


def _with_sd(scores: Mapping[str, Any], metric: str) -> str:
    sd = scores.get(f"{metric}_sd")
    return number(scores[metric]) if scores[metric] is None or sd is None else f"{scores[metric]:.3f} ± {sd:.3f}"


def explanation_parts(explanations: Mapping[str, Mapping[str, Explanation] | None], atlas: Atlas | None) -> list[str]:
    """Show the networks that moved the answers as parts of a page; none where they were not computed."""
    parts = []
    for way, (title, note) in EXPLANATIONS.items():
        if of_tasks := explanations.get(way):
            parts += [heading(title, 3), paragraph(note)]
            for task, effects in of_tasks.items():
                parts += [heading(task, 4), *_effect_parts(effects, atlas, task)]
    return [heading("What moved the answers"), *parts] if parts else []


def _effect_parts(effects: Mapping[str, Any], atlas: Atlas | None, task: str) -> list[str]:
    if "left_out" in effects:
        return [html_table(("left out",), [[effects["left_out"]]])]
    listed = effects["of_pairs"][:10] or sorted(effects["of_networks"], key=lambda each: -each["size"])
    rows = [[" - ".join(each["networks"]), f"{each['for_answer']:+.3f}", f"{each['size']:.3f}"] for each in listed]
    notes = [f"{effects['n_scans']} scans, each compared with {effects['n_others']} other people"]
    notes += [
        f"rank correlation with {name} {number(value)}"
        for name, value in effects.get("randomisation_test", {}).items()
    ]
    brain = _brain(effects, atlas)
    return [
        picture(_matrix(effects), f"log-odds of networks and their pairs in answers about {task}"),
        *([] if brain is None else [picture(brain, f"networks of the brain that moved answers about {task}")]),
        html_table(("networks", "for the answer", "size"), rows),
        paragraph(f"{'; '.join(notes)}."),
    ]


def robustness_parts(robustness: Mapping[str, Any] | None) -> list[str]:
    """Show scores on degraded scans as parts of a page; none where they were not measured."""
    if not robustness:
        return []
    rows, reasons = [], []
    for change in robustness["changes"].values():
        for at in change["levels"]:
            degree = f"{change['title']} {at['level']:g}"
            first = [change["title"], f"{at['level']:g}", f"{at['unread']:.2f}"]
            metrics = ("balanced_accuracy", "auc", "same_answer")
            rows += [
                [*first, task, *(number(scores[metric]) for metric in metrics)] for task, scores in at["tasks"].items()
            ] or [[*first, "-", "-", "-", "-"]]
            reasons += [[f"{degree}: {at['reason']}"]] if at["reason"] else []
    head = ("change", "level", "unread", "task", "balanced accuracy", "AUC", "same answer")
    return [
        heading("Degraded scans"),
        picture(_robustness(robustness), "balanced accuracy by level of degradation"),
        paragraph(f"{robustness['n_scans']} scans; dashed: as they are. The model was not trained again."),
        html_table(head, rows),
        *([html_table(("could not be read",), reasons)] if reasons else []),
    ]


# Pictures.


def _scores(report: EvaluationReport) -> Figure:
    """Plot the score of every predictor of every task with its interval; a dashed line marks the model's score."""
    most = max(len(predictors) for predictors in report.tasks.values())
    figure = new_figure(figsize=(10, 1 + (0.8 + 0.24 * most) * len(report.tasks)), layout="constrained")
    rows = figure.subplots(len(report.tasks), squeeze=False)[:, 0]
    for axes, (task, predictors) in zip(rows, report.tasks.items()):
        metric = report.questions[task]["scored_by"]
        for place, (name, scores) in enumerate(predictors.items()):
            values: Mapping[str, Any] = scores
            if (value := values.get(metric)) is None:
                continue
            colour = COLOURS[PREDICTORS[name].kind] if name in PREDICTORS else OTHER
            ends = values.get(f"{metric}_interval") or (value, value)
            axes.plot(ends, [place, place], color=colour, linewidth=4, alpha=0.6)
            axes.plot(value, place, "o", color=colour)
            if name == MODEL:
                axes.axvline(value, color=colour, linewidth=0.7, linestyle="--")
        axes.set_yticks(range(len(predictors)), [title_of(name) for name in predictors], fontsize=8)
        axes.set(title=f"{task}{mark(report, task, MODEL)}", xlabel=metric.replace("_", " "))
        axes.invert_yaxis()
    return figure


def _answers(report: EvaluationReport) -> Figure:
    """Plot the model's answers to each task: confusion of classes, reliability, and risk against coverage."""
    figure = new_figure(figsize=(10, 3.1 * len(report.questions)), layout="constrained")
    rows = figure.subplots(len(report.questions), 3, squeeze=False)
    for (confusion, reliable, risky), (task, asked) in zip(rows, report.questions.items()):
        counts, names = np.array(report.confusion[task]), asked["classes"]
        # A class that no test scan has is a row of zeros.
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        confusion.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            colour = "white" if shares[i, j] > 0.5 else "black"
            confusion.text(j, i, str(count), ha="center", va="center", color=colour)
        columns = [*names, "no answer"][: counts.shape[1]]
        confusion.set_xticks(range(len(columns)), columns, fontsize=8, rotation=30)
        confusion.set_yticks(range(len(names)), names, fontsize=8)
        confusion.set(title=f"{task}: counts", xlabel="answer", ylabel="truth")
        calibrated = report.calibration[task].get(MODEL)
        if calibrated is None:  # a written answer has no probability
            reliable.set_axis_off()
            risky.set_axis_off()
            continue
        bins, risks = calibrated["reliability"], calibrated["risk_coverage"]
        reliable.plot([0, 1], [0, 1], color="0.7", linestyle="--")
        sizes = 20 + 150 * np.array([each["n"] for each in bins]) / asked["n_test"]
        confidence = [each["confidence"] for each in bins]
        reliable.scatter(confidence, [each["accuracy"] for each in bins], sizes, color=COLOURS["model"])
        reliable.set(title=f"ECE {calibrated['ece']:.3f}, Brier {calibrated['brier']:.3f}", xlim=(0, 1.02))
        reliable.set(xlabel="probability of the answer", ylabel="share right", ylim=(-0.02, 1.02))
        coverage = [each["coverage"] for each in risks]
        risky.plot(coverage, [each["risk"] for each in risks], "o-", color=COLOURS["model"])
        risky.set(title="only the surest answers", xlabel="share answered", ylabel="share wrong")
        risky.set(ylim=(-0.02, 1.02))
    return figure


def _curves(few_shot: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    figure = new_figure(figsize=(5 * len(few_shot), 3.4), layout="constrained")
    for axes, (task, curve) in zip(figure.subplots(1, len(few_shot), squeeze=False)[0], few_shot.items()):
        # Zero shots are no point of the curve but a dashed line: only the model answers without labelled scans.
        shots = [k for k in curve if k != "0"]
        for name in dict.fromkeys(name for k in shots for name in curve[k]):
            known = [k for k in shots if curve[k].get(name, {}).get("balanced_accuracy") is not None]
            if known:
                means = [curve[k][name]["balanced_accuracy"] for k in known]
                errors = [curve[k][name].get("balanced_accuracy_sd", 0) for k in known]
                style = {"marker": "o", "capsize": 2, "color": SHOT_COLOURS.get(name, "0.5")}
                axes.errorbar([shots.index(k) for k in known], means, errors, label=_shot_title(name), **style)
        zero = curve.get("0", {}).get(MODEL, {}).get("balanced_accuracy")
        if zero is not None:
            axes.axhline(zero, color=COLOURS["model"], linestyle="--", linewidth=0.8, label=title_of(MODEL))
        axes.set_xticks(range(len(shots)), shots)
        axes.set(title=task, xlabel="labelled scans a class", ylabel="balanced accuracy")
        axes.legend(fontsize=6)
    return figure


def _matrix(effects: Mapping[str, Any]) -> Figure:
    """Plot sizes of effects: networks on the diagonal, pairs off it."""
    names = [each["networks"][0] for each in effects["of_networks"]]
    sizes = np.diag([each["size"] for each in effects["of_networks"]])
    for each in effects["of_pairs"]:
        i, j = (names.index(name) for name in each["networks"])
        sizes[i, j] = sizes[j, i] = each["size"]
    figure = new_figure(figsize=(2.5 + 0.45 * len(names), 1.8 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(sizes, cmap="magma_r", vmin=0)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(drawn, label="change of log-odds (diagonal: whole network)")
    return figure


def _brain(effects: Mapping[str, Any], atlas: Atlas | None) -> Figure | None:
    """Draw networks on a glass brain, by the size of their effect; None where ROIs have no coordinates."""
    centres = None if atlas is None else roi_centres(atlas)
    if atlas is None or centres is None:
        return None
    from nilearn.plotting import plot_markers

    size = {each["networks"][0]: each["size"] for each in effects["of_networks"]}
    values = [size[network] for network in atlas.networks]
    figure = new_figure(figsize=(8, 2.8))
    plot_markers(values, centres, node_size=18, node_cmap="magma_r", node_vmin=0, figure=figure)
    return figure


def _robustness(robustness: Mapping[str, Any]) -> Figure:
    changes = list(robustness["changes"].values())
    figure = new_figure(figsize=(3 * len(changes), 3), layout="constrained")
    for axes, change in zip(figure.subplots(1, len(changes), squeeze=False, sharey=True)[0], changes):
        for place, (task, before) in enumerate(robustness["as_they_are"].items()):
            points = [
                (at["level"], at["tasks"][task]["balanced_accuracy"])
                for at in change["levels"]
                if at["tasks"].get(task, {}).get("balanced_accuracy") is not None
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=f"C{place}", label=task)
            if before["balanced_accuracy"] is not None:
                axes.axhline(before["balanced_accuracy"], color=f"C{place}", linestyle="--", linewidth=0.8)
        axes.set_xlabel(change["title"], fontsize=8)
    figure.axes[0].set_ylabel("balanced accuracy")
    figure.axes[0].legend(fontsize=7)
    return figure


def roi_centres(atlas: Atlas) -> Sequence[Sequence[float]] | None:
    """Return the centre of each ROI in mm, from the atlas's coordinates or its image; None where it has neither."""
    if atlas.coordinates is not None:
        return atlas.coordinates
    image = atlas.labels_img
    if image is None or atlas.labels is None or len(getattr(image, "shape", ())) != 3:
        return None
    from nilearn.plotting import find_parcellation_cut_coords

    centres, values = find_parcellation_cut_coords(image, return_label_names=True)
    centre_of = {int(value): centre for value, centre in zip(values, centres, strict=True)}
    # The image may lack a label of the atlas. No brain is better than one that silently misses some ROIs.
    if set(atlas.labels) - set(centre_of):
        return None
    return [tuple(map(float, centre_of[label])) for label in atlas.labels]
