"""Requests of the decision pipeline: a state that names a scan, and typed questions about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_YES_OR_NO = {"true": "yes", "false": "no"}


def read_request(request: Any) -> tuple[str, Any, str, list[Any]]:
    """Read a request, a dict or its JSON, with exactly one scan.

    Returns
    -------
    before : str
        The state before the scan.
    scan : scan
    after : str
        The state after the scan.
    questions : list
        As transformers parses them.

    Raises
    ------
    ImportError
        If transformers has no decision pipeline.
    ValueError
        If the request has another form, its state does not name the scan once, or a question lacks instructions or
        repeats an option.
    """
    try:
        from transformers.decision import DecisionConfig, parse_questions
    except ImportError as error:
        raise ImportError(
            'pipeline("fmri-decision") needs a version of transformers with pipeline("decision"): '
            "pip install -U transformers."
        ) from error

    if isinstance(request, str):
        request = json.loads(request)
    if not isinstance(request, Mapping) or not {"state", "questions", "assets"} <= set(request):
        found = sorted(request) if isinstance(request, Mapping) else type(request).__name__
        raise ValueError(
            'A request is {"state": ..., "assets": {name: scan}, "questions": {name: question}}, as a dict or its '
            f"JSON, found {found}. To ask about scans alone, give `questions` as a second argument."
        )
    assets = request["assets"]
    if not isinstance(assets, Mapping) or len(assets) != 1:
        found = sorted(assets) if isinstance(assets, Mapping) else assets
        raise ValueError(f"The assets of a request must be one scan by its name, found {found!r}.")
    ((name, scan),) = assets.items()
    state = as_text(request["state"])
    parts = state.split(name)
    if len(parts) != 2:
        raise ValueError(
            f"The state must name the scan {name!r} once, where it belongs, but names it {len(parts) - 1} times: "
            f"{state!r}."
        )
    questions = parse_questions(dict(request["questions"]), DecisionConfig())
    for question in questions:
        if question.instructions is None:
            raise ValueError(f"Question {question.name!r} has no `instructions`: write what is asked there.")
        answers = answers_of(question)
        if len(set(answers)) != len(answers):
            raise ValueError(f"Question {question.name!r}: its options must all be different, got {answers}.")
    return parts[0], scan, parts[1].lstrip(), questions


def answers_of(question: Any) -> list[str]:
    """Return the answer in words for each option of a question."""
    if question.type == "noul":
        return [_YES_OR_NO[option] for option in question.options]
    return [as_text(option) for option in (question.descriptions if question.type == "score" else question.options)]


def question_text(question: Any) -> str:
    """Return the words of a question, with a line for each option that is described."""
    lines = [as_text(question.instructions)]
    if question.type != "score":
        pairs = zip(answers_of(question), question.descriptions, strict=True)
        lines += [f"{answer}: {as_text(description)}" for answer, description in pairs if description]
    return "\n".join(lines)


def as_text(content: Any) -> str:
    """Return a text as it is, and other content as JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
