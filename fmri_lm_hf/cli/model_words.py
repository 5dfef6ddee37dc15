"""What a language model says of a scan, each statement next to the number that it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .one_scan import OpenScan, generate, load_model

if TYPE_CHECKING:
    from ..corpus.facts import Fact
    from ..corpus.queries import CheckedStatement, PairTruth
    from ..questions.measures import ScanMeasures

QUESTION = "Describe this scan."
COUPLING = "mean correlation of the ROIs of two networks, in units of the scan's RMS correlation"
RANKS = "Ranks: by magnitude, among all pairs of two networks, or among all single networks."


@dataclass(frozen=True)
class Told:
    """A statement of the language model, and the truth about it.

    Attributes
    ----------
    text : str
    is_true : bool or None
        None if it claims nothing that can be checked.
    truth : dict or None
        ``networks`` (or network and measure), ``value`` and ``bin``; for a pair also its ``rank`` of ``n_pairs``. None
        if the scan has no number to compare it with.
    detail : str
        Bin and rank, for people.
    """

    text: str
    is_true: bool | None
    truth: dict[str, Any] | None = None
    detail: str = ""

    @property
    def mark(self) -> str:
        """A check mark or a cross; a dash if the scan has no number to compare the statement with."""
        if self.truth is None:
            return "-"
        return "✓" if self.is_true else "✗"

    @property
    def value(self) -> str:
        """The number of the scan; empty without one."""
        return "" if self.truth is None else f"{self.truth['value']:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Return text, `is_true` and truth."""
        return {"text": self.text, "is_true": self.is_true, "truth": self.truth}


def told_by_model(
    scan: OpenScan, measures: ScanMeasures, about: str, model_name: str | None = None
) -> tuple[str, list[Told]]:
    """Let a language model describe a scan, and hold what it says against the numbers.

    Connectivity it describes in its own words. Of the other families, it says what it reads as most extreme; a model
    that reads ROIs reads none.

    Parameters
    ----------
    scan : OpenScan
    measures : ScanMeasures
    about : str
        "all", or a family: see `reading`.
    model_name : str, optional
        Folder or Hub id; the bundled model when None.

    Returns
    -------
    text : str
        The model's own words, as it wrote them; empty for a family other than connectivity.
    statements : list of Told
        Once each.
    """
    from ..questions.reading import TableReader
    from ..questions.value_tables import FAMILIES

    about = "spectral" if about == "ica" else about  # both are of the networks' mean signals
    model, processor = load_model(scan, model_name)
    text, told = "", []
    if about in ("all", "connectivity"):
        text = generate(scan, model, processor, QUESTION)
        told += of_text(text, measures)
    reads_pairs_alone = model.config.reads_network_pairs and not model.config.reads_rois
    if about != "all" or reads_pairs_alone:
        reader = TableReader(model, processor)
        for family in FAMILIES[1:]:
            told += of_family(reader, measures, family) if about in ("all", family) else []
    return text, told


def of_text(text: str, measures: ScanMeasures) -> list[Told]:
    """Check a text about connectivity."""
    from ..corpus.queries import check_statements

    # once each: greedy decoding may repeat itself
    return [_told(one) for one in dict.fromkeys(check_statements(text, facts_of(measures), measures.network_names))]


def of_family(reader: Any, measures: ScanMeasures, family: str) -> list[Told]:
    """Let the model say what it reads as most extreme in a family, and check that."""
    from ..questions.model_descriptions import describe_with_model
    from ..questions.value_tables import family_table

    entries: dict[Any, Any] = dict(family_table(measures, family).entries)
    told = []
    for one in describe_with_model(reader, None, measures, family).raw:
        entry = entries.get(one.names)
        truth = entry and {"networks": list(one.names), "value": entry.value, "bin": entry.level}
        told.append(Told(one.text, one.is_true, truth or None, entry.level if entry else ""))
    return told


def _told(statement: CheckedStatement) -> Told:
    pair = statement.truth
    if pair is None:
        return Told(statement.text, statement.is_true)
    truth = {**asdict(pair), "networks": list(pair.networks)}
    return Told(statement.text, statement.is_true, truth, f"{pair.bin}, {rank_label(pair)}")


def facts_of(measures: ScanMeasures) -> list[Fact]:
    """State the bins of all pairs of a scan, which the model's words are compared with."""
    from ..corpus.queries import scan_facts

    names = measures.network_names
    pairs = [(first, second) for place, first in enumerate(names) for second in names[place:]]
    values = [measures.pair(*pair) for pair in pairs]
    return scan_facts([value or 0.0 for value in values], [value is not None for value in values], names)


def agreement(told: Sequence[Told]) -> str:
    """Write a sentence with the number of statements that agree with the scan; empty if none can be checked."""
    checked = [one for one in told if one.truth is not None]
    n_true = sum(bool(one.is_true) for one in checked)
    return f"{n_true} of {len(checked)} statements agree with the scan." if checked else ""


def rank_label(pair: PairTruth) -> str:
    """Write the rank of a pair by magnitude: ``strongest of 15``, ``2nd strongest of 15``."""
    from ..questions.statements import ordinal

    if pair.rank in (1, pair.n_pairs) and pair.n_pairs > 1:
        return f"{'strongest' if pair.rank == 1 else 'weakest'} of {pair.n_pairs}"
    return f"{ordinal(pair.rank)} strongest of {pair.n_pairs}"
