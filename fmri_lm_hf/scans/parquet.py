"""Rows of a scan dataset as Arrow and Parquet: their columns, and files that are there whole or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic
from ..models.scan_images import ScanError

__all__ = ["ROW_GROUP_BYTES", "arrow_column", "in_groups", "rows_table", "scan_features", "write_parquet"]

# Signals hardly repeat a value: trying a dictionary of them takes nine times as long, and splitting their bytes into
# streams makes files a third smaller.
PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": False,
    "column_encoding": {"bold.list.element.list.element": "BYTE_STREAM_SPLIT"},
}
Item = TypeVar("Item")
ROW_GROUP_BYTES = 16_000_000  # streaming fetches a row group at a time


def scan_features(
    rows: Sequence[Mapping[str, Any]],
    n_rois: int,
    known: Mapping[str, Any] | None = None,
    with_coverage: bool = False,
) -> datasets.Features:
    """Features of a scan dataset; phenotypes have their `known` feature, or one that fits all their values."""
    features: dict[str, Any] = dict.fromkeys(
        ("scan_id", "subject_id", "session", "site"), datasets.Value("string")
    )
    features["t_r"] = datasets.Value("float64")
    features["n_timepoints"] = datasets.Value("int32")
    features["bold"] = datasets.Array2D((None, n_rois), "float32")
    features["roi_mask"] = datasets.List(datasets.Value("bool"))
    features["mean_fd"] = datasets.Value("float32")
    features["sample_mask"] = datasets.List(datasets.Value("bool"))
    if with_coverage:
        features["coverage"] = datasets.List(datasets.Value("float32"))
    for column in dict.fromkeys(itertools.chain.from_iterable(rows)):
        if column not in features:
            given = (known or {}).get(column)
            features[column] = given or _feature_of(column, [row.get(column) for row in rows])
    return datasets.Features(features)


def rows_table(rows: Sequence[Mapping[str, Any]], features: datasets.Features) -> pa.Table:
    """Rows of a scan dataset as an Arrow table."""
    unknown = set(itertools.chain.from_iterable(rows)) - set(features)
    if unknown:
        raise ScanError(
            f"Some scans have columns that the first ones do not have: {', '.join(sorted(unknown))}."
        )
    schema = features.arrow_schema
    columns = [arrow_column(field, [row.get(field.name) for row in rows], features) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def write_parquet(
    row_groups: Iterable[pa.Table], path: Path, schema: pa.Schema, times: tuple[int, int] | None = None
) -> None:
    """Write tables as the row groups of one Parquet file, which appears under its name only when it is complete.

    `times`, of access and change in nanoseconds, are given to the file.
    """
    with atomic(path) as partial:
        with pq.ParquetWriter(partial, schema, **PARQUET_OPTIONS) as writer:
            for table in row_groups:
                writer.write_table(table)
        if times is not None:
            os.utime(partial, ns=times)


def in_groups(items: Iterable[Item], n_bytes: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Consecutive items in groups of at most `limit` bytes (a larger item is a group of its own)."""
    group: list[Item] = []
    size = 0
    for item in items:
        if group and size + n_bytes(item) > limit:
            yield group
            group, size = [], 0
        group.append(item)
        size += n_bytes(item)
    if group:
        yield group


def _feature_of(column: str, values: Sequence[Any]) -> Any:
    values = [value for value in values if value is not None]
    first = values[0] if values else None
    if isinstance(first, (list, tuple, np.ndarray)):
        return datasets.List(_feature_of(column, [item for value in values for item in value]))
    for kinds, dtype in (
        ((bool, np.bool_), "bool"),
        ((int, np.integer), "int64"),
        ((int, float, np.number), "float64"),
    ):
        if values and all(isinstance(value, kinds) for value in values):
            return datasets.Value(dtype)
    if all(isinstance(value, str) for value in values):
        return datasets.Value("string")
    kinds_found = sorted({type(value).__name__ for value in values})
    raise ScanError(
        f"Column {column!r} mixes {' and '.join(kinds_found)}: give one type of value, and None for missing."
    )


def arrow_column(field: pa.Field, values: Sequence[Any], features: datasets.Features) -> pa.Array:
    """Values of a column of a scan dataset as Arrow; refuses what would lose something."""
    if field.name != "bold":
        feature = features[field.name]
        try:
            if not isinstance(feature, (datasets.Value, datasets.List)):  # such as names of classes
                values = datasets.Features({field.name: feature}).encode_batch({field.name: values})[
                    field.name
                ]
            return pa.array(values).cast(field.type)  # refuses what would lose something
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ScanError(
                f"Column {field.name!r} should hold {field.type} in every row: {error}."
            ) from error
    n_rois = features["bold"].shape[1]
    lengths = np.asarray([len(bold) for bold in values])
    numbers = pa.array(np.concatenate(values).reshape(-1))
    rows = pa.ListArray.from_arrays(pa.array(np.arange(lengths.sum() + 1, dtype=np.int32) * n_rois), numbers)
    scans = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)), rows)
    return pa.ExtensionArray.from_storage(field.type, scans)
