"""Checkpoint files made to take a machine's time or memory, or to speak to its terminal: one sentence each, at once."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from fmri_lm_hf.conversion import CheckpointError, UnsafeCheckpointError, read_checkpoint, to_plain

MEBIBYTE = 2**20


def archive(path: Path, program: bytes, storages: dict[str, bytes] | None = None, **entries: bytes) -> Path:
    """A checkpoint file with this pickle, and with entries named by their file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for name, content in ({f"data/{key}": data for key, data in (storages or {}).items()} | entries).items():
            file.writestr(f"archive/{name}", content)
    return path


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """The program of a tensor over a storage of one value."""
    shapes = [b"(" + b"".join(map(number, each)) + b"t" for each in (size, stride)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + number(offset) + shapes[0] + shapes[1] + b"\x89NtR"


HUGE = tensor((2**40,), (0,))
DEEP = b"K\x01" + b"2\x86" * 40  # a tuple of tuples of tuples ..., each twice: 2**40 leaves
COLLIDING = b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 200_000))
TUPLES = b"".join(number(i) + b"\x85N" for i in range(2_000))
MANY = b"](" + b"N" * 100_000 + b"eq\x00"  # a list, kept to be named again and again

PROGRAMS = {
    "names that are tuples": (DEEP + DEEP + b"\x93.", "names a class by a tuple and a tuple"),
    "a name that is a tensor": (text("torch") + HUGE + b"\x93.", "names a class by a str and a Tensor"),
    "a size from a tensor": (b"ctorch\nSize\n" + HUGE + b"\x85R.", "a Tensor in place of a list"),
    "a call with a tensor": (b"ctorch\nSize\n" + HUGE + b"R.", "calls with a Tensor, expected a tuple"),
    "an object of a tensor": (b"cm\nC\n" + HUGE + b"\x81.", "calls with a Tensor, expected a tuple"),
    "a set of a tensor": (b"cbuiltins\nset\n" + HUGE + b"\x85R.", "a Tensor in place of a list"),
    "a dict of a tensor": (b"ccollections\nOrderedDict\n" + HUGE + b"\x85R.", "a Tensor in place of a list"),
    "a pair that is a tensor": (
        b"ccollections\nOrderedDict\n](" + HUGE + b"e\x85R.",
        "a Tensor in place of a list",
    ),
    "a shape that is a tensor": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00" + HUGE + HUGE + b"tR.",
        "a Tensor in place of a list",
    ),
    "a storage that is a tensor": (HUGE + b"Q.", "a Tensor in place of a list"),
    "a shape beyond counting": (tensor((2**40, 2**40), (0, 0)) + b".", "more values than can be counted"),
    "an empty shape beyond counting": (
        tensor((0, 2**62, 2**62), (0, 0, 0)) + b".",
        "more values than can be counted",
    ),
    "a stride beyond counting": (tensor((0,), (2**62,)) + b".", "more values than can be counted"),
    "an offset beyond counting": (tensor((0,), (1,), 2**70) + b".", "more values than can be counted"),
    "many axes": (tensor((1,) * 100, (1,) * 100) + b".", "an impossible shape"),
    "colliding integers": (b"}(" + COLLIDING + b"u.", "an integer of 61 bits as a key"),
    "many tuples": (b"}(" + TUPLES + b"u.", "many or long tuples as keys"),
    "a long tuple": (b"}(" + b"K\x01" * 50 + b"tNs.", "many or long tuples as keys"),
    "copies": (
        MANY + b"](" + b"cbuiltins\nset\nh\x00\x85R" * 20_000 + b"e.",
        "copies its own data again and again",
    ),
    "copies of arguments": (
        b"(" + b"N" * 100_000 + b"tq\x00](" + b"cm\nC\nh\x00\x81" * 20_000 + b"e.",
        "copies its own data again and again",
    ),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_programs_that_would_never_end(tmp_path, case):
    program, message = PROGRAMS[case]
    path = archive(tmp_path / "hostile.pt", b"\x80\x02" + program, {"0": b"\0" * 4})
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)
    assert time.process_time() - start < 3  # seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("name", ["archive/byteorder", "archive/data.pkl", "archive/data/0"])
