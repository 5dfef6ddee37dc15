"""Read a PyTorch checkpoint file without running code in it, and without loading it into memory.

The file is a zip archive with one pickle, `data.pkl`, and one uncompressed entry for each storage of numbers. The
pickle is interpreted as data ([`PickleInterpreter`]); tensors are views of the memory-mapped file.
"""

from __future__ import annotations

import math
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers.utils import logging

from .pickle_data import CheckpointError, GlobalName, InertObject, PickleInterpreter, checked_key, printable

logger = logging.get_logger(__name__)

DTYPES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# Most objects are written as a class and its state, and are read as inert data whatever their class. These packages,
# and NumPy for scalars and arrays, write the call of a class or function instead, which only they may.
INERT_PREFIXES = (
    "omegaconf.",
    "pathlib.",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
# data.pkl of a checkpoint with thousands of tensors has about one megabyte
MAX_PICKLE_BYTES = 256 * 2**20
MAX_BYTEORDER_BYTES = 16
MAX_AXES = 64
MAX_NUMEL = 2**60
CRC_BLOCK = 2**24  # bytes
DEEPSPEED_PATTERNS = ("mp_rank_*", "*zero_pp_rank_*", "global_step*")


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint that `torch.save` wrote, executing nothing in it.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    object
        The saved dicts, lists, scalars and tensors. Tensors are views of the memory-mapped file (changes to them do not
        reach the file), and tensors that shared a storage still share it. Objects of other classes are
        [`InertObject`]s, and a warning lists their classes.

    Raises
    ------
    UnsafeCheckpointError
        When the pickle tries to call anything that does not merely carry data.
    CheckpointError
        When the file is truncated, damaged or of another format.
    """
    path = Path(path)
    _check_kind(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, struct.error) as error:
        raise CheckpointError(
            f"'{path}' is truncated or damaged: it begins as a checkpoint, but its table of contents is missing or "
            f"cannot be read ({error}). Download or copy it again and compare its size."
        ) from error
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].replace("data.pkl", "constants.pkl") in entries:
        raise CheckpointError(
            f"'{path}' is a zip archive, but not a checkpoint: expected one `data.pkl` as `torch.save` writes it, "
            f"found {sorted(entries)[:5]}."
        )
    with path.open("rb") as file:
        archived = _Archive(path, entries, pickles[0].removesuffix("data.pkl"), file)
        archived.check_byte_order()
        interpreter = PickleInterpreter(CALLS, INERT_PREFIXES, archived.load_storage)
        tree = interpreter.read(archived.read(pickles[0], MAX_PICKLE_BYTES))
    if interpreter.inert_classes:
        names = printable(str(sorted(interpreter.inert_classes)))
        logger.warning(f"Objects of these classes in '{path.name}' were read as inert data: {names}")
    if not archived.has_checksums:
        logger.warning(f"'{path.name}' was written without checksums, so damage to its weights cannot be noticed.")
    return tree


def _check_kind(path: Path) -> None:
    """Refuse a path that is not a checkpoint file, with an error for each kind."""
    if path.is_dir():
        if any(any(path.rglob(pattern)) for pattern in DEEPSPEED_PATTERNS):
            raise CheckpointError(
                f"'{path}' is a DeepSpeed checkpoint, whose weights are sharded over files. Merge them first with "
                "the `zero_to_fp32.py` that DeepSpeed put into it, and convert the merged file."
            )
        raise CheckpointError(f"'{path}' is a folder; give the checkpoint file in it, such as `ckpt.pt`.")
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint file '{path}'.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PK\x03\x04":
        return
    if magic[:1] == b"\x80":
        raise CheckpointError(
            f"'{path}' is a bare pickle, the format of PyTorch before 1.6, which cannot be read without running it. "
            "Where you trust it, load it and save it again with a newer PyTorch."
        )
    raise CheckpointError(
        f"'{path}' is not a PyTorch checkpoint: it begins with {magic!r}, expected the zip archive that `torch.save` "
        "writes." + (" The file is empty." if not magic else "")
    )


class _Archive:
    """The entries of a checkpoint as parts of the memory-mapped file. None is ever decompressed."""

    def __init__(self, path: Path, entries: dict[str, zipfile.ZipInfo], root: str, file: BinaryIO):
        self._path, self._entries, self._root, self._file = path, entries, root, file
        # copy on write: a change to a tensor stays in memory
        self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._storages: dict[str, torch.Tensor] = {}
        # torch can be told to write no checksums, and then all of them are zero
        self.has_checksums = any(entry.CRC for entry in entries.values())

    def check_byte_order(self) -> None:
        name = self._root + "byteorder"
        if name in self._entries and (order := self.read(name, MAX_BYTEORDER_BYTES)) != sys.byteorder.encode():
            raise CheckpointError(f"'{self._path}' was written on a machine of the other byte order ({order!r}).")

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a small entry."""
        start, size = self._find(name)
        if size > limit:
            raise CheckpointError(
                f"`{name}` in '{self._path}' has {size} bytes, expected at most {limit}: a checkpoint stores its "
                "tensors in other entries."
            )
        return self._memory[start : start + size]

    def load_storage(self, persistent_id: Any) -> torch.Tensor:
        """Return a storage as a flat tensor over the mapped file; tensors that share a storage get the same one."""
        kind, storage_type, key, _, _ = _sequence(persistent_id)
        name = storage_type.name if isinstance(storage_type, GlobalName) else type(storage_type).__name__
        dtype = DTYPES.get(name.removeprefix("torch."))
        if name == "torch.storage.UntypedStorage":
            dtype = torch.uint8
        if kind != "storage" or dtype is None or not isinstance(key, str):
            raise CheckpointError(f"'{self._path}' holds a storage of an unknown kind, {name}.")
        if key not in self._storages:
            self._storages[key] = self._map(f"{self._root}data/{key}", dtype)
        if self._storages[key].dtype != dtype:
            raise CheckpointError(f"'{self._path}' gives two types to one storage, `data/{key}`.")
        return self._storages[key]

    def _map(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        start, size = self._find(name)
        if not size:
            return torch.empty(0, dtype=dtype)
        if size % dtype.itemsize:
            raise CheckpointError(f"'{self._path}' is truncated or damaged: `{name}` is cut short.")
        # Numbers must be aligned in memory, and are in every file of torch.save; a repacked file may lay them anywhere.
        if start % dtype.itemsize:
            return torch.frombuffer(bytearray(self._memory[start : start + size]), dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=size // dtype.itemsize, offset=start)

    def _find(self, name: str) -> tuple[int, int]:
        """Return where an entry begins in the file and how long it is, after comparing it with its checksum."""
        if name not in self._entries:
            raise CheckpointError(f"'{self._path}' is damaged: it refers to `{name}`, which it does not hold.")
        entry = self._entries[name]
        if entry.flag_bits & 0x1:
            raise CheckpointError(
                f"'{self._path}' is encrypted. Decrypt it first, with the program that encrypted it."
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise CheckpointError(f"'{self._path}' was repacked with compression. Take the file as it was saved.")
        # The data begin after the entry's own header, whose length may differ from that in the table of contents:
        # torch pads it so that storages are aligned.
        self._file.seek(entry.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"'{self._path}' is damaged: `{name}` has no header where it should begin.")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        end = start + entry.file_size
        if end > len(self._memory):
            raise CheckpointError(f"'{self._path}' is truncated or damaged: `{name}` is cut short.")
        if self.has_checksums:
            checksum = 0
            with memoryview(self._memory) as memory:
                for begin in range(start, end, CRC_BLOCK):
                    with memory[begin : min(begin + CRC_BLOCK, end)] as block:
                        checksum = zlib.crc32(block, checksum)
            if checksum != entry.CRC:
                raise CheckpointError(
                    f"'{self._path}' is damaged: the content of `{name}` does not fit its checksum. Download or copy "
                    "it again."
                )
        return start, entry.file_size


# ---- functions that replace the calls of a checkpoint; their arguments come from the file, of any type and size


def _sequence(value: Any) -> Any:
    """Return a list or tuple; refuse anything else, such as a tensor, whose values `for` would make one by one."""
    if type(value) not in (tuple, list):
        raise CheckpointError(f"The pickle is damaged: it has a {type(value).__name__} in place of a list.")
    return value


def _size(lengths: Any = ()) -> tuple[int, ...]:
    if len(_sequence(lengths)) > MAX_AXES or any(type(each) is not int or each < 0 for each in lengths):
        raise CheckpointError("The pickle is damaged: a tensor has an impossible shape.")
    return tuple(lengths)


def _tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
    size, stride, (offset,) = _size(size), _size(stride), _size((offset,))
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise CheckpointError(
            f"The file is damaged: a tensor of shape {size} lies outside its storage of {len(storage)} values."
        )
    # A stride of 0 repeats one value, so that any shape fits into any storage; and the sizes of an empty tensor
    # overflow torch's counters as those of any other.
    if math.prod(length or 1 for length in size) > MAX_NUMEL or max((offset, *stride)) > MAX_NUMEL:
        raise CheckpointError(f"The file is damaged: a tensor of shape {size} has more values than can be counted.")
    return storage.as_strided(size, stride, offset)


def _typed_tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *rest) -> torch.Tensor:
    name = next((item.name for item in rest if isinstance(item, GlobalName)), "")
    dtype = vars(torch).get(name.removeprefix("torch."))
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"The pickle is damaged: a tensor has the type {name or 'of nothing'}.")
    return _tensor(storage.view(dtype), offset, size, stride)


def _dict(items: Any = ()) -> dict:
    if type(items) is dict:
        return dict(items)
    return {checked_key(key): value for key, value in map(_sequence, _sequence(items))}


# The names that a checkpoint may "call", and the functions that are called instead.
CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": _size,
    "torch.device": lambda kind, index=None: kind,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda factory=None, items=(): _dict(items),
    "builtins.set": lambda items=(): list(_sequence(items)),
    "argparse.Namespace": lambda *_: InertObject("argparse.Namespace"),
    # how protocol 2 writes bytes
    "_codecs.encode": lambda text, encoding="latin1": str.encode(text, "latin1"),
}
