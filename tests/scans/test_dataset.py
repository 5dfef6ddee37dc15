"""Scan datasets on disk: what is written is what `datasets` and our loader read back."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmri_lm_hf import scans
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import write_nifti

ATLAS = Atlas("five", tuple("abcde"), ("x",) * 5)


def make_rows(n=7, n_rois=5, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "scan_id": f"scan-{i}",
            "subject_id": f"sub-{i // 2}",
            "site": "AB"[i % 2],
            "t_r": 0.72,
            "bold": rng.normal(size=(20 + i, n_rois)).astype(np.float32),
            "sex": ["female", "male", None][i % 3],
            "age": 20 + i if i % 3 else None,
            "score": i / 2,
        }
        for i in range(n)
    ]


def test_round_trip_through_shards(tmp_path):
    rows = make_rows()
    write_scan_dataset(iter(rows), tmp_path / "scans", ATLAS, shard_bytes=1000, parameters={"seed": 3})
    assert len(list((tmp_path / "scans" / "data").iterdir())) == 4  # two scans of 400 to 520 bytes in each
    dataset, atlas = load_scan_dataset(tmp_path / "scans")
    assert atlas == ATLAS
    for loaded, row in zip(dataset, rows, strict=True):
        assert loaded["bold"].dtype == np.float32
        np.testing.assert_array_equal(loaded.pop("bold"), row["bold"])
        assert loaded == {key: value for key, value in row.items() if key != "bold"} | {
            "session": None,
            "n_timepoints": len(row["bold"]),
            "roi_mask": [True] * 5,
            "mean_fd": None,
            "sample_mask": [True] * len(row["bold"]),
        }
    assert json.loads((tmp_path / "scans" / "provenance.json").read_text())["parameters"] == {"seed": 3}


def test_the_folder_is_one_that_datasets_understands(tmp_path):
    rows = make_rows()
    write_scan_dataset(rows, tmp_path / "scans", ATLAS, shard_bytes=1000)
    plain = datasets.load_dataset(str(tmp_path / "scans"), split="train")
    assert plain.features["bold"] == datasets.Array2D((None, 5), "float32")
    assert plain.features["age"] == datasets.Value("int64")
    streamed = list(datasets.load_dataset(str(tmp_path / "scans"), split="train", streaming=True))
    for loaded in (plain, streamed):
        assert [row["scan_id"] for row in loaded] == [row["scan_id"] for row in rows]
        np.testing.assert_array_equal(loaded[6]["bold"], rows[6]["bold"])


def test_a_dataset_is_written_as_its_rows(tmp_path):
    write_scan_dataset(make_rows(), tmp_path / "first", ATLAS)
    dataset, _ = load_scan_dataset(tmp_path / "first")
    dataset = dataset.cast_column("sex", datasets.ClassLabel(names=["female", "male"]))
    write_scan_dataset(dataset, tmp_path / "second", ATLAS)
    again, _ = load_scan_dataset(tmp_path / "second")
    assert again.features == dataset.features
    assert again[:]["sex"] == dataset[:]["sex"]
    np.testing.assert_array_equal(again[3]["bold"], dataset[3]["bold"])


@pytest.mark.parametrize("kind", ["float32", "float64", "saved", "fixed"])
def test_minimal_forms_are_accepted(tmp_path, kind):
    rows = [{key: row[key] for key in ("scan_id", "subject_id", "site", "t_r", "bold", "sex")} for row in make_rows()]
    if kind == "saved":
        path = tmp_path / "saved"
        datasets.Dataset.from_list([row | {"bold": row["bold"].tolist()} for row in rows]).save_to_disk(str(path))
    elif kind == "fixed":
        path = tmp_path / "fixed.parquet"
        rows = [row | {"bold": row["bold"][:20]} for row in rows]
        features = datasets.Features(
            {name: datasets.Value("string") for name in ("scan_id", "subject_id", "site", "sex")}
            | {"t_r": datasets.Value("float32"), "bold": datasets.Array2D((20, 5), "float32")}
        )
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    else:
        path = tmp_path / "scans.parquet"
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        columns["bold"] = pa.array([[list(map(float, line)) for line in bold] for bold in columns["bold"]])
        if kind == "float32":
            columns["bold"] = columns["bold"].cast(pa.list_(pa.list_(pa.float32())))
        pq.write_table(pa.table(columns), path)
    dataset, atlas = load_scan_dataset(path)
    assert atlas is None
    assert dataset[:]["sex"] == [row["sex"] for row in rows]
    for i, row in enumerate(rows):
        assert dataset[i]["bold"].dtype == np.float32
        np.testing.assert_array_equal(dataset[i]["bold"], row["bold"])


def test_loading_is_fast(tmp_path):
    rng = np.random.default_rng(0)
    bold = rng.normal(size=(200, 160, 100)).astype(np.float32)
    rows = ({"scan_id": str(i), "subject_id": str(i), "site": "A", "t_r": 2.0, "bold": x} for i, x in enumerate(bold))
    write_scan_dataset(rows, tmp_path / "scans", Atlas.numbered(100))
    started = time.perf_counter()
    dataset, _ = load_scan_dataset(tmp_path / "scans")
    np.testing.assert_array_equal(dataset[:]["bold"], bold)
    assert time.perf_counter() - started < 5  # about 0.2 s; nested Python lists take far longer


def test_unusable_datasets_are_refused(tmp_path):
    rows = make_rows(3)
    table = pa.table({"scan_id": ["a"], "t_r": [2.0]})
    pq.write_table(table, tmp_path / "few.parquet")
    with pytest.raises(ScanError, match="no column subject_id, site, bold: found scan_id, t_r"):
        load_scan_dataset(tmp_path / "few.parquet")
    with pytest.raises(ScanError, match="does not exist"):
        load_scan_dataset(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="empty holds no scan dataset"):
        load_scan_dataset(tmp_path / "empty")
    write_scan_dataset(rows, tmp_path / "scans", ATLAS)
    shard = tmp_path / "scans" / "data" / "train-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ScanError, match="not readable: a file may be truncated") as caught:
        load_scan_dataset(tmp_path / "scans")
    assert caught.value.__cause__ is not None
    shard.write_bytes(content)
    Atlas.numbered(4).to_json(tmp_path / "scans" / "atlas.json")
    with pytest.raises(ScanError, match=r"have 5 ROIs, but atlas.json beside them has 4"):
        load_scan_dataset(tmp_path / "scans")
    columns = {key: [row[key] for row in rows] for key in ("scan_id", "subject_id", "site", "t_r")}
    pq.write_table(pa.table(columns | {"bold": [[1.0, 2.0]] * 3}), tmp_path / "flat.parquet")
    with pytest.raises(ScanError, match=r"`bold` of flat.parquet has 1 axes"):
        load_scan_dataset(tmp_path / "flat.parquet")
    datasets.DatasetDict({s: datasets.Dataset.from_dict(columns) for s in ("a", "b")}).save_to_disk(tmp_path / "two")
    with pytest.raises(ScanError, match="holds the splits a, b"):
        load_scan_dataset(tmp_path / "two")


def test_bad_rows_leave_nothing_behind(tmp_path):
    rows = make_rows(3)
    cases = {
        "occurs twice": [rows[0], rows[0]],
        "There are no scans": [],
        "has no site, bold": [{"scan_id": "a", "subject_id": "a", "t_r": 2.0}],
        "4 ROIs .* expected 5": [rows[0] | {"bold": rows[0]["bold"][:, :4]}],
        "'age' mixes int and str": [rows[1] | {"age": 3}, rows[2] | {"age": "old"}],
        "does not say its TR": [rows[0] | {"t_r": None}],
    }
    for message, bad in cases.items():
        with pytest.raises(ScanError, match=message):
            write_scan_dataset(bad, tmp_path / "scans", ATLAS)
    with pytest.raises(ScanError, match="columns that the first ones do not have: extra"):
        write_scan_dataset([rows[0], rows[1] | {"extra": 1}], tmp_path / "scans", ATLAS, shard_bytes=400)
    with pytest.raises(ScanError, match="Column 'age' should hold int64"):
        write_scan_dataset([rows[1], rows[2] | {"age": 3.5}], tmp_path / "scans", ATLAS, shard_bytes=400)
    assert list(tmp_path.iterdir()) == []
    write_scan_dataset(rows, tmp_path / "scans", ATLAS)
    with pytest.raises(ScanError, match="is not empty"):
        write_scan_dataset(rows, tmp_path / "scans", ATLAS)


def test_loading_a_dataset_does_not_load_the_sources_of_scans():
    code = "import sys, fmri_lm_hf.scans.dataset as _; print(*(m for m in sys.modules if 'scans.sources' in m))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_public_names_are_found_where_they_are_needed():
    assert all(getattr(scans, name) is not None for name in scans.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        scans.nothing  # noqa: B018
    with pytest.warns(FutureWarning, match=r"write_nifti` is now `fmri_lm_hf.simulation.write_nifti`"):
        assert scans.write_nifti is write_nifti
