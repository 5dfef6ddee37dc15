"""Phenotypes from a BIDS `participants.tsv`, or another table with a row for each subject."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..models.scan_images import ScanError, require

__all__ = ["plain_value", "read_participants", "subject_key"]

ID_COLUMNS = ("participant_id", "subject_id")
RESERVED = {
    "scan_id",
    "session",
    "t_r",
    "n_timepoints",
    "bold",
    "roi_mask",
    "mean_fd",
    "sample_mask",
    "coverage",
}


def read_participants(path: Path) -> dict[str, dict[str, Any]]:
    """Phenotypes of each subject, by its id without `sub-`; missing values are None.

    A column `site` gives the site of the subject's scans; the others become columns of the dataset.
    """
    pandas = require("pandas")
    try:
        separator = "," if path.suffix.lower() == ".csv" else "\t"
        table = pandas.read_csv(path, sep=separator, na_values=["n/a"], dtype=dict.fromkeys(ID_COLUMNS, str))
    except (OSError, ValueError) as error:
        raise ScanError(f"The participants file {path} cannot be read: {error}.") from error
    identifier = next((column for column in ID_COLUMNS if column in table), None)
    if identifier is None:
        raise ScanError(
            f"{path.name} has no column participant_id: found {', '.join(map(str, table.columns))}."
        )
    reserved = RESERVED & set(table.columns)
    if reserved:
        raise ScanError(f"{path.name} may not have the column {', '.join(sorted(reserved))}: rename it.")
    keys = [subject_key(value) for value in table.pop(identifier)]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise ScanError(
            f"{path.name} has several rows for {', '.join(twice[:5])}: expected one for each subject."
        )
    table = table.convert_dtypes()  # whole numbers with missing values stay whole
    columns = {str(name): [plain_value(value) for value in table[name]] for name in table}
    return {key: {name: values[i] for name, values in columns.items()} for i, key in enumerate(keys)}


def subject_key(subject_id: Any) -> str:
    """A subject's id without the prefix that BIDS writes in some places and not in others."""
    return str(subject_id).removeprefix("sub-")


def plain_value(value: Any, missing: float | None = None) -> Any:
    """A value of a pandas table as plain Python; None where it is missing (or equals the code `missing`)."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is require("pandas").NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return None if missing is not None and value == missing else value
