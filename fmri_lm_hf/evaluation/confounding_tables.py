"""What was found about leaks, earlier looks and confounds, as tables for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .tables import interval, number

__all__ = ["Table", "confounding_tables", "trust_sentences"]


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
