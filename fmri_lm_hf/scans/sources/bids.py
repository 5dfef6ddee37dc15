"""BIDS names: what a file is about, and which other files belong to the same scan."""

from __future__ import annotations

import re
from pathlib import Path

from ...models.scan_reading import stem

__all__ = ["bids_entities", "companion", "identity", "scan_name", "suffix_of"]

# Entities that say how a file was derived from a scan; all others say which scan it is.
DERIVED = {"space", "cohort", "res", "den", "label", "desc", "atlas", "seg", "stat", "hemi", "scale"}


def bids_entities(path: Path) -> dict[str, str]:
    """BIDS entities of a file name: `sub-01_task-rest_bold.nii.gz` gives `{"sub": "01", "task": "rest"}`."""
    return dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)", stem(path)))


def identity(path: Path) -> dict[str, str]:
    """The entities that say which scan a file belongs to."""
    return {key: value for key, value in bids_entities(path).items() if key not in DERIVED}


def scan_name(path: Path) -> str:
    """The scan that a file belongs to: `sub-01_task-rest_space-T1w_bold.nii.gz` gives `sub-01_task-rest`."""
    return "_".join(f"{key}-{value}" for key, value in identity(path).items())


def suffix_of(path: Path) -> str:
    """The last part of a BIDS name: `timeseries` of `sub-01_desc-confounds_timeseries.tsv`."""
    return stem(path).rpartition("_")[2].partition(".")[0]


def companion(path: Path, suffix: str, extension: str = ".tsv", **entities: str) -> Path | None:
    """The file beside a scan that is about the same scan and has this suffix.

    Entities are compared, not beginnings of names: `run-1` is not `run-10`.

    Parameters
    ----------
    path : Path
        A file of the scan.
    suffix, extension : str
        Such as `outliers` and `.tsv`.
    **entities : str
        That the companion must have besides, such as `desc="confounds"`.

    Returns
    -------
    Path or None
        Of several, the one with the fewest entities of derivation.
    """
    wanted = identity(path)
    found = [
        other
        for other in sorted(path.parent.glob(f"*_{suffix}{extension}"))
        if identity(other) == wanted
        and suffix_of(other) == suffix
        and entities.items() <= bids_entities(other).items()
    ]
    return min(found, key=lambda other: (len(bids_entities(other)), other.name), default=None)
