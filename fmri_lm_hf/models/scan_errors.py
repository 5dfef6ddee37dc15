"""`ScanError`, the error for scans that cannot be used, and its making from errors of libraries over damaged files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ScanError(ValueError):
    """A scan or an atlas that cannot be used. The message says what was found, expected, and what to do."""


def require(module: str) -> Any:
    """Import an optional `module`, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"This needs the package {package}: `pip install {package}`.") from error


@contextmanager
def as_scan_error(name: Any, message: str = "") -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into a `ScanError`.

    Lack of memory or of a package is no fault of the file and stays as it is.
    """
    try:
        yield
    except (ScanError, MemoryError, ImportError):
        raise
    except Exception as error:
        # All of them: over damaged bytes, nibabel and numpy raise IndexError, struct.error, zlib and XML errors
        if isinstance(error, FileNotFoundError):
            raise ScanError(f"The image {Path(name).name} does not exist: check the path {name}.") from error
        raise ScanError(message or unreadable(name)) from error


def unreadable(path: Any) -> str:
    """Return the message about a file that cannot be read."""
    return (
        f"{Path(path).name} is not a readable image: it may be truncated, damaged or in another format. "
        "Copy or export it again."
    )
