"""Atomic writing of files, folders locked for one process, folders of the package, and hashes of content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

if TYPE_CHECKING:
    import torch


LOCK_FILE = ".lock"


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary file, which replaces `path` if the block ends without an error.

    Its folder is created if it does not exist; after an error nothing is left of the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder, since a file can be replaced atomically only within one file system
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(content: bytes, path: str | os.PathLike) -> None:
    """Write a file, atomically; its folder is created if it does not exist."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write a text file, atomically; its folder is created if it does not exist."""
    write_bytes(text.encode(), path)


def write_json(record: Any, path: str | os.PathLike) -> None:
    """Write JSON into a file, atomically; its folder is created if it does not exist."""
    write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", path)


def project_folder(name: str) -> Path:
    """Find a folder of the package: inside it if installed, next to it in a source checkout."""
    package = Path(__file__).resolve().parent
    for root in (package, package.parent):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f"The folder {name} of fmri_lm_hf is missing: the installation is incomplete, install the package again."
    )


@contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a folder for this process; it is created if it does not exist, and removed if it stays empty.

    The lock ends with the process, however it ends.

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
        # before the release: a process that waits for the lock sees that the file is gone, and tries again
        (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # not empty
            folder.rmdir()


def _acquire(folder: Path) -> BaseFileLock:
    shown = folder.parent if folder.name.startswith(".") else folder
    # `FileLock` asks the operating system, which lets go when the process ends, even if it is killed. A file that only
    # exists would lock the folder for good.
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    for _ in range(100):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
            return lock
        except FileNotFoundError:  # another process has just ended and removed its empty folder
            continue
        except Timeout as error:
            raise BlockingIOError(
                f"Another process is at work in {shown}: wait until it has ended, or give another folder."
            ) from error
    raise BlockingIOError(f"The folder {shown} is created and removed again and again: give another one.")


def content_hash(*parts: Any) -> str:
    """Hash JSON values, bytes and arrays, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        # Type, shape and length count: without them the same bytes in other parts would have the same hash.
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def weights_hash(model: torch.nn.Module) -> str:
    """Hash a model's parameters and buffers and, where it has one, its configuration."""
    import torch

    config = getattr(model, "config", None)
    parts: list[Any] = [] if config is None else [config.to_diff_dict()]
    for name, values in sorted(model.state_dict().items()):
        flat = values.detach().cpu().reshape(-1).contiguous()  # bytes, since numpy knows no bfloat16
        parts += [name, str(values.dtype), list(values.shape), flat.view(torch.uint8).numpy()]
    return content_hash(*parts)
