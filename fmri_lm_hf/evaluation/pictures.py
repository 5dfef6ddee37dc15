"""Few-shot curves, robustness, and what moved the answers, as tables and pictures of `report.html`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..models.atlas import Atlas
from .few_shot import SHOT_READERS
from .readers import OURS, title_of
from .report import COLOURS, html_table, new_figure, picture
from .tables import number

__all__ = ["explanation_parts", "few_shot_parts", "robustness_parts", "roi_centres"]

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
