"""Scores of the benchmark of questions, with bootstrap intervals over questions, and the tables that show them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..__about__ import __version__
from ..files import write_json, write_text
from ..pages import heading, html_table, page, paragraph
from .calibration import expected_calibration_error
from .question_benchmark import Case, Question, _digest
from .uncertainty import interval_of, weights_by_subject

SURE = 0.9  # answers with a higher score are counted as sure
N_RESAMPLES = 1000
Test = Callable[[Case], bool]


def _own(case: Case) -> bool:
    return case.condition == "own" and not case.question.composed


def _with_answer(case: Case) -> bool:
    return _own(case) and case.expects_answer


def _without_answer(case: Case) -> bool:
    return _own(case) and not case.expects_answer


def _swapped(case: Case) -> bool:
    return case.condition == "swapped" and case.expects_answer


def _of_condition(condition: str) -> Test:
    return lambda case: case.condition == condition


def _is_right(case: Case) -> bool:
    return case.is_right


# name -> (what is counted, of which cases, heading of the table's column)
SCORES: dict[str, tuple[Test, Test, str]] = {
    "answerable_right": (_is_right, _with_answer, "Right, of questions with an answer"),
    "unanswerable_declined": (_is_right, _without_answer, "Declined, of questions without"),
    "answered_wrongly": (lambda case: case.is_answered and not case.is_right, _own, "Answered wrongly, of all"),
    "compositions_right": (_is_right, lambda case: case.condition == "own" and case.question.composed, "Compositions"),
    "swapped_right": (_is_right, _swapped, "Networks swapped: right"),
    "true_of_another_scan": (lambda case: bool(case.by_other), _with_answer, "Also true of another scan"),
    "no_scan_declined": (_is_right, _of_condition("no scan"), "No scan: declined"),
    "noise_declined": (_is_right, _of_condition("noise"), "Noise: declined"),
    "sure_right": (
        _is_right,
        lambda case: _own(case) and case.is_answered and case.score is not None and case.score > SURE,
        f"Right, of answers with a score above {SURE}",
    ),
    "understood": (
        lambda case: bool(case.understood),
        lambda case: _with_answer(case) and case.understood is not None,
        "Queries right",
    ),
    "swapped_unchanged": (lambda case: bool(case.by_former), _swapped, "Networks swapped: true of the scan before"),
}
_GROUPS: dict[str, tuple[Callable[[Case], str | None], Test]] = {
    "by_intent": (lambda case: case.question.intent, _with_answer),
    "by_kind": (lambda case: case.question.kind, _without_answer),
    "by_language": (lambda case: case.question.lang, _own),
    "by_atlas": (lambda case: case.question.atlas, _own),
    "by_seed": (lambda case: str(case.seed), _own),
}


def score_cases(cases: Sequence[Case], seed: int = 0) -> dict[str, Any]:
    """Score the answers of one entrant.

    Parameters
    ----------
    cases : sequence of Case
    seed : int, default=0
        Of the bootstrap, which draws questions with all their answers.

    Returns
    -------
    dict
        For each of `SCORES` ``{"estimate", "low", "high", "n"}``, the share and its 95 % interval, None without cases;
        the same for groups of cases (share right) as ``by_intent`` and the like; ``ece``, the calibration error of the
        scores that the entrant gives, or None; and ``failed``, the number of cases that raised an error.
    """
    scores: dict[str, Any] = {name: _share(cases, counted, of, seed) for name, (counted, of, _) in SCORES.items()}
    for name, (group_of, of) in _GROUPS.items():
        members: dict[str, list[Case]] = {}
        for case in filter(of, cases):
            members.setdefault(group_of(case) or "other", []).append(case)
        scores[name] = {group: _share(members[group], _is_right, of, seed) for group in sorted(members)}
    scored = [case for case in cases if _own(case) and case.score is not None]
    scores["ece"] = _ece(scored) if scored else None
    scores["failed"] = sum(case.outcome == "failed" for case in cases)
    return scores


def _share(cases: Iterable[Case], counted: Test, of: Test, seed: int) -> dict[str, Any] | None:
    chosen = [case for case in cases if of(case)]
    if not chosen:
        return None
    hits = np.array([counted(case) for case in chosen], dtype=float)
    share: dict[str, Any] = {"estimate": float(hits.mean()), "low": None, "high": None, "n": len(chosen)}
    asked = [f"{case.question.atlas} {case.question.text}" for case in chosen]
    if len(set(asked)) > 1:  # one question alone has no interval
        weights = weights_by_subject(asked, N_RESAMPLES, seed)
        interval = interval_of(share["estimate"], weights @ hits / weights.sum(axis=1))
        share |= {"low": interval.low, "high": interval.high}
    return share


def _ece(cases: Sequence[Case]) -> float:
    scores = np.clip([case.score for case in cases], 0, 1)
    right = np.array([case.is_right for case in cases], dtype=int)
    return expected_calibration_error(right, np.stack([1 - scores, scores], axis=1))


# ----- provenance and tables -----


def provenance(
    questions: Sequence[Question], seeds: Sequence[int], model: str | None = None, scans: str = "simulated"
) -> dict[str, Any]:
    """Say what scores were measured with: questions by their hash, scans by their seeds, versions, and the commit.

    Parameters
    ----------
    questions : sequence of Question
    seeds : sequence of int
        Of the sets of scans; below 0 for real ones.
    model : str, optional
        Folder or Hub id; the bundled model when None.
    scans : str
        Kind of the scans.
    """
    packages = ("numpy", "scipy", "torch", "transformers")
    texts = [f"{each.atlas}\t{each.text}\t{'; '.join(map(str, each.queries))}" for each in questions]
    return {
        "n_questions": len(questions),
        "questions_sha256": _digest(*texts),
        "model": model or "bundled",
        "scans": scans,
        "seeds": list(seeds),
        "commit": _commit(),
        "python": sys.version.split()[0],
        "versions": {"fmri_lm_hf": __version__, **{name: version(name) for name in packages}},
    }


def _commit() -> str | None:
    """Return the commit of a source checkout; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def save_results(
    out: Path,
    scores: Mapping[str, Mapping[str, Any]],
    cases: Mapping[str, Sequence[Case]],
    record: Mapping[str, Any],
) -> None:
    """Write results.json, results.md, results.html and answers.jsonl into a folder.

    Parameters
    ----------
    out : Path
    scores : mapping of str to dict
        Of each entrant, as of `score_cases`.
    cases : mapping of str to sequence of Case
    record : mapping
        As of `provenance`.
    """
    write_json({"provenance": record, "entrants": scores}, out / "results.json")
    write_text(markdown_table(scores), out / "results.md")
    write_text(results_page(scores, record), out / "results.html")
    lines = [{"entrant": name, **case.to_json()} for name, of in cases.items() for case in of]
    write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), out / "answers.jsonl")