def test_entries_that_expand(tmp_path, name):
    torch.save({"x": torch.zeros(1000)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as new:
        for entry in old.namelist():
            data = old.read(entry)
            entry = "archive/" + entry.split("/", 1)[1]
            if entry == name:
                new.writestr(entry, data + b"\0" * 64 * MEBIBYTE, compress_type=zipfile.ZIP_DEFLATED)
            else:
                new.writestr(entry, data)
    with pytest.raises(CheckpointError, match="repacked with compression"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_entries_that_are_too_long(tmp_path, monkeypatch):
    path = archive(tmp_path / "long.pt", b"\x80\x02}.", byteorder=b"little" * 100)
    with pytest.raises(CheckpointError, match=r"`archive/byteorder` .* has 600 bytes, expected at most 16"):
        read_checkpoint(path)
    monkeypatch.setattr("fmri_lm_hf.conversion.checkpoint.MAX_PICKLE_BYTES", 2)
    with pytest.raises(CheckpointError, match=r"`archive/data.pkl` .* has 4 bytes, expected at most 2"):
        read_checkpoint(archive(tmp_path / "pickle.pt", b"\x80\x02}."))


def test_encrypted_and_foreign_archives(tmp_path):
    good = archive(tmp_path / "good.pt", b"\x80\x02}.").read_bytes()
    table = good.index(b"PK\x01\x02")
    encrypted = good[: table + 8] + b"\x01\x00" + good[table + 10 :]
    (tmp_path / "encrypted.pt").write_bytes(encrypted)
    with pytest.raises(CheckpointError, match=r"encrypted\.pt' is encrypted\. Decrypt it first"):
        read_checkpoint(tmp_path / "encrypted.pt")
    newer = good[: table + 6] + b"\xff\x00" + good[table + 8 :]
    (tmp_path / "newer.pt").write_bytes(newer)
    with pytest.raises(CheckpointError, match="table of contents is missing or cannot be read"):
        read_checkpoint(tmp_path / "newer.pt")


def test_damage_anywhere_in_what_is_read_is_noticed(tmp_path):
    torch.save({"x": torch.arange(64.0)}, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    for what in (b"ctorch", torch.arange(64.0).numpy().tobytes()):
        place = whole.index(what) + len(what) - 1
        damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        (tmp_path / "damaged.pt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"does not fit its checksum\. Download or copy it again"):
            read_checkpoint(tmp_path / "damaged.pt")


def test_a_file_without_checksums_is_read_and_said_to_be_one(tmp_path, caplog):
    program = (
        "import sys, torch; torch.serialization.set_crc32_options(False); "
        "torch.save({'x': torch.arange(8.0)}, sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "bare.pt")], check=True)
    assert torch.equal(read_checkpoint(tmp_path / "bare.pt")["x"], torch.arange(8.0))
    assert "'bare.pt' was written without checksums" in caplog.text


def test_control_characters_do_not_reach_the_terminal(tmp_path, caplog):
    escape = "\x1b]0;owned\x07\x9b2J\u202e"
    called = text(f"evil{escape}") + text("name") + b"\x93)R."
    with pytest.raises(UnsafeCheckpointError, match=r"call `evil\\x1b]0;owned\\x07\\x9b2J\\u202e\.name`") as error:
        read_checkpoint(archive(tmp_path / "call.pt", b"\x80\x02" + called))
    assert str(error.value).isprintable()
    made = b"}" + text("x") + text(f"own{escape}") + text("name") + b"\x93)\x81s."
    read_checkpoint(archive(tmp_path / "object.pt", b"\x80\x02" + made))
    (record,) = caplog.records
    assert "own\\x1b]0;owned" in record.getMessage()
    assert record.getMessage().isprintable()


def test_settings_whose_keys_collide_or_are_no_names():
    from fmri_lm_hf.conversion import InertObject

    hostile = InertObject("omegaconf.dictconfig.DictConfig")
    hostile.items = [((1, (2, (3,))), "value")]
    with pytest.raises(CheckpointError, match="uses a tuple as a key"):
        to_plain(hostile)
    hostile.items = [(2**61 - 1, "value")]
    with pytest.raises(CheckpointError, match="an integer of 61 bits as a key"):
        to_plain(hostile)
