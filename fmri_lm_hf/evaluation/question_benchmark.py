"""A benchmark of truth: questions in people's own words about one scan, answered by any program, judged by the scan.

An entrant is a callable ``(scan, question)`` that returns a text or ``{"answer": str, "declined": bool, "score": float,
"queries": [...]}``; all but the answer may be left out. The scan is a dict (`question_scans.QuestionScan`), or None.
Besides each question about a scan of its atlas, questions are asked about noise, about no scan, and about a scan whose
networks have changed names; and the answer about one scan is held against the numbers of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..questions.answers import Unanswerable, answer
from ..questions.query import Query
from .answer_judge import Verdict, judge_texts
from .answer_text import Said
from .question_scans import QuestionScan, ScanSet, swapped

Entrant = Callable[[Any, str], Any]
Condition = Literal["own", "swapped", "noise", "no scan"]
Outcome = Literal["right", "false", "irrelevant", "declined", "answered", "failed"]

CONTROL_EVERY = 5  # of the questions that have an answer, one in so many is also asked about noise and the like
MAX_COMPOSED = 6  # composed questions of each pair of intents
_JOINTS = (". ", " And ", " Also: ", "\n", " Then: ")


@dataclass(frozen=True)
class Question:
    """A question and what it means.

    Attributes
    ----------
    text : str
    atlas : str
        The name that the question's file gives the atlas.
    queries : tuple of Query
        One or two; none if the question has no answer.
    intent : str
        Of the file, such as ``two_in_one``.
    kind : str or None
        Why it has no answer.
    lang : str
        ISO 639-1.
    composed : bool
        Whether it joins two questions of intents that are listed as never trained together.
    """

    text: str
    atlas: str
    queries: tuple[Query, ...]
    intent: str
    kind: str | None = None
    lang: str = "en"
    composed: bool = False


@dataclass(frozen=True)
class Case:
    """One answer of an entrant, and what became of it.

    Attributes
    ----------
    question : Question
    condition : {"own", "swapped", "noise", "no scan"}
        What the question was asked about.
    seed : int
    scan_id : str or None
    answer : str
    score : float or None
    outcome : str
        Of a question with an answer: "right", "false", "irrelevant" (beside the question) or "declined"; of one without
        "answered" or "declined"; "failed" if the entrant raised an error.
    expects_answer : bool
        Whether the scan has an answer to the question.
    understood : bool or None
        Whether its queries are those of the question; None if the entrant states none.
    by_other : bool or None
        Whether the text is also true of another scan; None where that was not asked.
    by_former : bool or None
        With swapped names, whether it is true of the scan before.
    """

    question: Question
    condition: Condition
    seed: int
    scan_id: str | None
    answer: str
    score: float | None
    outcome: Outcome
    expects_answer: bool
    understood: bool | None = None
    by_other: bool | None = None
    by_former: bool | None = None

    @property
    def is_right(self) -> bool:
        return self.outcome == ("right" if self.expects_answer else "declined")

    @property
    def is_answered(self) -> bool:
        return self.outcome not in ("declined", "failed")

    def to_json(self) -> dict[str, Any]:
        """Return a record with the question's text in place of the question."""
        record = {**vars(self), "question": self.question.text, "atlas": self.question.atlas}
        return {**record, "asked": [query.to_json() for query in self.question.queries], "kind": self.question.kind}


# ----- questions -----


def load_questions(*files: Path) -> list[Question]:
    """Load questions from files of JSON lines.

    Raises
    ------
    ValueError
        If a line is no question.
    """
    questions = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                questions.append(_question(json.loads(line)))
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"Line {number} of {file.name} is no question ({error}), expected a JSON object with text, atlas, "
                    "intent, networks, extra and lang."
                ) from error
    return questions


def _question(row: Mapping[str, Any]) -> Question:
    parts = [] if row["intent"] == "unanswerable" else row["extra"].get("parts", [row])
    queries = tuple(map(Query.from_json, parts))
    return Question(row["text"], row["atlas"], queries, row["intent"], row["extra"].get("kind"), row["lang"])


def load_atlases(file: Path) -> dict[str, list[str]]:
    """Load the networks of each atlas, by the names that questions give the atlases."""
    return json.loads(file.read_text(encoding="utf-8"))


def compose(questions: Sequence[Question], pairs: Iterable[Sequence[str]]) -> list[Question]:
    """Join English questions about one atlas to messages that ask two things.

    Parameters
    ----------
    questions : sequence of Question
    pairs : iterable of (str, str)
        Intents that are asked one after the other.

    Returns
    -------
    list of Question
        At most `MAX_COMPOSED` of a pair; the same questions give the same list.
    """
    single = [each for each in questions if len(each.queries) == 1 and each.lang == "en"]
    composed = []
    for first, second in pairs:
        both = [
            (one, other)
            for one in single
            if one.intent == first
            for other in single
            if other.intent == second and other.atlas == one.atlas and other is not one
        ]
        both.sort(key=lambda each: _digest(each[0].text, each[1].text))
        composed += [_joined(one, other, number) for number, (one, other) in enumerate(both[:MAX_COMPOSED])]
    return composed


