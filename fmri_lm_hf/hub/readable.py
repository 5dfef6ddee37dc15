"""The readable text in files that are about to be published, with the place where it stands."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_text", "png_chunks", "texts_of"]

# How bytes begin whose content cannot be read here, or may run code when it is.
_PACKED = {
    "an archive or compressed data": re.compile(
        rb"\x1f\x8b\x08|PK\x03\x04|BZh[1-9]1AY|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf"
    ),
    "a pickle": re.compile(rb"\x80[\x02-\x05].*\.\Z", re.DOTALL),
    "an array file": re.compile(rb"\x93NUMPY|\x89HDF"),
}
_MAX_INFLATED = 2**20  # bytes of a chunk of a PNG


def texts_of(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """Pairs of place and text.

    JSON is read value by value, also inside of strings; Parquet column by column whatever its type; of weights the
    header, and the tensors of bytes that spell a text; of images what is not the image.

    Parameters
    ----------
    name : str
        Path in the repository; its suffix tells how to read it.
    content : Path or bytes

    Raises
    ------
    ValueError
        When a column holds archives or pickles.
    """
    suffix = Path(name).suffix
    if suffix == ".parquet" and isinstance(content, Path):
        yield from _parquet_texts(name, content)
    elif suffix == ".safetensors" and isinstance(content, Path):
        yield from _safetensors_texts(name, content)
    else:
        raw = content.read_bytes() if isinstance(content, Path) else content
        if suffix == ".png":
            yield from _png_texts(name, raw)
        else:
            yield name, "\n".join(_json_lines(_as_text(raw)))


def is_text(raw: bytes) -> bool:
    """Whether bytes are UTF-8 without control characters of binary files."""
    try:
        return "\0" not in raw.decode("utf-8")
    except UnicodeDecodeError:
        return False


def png_chunks(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the data of each chunk of a PNG; kind `b""` for what comes behind its end."""
    position, kind = 8, b""
    while kind != b"IEND" and len(raw) >= position + 12:
        kind, begin = raw[position + 4 : position + 8], position + 8
        position = begin + int.from_bytes(raw[position : position + 4], "big") + 4
        yield kind, raw[begin : position - 4]
    if raw[position:] or kind != b"IEND":
        yield b"", raw[position:]


class _Object(list):
    """The pairs of a JSON object, also those of a name that comes twice."""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        return None


def _json_lines(record: Any, key: str = "") -> Iterator[str]:
    """Value by value, since escapes of JSON (such as `\\\\n` behind a colon) hide or imitate paths."""
    if isinstance(record, _Object):
        for name, value in record:
            yield from _json_lines(value, str(name))
            if isinstance(value, list):
                yield str(name)
    elif isinstance(record, list):
        for value in record:
            yield from _json_lines(value, key)
    elif isinstance(record, str) and record.lstrip()[:1] in ("{", "[", '"') and (inner := _parsed(record)):
        yield from _json_lines(inner, key)
    else:
        yield f"{key}: {record}" if key else str(record)


def _png_texts(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    for kind, data in png_chunks(raw):
        if kind != b"IDAT":
            place = f"{name} ({kind.decode('latin-1') or 'behind its end'})"
            yield place, data.decode("latin-1")
            for match in re.finditer(b"x", data):  # with which what is deflated begins
                try:
                    inflated = zlib.decompressobj().decompress(data[match.start() :], _MAX_INFLATED)
                except zlib.error:
                    continue
                yield place, _as_text(inflated)


def _safetensors_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        header = file.read(begin - 8)
        yield f"{name} (metadata)", "\n".join(_json_lines(_as_text(header)))
        for tensor, entry in json.loads(header).items():
            if entry.get("dtype") in ("U8", "I8"):
                start, end = entry["data_offsets"]
                file.seek(begin + start)
                raw = file.read(end - start).rstrip(b"\0")
                if is_text(raw):
                    yield f"{name} (tensor {tensor})", raw.decode()


def _parquet_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        metadata = {**(file.metadata.metadata or {}), **(schema.metadata or {})}
        yield f"{name} (metadata)", "\n".join(_metadata_lines(metadata))
        yield f"{name} (columns)", "\n".join(line for field in schema for line in _field_lines(field))
        spelling = [field.name for field in schema if _may_hold_text(field.type)]
        for batch in file.iter_batches(batch_size=256, columns=spelling) if spelling else ():
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                place = f"{name} (column {column})"
                yield place, "\n".join(_json_lines(_plain(values.to_pylist(), place)))


def _metadata_lines(metadata: Mapping[bytes, bytes]) -> Iterator[str]:
    for item in metadata.items():
        for part in item:
            yield from _json_lines(_as_text(part))


def _field_lines(field: Any) -> Iterator[str]:
    yield f"{field.name}: {field.type}"
    yield from _metadata_lines(field.metadata or {})
    for number in range(field.type.num_fields):
        yield from _field_lines(field.type.field(number))


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


def _plain(value: Any, place: str) -> Any:
    """A value of Arrow as JSON-like data; bytes, and lists of them, become the text that they spell."""
    if isinstance(value, bytes):
        _refuse_packed(value, place)
        return _as_text(value)
    if isinstance(value, Mapping):
        return _Object((str(key), _plain(item, place)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        if value and all(type(item) is int and -128 <= item < 256 for item in value):
            return _as_text(bytes(item % 256 for item in value))
        return [_plain(item, place) for item in value]
    return value


def _refuse_packed(raw: bytes, place: str) -> None:
    for what, pattern in _PACKED.items():
        if pattern.match(raw):
            raise ValueError(
                f"{place} holds {what}, whose content cannot be looked into, and nothing was sent; expected text, "
                "numbers or images. Store what is in it, or leave the column out."
            )


def _as_text(raw: bytes) -> str:
    """The text itself, or as `strings` finds it in other bytes: ASCII of some length, wide characters too."""
    if is_text(raw):
        return raw.decode()
    return "\n".join(run.decode() for run in re.findall(rb"[\x20-\x7e]{8,}", raw.replace(b"\0", b"")))