_COLUMNS = tuple(name for name in SCORES if name not in ("understood", "swapped_unchanged"))


def markdown_table(entrants: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the scores of entrants as a table: a row each, shares in percent with their intervals."""
    head = ["Entrant", *(SCORES[name][2] for name in _COLUMNS), "Calibration error"]
    rows = [[name, *_cells(scores)] for name, scores in entrants.items()]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(scores: Mapping[str, Any]) -> list[str]:
    ece = scores["ece"]
    return [*(_percent(scores[name]) for name in _COLUMNS), "-" if ece is None else f"{ece:.3f}"]


def _percent(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    text = f"{100 * share['estimate']:.1f}"
    return text if share["low"] is None else f"{text} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def results_page(entrants: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    """Make a page of all scores: HTML, in one file."""
    head = ["Entrant", *(SCORES[name][2] for name in _COLUMNS), "Calibration error"]
    parts = [
        paragraph(
            f"{record['n_questions']} questions about {record['scans']} scans, model {record['model']}. Shares in "
            "percent, with 95 % intervals of a bootstrap over questions."
        ),
        html_table(head, [[name, *_cells(scores)] for name, scores in entrants.items()]),
    ]
    for group in _GROUPS:
        keys = sorted({key for scores in entrants.values() for key in scores[group]})
        rows = [[key, *(_percent(scores[group].get(key)) for scores in entrants.values())] for key in keys]
        parts += [heading(f"Right, {group.replace('_', ' ')}"), html_table(["", *entrants], rows)]
    return page("Benchmark of questions about a scan", parts)
