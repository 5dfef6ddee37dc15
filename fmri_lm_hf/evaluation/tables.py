"""Reports as tables: for pages, for the terminal, and `results.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .predictors import MODEL, title_of
from .results import Comparison, EvaluationReport

MARK = " (!)"  # behind a score that is not above its controls


class Table(NamedTuple):
    """A table with a title above and a note below."""

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        """The head and rows in aligned columns."""
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} {ends[1]:.3f}"


# Scores, with warnings and notes.


def summary(report: EvaluationReport) -> str:
    """Return scores, warnings and notes as text for the terminal."""
    parts = [score_table(report).text()]
    if (numbers := number_table(report)).rows:
        parts += ["", numbers.text()]
    parts += [
        *(f"{MARK.strip()} {sentence}" for sentence in warnings(report)),
        *(f"Without {title_of(name)} for {task}: {why}" for task, name, why in left_out(report)),
        *site_notes(report),
        *wording_notes(report),
        *validity_notes(report),
    ]
    if report.truth is not None:
        parts += ["", truth_table(report.truth).text()]
    return "\n".join(parts)


def score_table(report: EvaluationReport) -> Table:
    """Tabulate classification scores of every predictor; the model is marked if it is not above its controls."""
    return Table(
        "Scores",
        ("task", "predictor", "accuracy", "balanced", "95 % interval", "AUC"),
        [
            [
                task,
                title_of(name) + mark(report, task, name),
                number(scores.get("accuracy")),
                number(scores.get("balanced_accuracy")),
                interval(scores.get("balanced_accuracy_interval")),
                number(scores.get("auc")),
            ]
            for task, predictors in report.tasks.items()
            for name, scores in predictors.items()
        ],
    )


def number_table(report: EvaluationReport) -> Table:
    """Tabulate scores of tasks that ask for a number; no rows without such a task."""
    return Table(
        "As numbers",
        ("task", "predictor", "mean error", "95 % interval", "r", "R2"),
        [
            [
                task,
                title_of(name) + mark(report, task, name),
                number(scores["mean_absolute_error"]),
                interval(scores.get("mean_absolute_error_interval")),
                number(scores["pearson"]),
                number(scores["r2"]),
            ]
            for task, predictors in report.tasks.items()
            for name, scores in predictors.items()
            if "mean_absolute_error" in scores
        ],
    )


def verdict_table(report: EvaluationReport) -> Table:
    """Tabulate differences between the model and every other predictor."""
    return Table(
        "Against controls and baselines",
        ("task", "better than", "by", "95 % interval", "p"),
        [
            [task, title_of(name), number(each["difference"]), interval(each["interval"]), f"{each['p']:.3g}"]
            for task, verdict in report.verdict.items()
            for name, each in verdict["differences"].items()
        ],
        "Differences of the deciding metric on the same draws of subjects; p: share of draws in which the model is not "
        "better.",
    )


def conformal_table(report: EvaluationReport) -> Table:
    """Tabulate conformal sets of answers, for tasks with enough scans."""
    return Table(
        "Conformal sets",
        ("task", "predictor", "right answer in the set", "answers in a set", "sets of one", "of these right"),
        [
            [
                task,
                title_of(name),
                number(found["coverage"]),
                f"{found['mean_size']:.2f}",
                number(found["single"]),
                number(found["single_right"]),
            ]
            for task, predictors in report.conformal.items()
            for name, found in predictors.items()
            if found is not None
        ],
        "Sets of answers that hold the right one for nine scans of ten (split conformal prediction); the sets of each "
        "half of the subjects are calibrated on the other half. Smaller sets are more informative.",
    )


def question_table(report: EvaluationReport) -> Table:
    """Tabulate questions, answers and numbers of scans."""
    return Table(
        "Questions",
        ("task", "question", "answers", "training scans", "test scans"),
        [
            [task, each["question"], " / ".join(each["classes"]), str(each["n_train"]), str(each["n_test"])]
            for task, each in report.questions.items()
        ],
    )


def mark(report: EvaluationReport, task: str, name: str) -> str:
    """Return `MARK` for a model that is not shown to be above its controls, "" for every other predictor."""
    verdict = report.verdict.get(task)
    # `is False`: without any control the verdict is None, and there is nothing to warn of.
    return MARK if name == MODEL and verdict and verdict["beats_controls"] is False else ""


def warnings(report: EvaluationReport) -> list[str]:
    """Name the controls that the model is not shown to be above, in a sentence for each task."""
    sentences = []
    for task, verdict in report.verdict.items():
        if verdict["beats_controls"] is False:
            kinds = {name: each["kind"] for name, each in verdict["differences"].items()}
            controls = [name for name in verdict["not_beaten"] if kinds.get(name) == "control"]
            sentences.append(f"{task}: not shown to be above {', '.join(controls)}.")
    return sentences


def left_out(report: EvaluationReport) -> list[tuple[str, str, str]]:
    """List task, name and reason of predictors that were not available."""
    return [(task, name, why) for task, reasons in report.left_out.items() for name, why in reasons.items()]


def validity_notes(report: EvaluationReport) -> list[str]:
    """List leakage that was not refused, and earlier evaluations of the test split."""
    notes = [f"Leakage, {leak['kind']}: {leak['message']}" for leak in report.leaks]
    return [*notes, report.history["statement"]] if report.history else notes


def site_notes(report: EvaluationReport) -> list[str]:
    """Explain an evaluation that leaves out each site in turn; no notes for any other."""
    if (about := report.leave_one_site_out) is None or report.between_sites is None:
        return []
    return [
        f"Each of the sites {', '.join(about['sites'])} was evaluated with baselines fitted to the others. The model "
        "was not trained again: if it was trained on these sites, its scores are not scores on unseen sites.",
        *(f"Site {site} was not evaluated: {why}" for site, why in about["not_evaluated"].items()),
        *(
            f"{task}, over {spread['n_sites']} sites: {report.questions[task]['scored_by'].replace('_', ' ')} "
            f"{spread['mean']:.3f}, from {spread['lowest']:.3f} to {spread['highest']:.3f}; 95 % interval of the mean "
            f"over such sites {interval(spread['interval'])}."
            for task, predictors in report.between_sites.items()
            if (spread := predictors[MODEL]) is not None
        ),
    ]


def wording_notes(report: EvaluationReport) -> list[str]:
    """Compare the scores of other wordings, in a sentence for each task that has them."""
    return [
        f"{task}, asked in {len(scores['wordings'])} other wordings: balanced accuracy {scores['lowest']:.3f} to "
        f"{scores['highest']:.3f}, the same answer for {scores['agreement']:.1%} of the scans."
        for task, scores in (report.wordings or {}).items()
    ]


# Further analyses.


def truth_table(truth: Mapping[str, Any]) -> Table:
    """Tabulate shares of true answers, true statements and declined prompts."""
    pairs, statements, mirage = truth["pair_level"], truth["descriptions"], truth["mirage"]
    languages = truth.get("languages", {})
    of_pairs = {"bin of a network pair, one of five": pairs}
    of_pairs |= {f"the same, asked in {code}": each for code, each in languages.items()}
    rows = [
        *([name, each["exact"], each["other_scan"], each["most_common"]] for name, each in of_pairs.items()),
        ["statements of descriptions", statements["precision"], statements["other_scan_precision"], None],
        ["answers about a scan that is there", mirage["real_answered"], None, None],
        ["declines when given no scan, or noise", 1 - mirage["absent_described"], None, None],
    ]
    return Table(
        "Truth",
        ("what the model says of scans", "true", "true of another scan", "most common answer"),
        [[name, *map(number, values)] for name, *values in rows],
    )


def confounding_tables(report: EvaluationReport) -> list[Table]:
    """Tabulate how well confounds can be predicted, and scores within their strata and on balanced scans."""
    revealed, within, balanced = [], [], []
    for confound, found in (report.confounding or {}).items():
        if "left_out" in found:
            revealed.append([confound, "-", "-", "-", "-", found["left_out"]])
            continue
        tokens, connectivity = found["scan_tokens"], found["connectivity"]
        values = (tokens["chance"], tokens["balanced_accuracy"], connectivity["balanced_accuracy"])
        revealed.append([confound, str(tokens["n"]), *map(number, values), ""])
    for task, scores in (report.subgroups or {}).items():
        for confound, strata in scores["within_levels"].items():
            within += [[task, f"{confound}: {stratum}", *_scored(each)] for stratum, each in strata.items()]
        for confound, each in scores["isolated"].items():
            balanced.append([task, confound, number(each["association"]), *_scored(each)])
    tables = [
        Table(
            "Confounds that scan tokens reveal",
            ("confound", "n", "chance", "scan tokens", "connectivity", ""),
            revealed,
            "Balanced accuracy of logistic regression on the mean of a scan's tokens, and on its connectivity, in "
            "cross-validation by subject among the test scans.",
        ),
        Table(
            "Scores by subgroup",
            ("task", "scans", "n", "subjects", "balanced", "95 % interval"),
            within,
            "Balanced accuracy of the model within each stratum; thirds of motion (mean framewise displacement in mm) "
            "and age are those of the test scans.",
        ),
        Table(
            "Scores on scans balanced for a confound",
            ("task", "confound", "association", "n", "subjects", "balanced", "95 % interval"),
            balanced,
            "On scans among which the answer is independent of the confound (association: Cramér's V of the two among "
            "all test scans).",
        ),
    ]
    return [table for table in tables if table.rows]


def _scored(score: Mapping[str, Any]) -> list[str]:
    values = number(score["balanced_accuracy"]), interval(score["interval"])
    return [str(score["n"]), str(score["n_subjects"]), *values]


def comparison_text(comparison: Comparison) -> str:
    """Return the spread of scores over several models as text for the terminal."""
    rows = []
    for task, predictors in comparison["tasks"].items():
        for name, metrics in predictors.items():
            balanced, auc = metrics.get("balanced_accuracy"), metrics.get("auc")
            cells = ["-" if each is None else f"{each['mean']:.3f} +- {each['sd']:.3f}" for each in (balanced, auc)]
            ends = "-" if balanced is None else f"{balanced['lowest']:.3f} to {balanced['highest']:.3f}"
            rows.append([task, title_of(name), cells[0], ends, cells[1]])
    n_models = len(comparison["models"])
    head = ("task", f"predictor, over {n_models} models", "balanced accuracy", "lowest to highest", "AUC")
    lines = [
        f"{task}: above all controls: {comparison['beats_controls'][task]} of {n_models} models; above all baselines: "
        f"{comparison['beats_baselines'][task]}"
        for task in comparison["tasks"]
    ]
    return "\n".join([Table("", head, rows).text(), *lines])


def score_csv(report: EvaluationReport) -> str:
    """Write the scores as CSV: a row for each task and predictor, intervals as two columns."""
    rows = []
    for task, predictors in report.tasks.items():
        for name, scores in predictors.items():
            values: dict[str, Any] = {"task": task, "predictor": name, **scores}
            calibrated: Mapping[str, Any] = report.calibration.get(task, {}).get(name, {})
            values |= {measure: calibrated.get(measure) for measure in ("brier", "ece", "slope")}
            if task in report.verdict and (against := report.verdict[task]["differences"].get(name)):
                values["difference"] = against["difference"]
                values["difference_interval"], values["difference_p"] = against["interval"], against["p"]
            row = {}
            for measure, value in values.items():
                if isinstance(value, list):
                    stem = measure.removesuffix("_interval")
                    row[f"{stem}_low"], row[f"{stem}_high"] = value
                else:
                    row[measure] = value
            rows.append(row)
    # Tasks have different measures: the columns are those of all rows, in the order in which they occur first.
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
