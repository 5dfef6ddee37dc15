"""Who read a test split is written down, whoever writes at the same time, and said."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from filelock import FileLock

from fmri_lm_hf.evaluation.history import HISTORY_FILE, Entry, History, statement


def entry(scans="s", model="small", weights="w", **changes) -> Entry:
    return Entry(scans, "splits", model, weights, ("sex", "age"), **changes)


def test_what_is_added_is_read_in_order_and_told_by_the_scans(tmp_path):
    history = History(tmp_path / "out")
    assert history.read() == []
    first, other, second = entry(), entry(scans="others"), entry(model="large", weights="v")
    for each in (first, other, second):
        history.add(each)
    assert history.read() == [first, other, second]
    assert history.earlier(entry()) == [first, second]
    assert first.date.endswith("+00:00")
    lines = (tmp_path / "out" / HISTORY_FILE).read_text().splitlines()
    assert json.loads(lines[0])["model_sha256"] == "w"


def test_many_who_write_at_once_lose_no_line(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: History(tmp_path).add(entry(weights=f"w{i}")), range(40)))
    assert sorted(each.model_sha256 for each in History(tmp_path).read()) == sorted(f"w{i}" for i in range(40))


def test_who_writes_waits_for_who_is_writing(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / ".judged.lock"):
            waiting = pool.submit(History(tmp_path).add, entry())
            assert not wait([waiting], timeout=0.3).done
        waiting.result(timeout=30)
    assert len(History(tmp_path).read()) == 1


def test_what_is_said():
    then = entry(date="2026-01-02T03:04:05+00:00")
    assert statement([], entry()) == "This test split had not been evaluated before."
    assert statement([then], entry()) == (
        "This test split was evaluated once before, last on 2026-01-02 with small. It was the same model each time."
    )
    said = statement([then, then], entry(weights="new"))
    assert "evaluated 2 times before" in said
    assert "another model: if a model was chosen" in said
    assert "`--split validation`" in said


def test_the_history_lies_beside_the_scans_where_it_can(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "part.parquet").touch()
    out = tmp_path / "out"
    assert History.of_scans(tmp_path / "scans", out).path == tmp_path / "scans" / HISTORY_FILE
    assert History.of_scans(tmp_path / "scans" / "part.parquet", out).path == tmp_path / "scans" / HISTORY_FILE
    assert History.of_scans("lab/scans-on-the-hub", out).path == out / HISTORY_FILE


def test_a_damaged_history_is_refused(tmp_path):
    History(tmp_path).add(entry())
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write('{"scans_sha256": "cut off\n')
    with pytest.raises(ValueError, match=r"Line 2 of .* is not the record of an evaluation .* restore the file"):
        History(tmp_path).read()
