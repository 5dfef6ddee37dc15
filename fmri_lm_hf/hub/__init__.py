"""Publish on the Hugging Face Hub, download from it, and verify downloads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .download import HubAccessError, Verification, clear_errors, downloaded_commit, fetch, verify_download

if TYPE_CHECKING:
    from .push import PushResult, push_to_hub
    from .remote_code import export_remote_code

# Imported at their first use: a download needs neither cards nor checks nor pyarrow.
_LAZY = {"PushResult": ".push", "push_to_hub": ".push", "export_remote_code": ".remote_code"}

__all__ = [
    "HubAccessError",
    "PushResult",
    "Verification",
    "clear_errors",
    "downloaded_commit",
    "export_remote_code",
    "fetch",
    "push_to_hub",
    "verify_download",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name], __name__), name)
