"""Reading checkpoint files: equal to `torch.load`, executing nothing, one clear error for each kind of damage."""

from __future__ import annotations

import argparse
import collections
import functools
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fmri_lm_hf.conversion import (
    CheckpointError,
    InertObject,
    UnsafeCheckpointError,
    read_checkpoint,
    to_plain,
)

GOLDEN = Path(__file__).parent / "golden"


class Settings:
    """A class of some other program."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["gpt2", "qwen3_lora", "vq_patch10"])
def test_tensors_equal_those_of_torch_load(name):
    expected = torch.load(GOLDEN / name / "checkpoint.pt", weights_only=True)
    found = read_checkpoint(GOLDEN / name / "checkpoint.pt")
    assert list(found) == list(expected)
    assert list(found["model"]) == list(expected["model"])
    for key, tensor in expected["model"].items():
        assert found["model"][key].dtype == tensor.dtype
        assert found["model"][key].stride() == tensor.stride()
        assert torch.equal(found["model"][key], tensor)


def test_every_type_layout_and_shared_storage_survives(tmp_path):
    base = torch.arange(24).reshape(2, 3, 4)
    # fmt: off
    dtypes = [
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
        torch.float32, torch.float64, torch.uint16, torch.float8_e4m3fn,
    ]
    # fmt: on
    saved = {str(dtype): base.to(dtype) for dtype in dtypes}
    saved |= {"transposed": base.float().mT, "row": base[1, 2, 1::2], "scalar": base[0, 0, 1]}
    saved["empty"] = torch.empty(0, 3)
    saved |= {"parameter": torch.nn.Parameter(torch.ones(2)), "tied": saved["torch.float32"][1]}
    torch.save(saved, tmp_path / "types.pt")
    found = read_checkpoint(tmp_path / "types.pt")
    for key, tensor in saved.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].stride() == tensor.stride()
        assert torch.equal(found[key].float(), tensor.float())
    found["torch.float32"][1] = -1
    assert (found["tied"] == -1).all(), "a tied tensor is a view of the same storage"
    assert torch.equal(read_checkpoint(tmp_path / "types.pt")["tied"], saved["tied"]), "the file is not written to"


def test_containers_and_scalars_survive(tmp_path):
    saved = {
        "text": "é",
        "numbers": [1, -2, 3.5, 2**70, True, None],
        "bytes": b"\x00\xff",
        "nested": {"tuple": (1, (2,)), 3: collections.OrderedDict(a=1), (1, "x"): []},
        "default": collections.defaultdict(list, {"k": [1]}),
        "size": torch.Size([2, 3]),
    }
    for protocol in (2, 4):
        torch.save(saved, tmp_path / "plain.pt", pickle_protocol=protocol)
        assert read_checkpoint(tmp_path / "plain.pt") == saved


def test_objects_of_other_classes_are_inert_data(tmp_path):
    settings = Settings(width=4, inner=Settings(names=["a"]), kind=Settings)
    saved = {"args": settings, "namespace": argparse.Namespace(lr=0.1), "folder": Path("data")}
    torch.save(saved | {"accuracy": np.float64(0.5), "scores": np.ones(2)}, tmp_path / "c.pt")
    found = read_checkpoint(tmp_path / "c.pt")
    assert isinstance(found["args"], InertObject)
    assert found["args"].class_name.endswith("Settings")
    plain = to_plain(found)
    assert plain["args"] == {"width": 4, "inner": {"names": ["a"]}, "kind": f"{__name__}.Settings"}
    assert plain["namespace"] == {"lr": 0.1}
    assert found["accuracy"].class_name.endswith("multiarray.scalar")


@pytest.mark.parametrize("name", ["gpt2", "qwen3_lora"])
def test_omegaconf_arguments_read_like_plain_ones(name):
    plain = read_checkpoint(GOLDEN / name / "checkpoint.pt")["model_args"]
    omegaconf = read_checkpoint(GOLDEN / name / "checkpoint_omegaconf.pt")["model_args"]
    assert isinstance(omegaconf, InertObject)
    assert to_plain(omegaconf) == plain


def test_configurations_that_share_or_contain_themselves_are_plain_at_once():
    shared: list = [1]
    for _ in range(60):
        shared = [shared, shared]
    cycle = InertObject("omegaconf.dictconfig.DictConfig")
    cycle.state = {"_content": {"me": cycle, "parts": shared}}
    assert to_plain(cycle)["me"] is None


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (Calls(os.system, "touch {marker}"), "system"),
        (Calls(eval, "open('{marker}', 'w')"), "builtins.eval"),
        (Calls(exec, "open('{marker}', 'w')"), "builtins.exec"),
        (Calls(open, "{marker}", "w"), "open"),
        (Calls(getattr, "x", "upper"), "builtins.getattr"),
        (Calls(subprocess.check_call, ["touch", "{marker}"]), "subprocess.check_call"),
        (Calls(subprocess.Popen, ["touch", "{marker}"]), "subprocess.Popen"),
        (Calls(functools.partial, print), "functools.partial"),
        (Calls(torch.load, "{marker}"), "torch.serialization.load"),
        (Calls(Settings), "Settings"),
    ],
)
def test_a_pickle_that_calls_anything_is_refused(tmp_path, call, named, protocol):
    marker = tmp_path / "was_run"
    function, arguments = call.call
    arguments = tuple(a.format(marker=marker) if isinstance(a, str) else a for a in arguments)
    if arguments and isinstance(arguments[0], list):
        arguments = (["touch", str(marker)],)
    hostile = {"model": {"weight": torch.ones(1)}, "model_args": Calls(function, *arguments)}
    torch.save(hostile, tmp_path / "hostile.pt", pickle_protocol=protocol)
    with pytest.raises(UnsafeCheckpointError, match=f"tries to call .*{named}"):
        read_checkpoint(tmp_path / "hostile.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cposix\nsystem\n(S'touch {marker}'\ntR.",
        b"(S'touch {marker}'\niposix\nsystem\n.",
        b"(cposix\nsystem\nS'touch {marker}'\no.",
    ],
)
def test_hand_written_pickles_are_refused(tmp_path, program):
    marker = tmp_path / "was_run"
    program = program.replace(b"{marker}", str(marker).encode())
    with zipfile.ZipFile(tmp_path / "hostile.pt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        read_checkpoint(tmp_path / "hostile.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"}",
        b"0.",
        b"h\x07.",
        b"(dN",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02K\x01}b.",
        b"\x82\x01.",
        b"\xffabc",
    ],
)
def test_a_damaged_pickle_has_one_kind_of_error(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "damaged.pt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(CheckpointError, match="pickle"):
        read_checkpoint(tmp_path / "damaged.pt")


def test_nested_keys_that_take_for_ever_to_hash_are_refused(tmp_path):
    key = b"K\x01" + b"2\x86" * 64
    for i, program in enumerate(
        (
            b"}(" + key + b"K\x01u.",
            b"ccollections\nOrderedDict\n](" + key + b"K\x01\x86e\x85R.",
            b"(" + key + b"\x91.",
        )
    ):
        with zipfile.ZipFile(tmp_path / f"bomb{i}.pt", "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x04" + program)
        with pytest.raises(CheckpointError, match="as a key"):
            read_checkpoint(tmp_path / f"bomb{i}.pt")


def test_truncated_file(tmp_path):
    whole = (GOLDEN / "gpt2" / "checkpoint.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"half\.pt' is truncated or damaged"):
        read_checkpoint(tmp_path / "half.pt")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        read_checkpoint(tmp_path / "nowhere.pt")
    (tmp_path / "notes.pt").write_text("not weights")
    with pytest.raises(CheckpointError, match=r"is not a PyTorch checkpoint: it begins with b'not '"):
        read_checkpoint(tmp_path / "notes.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="The file is empty"):
        read_checkpoint(tmp_path / "empty.pt")
    torch.save({"x": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"format of PyTorch before 1\.6"):
        read_checkpoint(tmp_path / "old.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(CheckpointError, match="bare pickle"):
        read_checkpoint(tmp_path / "bare.pt")
    np.savez(tmp_path / "arrays.npz", x=np.ones(2))
    with pytest.raises(CheckpointError, match=r"expected one `data\.pkl`"):
        read_checkpoint(tmp_path / "arrays.npz")


def test_folders(tmp_path):
    shards = tmp_path / "run" / "global_step100"
    shards.mkdir(parents=True)
    (shards / "mp_rank_00_model_states.pt").touch()
    (shards / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    for folder in (tmp_path / "run", shards):
        with pytest.raises(CheckpointError, match=r"DeepSpeed checkpoint.*Merge them first"):
            read_checkpoint(folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="is a folder; give the checkpoint file"):
        read_checkpoint(tmp_path / "other")


def _repack(source: Path, target: Path, change) -> None:
    """Copy an archive; `change(name, data)` returns (data, compression), or None to leave the entry out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(name, changed[0], compress_type=changed[1])


def test_damage_inside_the_archive(tmp_path):
    torch.save({"x": torch.arange(8.0)}, tmp_path / "good.pt")
    stored = zipfile.ZIP_STORED
    # other alignment than torch's is read all the same
    _repack(tmp_path / "good.pt", tmp_path / "moved.pt", lambda name, data: (data, stored))
    assert torch.equal(read_checkpoint(tmp_path / "moved.pt")["x"], torch.arange(8.0))
    cases = {
        "compressed": (lambda name, data: (data, zipfile.ZIP_DEFLATED), "repacked with compression"),
        "lost": (lambda name, data: None if "/data/" in name else (data, stored), "which it does not hold"),
        "short": (
            lambda name, data: (data[:20] if "/data/" in name else data, stored),
            "lies outside its storage",
        ),
        "ragged": (lambda name, data: (data[:-1] if "/data/" in name else data, stored), "cut short"),
        "order": (lambda name, data: (b"big" if "byteorder" in name else data, stored), "other byte order"),
    }
    for name, (change, message) in cases.items():
        _repack(tmp_path / "good.pt", tmp_path / f"{name}.pt", change)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / f"{name}.pt")
