"""Files that are there whole or not at all; folders for one process at a time; folders that come with the package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

__all__ = ["exclusive", "project_folder", "write_json", "write_text"]


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write a text file, atomically; its folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


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
    """Hold a folder for this process alone; it is made if need be.

    The lock ends with the process, however that ends.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"Another process is at work in {folder.parent if folder.name.startswith('.') else folder}: wait "
            "until it has ended, or give another folder."
        ) from error
    with lock:
        yield
