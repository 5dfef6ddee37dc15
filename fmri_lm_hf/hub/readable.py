"""The readable text in files that are about to be published, with the place where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["texts_of"]


def texts_of(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """Pairs of place and text: JSON value by value, Parquet column by column whatever its type, headers of weights.

    Parameters
    ----------
    name : str
        Path in the repository; its suffix tells how to read it.
    content : Path or bytes
    """
    suffix = Path(name).suffix
    if suffix == ".parquet" and isinstance(content, Path):
        yield from _parquet_texts(name, content)
    elif suffix == ".safetensors" and isinstance(content, Path):
        with content.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
        yield f"{name} (metadata)", _as_text(header)
    else:
        raw = content.read_bytes() if isinstance(content, Path) else content
        text = _as_text(raw)
        record = _parsed(text) if suffix == ".json" else None
        if record is None:
            yield name, text
        else:
            # value by value, since escapes of JSON (such as `\\n` behind a colon) hide or imitate paths
            yield name, "\n".join(_json_lines(record))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _json_lines(record: Any, key: str = "") -> Iterator[str]:
    if isinstance(record, Mapping):
        for name, value in record.items():
            yield from _json_lines(value, str(name))
            if isinstance(value, (Mapping, list)):
                yield str(name)
    elif isinstance(record, list):
        for value in record:
            yield from _json_lines(value, key)
    else:
        yield f"{key}: {record}" if key else str(record)


def _parquet_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        metadata = {**(file.metadata.metadata or {}), **(schema.metadata or {})}
        yield f"{name} (metadata)", "\n".join(_as_text(part) for item in metadata.items() for part in item)
        yield f"{name} (columns)", schema.to_string(show_field_metadata=True, show_schema_metadata=False)
        columns = [field.name for field in schema if _may_hold_text(field.type)]
        for batch in file.iter_batches(batch_size=256, columns=columns) if columns else ():
            for column in columns:
                lines = _json_lines(_plain(batch.column(column).to_pylist()))
                yield f"{name} (column {column})", "\n".join(lines)


def _may_hold_text(kind: Any) -> bool:
    """Whether values of an Arrow type can spell something: all but numbers, truth values and times."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _may_hold_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _may_hold_text(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return _may_hold_text(kind.value_type)
    if kind.num_fields:
        return any(_may_hold_text(kind.field(i).type) for i in range(kind.num_fields))
    # numbers of one byte may be the bytes of a text
    if pa.types.is_int8(kind) or pa.types.is_uint8(kind):
        return True
    return not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_temporal(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _plain(value: Any) -> Any:
    """A value of Arrow as JSON-like data; bytes, and lists of them, become the text that they spell."""
    if isinstance(value, bytes):
        return _as_text(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(type(item) is int and -128 <= item < 256 for item in value):
            return _as_text(bytes(item % 256 for item in value))
        return [_plain(item) for item in value]
    return value


def _as_text(raw: bytes) -> str:
    """UTF-8, or Latin-1, which maps every byte, so that text inside a binary file is seen too."""
    return raw.decode("utf-8" if b"\0" not in raw[:8192] else "latin-1", errors="replace")
