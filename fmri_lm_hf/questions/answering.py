"""From a question and a scan to an answer with its evidence, or to a reason why there is none.

First the scan: is it one that can be read? Then the question: is it understood, and can one scan tell? Then the answer,
from the numbers of the scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..models.atlas import Atlas
from ..models.atlas_names import is_network
from ..models.readable_scan import unreadable_reason
from ..models.scan_errors import ScanError
from .answers import Answer, Statement, Unanswerable, answer
from .classes import Reader
from .labels import RecordedLabels
from .lexicon import Lexicon
from .measures import ScanMeasures
from .query import Query
from .understanding import MIN_CONFIDENCE, Understanding, understand

if TYPE_CHECKING:
    from .reading import LevelReading

# Lets a language model read the levels of all values that a query is about: see `reading.read_levels`.
Levels = Callable[[ScanMeasures, Query], "Sequence[LevelReading]"]

UNREADABLE = "unreadable"
_NO_SCAN = "There is no scan."
_INSTEAD_OF_UNREADABLE = (
    "Questions are answered about a resting-state scan: cleaned ROI time series, in the order of its atlas."
)


class QueryRecord(TypedDict):
    """A query as JSON: see `Query`."""

    intent: str
    networks: list[str]
    extra: dict[str, Any]


class Evidence(TypedDict):
    """A statement that an answer rests on, with the number that it states."""

    statement: str
    value: float | int | None
    units: str
    relative_to: str


class QuestionAnswer(TypedDict):
    """An answer to a question about a scan.

    Attributes
    ----------
    answer : str
        In plain English; of a declined question the reason, and what can be asked instead.
    score : float
        Probability that the question was understood, or that it has no answer; 1 for a scan that cannot be read.
    declined : bool
        Whether nothing was answered.
    reason : str or None
        Why the question, or one of two questions, has no answer.
    queries : list of dict
        What the question was understood as: ``{"intent", "networks", "extra"}``.
    evidence : list of dict
        ``{"statement", "value", "units", "relative_to"}``.
    """

    answer: str
    score: float
    declined: bool
    reason: str | None
    queries: list[QueryRecord]
    evidence: list[Evidence]


@dataclass(frozen=True)
class OpenedScan:
    """The numbers of a scan, or why it cannot be read.

    Attributes
    ----------
    measures : ScanMeasures or None
    reason : str or None
    row : mapping
        The scan as it was given.
    """

    measures: ScanMeasures | None
    reason: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What was found out about a question.

    Attributes
    ----------
    text : str
        The answer, or the reason why there is none with what can be asked instead.
    reason : str or None
        Why the question, or one of two, has no answer.
    understanding : Understanding
        What was understood; of `kind` `UNREADABLE` if the scan cannot be read.
    answers : tuple of Answer
        One for each query that has an answer.
    label : str or None
        A question that the model was trained on, if it gives the answer: see `RecordedLabels`.
    """

    text: str
    reason: str | None
    understanding: Understanding
    answers: tuple[Answer, ...] = ()
    label: str | None = None

    @property
    def declined(self) -> bool:
        """Whether nothing was answered."""
        return not self.answers

    @property
    def evidence(self) -> list[Statement]:
        """The statements that the answers rest on, once each."""
        return list(dict.fromkeys(statement for found in self.answers for statement in found.evidence))

    @property
    def queries(self) -> list[QueryRecord]:
        """What the question was understood as."""
        if self.label is not None:
            return [{"intent": "label", "networks": [], "extra": {"question": self.label}}]
        return [_record(query) for query in self.understanding.queries]

    def to_json(self) -> QuestionAnswer:
        """Return the finding as JSON has it."""
        return {
            "answer": self.text,
            "score": float(self.understanding.score),
            "declined": self.declined,
            "reason": self.reason,
            "queries": self.queries,
            "evidence": [evidence_of(statement) for statement in self.evidence],
        }


