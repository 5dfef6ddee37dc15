"""Scores as tables: rows for any page, text for the terminal, and `results.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..cards.rendering import not_above_controls
from ..files import write_text
from .predictors import OURS, title_of

HEAD = ("task", "reader", "accuracy", "balanced", "95 % interval", "AUC")
NUMBER_HEAD = ("task", "reader", "mean error", "95 % interval", "r", "R2")
SETS_HEAD = ("task", "reader", "right answer in the set", "answers in a set", "sets of one", "of these right")
VERDICT_HEAD = ("task", "better than", "by", "95 % interval", "p")
MARK = " (!)"  # behind a score that is not above its controls


def score_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of scores, as `HEAD` names them; "-" where a score is not defined.

    The model is marked where its score is not above its controls.
    """
    return [
        [
            task,
            title_of(reader) + mark(results, task, reader),
            *(number(scores.get(name)) for name in ("accuracy", "balanced_accuracy")),
            interval(scores.get("balanced_accuracy_interval")),
            number(scores.get("auc")),
        ]
        for task, readers in results["tasks"].items()
        for reader, scores in readers.items()
    ]


def number_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of tasks that ask for a number, as `NUMBER_HEAD` names them; none where no task does."""
    return [
        [
            task,
            title_of(reader) + mark(results, task, reader),
            number(scores["mean_absolute_error"]),
            interval(scores.get("mean_absolute_error_interval")),
            number(scores["pearson"]),
            number(scores["r2"]),
        ]
        for task, readers in results["tasks"].items()
        for reader, scores in readers.items()
        if "mean_absolute_error" in scores
    ]


def verdict_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of differences between the model and each reader, as `VERDICT_HEAD` names them."""
    return [
        [
            task,
            title_of(reader),
            number(each["difference"]),
            interval(each["interval"]),
            f"{each['p']:.3g}",
        ]
        for task, verdict in results["verdict"].items()
        for reader, each in verdict["differences"].items()
    ]


def score_table(results: Mapping[str, Any]) -> str:
    """The scores as text."""
    lines = [
        f"{a:<12} {b:<42} {c:>8} {d:>8} {e:>14} {f:>6}" for a, b, c, d, e, f in [HEAD, *score_rows(results)]
    ]
    if numbers := number_rows(results):
        lines += [
            "",
            *(
                f"{a:<12} {b:<42} {c:>10} {d:>16} {e:>6} {f:>7}"
                for a, b, c, d, e, f in [NUMBER_HEAD, *numbers]
            ),
        ]
    missing = [f"Without {title_of(name)} for {task}: {why}" for task, name, why in left_out(results)]
    return "\n".join(
        [*lines, *not_beaten(results), *missing, *about_sites(results), *about_wordings(results)]
    )


def mark(results: Mapping[str, Any], task: str, reader: str) -> str:
    beats = results.get("verdict", {}).get(task, {}).get("beats_controls")
    return MARK if reader == OURS and beats is False else ""