def _joined(one: Question, other: Question, number: int) -> Question:
    text = f"{one.text.rstrip('. ')}{_JOINTS[number % len(_JOINTS)]}{other.text}"
    return replace(one, text=text, queries=one.queries + other.queries, intent="two_in_one", composed=True)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


# ----- answers -----


def run_entrant(entrant: Entrant, questions: Sequence[Question], scan_sets: Sequence[ScanSet]) -> list[Case]:
    """Ask an entrant all questions about all sets of scans, and judge its answers.

    Parameters
    ----------
    entrant : callable
        ``(scan, question)`` -> text, or dict with an ``answer``. If it raises an error, that case has failed.
    questions : sequence of Question
        Those whose atlas has no scan are left out.
    scan_sets : sequence of ScanSet

    Returns
    -------
    list of Case
    """
    return [case for scans in scan_sets for case in _cases(entrant, questions, scans)]


def _cases(entrant: Entrant, questions: Sequence[Question], scan_set: ScanSet) -> Iterator[Case]:
    asked = [each for each in questions if each.atlas in scan_set.scans]
    for number, question in enumerate(asked):
        scans = scan_set.scans[question.atlas]
        scan, other = scans[number % len(scans)], scans[(number + 1) % len(scans)]
        yield _ask(entrant, question, "own", scan_set.seed, scan, other)
    controls = [each for each in asked if each.queries and not each.composed][::CONTROL_EVERY]
    for number, question in enumerate(controls):
        scans = scan_set.scans[question.atlas]
        scan = scans[number % len(scans)]
        yield _ask(entrant, question, "swapped", scan_set.seed, swapped(scan), former=scan)
        yield _ask(entrant, question, "no scan", scan_set.seed, None)
        if question.atlas in scan_set.noise:
            yield _ask(entrant, question, "noise", scan_set.seed, scan_set.noise[question.atlas])


def _ask(
    entrant: Entrant,
    question: Question,
    condition: Condition,
    seed: int,
    scan: QuestionScan | None,
    other: QuestionScan | None = None,
    former: QuestionScan | None = None,
) -> Case:
    """Ask one question about one scan, and judge the answer by the scan and, in turn, by `other` and `former`."""
    scan_id = None if scan is None else scan.scan["scan_id"]
    expects_answer = scan is not None and condition != "noise" and _has_answer(question, scan)
    case = Case(question, condition, seed, scan_id, "", None, "failed", expects_answer)
    try:
        given = _record(entrant(None if scan is None else scan.scan, question.text))
    except Exception as error:  # whatever an entrant raises is its own fault, and others are to be asked still
        return replace(case, answer=f"{type(error).__name__}: {error}")
    text, score, queries = given["answer"], given.get("score"), given.get("queries")
    names = () if scan is None else scan.measures.network_names
    declined = given["declined"] if "declined" in given else Said(text, names).declines
    case = replace(case, answer=text, score=None if score is None else float(score))
    if scan is None or not expects_answer:
        return replace(case, outcome="declined" if declined else "answered")
    understood = None if queries is None else _keys(queries) == [query.key for query in question.queries]
    if declined:
        return replace(case, outcome="declined", understood=understood)
    outcome = _judged(text, question, scan)
    if outcome == "right" and understood is False:
        outcome = "irrelevant"  # true, but the answer to what was not asked
    by_other, by_former = (
        None if each is None else _judged(text, question, each) == "right" for each in (other, former)
    )
    return replace(case, outcome=outcome, understood=understood, by_other=by_other, by_former=by_former)


def _record(given: Any) -> dict[str, Any]:
    """Return what an entrant gave as a dict."""
    record = {"answer": given} if isinstance(given, str) else dict(given)
    if not isinstance(record.get("answer"), str):
        raise TypeError(f"The entrant returned {given!r}, expected a text or a dict with the text `answer`.")
    return record


def _keys(queries: Sequence[Mapping[str, Any]]) -> list[Any]:
    try:
        return [Query.from_json(query).key for query in queries]
    except (KeyError, TypeError, ValueError):  # not a query of this package: then it is not that of the question
        return [None]


def _has_answer(question: Question, scan: QuestionScan) -> bool:
    """Whether a question has an answer, and this scan has it: its networks may lack signals."""
    for query in question.queries:
        try:
            answer(query, scan.measures)
        except Unanswerable:
            return False
    return bool(question.queries)


_OUTCOMES: dict[Verdict, Outcome] = {
    "true": "right",
    "false": "false",
    "irrelevant": "irrelevant",
    "declined": "declined",
}


def _judged(text: str, question: Question, scan: QuestionScan) -> Outcome:
    return _OUTCOMES[judge_texts(text, question.queries, scan.measures)]
