"""Where a dataset lies: on this machine, or on the Hub."""

from __future__ import annotations

from pathlib import Path

from .download import fetch

__all__ = ["dataset_folder"]


def dataset_folder(name: str | Path) -> Path:
    """The folder or file of a dataset, or a snapshot of the repository of that name on the Hub.

    Parameters
    ----------
    name : str or path
        Something that exists here, or `org/name`.
    """
    name = str(name)
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Path(name)
    folder, _ = fetch(name, repo_type="dataset")
    return folder
