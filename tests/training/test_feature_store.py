"""The feature store: computed once, shared by processes, never stale."""

from __future__ import annotations

import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from hub import tiny
from small import fmri_tokenizer, language_model

from fmri_lm_hf import FmriFeatureExtractor
from fmri_lm_hf.files import content_hash, weights_hash
from fmri_lm_hf.training.feature_store import FeatureStore, draw_windows

IDS = ["a", "b", "c", "short"]


def cohort(seed: int = 0) -> Dataset:
    draw = np.random.default_rng(seed)
    lengths = [tiny.N_TIMEPOINTS, tiny.N_TIMEPOINTS, tiny.N_TIMEPOINTS, 1]
    rows = [
        {"scan_id": name, "bold": draw.normal(size=(n, tiny.N_ROIS)).astype("float32"), "t_r": 2.0}
        for name, n in zip(IDS, lengths)
    ]
    return Dataset.from_list(rows).with_format("numpy", columns=["bold"], output_all_columns=True)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


def extractor() -> FmriFeatureExtractor:
    return FmriFeatureExtractor(n_rois=tiny.N_ROIS, n_timepoints=tiny.N_TIMEPOINTS, t_r=2.0)


def test_scans_are_what_the_extractor_makes_of_them(store):
    scans = cohort()
    stored = store.extract(scans, extractor(), [2, 0, 3])
    assert stored.scan_ids == ["c", "a", "short"]
    for scan_id, row in (("c", 2), ("a", 0)):
        expected = extractor()(scans[row])
        assert all(torch.equal(values, expected[name][0]) for name, values in stored.row(scan_id).items())
    assert list(stored.failures) == ["short"]
    assert "time point" in stored.failures["short"]


def test_what_is_there_is_not_computed_again(store):
    model, calls = language_model(), []
    encode = model.fmri_tokenizer.encode
    model.fmri_tokenizer.encode = lambda *args, **kwargs: calls.append(1) or encode(*args, **kwargs)
    inputs = store.extract(cohort(), extractor(), range(4))
    first = store.encode(inputs, model, with_codes=True)
    assert len(calls) == 2  # features and codes
    again = store.encode(store.extract(cohort(), extractor(), range(4)), model, with_codes=True)
    assert len(calls) == 2
    assert torch.equal(first.row("b")["fmri_features"], again.row("b")["fmri_features"])
    expected = encode(**inputs.batch(["b"]))
    torch.testing.assert_close(first.row("b")["fmri_features"], expected.embeddings[0])
    assert torch.equal(first.row("b")["fmri_labels"], expected.fmri_codes[0])
    with pytest.raises(KeyError, match="short"):
        first.row("short")


def test_noise_is_no_scan(store):
    noise = store.encode_noise(3, language_model())
    assert len(noise) == 3
    assert not torch.equal(noise.row("noise-0")["fmri_features"], noise.row("noise-1")["fmri_features"])
    again = store.encode_noise(3, language_model())
    assert torch.equal(noise.row("noise-2")["fmri_features"], again.row("noise-2")["fmri_features"])


def test_codes_need_a_codebook(store):
    model = language_model()
    model.fmri_tokenizer.quantizer = None
    with pytest.raises(ValueError, match="the tokenizer has no codebook"):
        store.encode(store.extract(cohort(), extractor(), range(3)), model, with_codes=True)


def test_a_change_of_anything_is_another_entry(store):
    scans = cohort()
    keys = {store.extract(scans, extractor(), range(3)).key}
    keys.add(store.extract(cohort(seed=1), extractor(), range(3)).key)  # the values of a scan
    keys.add(store.extract(scans, extractor(), [0, 1]).key)
    other = FmriFeatureExtractor(n_rois=tiny.N_ROIS, n_timepoints=tiny.N_TIMEPOINTS, t_r=1.0)
    keys.add(store.extract(scans, other, range(3)).key)
    inputs = store.extract(scans, extractor(), range(3))
    model = language_model()
    keys.add(store.encode(inputs, model).key)
    keys.add(store.encode(inputs, model, with_codes=True).key)
    keys.add(store.encode(inputs, language_model(fmri_embedding_source="codes")).key)
    keys.add(store.encode(inputs, model, {"shortest": 0.5, "seed": 0}).key)
    keys.add(store.encode(inputs, model, {"shortest": 0.5, "seed": 1}).key)
    with torch.no_grad():
        model.fmri_tokenizer.encoder.transformer.norm.bias[0] += 1e-6  # the least change of a weight
    keys.add(store.encode(inputs, model).key)
    with torch.no_grad():
        model.projector.linear.bias[0] += 1  # behind what is stored
    keys.add(store.encode(inputs, model).key)
    assert len(keys) == 10


def test_a_half_written_entry_is_made_anew(store):
    inputs = store.extract(cohort(), extractor(), range(3))
    folder = store.folder / f"inputs-{inputs.key}"
    expected = inputs.row("a")["input_values"]
    (folder / "record.json").unlink()  # a process was killed before it wrote this
    (folder / "input_values.npy").write_bytes(b"")
    again = store.extract(cohort(), extractor(), range(3))
    assert torch.equal(again.row("a")["input_values"], expected)


def test_a_failed_computation_leaves_nothing(store):
    def fail():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        store.embed(["a text"], "model", fail)
    assert [path.name for path in store.folder.iterdir() if path.is_dir()] == []
    embeds = torch.arange(4.0).view(2, 2)
    assert torch.equal(store.embed(["a", "b"], "model", lambda: embeds), embeds)
    assert torch.equal(store.embed(["a", "b"], "model", fail), embeds)


def _fill(folder, barrier, done):
    barrier.wait()
    stored = FeatureStore(folder).extract(cohort(), extractor(), range(3))
    done.put(content_hash(stored.row("a")["input_values"].numpy()))


def test_two_processes_at_once_get_the_same(store):
    context = multiprocessing.get_context("fork")
    barrier, done = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_fill, args=(store.folder, barrier, done)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {done.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(found) == 1
    assert len([path for path in store.folder.iterdir() if path.is_dir()]) == 1
    shutil.rmtree(store.folder)


def test_windows_hide_time_points_and_nothing_else():
    observed = torch.ones(200, 50, dtype=torch.bool)
    observed[:, 40:] = False
    ids = [f"scan-{i}" for i in range(200)]
    windows = draw_windows(observed, ids, shortest=0.4, seed=0)
    assert not (windows & ~observed).any()
    share = windows.sum(1) / observed.sum(1)
    assert share.min() >= 0.38
    assert share.max() <= 1
    assert share.std() > 0.1
    starts = windows.int().argmax(1)
    assert len(set(starts.tolist())) > 5
    inside = [row.nonzero().flatten() for row in windows]
    assert all((row.diff() == 1).all() for row in inside)  # one stretch
    alone = draw_windows(observed[:1], ["scan-7"], shortest=0.4, seed=0)
    assert torch.equal(alone[0], windows[7])  # a function of the scan, not of its batch
    assert not torch.equal(draw_windows(observed, ids, shortest=0.4, seed=1), windows)


def test_hashes_tell_shapes_types_and_weights_apart():
    zeros = np.zeros(4, dtype="float32")
    hashes = {content_hash(x) for x in (zeros, zeros.reshape(2, 2), zeros.astype("int32"), b"", [], {})}
    assert len(hashes) == 6
    assert weights_hash(fmri_tokenizer(0)) == weights_hash(fmri_tokenizer(0)) != weights_hash(fmri_tokenizer(1))
