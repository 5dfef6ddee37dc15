"""One loss for one step: in one process, in several, and accumulated over micro-batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_run import train
from small_runs import N_EXAMPLES, STAGES, WAYS, make, train_all

from fmri_lm_hf.training.step_trainer import StepBatches

# share of the codes that a batch uses: that of a smaller batch is another one
OF_BATCHES = ("codebook_usage", "eval_codebook_usage")


def launched(script: Path, *words) -> None:
    """Run a script in two processes; once more where one is aborted, as gloo's may be on a busy machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "--max-restarts", "1", str(script), *map(str, words)]
    environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    of_the_script, _, _ = done.stderr.partition("torch/distributed/elastic")  # what follows is the launcher's
    assert done.returncode == 0, of_the_script[-6000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Weights and logs of the stages, trained in five ways: way -> stage -> result."""
    root = tmp_path_factory.mktemp("runs")
    train_all(root / "one", 4, 1)
    train_all(root / "accumulated", 2, 2)
    launched(Path(__file__).parent / "small_runs.py", root, *WAYS)
    return {folder.name: {stage: torch.load(folder / f"{stage}.pt") for stage in STAGES} for folder in root.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["accumulated", "processes", "both"])
@pytest.mark.parametrize("stage", STAGES)
def test_weights_and_curves_are_those_of_one_process_and_one_batch(results, stage, way):
    one, other = results["one"][stage], results[way][stage]
    torch.testing.assert_close(one["weights"], other["weights"], rtol=1e-4, atol=1e-4)
    curves = [
        [{name: value for name, value in entry.items() if _is_loss(name)} for entry in result["log"]]
        for result in (one, other)
    ]
    assert len(curves[0]) == len(curves[1])
    for left, right in zip(*curves):
        assert left == pytest.approx(right, rel=1e-4)
    assert sum("loss" in entry for entry in curves[0]) == 6


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_resumed_in_two_processes_a_training_ends_as_one_that_was_not_interrupted(results, stage):
    whole, resumed = results["processes"][stage], results["resumed"][stage]
    torch.testing.assert_close(whole["weights"], resumed["weights"], rtol=0, atol=1e-6)
    # the mean over a run, which the Trainer counts from where it goes on, is another one
    curves = [[entry for entry in result["log"] if "train_loss" not in entry] for result in (whole, resumed)]
    for left, right in zip(*curves, strict=True):
        names = [name for name in left if _is_loss(name)] + ["step"]
        assert [left[name] for name in names] == pytest.approx([right[name] for name in names], rel=1e-5)


def _is_loss(name: str) -> bool:
    return name not in OF_BATCHES and (name.endswith("loss") or name == "grad_norm")


def test_a_scan_is_compared_with_the_texts_of_all_micro_batches(tmp_path):
    parts = []
    for batch_size, accumulated in ((6, 1), (2, 3)):
        run = make(
            "tokenizer",
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
        )
        run.model.alignment.logit_bias.data.zero_()  # as if scans were told from many texts
        run.train()
        parts.append(run.state.log_history[0]["contrastive_loss"])
    assert parts[0] == pytest.approx(parts[1], rel=1e-5)
    outputs = run.model(**run.data_collator(run.train_dataset[:2]))
    assert outputs.contrastive_loss < 0.5 * parts[0]  # with fewer texts there is less to tell apart


def test_codebooks_move_once_a_step(tmp_path):
    run = make("tokenizer", tmp_path)
    quantizer = run.model.quantizer.train()
    embeddings, mask = torch.randn(2, 12, 16), torch.ones(2, 12, dtype=torch.bool)
    quantizer(embeddings, mask)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.step_ends = False
    codes = quantizer(embeddings[:1], mask[:1])[2]
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    quantizer.step_ends = True
    assert torch.equal(quantizer(embeddings, mask)[2][:1], codes)  # all read the codes of the step before
    assert not torch.equal(quantizer.codebooks[0].embedding, before["codebooks.0.embedding"])


def test_several_gpus_of_one_process_are_refused(tmp_path, monkeypatch):
    from fmri_lm_hf.training.arguments import StageArguments

    monkeypatch.setattr(StageArguments, "n_gpu", 2)
    with pytest.raises(
        ValueError, match=r"One process has 2 GPUs.*Start one process for each GPU \(`accelerate launch`\)"
    ):
        make("tokenizer", tmp_path)


# --- which examples -------------------------------------------------------------------------------------------


def of_all(n: int, batch_size: int, per_step: int, world_size: int, **more) -> list[list[list[int]]]:
    """Micro-batches of every process."""
    return [
        list(StepBatches(n, batch_size, per_step, rank=rank, world_size=world_size, **more))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("n", [8, 9, 10, 15, 24])
@pytest.mark.parametrize("batch_size, per_step, world_size", [(8, 1, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (2, 1, 4)])
def test_a_step_holds_the_same_examples_however_it_is_cut(n, batch_size, per_step, world_size):
    by_rank = of_all(n, batch_size, per_step, world_size, seed=3)
    whole = list(StepBatches(n, 8, seed=3))
    assert len({len(batches) for batches in by_rank}) == 1
    assert len(by_rank[0]) == len(StepBatches(n, batch_size, per_step, world_size=world_size))
    assert max(len(batch) for batches in by_rank for batch in batches) <= batch_size
    for step, expected in enumerate(whole):
        of_step = [batches[step * per_step : (step + 1) * per_step] for batches in by_rank]
        examples = [example for batches in of_step for batch in batches for example in batch]
        if len(expected) >= sum(len(batches) for batches in of_step):
            assert examples == expected
        else:  # fewer than micro-batches: none is empty
            assert set(examples) == set(expected)
            assert all(batch for batches in of_step for batch in batches)


def test_epochs_have_orders_of_their_own_and_may_be_counted():
    batches = StepBatches(N_EXAMPLES, 4, seed=0, counts_epochs=True)
    first, again = list(batches), list(batches)
    batches.set_epoch(2)
    third = list(batches)
    assert first == again
    flat = [example for batch in third for example in batch]
    assert sorted(flat) == list(range(2 * N_EXAMPLES, 3 * N_EXAMPLES))
    assert [example % N_EXAMPLES for example in flat] != [example for batch in first for example in batch]
    in_order = StepBatches(5, 2, drop_last=True)
    assert list(in_order) == [[0, 1], [2, 3]]
    assert len(in_order) == 2


# --- sharded weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A folder with what sharded trainings of both models have saved."""
    folder = tmp_path_factory.mktemp("sharded")
    launched(Path(__file__).parent / "sharded_run.py", folder, "tokenizer", "alignment")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenizer", "alignment"])
def test_sharded_weights_train_and_are_saved_whole(tmp_path, sharded, stage):
    expected = make(stage, tmp_path, per_device_train_batch_size=4)
    train(expected)
    saved = load_file(sharded / stage / "model.safetensors")
    whole = expected.model.state_dict()
    assert saved.keys() <= whole.keys()
    assert len(saved) > 0.9 * len(whole)  # tied weights are saved once
    for name, values in saved.items():
        torch.testing.assert_close(values, whole[name], rtol=1e-4, atol=1e-5)