def not_beaten(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each task in which the model does not beat its controls."""
    return [
        f"{MARK.strip()} {task}: not shown to be above {', '.join(names)}."
        for task, names in not_above_controls(results).items()
    ]


def about_sites(results: Mapping[str, Any]) -> list[str]:
    """What has to be known of an evaluation that left out one site after the other; nothing of others."""
    if (about := results.get("leave_one_site_out")) is None:
        return []
    return [
        f"Each of the sites {', '.join(about['sites'])} was judged with baselines fitted to the others. The model "
        "was not trained again: where it learnt from these sites, its scores are not those of unseen ones.",
        *(f"Site {site} was not judged: {why}" for site, why in about["not_judged"].items()),
        *(
            f"{task}, over {found['n_sites']} sites: {results['asked'][task]['scored_by'].replace('_', ' ')} "
            f"{found['mean']:.3f}, from {found['lowest']:.3f} to {found['highest']:.3f}; 95 % interval of the mean "
            f"over sites such as these {interval(found['interval'])}."
            for task, readers in results["between_sites"].items()
            if (found := readers[OURS]) is not None
        ),
    ]


def set_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of sets of answers, as `SETS_HEAD` names them, where there were scans enough."""
    return [
        [
            task,
            title_of(reader),
            f"{found['coverage']:.3f}",
            f"{found['mean_size']:.2f}",
            f"{found['single']:.3f}",
            number(found["single_right"]),
        ]
        for task, readers in results.get("conformal", {}).items()
        for reader, found in readers.items()
        if found is not None
    ]


def about_wordings(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each task that was also asked in other words."""
    return [
        f"{task}, asked in {len(found['wordings'])} other wordings: balanced accuracy {found['lowest']:.3f} to "
        f"{found['highest']:.3f}, the same answer for {found['agreement']:.1%} of the scans."
        for task, found in results.get("wordings", {}).items()
    ]


def left_out(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Task, reader and reason of what could not be had."""
    found = results.get("left_out", {})
    return [(task, name, why) for task, reasons in found.items() for name, why in reasons.items()]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} {ends[1]:.3f}"


TRUTH_HEAD = ("what the model says of scans", "true", "true of another scan", "most common answer")


def truth_rows(truth: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the table of truths: what is said, and how much of it is true, as shares."""
    pairs, said, mirage = truth["pair_level"], truth["descriptions"], truth["mirage"]
    shares = [
        ["level of a network pair, one of five", pairs["exact"], pairs["other_scan"], pairs["most_common"]],
        *(
            [f"the same, asked in {code}", each["exact"], each["other_scan"], each["most_common"]]
            for code, each in truth.get("languages", {}).items()
        ),
        ["statements of descriptions", said["precision"], said["other_scan_precision"], None],
        ["answers about a scan that is there", mirage["real_answered"], None, None],
        ["says so where no scan, or noise, is there", 1 - mirage["absent_described"], None, None],
    ]
    return [[name, *("-" if each is None else f"{each:.3f}" for each in row)] for name, *row in shares]


def truth_table(truth: Mapping[str, Mapping[str, Any]]) -> str:
    """The truths as text."""
    rows = [list(TRUTH_HEAD), *truth_rows(truth)]
    return "\n".join(f"{a:<42} {b:>6} {c:>21} {d:>19}" for a, b, c, d in rows)


def write_score_csv(path: Path, results: Mapping[str, Any]) -> None:
    """Write the scores as a table: a row for each task and reader, intervals as two columns."""
    rows = []
    for task, readers in results["tasks"].items():
        for reader, scores in readers.items():
            calibrated = results["calibration"][task].get(reader, {})
            measured = scores | {name: calibrated.get(name) for name in ("brier", "ece", "slope")}
            if against := results["verdict"][task]["differences"].get(reader):
                measured |= {
                    "difference": against["difference"],
                    "difference_interval": against["interval"],
                    "difference_p": against["p"],
                }
            row: dict[str, Any] = {"task": task, "reader": reader}
            for name, value in measured.items():
                of = name.removesuffix("_interval")
                row |= (
                    {f"{of}_low": value[0], f"{of}_high": value[1]}
                    if isinstance(value, list)
                    else {name: value}
                )
            rows.append(row)
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(text.getvalue(), path)


# What was found about leaks, earlier looks and confounds, as tables for the terminal and for pages.


class Table(NamedTuple):
    """A table under a title, with a sentence behind it."""

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]
    told: str


def trust_sentences(results: Mapping[str, Any]) -> list[str]:
    """What has to be known before any score: leaks that were not refused, and earlier looks at the test split."""
    leaks = [f"Leak, {leak['kind']}: {leak['message']}" for leak in results.get("leaks", ())]
    return [*leaks, results["test_split"]] if "test_split" in results else leaks


def confounding_tables(results: Mapping[str, Any]) -> list[Table]:
    """Tables of `confounding` and `subgroups`; none where they were not looked at."""
    tables = [_predicted(results.get("confounding", {}))]
    within, isolated = [], []
    for task, found in results.get("subgroups", {}).items():
        for confound, levels in found["within_levels"].items():
            within += [[task, f"{confound}: {level}", *_scored(score)] for level, score in levels.items()]
        for confound, score in found["isolated"].items():
            isolated.append([task, confound, number(score["association"]), *_scored(score)])
    tables += [
        Table(
            "Who it works for",
            ("task", "scans", "n", "subjects", "balanced", "95 % interval"),
            within,
            "Balanced accuracy of the model within each level; thirds of motion (mean framewise displacement in mm) "
            "and age are those of the judged scans.",
        ),
        Table(
            "With a confound isolated",
            ("task", "confound", "goes with it", "n", "subjects", "balanced", "95 % interval"),
            isolated,
            "On scans among which the answer is independent of the confound (goes with it: Cramér's V of the two among "
            "all judged scans).",
        ),
    ]
    return [table for table in tables if table.rows]


def _predicted(confounding: Mapping[str, Any]) -> Table:
    rows = []
    for confound, found in confounding.items():
        if "left_out" in found:
            rows.append([confound, "-", "-", "-", "-", found["left_out"]])
        else:
            tokens, connectivity = found["scan_tokens"], found["connectivity"]
            rows.append(
                [
                    confound,
                    str(tokens["n"]),
                    number(tokens["chance"]),
                    number(tokens["balanced_accuracy"]),
                    number(connectivity["balanced_accuracy"]),
                    "",
                ]
            )
    return Table(
        "What the scan tokens tell of confounds",
        ("confound", "n", "chance", "scan tokens", "connectivity", ""),
        rows,
        "Balanced accuracy of logistic regression on the mean of a scan's tokens, and on its connectivity, in "
        "cross-validation by subject among the judged scans.",
    )


def _scored(score: Mapping[str, Any]) -> list[str]:
    scores = number(score["balanced_accuracy"]), interval(score["interval"])
    return [str(score["n"]), str(score["n_subjects"]), *scores]


# Scores of several models, such as trainings with other seeds: how much of a score is chance of training.

METRICS = ("balanced_accuracy", "auc", "mean_absolute_error")


def over_models(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What varies between models that were judged on the same scans.

    Parameters
    ----------
    results : mapping of str to mapping
        What `evaluate` returned of each model, by its name.

    Returns
    -------
    dict
        ``models``; ``tasks`` -> task -> reader -> metric -> ``mean``, ``sd`` (of the models, not of the mean),
        ``lowest`` and ``highest``; ``beats_baselines`` and ``beats_controls`` -> task -> how many models do. Readers
        that a model lacks are left out.

    Raises
    ------
    ValueError
        When they were judged on different scans, or asked different tasks.
    """
    each = list(results.values())
    if len({one.get("scans_sha256") for one in each}) > 1:
        raise ValueError(
            "The models were judged on different scans: judge them with the same scans and splits."
        )
    if len({tuple(one["tasks"]) for one in each}) > 1:
        raise ValueError("The models were asked different tasks: judge them with the same tasks.")
    tasks: dict[str, Any] = {}
    for task, readers in each[0]["tasks"].items():
        tasks[task] = {
            reader: {
                metric: _spread([one["tasks"][task][reader][metric] for one in each])
                for metric in METRICS
                if all(one["tasks"][task][reader].get(metric) is not None for one in each)
            }
            for reader in readers
            if all(reader in one["tasks"][task] for one in each)
        }
    return {
        "models": list(results),
        "tasks": tasks,
        **{
            beats: {task: sum(one["verdict"][task][beats] is True for one in each) for task in tasks}
            for beats in ("beats_controls", "beats_baselines")
        },
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "lowest": min(values),
        "highest": max(values),
    }


def repeats_table(found: Mapping[str, Any]) -> str:
    """What `over_models` returns, as text for the terminal."""
    n_models = len(found["models"])
    lines = [
        f"{'task':12} {f'reader, over {n_models} models':42} balanced accuracy, lowest to highest     AUC"
    ]
    for task, readers in found["tasks"].items():
        for reader, metrics in readers.items():
            line = f"{task:12} {title_of(reader):42} "
            if balanced := metrics.get("balanced_accuracy"):
                line += f"{balanced['mean']:.3f} +- {balanced['sd']:.3f}, "
                line += f"{balanced['lowest']:.3f} to {balanced['highest']:.3f}"
            if auc := metrics.get("auc"):
                line += f"      {auc['mean']:.3f} +- {auc['sd']:.3f}"
            lines.append(line)
        lines.append(
            f"{task:12} above all controls: {found['beats_controls'][task]} of {n_models} models; above all baselines: "
            f"{found['beats_baselines'][task]}"
        )
    return "\n".join(lines)
