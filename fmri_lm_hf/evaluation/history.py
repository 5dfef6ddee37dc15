"""The history of a test split: every evaluation of its scans is recorded, and stated in the next report.

A score on test scans estimates the score for new people only as long as nothing was chosen by it: every look at the
test split that leads to another model makes the next score too good [1]_. Choose on validation subjects
(`fmri-lm evaluate --split validation`), which is not recorded.

The history is `.judged.jsonl`, one line an evaluation, in the folder of the scan dataset (hidden, so that it is neither
published nor taken for data); where the dataset is on the Hub or cannot be written to, in the folder of the results.

References
----------
.. [1] Dwork C, Feldman V, Hardt M, Pitassi T, Reingold O, Roth A (2015). The reusable holdout: preserving validity in
   adaptive data analysis. Science 349, 636-638. doi:10.1126/science.aaa9375
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ..__about__ import __version__
from ..files import weights_hash

if TYPE_CHECKING:
    import torch

    from .results import EvaluationReport

HISTORY_FILE = ".judged.jsonl"
LONGEST_WAIT = 60  # seconds, for another process that writes


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Entry:
    """One evaluation on test scans.

    Attributes
    ----------
    scans_sha256 : str
        Hash of the content of the test scans (`Design.evaluated_sha256`).
    splits_sha256 : str
    model : str
        The last part of its name.
    model_sha256 : str
        Hash of its weights.
    tasks : tuple of str
    date : str
        ISO 8601, UTC.
    version : str
        Of this package.
    """

    scans_sha256: str
    splits_sha256: str
    model: str
    model_sha256: str
    tasks: tuple[str, ...]
    date: str = field(default_factory=_now)
    version: str = __version__

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))  # a list, where it comes from JSON


class History:
    """The evaluations that are recorded in a folder.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder) / HISTORY_FILE

    @classmethod
    def of_scans(cls, scans: str | os.PathLike, out: str | os.PathLike) -> History:
        """Find the history in the folder of a scan dataset; in a folder of results if the former is not writable.

        Parameters
        ----------
        scans : path or str
            A folder, a file, or an id on the Hub.
        out : path
        """
        path = Path(scans)
        folder = path if path.is_dir() else path.parent
        return cls(folder if path.exists() and os.access(folder, os.W_OK) else out)

    def record(self, report: EvaluationReport, model: torch.nn.Module, name: str) -> None:
        """Record an evaluation, and note in its report how often these test scans were used before.

        An evaluation of validation subjects, or without splits, is not recorded.
        """
        if report.split != "test" or report.scans_sha256 is None or report.splits_sha256 is None:
            return
        entry = Entry(report.scans_sha256, report.splits_sha256, name, weights_hash(model), tuple(report.tasks))
        earlier = self.earlier(entry)  # before this entry is added, or it would count itself
        self.add(entry)
        report.history = {"n_earlier": len(earlier), "statement": statement(earlier, entry)}

    def read(self) -> list[Entry]:
        """Read all evaluations, in order.

        Raises
        ------
        ValueError
            When a line is damaged.
        """
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                found.append(Entry(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"Line {number} of {self.path} is not the record of an evaluation ({error}): restore the file, or "
                    "remove this line."
                ) from error
        return found

    def earlier(self, entry: Entry) -> list[Entry]:
        """List the recorded evaluations of the same scans."""
        # By the content of the scans, so that a renamed copy of a dataset is recognised.
        return [each for each in self.read() if each.scans_sha256 == entry.scans_sha256]

    def add(self, entry: Entry) -> None:
        """Append an evaluation: a whole line, also when other processes write at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        # One write under a lock: two processes that evaluate at once otherwise write half a line into the other's.
        with FileLock(self.path.with_suffix(".lock"), timeout=LONGEST_WAIT), self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def statement(earlier: Sequence[Entry], now: Entry) -> str:
    """Say in a sentence or two what earlier evaluations of the same scans mean for this one."""
    if not earlier:
        return "This test split had not been evaluated before."
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    others = {each.model_sha256 for each in earlier} - {now.model_sha256}
    last = earlier[-1]
    sentence = f"This test split was evaluated {times} before, last on {last.date[:10]} with {last.model}."
    if not others:
        return f"{sentence} It was the same model each time."
    models = "another model" if len(others) == 1 else f"{len(others)} other models"
    return (
        f"{sentence} It was used for {models}: if a model was chosen by these scores, they are too good. Choose with "
        "`--split validation`."
    )
