"""A training that is killed and resumed ends as one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scripts import run

from fmri_lm_hf.training.run import last_complete_checkpoint

STAGES = ("reading", "tokenizer", "alignment", "instruction")
# four steps an epoch: every save is in the middle of one
WORDS = ("--num_train_epochs", "3", "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "1")


def words(stage: str, folder: Path) -> list[str]:
    own = ["--max_steps", "12"] if stage == "reading" else ["--eval_strategy", "no"]
    return [f"tiny/{stage}", *WORDS, *own, "--output_dir", str(folder)]


def kill(*jobs: list) -> None:
    """Run stages in another process until they are killed."""
    script = str(Path(__file__).parent / "killed.py")
    done = subprocess.run([sys.executable, script, json.dumps(jobs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path) -> list[float]:
    record = json.loads((folder / "training_info.json").read_text())
    return [entry["loss"] for entry in record["log_history"] if "loss" in entry]


def assert_same(left: Path, right: Path) -> None:
    one, other = (load_file(folder / "model.safetensors") for folder in (left, right))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert losses(left) == losses(right)


@pytest.fixture(scope="module")
def killed(trained, made, tmp_path_factory):
    """A folder with stages that were killed while they saved, and one before its first save."""
    folder, before = tmp_path_factory.mktemp("killed"), Path.cwd()
    os.chdir(made)
    try:
        early = ["step", 2, "tokenizer", *words("tokenizer", folder / "early")]
        kill(*[["save", 9, stage, *words(stage, folder / stage)] for stage in STAGES], early)
    finally:
        os.chdir(before)
    return folder


@pytest.mark.slow
def test_killed_while_it_saves_a_training_goes_on_from_the_last_whole_checkpoint(killed, tiny, tmp_path, caplog):
    for stage in STAGES:
        folder = killed / stage
        names = {path.name for path in folder.glob("checkpoint-*")}
        assert names == {"checkpoint-3", "checkpoint-6", "checkpoint-9"}
        assert (folder / "checkpoint-9" / "model.safetensors").exists()  # and nothing else that a training needs
        caplog.clear()
        run(stage, *words(stage, folder), "--resume_from_checkpoint", "true")
        assert "The checkpoint checkpoint-9 is incomplete and is skipped" in caplog.text
        run(stage, *words(stage, tmp_path / f"{stage}-whole"))
        assert_same(folder, tmp_path / f"{stage}-whole")


@pytest.mark.slow
def test_killed_before_the_first_save_a_training_starts_anew(killed, tiny, tmp_path, caplog):
    run("tokenizer", *words("tokenizer", killed / "early"), "--resume_from_checkpoint", "true")
    assert "There is no complete checkpoint to resume from: the training starts from the beginning." in caplog.text
    run("tokenizer", *words("tokenizer", tmp_path / "whole"))
    assert_same(killed / "early", tmp_path / "whole")


def checkpoint(folder: Path, step: int, state: str | None = "{}", ranks: int = 1) -> str:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    names = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    for name in names:
        (path / name).touch()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return str(path)


def test_the_last_whole_checkpoint_is_found(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-best").mkdir()
    checkpoint(tmp_path, 30, None)
    assert last_complete_checkpoint(tmp_path) is None
    whole = checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 20, '{"global_step": ')
    assert last_complete_checkpoint(tmp_path) == whole
    assert last_complete_checkpoint(tmp_path, world_size=2) is None
    of_two = checkpoint(tmp_path, 10, ranks=2)
    (tmp_path / "checkpoint-11").mkdir()
    assert last_complete_checkpoint(tmp_path, world_size=2) == of_two
