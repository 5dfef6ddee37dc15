"""Who read a test split is written down, whoever writes at the same time, and said."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from filelock import FileLock

from fmri_lm_hf.evaluation.history import LEDGER_FILE, Entry, Ledger, told


def entry(scans="s", model="small", weights="w", **changes) -> Entry:
    return Entry(scans, "splits", model, weights, ("sex", "age"), **changes)


def test_what_is_added_is_read_in_order_and_told_by_the_scans(tmp_path):
    ledger = Ledger(tmp_path / "out")
    assert ledger.read() == []
    first, other, second = entry(), entry(scans="others"), entry(model="large", weights="v")
    for each in (first, other, second):
        ledger.add(each)
    assert ledger.read() == [first, other, second]
    assert ledger.earlier(entry()) == [first, second]
    assert first.date.endswith("+00:00")
    lines = (tmp_path / "out" / LEDGER_FILE).read_text().splitlines()
    assert json.loads(lines[0])["model_sha256"] == "w"


def test_many_who_write_at_once_lose_no_line(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Ledger(tmp_path).add(entry(weights=f"w{i}")), range(40)))
    assert sorted(each.model_sha256 for each in Ledger(tmp_path).read()) == sorted(f"w{i}" for i in range(40))


def test_who_writes_waits_for_who_is_writing(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / ".judged.lock"):
            waiting = pool.submit(Ledger(tmp_path).add, entry())
            assert not wait([waiting], timeout=0.3).done
        waiting.result(timeout=30)
    assert len(Ledger(tmp_path).read()) == 1


def test_what_is_said():
    then = entry(date="2026-01-02T03:04:05+00:00")
    assert told([], entry()) == "This test split had not been judged before."
    assert told([then], entry()) == (
        "This test split was judged once before, last on 2026-01-02 by small. It was the same model each time."
    )
    said = told([then, then], entry(weights="new"))
    assert "judged 2 times before" in said
    assert "another model: if a choice was made" in said
    assert "`--split validation`" in said


def test_the_ledger_lies_beside_the_scans_where_it_can(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "part.parquet").touch()
    out = tmp_path / "out"
    assert Ledger.beside(tmp_path / "scans", out).path == tmp_path / "scans" / LEDGER_FILE
    assert Ledger.beside(tmp_path / "scans" / "part.parquet", out).path == tmp_path / "scans" / LEDGER_FILE
    assert Ledger.beside("lab/scans-on-the-hub", out).path == out / LEDGER_FILE


def test_a_damaged_ledger_is_refused(tmp_path):
    Ledger(tmp_path).add(entry())
    with (tmp_path / LEDGER_FILE).open("a") as file:
        file.write('{"scans_sha256": "cut off\n')
    with pytest.raises(ValueError, match=r"Line 2 of .* is no judgement .* put the ledger back"):
        Ledger(tmp_path).read()
