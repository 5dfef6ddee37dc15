"""Files that are there whole or not at all, and folders that one process works in at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_json(record: Any, path: str | os.PathLike) -> None:
    """Write JSON into a file, atomically; its folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for this process alone; it is made if need be.

    The lock ends with the process, however that ends. Where the system has no such locks (Windows), there is none.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    folder = Path(folder)
    if fcntl is None:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    with _open_lock(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"Another process is at work in {folder.parent if folder.name.startswith('.') else folder}: wait "
                "until it has ended, or give another folder."
            ) from error
        yield


def _open_lock(path: Path) -> TextIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return path.open("w")
        except FileNotFoundError:  # another process has just removed the folder, at the end of its work
            continue


__all__ = ["exclusive", "write_json"]
