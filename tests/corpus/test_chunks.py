"""The index of scans gives what a list of rows would, without being one."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pytest

from fmri_lm_hf.corpus import chunks as module
from fmri_lm_hf.corpus.chunks import ScanIndex

ROWS = [{"scan_id": f"s{i}", "age": None if i % 3 else float(i), "site": "AB"[i % 2]} for i in range(25)]


@pytest.fixture
def index(monkeypatch):
    monkeypatch.setattr(module, "INDEX_ROWS", 4)
    whole = pa.Table.from_pylist(ROWS)
    return ScanIndex([whole.slice(*part) for part in ((0, 10), (10, 0), (10, 1), (11,))])


def test_it_is_read_as_a_list_is(index):
    assert list(index) == ROWS
    assert len(index) == 25
    assert [index[i] for i in (0, 9, 10, 11, 24, -1, -25)] == [ROWS[i] for i in (0, 9, 10, 11, 24, -1, -25)]
    with pytest.raises(IndexError):
        index[25]
    for start, stop in ((0, 25), (3, 7), (8, 12), (9, 11), (10, 10), (24, 25)):
        assert list(index.between(start, stop)) == ROWS[start:stop]
    assert len(ScanIndex([])) == 0


def test_scans_are_left_out_by_their_ids(index):
    left_out = {"s0", "s10", "s13", "unknown"}
    assert list(index.without(left_out)) == [row for row in ROWS if row["scan_id"] not in left_out]
    numbered = ScanIndex([pa.table({"scan_id": [1, 2, 3]})])
    assert [row["scan_id"] for row in numbered.without({"2"})] == [1, 3]


def test_an_id_that_is_there_twice_is_found_across_files(index):
    assert index.named_twice() is None
    again = ScanIndex([pa.Table.from_pylist(ROWS), pa.table({"scan_id": ["new", "s7"]})])
    assert again.named_twice() == "s7"
    assert ScanIndex([pa.table({"scan_id": [1, 2]}), pa.table({"scan_id": ["1"]})]).named_twice() == "1"
    assert ScanIndex([pa.table({"scan_id": ["a", None, None]})]).named_twice() == "None"


def test_going_through_it_keeps_nothing():
    rows = pa.table({"scan_id": [f"scan-{i:07d}" for i in range(50_000)], "note": ["x" * 20] * 50_000})
    index = ScanIndex([rows])
    tracemalloc.start()
    n = sum(1 for row in index if row["note"])
    assert n == 50_000
    assert tracemalloc.get_traced_memory()[1] < 3e6  # as a list it would take more than ten times that
    tracemalloc.stop()
