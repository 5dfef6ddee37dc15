"""Files that are there whole or not at all; folders for one process at a time; folders that come with the package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

__all__ = ["LOCK_FILE", "atomic", "exclusive", "project_folder", "write_bytes", "write_json", "write_text"]

LOCK_FILE = ".lock"


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """A file to write in place of `path`, which takes its name when the block ends without an error.

    Its folder is made if need be; after an error nothing is left of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(content: bytes, path: str | os.PathLike) -> None:
    """Write a file, atomically; its folder is made if need be."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write a text file, atomically; its folder is made if need be."""
    write_bytes(text.encode(), path)


def write_json(record: Any, path: str | os.PathLike) -> None:
    """Write JSON into a file, atomically; its folder is made if need be."""
    write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", path)


def project_folder(name: str) -> Path:
    """A folder that comes with the package: inside it when installed, beside it in a source checkout."""
    package = Path(__file__).resolve().parent
    for root in (package, package.parent):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f"The folder {name} of fmri_lm_hf is missing: this installation is incomplete, install the package again."
    )


@contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for this process alone; it is made if need be, and removed if nothing came into it.

    The lock ends with the process, however that ends.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    folder = Path(folder)
    lock = _acquire(folder)
    try:
        yield
    finally:
        (folder / LOCK_FILE).unlink(
            missing_ok=True
        )  # while it is held: who waits for it sees that it is gone
        lock.release()
        with suppress(OSError):  # not empty
            folder.rmdir()


def _acquire(folder: Path) -> BaseFileLock:
    shown = folder.parent if folder.name.startswith(".") else folder
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    for _ in range(100):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
            return lock
        except FileNotFoundError:  # another process has just ended and removed the folder that it left empty
            continue
        except Timeout as error:
            raise BlockingIOError(
                f"Another process is at work in {shown}: wait until it has ended, or give another folder."
            ) from error
    raise BlockingIOError(f"The folder {shown} is made and removed all the time: give another one.")
