"""Scan datasets on disk: write them as sharded Parquet, and load them in every accepted form.

A scan dataset has a row for each scan: `scan_id`, `subject_id`, `session`, `site`, `t_r` (seconds), `n_timepoints`,
`bold` (n_timepoints, n_rois) float32, `roi_mask`, `mean_fd` (mm), `sample_mask` (n_timepoints; True: observed),
`coverage` (share of the voxels of each ROI that have signal, for scans from images), and phenotypes. Its folder, which
`datasets.load_dataset` reads from disk and from the Hub::

    data/train-00000.parquet, ...   the scans
    atlas.json                      the ROIs, in the order of the columns of `bold`
    provenance.json                 parameters, versions, and whether the dataset is complete
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..__about__ import __version__
from ..declarations import (
    DECLARATIONS,
    declare_in_features,
    declared_in_features,
    declared_in_folder,
    is_declared,
)
from ..files import atomic, write_json
from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..models.scan_files import read_scan

REQUIRED_COLUMNS = ("scan_id", "subject_id", "site", "t_r", "bold")
SHARD_BYTES = 300_000_000
WORK_FOLDER = ".work"  # in the folder of an unfinished dataset
ROW_GROUP_BYTES = 16_000_000  # streaming fetches a row group at a time
# Signals hardly repeat a value: with a dictionary, which is the default, writing takes nine times as long. Splitting
# their bytes into streams makes files a third smaller, since sign and exponent repeat.
PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": False,
    "column_encoding": {"bold.list.element.list.element": "BYTE_STREAM_SPLIT"},
}
Item = TypeVar("Item")


def load_scan_dataset(path: str | os.PathLike) -> tuple[datasets.Dataset, Atlas | None]:
    """Load a scan dataset.

    Parameters
    ----------
    path : path
        A folder written by `write_scan_dataset` or `fmri-lm scans`, another folder of Parquet files, a folder of
        `Dataset.save_to_disk`, or a single Parquet file. The columns `scan_id`, `subject_id`, `site`, `t_r` and `bold`
        are required; others are kept.

    Raises
    ------
    ScanError
        If the dataset is damaged or unfinished, or lacks a required column.

    Returns
    -------
    dataset : datasets.Dataset
        `bold` comes as float32 numpy arrays (n_timepoints, n_rois), other columns as plain Python values.
    atlas : Atlas or None
        From `atlas.json` in the folder (or beside the file), if there is one.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    check_complete(folder)
    dataset = _open(path)
    missing = [column for column in REQUIRED_COLUMNS if column not in dataset.column_names]
    if missing:
        raise ScanError(
            f"The scan dataset {path.name} has no column {', '.join(missing)}: "
            f"found {', '.join(dataset.column_names)}; expected at least {', '.join(REQUIRED_COLUMNS)}."
        )
    if not len(dataset):
        raise ScanError(f"The scan dataset {path.name} has no scans.")
    dataset = _with_bold_arrays(dataset, path)
    # The declarations of the folder travel in the features, since a dataset that is pushed leaves the folder behind.
    declare_in_features(dataset.info.features, declared_in_folder(folder, recursive=path.is_dir()))
    atlas = Atlas.from_json(folder / "atlas.json") if (folder / "atlas.json").exists() else None
    n_rois = dataset.features["bold"].shape[1]
    if atlas is not None and atlas.n_rois != n_rois:
        raise ScanError(
            f"The scans of {path.name} have {n_rois} ROIs, but atlas.json beside them has {atlas.n_rois} "
            f"({atlas.name!r}): replace it by the atlas of these scans."
        )
    return dataset, atlas


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Read the record of a scan dataset; None if it has none."""
    path = folder / "provenance.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(
            f"provenance.json of {folder} is empty or truncated ({error}): restore it, or make a new dataset."
        ) from error
    if not isinstance(record, dict):
        raise ScanError(f"provenance.json of {folder} is not a JSON object: restore it, or make a new dataset.")
    return record


def check_complete(folder: Path) -> None:
    """Refuse the folder of an unfinished scan dataset, or one that lacks a shard.

    Raises
    ------
    ScanError
    """
    # Only `fmri-lm scans` lists scans and shards in its record; `write_scan_dataset` makes a folder in one step.
    record = read_provenance(folder) or {}
    is_built = "scans" in record
    if (folder / WORK_FOLDER).exists() or (is_built and record.get("complete") is not True):
        raise ScanError(
            f"The scan dataset {folder.name} is unfinished: run its `fmri-lm scans` command again, which continues "
            "where it stopped."
        )
    # A copy that was interrupted has fewer shards, and would load without an error as a smaller dataset.
    for number in range(record.get("n_shards", 0) if is_built else 0):
        if not (folder / shard_name(number)).exists():
            raise ScanError(f"The scan dataset {folder.name} lacks {shard_name(number)}: copy or download it again.")


def write_scan_dataset(
    rows: Iterable[Mapping[str, Any]] | datasets.Dataset,
    out: str | os.PathLike,
    atlas: Atlas,
    *,
    parameters: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write scans as a scan dataset folder.

    Parameters
    ----------
    rows : datasets.Dataset, or iterable of mappings
        `scan_id`, `subject_id`, `site`, `t_r`, `bold` (n_timepoints, n_rois), optional `session`, `roi_mask`,
        `mean_fd`, and phenotypes. Only one shard is held in memory at a time.
    out : path
        A new folder (or an empty one).
    atlas : Atlas
    parameters : mapping, optional
        Origin of the scans, for `provenance.json`.
    shard_bytes : int
        Largest size of the BOLD of one shard.

    Returns
    -------
    Path
        The folder.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ScanError(f"The folder {out} is not empty: give a new one, or remove it first.")
    extra_features = None
    declared = {name for name in DECLARATIONS if is_declared(parameters, name)}
    if isinstance(rows, datasets.Dataset):
        extra_features = dict(rows.features)
        declared |= declared_in_features(rows.features)
        rows = rows.with_format("numpy", columns=["bold"], output_all_columns=True)
    features: datasets.Features | None = None
    seen: set[str] = set()
    # Written beside the folder and renamed at the end: a dataset is whole or absent, also if the rows raise an error.
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        checked = (_scan_row(row, atlas) for row in rows)
        for number, shard in enumerate(in_groups(checked, _bold_bytes, shard_bytes)):
            for row in shard:
                if row["scan_id"] in seen:
                    raise ScanError(f"scan_id {row['scan_id']!r} occurs twice: every scan needs an id of its own.")
                seen.add(row["scan_id"])
            if features is None:
                features = scan_features(shard, atlas.n_rois, extra_features)
                declare_in_features(features, declared)
            groups = in_groups(shard, _bold_bytes, ROW_GROUP_BYTES)
            tables = (rows_table(group, features) for group in groups)
            write_parquet(tables, partial / shard_name(number), features.arrow_schema)
        if features is None:
            raise ScanError("There are no scans to write.")
        atlas.to_json(partial / "atlas.json")
        provenance = {
            "parameters": dict(parameters or {}),
            "versions": package_versions(),
            "n_scans": len(seen),
            "complete": True,
        }
        write_json(provenance, partial / "provenance.json")
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _scan_row(row: Mapping[str, Any], atlas: Atlas) -> dict[str, Any]:
    """Check a row of a scan dataset, complete its columns and convert `bold` to float32."""
    missing = [column for column in REQUIRED_COLUMNS if column not in row]
    if missing:
        raise ScanError(f"A scan has no {', '.join(missing)}: expected {', '.join(REQUIRED_COLUMNS)}.")
    scan = read_scan(row, atlas, max_masked=1.0)  # masked ROIs were accepted when the scan was first read
    standard = {
        "scan_id": str(row["scan_id"]),
        "subject_id": str(row["subject_id"]),
        "session": None if row.get("session") is None else str(row["session"]),
        "site": None if row["site"] is None else str(row["site"]),
        "t_r": scan.t_r,
        "n_timepoints": len(scan.bold),
        "bold": scan.bold,
        "roi_mask": scan.roi_mask,
        "mean_fd": row.get("mean_fd"),
        "sample_mask": scan.sample_mask,
    }
    return standard | {key: value for key, value in row.items() if key not in standard}


def shard_name(number: int) -> str:
    """Return the path of a shard in the folder of its dataset."""
    return f"data/train-{number:05d}.parquet"


def package_versions() -> dict[str, str]:
    """Collect the versions of the packages that a scan dataset depends on."""
    packages = ("nilearn", "nibabel", "numpy", "scipy", "pyarrow", "datasets")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "fmri-lm-hf": __version__} | versions


def _bold_bytes(row: Mapping[str, Any]) -> int:
    return row["bold"].nbytes


def _open(path: Path) -> datasets.Dataset:
    if not path.exists():
        raise ScanError(f"The scan dataset {path} does not exist: expected a folder or a .parquet file.")
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
    else:
        files = [path] if path.suffix == ".parquet" else []
    try:
        if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(path))
            if not isinstance(loaded, datasets.DatasetDict):
                return loaded
            if len(loaded) != 1:
                raise ScanError(f"{path.name} holds the splits {', '.join(loaded)}: give the folder of one of them.")
            return next(iter(loaded.values()))
        # Hidden folders hold unfinished work.
        shards = [file for file in files if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        if not shards:
            raise ScanError(
                f"{path.name} holds no scan dataset: expected Parquet files or a folder of Dataset.save_to_disk. "
                "`fmri-lm scans` makes one from folders of scans."
            )
        return datasets.Dataset.from_parquet([str(file) for file in shards])
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError) as error:
        # The error of `datasets` names no file: their footers are read again, one by one.
        damaged = ", ".join(file.name for file in files if _is_damaged(file)) or "unknown which"
        raise ScanError(
            f"The scan dataset {path.name} is not readable: a file may be truncated ({damaged}). Copy or download it "
            "again."
        ) from error


def _is_damaged(file: Path) -> bool:
    try:
        pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        return True
    return False


def _with_bold_arrays(dataset: datasets.Dataset, path: Path) -> datasets.Dataset:
    # Other programs write plain nested lists; their width is known from a row alone, and the cast checks all others.
    feature = dataset.features["bold"]
    if not isinstance(feature, datasets.Array2D):
        first = dataset[0]["bold"]
        if np.ndim(first) != 2:
            raise ScanError(
                f"`bold` of {path.name} has {np.ndim(first)} axes in its first row: expected (n_timepoints, n_rois)."
            )
        try:
            dataset = dataset.cast_column("bold", datasets.Array2D((None, len(first[0])), "float32"))
        except (TypeError, pa.ArrowException) as error:
            raise ScanError(f"`bold` of {path.name} is not (n_timepoints, n_rois) numbers in every row.") from error
    return dataset.with_format("numpy", columns=["bold"], output_all_columns=True)


# Conversion of rows to Arrow tables and Parquet files


def scan_features(
    rows: Sequence[Mapping[str, Any]],
    n_rois: int,
    known: Mapping[str, Any] | None = None,
    with_coverage: bool = False,
) -> datasets.Features:
    """Find the features of a scan dataset; phenotypes keep a `known` feature, or get one that fits all their values."""
    string, flags = datasets.Value("string"), datasets.List(datasets.Value("bool"))
    features: dict[str, Any] = {
        **dict.fromkeys(("scan_id", "subject_id", "session", "site"), string),
        "t_r": datasets.Value("float64"),
        "n_timepoints": datasets.Value("int32"),
        "bold": datasets.Array2D((None, n_rois), "float32"),
        "roi_mask": flags,
        "mean_fd": datasets.Value("float32"),
        "sample_mask": flags,
    }
    if with_coverage:
        features["coverage"] = datasets.List(datasets.Value("float32"))
    for column in dict.fromkeys(itertools.chain.from_iterable(rows)):
        if column not in features:
            given = (known or {}).get(column)
            features[column] = given or _feature_of(column, [row.get(column) for row in rows])
    return datasets.Features(features)


def rows_table(rows: Sequence[Mapping[str, Any]], features: datasets.Features) -> pa.Table:
    """Convert rows of a scan dataset to an Arrow table."""
    unknown = set(itertools.chain.from_iterable(rows)) - set(features)
    if unknown:
        raise ScanError(f"Some scans have columns that the first ones do not have: {', '.join(sorted(unknown))}.")
    schema = features.arrow_schema
    columns = [arrow_column(field, [row.get(field.name) for row in rows], features) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def write_parquet(
    row_groups: Iterable[pa.Table], path: Path, schema: pa.Schema, times: tuple[int, int] | None = None
) -> None:
    """Write tables as the row groups of a Parquet file, which appears under its name only when it is complete.

    `times` are those of access and change that the file gets, in nanoseconds.
    """
    with atomic(path) as partial:
        with pq.ParquetWriter(partial, schema, **PARQUET_OPTIONS) as writer:
            for table in row_groups:
                writer.write_table(table)
        if times is not None:
            os.utime(partial, ns=times)


def in_groups(items: Iterable[Item], n_bytes: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Group consecutive items up to `limit` bytes (a larger item is a group of its own)."""
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
    # From narrow to wide: a bool is also an int in Python, and whole numbers should stay whole.
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
    """Convert the values of a column of a scan dataset to Arrow; refuse a lossy conversion."""
    if field.name != "bold":
        feature = features[field.name]
        try:
            if not isinstance(feature, (datasets.Value, datasets.List)):  # such as ClassLabel
                values = datasets.Features({field.name: feature}).encode_batch({field.name: values})[field.name]
            return pa.array(values).cast(field.type)  # refuses 1.5 as int64, say, where `type=` would truncate it
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ScanError(f"Column {field.name!r} should hold {field.type} in every row: {error}.") from error
    # Offsets into one flat array. `datasets` would turn each scan into nested Python lists of numbers first.
    n_rois = features["bold"].shape[1]
    lengths = np.asarray([len(bold) for bold in values])
    numbers = pa.array(np.concatenate(values).reshape(-1))
    rows = pa.ListArray.from_arrays(pa.array(np.arange(lengths.sum() + 1, dtype=np.int32) * n_rois), numbers)
    scans = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)), rows)
    return pa.ExtensionArray.from_storage(field.type, scans)
