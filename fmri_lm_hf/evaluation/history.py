"""A test split is read once: who judged what on which scans is written down, and said to whoever judges again.

A score on test scans is an estimate for new people only as long as nothing was chosen by it: every look at the test
split that leads to another model makes the next score better than it should be [1]_. Choose on validation subjects
(`fmri-lm evaluate --split validation`), which is not written down.

The ledger is `.judged.jsonl`, one line a judgement, in the folder of the scan dataset (hidden, so that it is neither
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
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock

from ..__about__ import __version__

LEDGER_FILE = ".judged.jsonl"
LONGEST_WAIT = 60  # seconds, for another process that writes


@dataclass(frozen=True)
class Entry:
    """That a model was judged on test scans.

    Attributes
    ----------
    scans_sha256 : str
        Hash of the content of the judged scans (`Design.evaluated_sha256`).
    splits_sha256 : str
    model : str
        The last part of its name.
    model_sha256 : str
        Hash of its weights.
    tasks : tuple of str
    date : str
        ISO 8601, UTC; now, where it is not given.
    version : str
        Of this package.
    """

    scans_sha256: str
    splits_sha256: str
    model: str
    model_sha256: str
    tasks: tuple[str, ...]
    date: str = ""
    version: str = __version__

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.date:
            object.__setattr__(self, "date", datetime.now(timezone.utc).isoformat(timespec="seconds"))


class Ledger:
    """The judgements that are written down in a folder.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder) / LEDGER_FILE

    @classmethod
    def beside(cls, scans: str | os.PathLike, out: str | os.PathLike) -> Ledger:
        """The ledger of a scan dataset, or of a folder of results where the dataset's folder cannot be written to.

        Parameters
        ----------
        scans : path or str
            A folder, a file, or a name on the Hub.
        out : path
        """
        path = Path(scans)
        folder = path if path.is_dir() else path.parent
        return cls(folder if path.exists() and os.access(folder, os.W_OK) else out)

    def read(self) -> list[Entry]:
        """All judgements, in the order in which they were made.

        Raises
        ------
        ValueError
            When a line is no judgement.
        """
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                found.append(Entry(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"Line {number} of {self.path} is no judgement of a model ({error}): put the ledger back, or "
                    "remove this line."
                ) from error
        return found

    def earlier(self, entry: Entry) -> list[Entry]:
        """The judgements on the same scans that are written down."""
        return [each for each in self.read() if each.scans_sha256 == entry.scans_sha256]

    def add(self, entry: Entry) -> None:
        """Write a judgement down: a whole line, whoever else writes at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        with FileLock(self.path.with_suffix(".lock"), timeout=LONGEST_WAIT), self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def told(earlier: Sequence[Entry], now: Entry) -> str:
    """What earlier judgements on the same scans mean, in a sentence or two."""
    if not earlier:
        return "This test split had not been judged before."
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    others = {each.model_sha256 for each in earlier} - {now.model_sha256}
    last = earlier[-1]
    sentence = f"This test split was judged {times} before, last on {last.date[:10]} by {last.model}."
    if not others:
        return f"{sentence} It was the same model each time."
    models = "another model" if len(others) == 1 else f"{len(others)} other models"
    return (
        f"{sentence} It has seen {models}: if a choice was made by their scores, these are too good. Choose with "
        "`--split validation`."
    )