class QuestionAnswerer:
    """Answers questions about scans of one atlas.

    Parameters
    ----------
    atlas : Atlas
        With named networks.
    reader : Reader
        Such as `bundled.load_question_reader()`.
    names : mapping of str to sequence of str, optional
        Further names of networks: ``{"default": ["idle net"]}``.
    threshold : float, optional
        Questions that are understood with a lower score are declined.
    levels : callable, optional
        What a language model reads: takes measures and a query, returns readings of levels. Without, answers are from
        the numbers alone.
    check : bool, default=True
        Whether levels of the language model are compared with the numbers. Otherwise they are given as they are.
    labels : RecordedLabels, optional
        Labels that the model was trained on: questions about them are answered by the model.

    Examples
    --------
    >>> answerer = QuestionAnswerer(processor.feature_extractor.atlas, load_question_reader())  # doctest: +SKIP
    >>> answerer.answer("Which network is the hub?", {"bold": bold, "t_r": 2.0})["answer"]  # doctest: +SKIP
    'The hub is default: ...'
    """

    def __init__(
        self,
        atlas: Atlas,
        reader: Reader,
        names: Mapping[str, Sequence[str]] | None = None,
        threshold: float | None = None,
        levels: Levels | None = None,
        check: bool = True,
        labels: RecordedLabels | None = None,
    ):
        if not atlas.named_networks:
            raise ValueError(
                f"The atlas {atlas.name!r} has no named networks, so that no question can name one: give an atlas "
                "with networks, such as `atlas.with_networks(table)`."
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` is a probability from 0 to 1, found {threshold!r}.")
        if levels is None and not check:
            raise ValueError("`check=False` shows what a language model reads, unchecked: use it with `read='model'`.")
        self.atlas, self.reader = atlas, reader
        self.lexicon = Lexicon(atlas.named_networks, checked_names(names or {}, atlas.named_networks))
        self.threshold = MIN_CONFIDENCE if threshold is None else threshold
        self.levels, self.check, self.labels = levels, check, labels

    def open(self, scan: Mapping[str, Any] | None) -> OpenedScan:
        """Measure a scan, unless it cannot be read.

        Parameters
        ----------
        scan : mapping or None
            ``bold`` (n_timepoints, n_rois) in the order of the atlas and ``t_r`` in seconds, as it was recorded: not
            resampled, since that changes the numbers; ``roi_mask`` (n_rois,) and ``sample_mask`` (n_timepoints,) are
            optional.
        """
        if scan is None:
            return OpenedScan(None, _NO_SCAN)
        networks = [name if is_network(name) else None for name in self.atlas.networks]
        return self.opened(scan, unreadable_reason(*_checked(scan), networks=networks))

    def opened(self, scan: Mapping[str, Any], reason: str | None) -> OpenedScan:
        """Measure a scan that was checked as it was read.

        Parameters
        ----------
        scan : mapping
            As for `open`.
        reason : str or None
            Why the scan is not readable: the second result of `models.abstention.read_or_decline`.
        """
        if reason is not None:
            return OpenedScan(None, reason)
        bold, t_r, roi_mask, sample_mask = _checked(scan)
        try:
            return OpenedScan(ScanMeasures.of(bold, t_r, self.atlas, roi_mask, sample_mask), row=scan)
        except ScanError as error:
            return OpenedScan(None, str(error))

    def answer(self, question: str, scan: Mapping[str, Any] | OpenedScan | None) -> QuestionAnswer:
        """Answer a question about a scan, as JSON: `find` explains the parameters."""
        return self.find(question, scan).to_json()

    def find(self, question: str, scan: Mapping[str, Any] | OpenedScan | None) -> Finding:
        """Find the answer to a question about a scan.

        Parameters
        ----------
        question : str
        scan : mapping, OpenedScan or None
            As `open` takes it, or its result: the numbers of a scan are then computed once for several questions.
        """
        if not isinstance(question, str):
            raise ValueError(f"A question is a text, found {type(question).__name__}: {question!r}.")
        opened = scan if isinstance(scan, OpenedScan) else self.open(scan)
        if opened.measures is None:
            reason = opened.reason or _NO_SCAN
            return Finding(f"{reason} {_INSTEAD_OF_UNREADABLE}", reason, Understanding(kind=UNREADABLE))
        understood = understand(question, self.lexicon, self.reader, self.threshold)
        if not understood.queries:
            label = self.labels and self.labels.find(question)
            if self.labels and label:
                answered = self.labels.answer(opened.row, label)
                return Finding(answered.text, None, understood, (answered,), label)
            return Finding(str(understood.reason), str(understood.reason), understood)
        found = self.answers(understood.queries, opened.measures)
        texts = [self._text(*each, opened.measures) for each in zip(understood.queries, found, strict=True)]
        reasons = [str(each) for each in found if isinstance(each, Unanswerable)]
        return Finding(
            " ".join(dict.fromkeys(texts)),
            " ".join(dict.fromkeys(reasons)) or None,
            understood,
            tuple(each for each in found if isinstance(each, Answer)),
        )

    def answers(self, queries: Sequence[Query], measures: ScanMeasures) -> list[Answer | Unanswerable]:
        """Answer queries, each by itself: one without an answer leaves the others theirs."""
        found: list[Answer | Unanswerable] = []
        for query in queries:
            try:
                found.append(answer(query, measures))
            except Unanswerable as error:
                found.append(error)
        return found

    def _text(self, query: Query, found: Answer | Unanswerable, measures: ScanMeasures) -> str:
        """Say an answer, with what the language model reads if there is one."""
        if isinstance(found, Unanswerable):
            return str(found)
        if self.levels is None:
            return found.text
        readings = self.levels(measures, query)
        return f"{found.text} {agreement(readings)}" if self.check else unchecked(readings)


_NO_LEVEL = "The language model reads no level here."


def agreement(readings: Sequence[LevelReading]) -> str:
    """Say in how far the levels that a language model reads are those of the numbers."""
    if not readings:
        return _NO_LEVEL
    wrong = [f"{value_words(each)} as {each.level}, not {each.by_numbers}" for each in readings if not each.is_true]
    if not wrong:
        return f"The language model reads {'the same level' if len(readings) == 1 else 'the same levels'}."
    n_right = len(readings) - len(wrong)
    return f"The language model reads {n_right} of {len(readings)} levels alike, but {'; '.join(wrong)}."


def unchecked(readings: Sequence[LevelReading]) -> str:
    """Say which levels a language model reads, whatever the numbers are."""
    if not readings:
        return _NO_LEVEL
    levels = "; ".join(f"{value_words(each)}: {each.level}" for each in readings)
    return f"The language model reads (not checked): {levels}."


def value_words(reading: LevelReading) -> str:
    """Name the value whose level was read: a coupling, or a measure of a network or of the scan."""
    first, second = reading.names
    if reading.family == "connectivity":
        return f"within {first}" if first == second else f"between {first} and {second}"
    return f"{second.replace('_', ' ')} of {first}"


def checked_names(names: Mapping[str, Sequence[str]], network_names: Sequence[str]) -> dict[str, list[str]]:
    """Check the further names of networks that a user gives.

    Raises
    ------
    ValueError
        If a key is no network of the atlas, or a value is not a list of texts.
    """
    if not isinstance(names, Mapping):
        raise ValueError(f'`names` maps networks to lists of names, {{"default": ["idle net"]}}, found {names!r}.')
    known = {name.casefold(): name for name in network_names}
    checked: dict[str, list[str]] = {}
    for network, others in names.items():
        if str(network).casefold() not in known:
            raise ValueError(
                f"`names` has the network {network!r}, which the atlas lacks: use {', '.join(network_names)}."
            )
        if isinstance(others, str) or not all(isinstance(name, str) and name.strip() for name in others):
            raise ValueError(f"`names` needs a list of names for {network!r}, found {others!r}.")
        checked[known[str(network).casefold()]] = list(others)
    return checked


def evidence_of(statement: Statement) -> Evidence:
    """Return a statement as JSON has it, with the number that it states."""
    return {
        "statement": statement.statement,
        "value": _plain(statement.value),
        "units": statement.units,
        "relative_to": statement.relative_to,
    }


def _record(query: Query) -> QueryRecord:
    record = query.to_json()
    return {"intent": record["intent"], "networks": record["networks"], "extra": record["extra"]}


def _plain(value: Any) -> float | int | None:
    """Return a number that JSON has."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _checked(scan: Mapping[str, Any]) -> tuple[np.ndarray, float, Any, Any]:
    """Return signals, repetition time and masks of one scan."""
    if missing := sorted({"bold", "t_r"} - set(scan)):
        raise ValueError(
            f"The scan has no {' and no '.join(missing)}: give `bold` (n_timepoints, n_rois) and `t_r` in seconds, "
            f"found {sorted(scan)}."
        )
    bold = np.asarray(scan["bold"])
    if bold.ndim != 2:
        raise ValueError(f"`bold` of one scan has the shape (n_timepoints, n_rois), found {bold.shape}.")
    return bold, float(scan["t_r"]), scan.get("roi_mask"), scan.get("sample_mask")
