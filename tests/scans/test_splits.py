"""Splits: by subject, by family and site where asked, reproducible."""

from __future__ import annotations

import json

import pytest

from fmri_lm_hf.scans.splits import SplitManifest, make_splits


def scans(n_subjects: int = 40, per_subject: int = 2) -> list[dict]:
    return [
        {"subject_id": f"s{i}", "site": "AB"[i % 2], "family_id": f"f{i // 3}" if i % 5 else None}
        for i in range(n_subjects)
        for _ in range(per_subject)
    ]


def test_every_subject_is_in_one_split_of_about_the_asked_size():
    manifest = make_splits(scans(100), (0.7, 0.1, 0.2))
    members = manifest.subjects
    assert {split: len(subjects) for split, subjects in members.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }
    assert sorted(subject for split in members.values() for subject in split) == sorted(f"s{i}" for i in range(100))


def test_splits_depend_on_seed_and_subjects_not_on_the_order_of_scans():
    rows = scans()
    assert make_splits(rows) == make_splits(rows[::-1])
    assert make_splits(rows).sha256 == make_splits(rows[::-1]).sha256
    assert make_splits(rows).sha256 != make_splits(rows, seed=1).sha256


def test_families_stay_together_and_a_missing_family_joins_nobody():
    rows = scans(90)
    split_of = make_splits(rows, (0.5, 0.25, 0.25), group_by="family_id").split_of()
    families: dict[str, set[str]] = {}
    for row in rows:
        if row["family_id"] is not None:
            families.setdefault(row["family_id"], set()).add(split_of[row["subject_id"]])
    assert all(len(splits) == 1 for splits in families.values())
    without_family = {split_of[row["subject_id"]] for row in rows if row["family_id"] is None}
    assert len(without_family) == 3


def test_a_subject_in_two_groups_joins_them():
    rows = [
        {"subject_id": subject, "site": site, "family_id": site}
        for subject, site in [("a", "1"), ("a", "2"), ("b", "2"), ("c", "3"), ("d", "4")]
    ]
    split_of = make_splits(rows, (0.4, 0.3, 0.3), group_by="site").split_of()
    assert split_of["a"] == split_of["b"]


def test_held_out_sites_are_all_test_and_only_test():
    rows = [*scans(), {"subject_id": "traveller", "site": "A", "family_id": None}]
    rows.append({"subject_id": "traveller", "site": "B", "family_id": None})
    manifest = make_splits(rows, (0.8, 0.1, 0.1), holdout_sites=["B"])
    assert set(manifest.subjects["test"]) == {f"s{i}" for i in range(1, 40, 2)} | {"traveller"}
    assert len(manifest.subjects["train"]) == 18
    assert len(manifest.subjects["validation"]) == 2


def test_families_of_held_out_subjects_are_held_out_too():
    rows = [
        {"subject_id": "a", "site": "A", "family_id": "f"},
        {"subject_id": "b", "site": "B", "family_id": "f"},
        {"subject_id": "c", "site": "A", "family_id": "g"},
    ]
    split_of = make_splits(rows, (1, 0, 0), group_by="family_id", holdout_sites=["B"]).split_of()
    assert split_of == {"a": "test", "b": "test", "c": "train"}


def test_few_subjects_fill_every_split_or_are_refused():
    assert {k: len(v) for k, v in make_splits(scans(3), (0.8, 0.1, 0.1)).subjects.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert make_splits(scans(1), (1, 0, 0)).subjects == {"train": ["s0"]}
    with pytest.raises(ValueError, match=r"2 groups of subjects \(by subject_id\) found, expected at least 3"):
        make_splits(scans(2))


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (0.5, 0.6, -0.1), (0.5, 0.1, 0.1), (0, 0.5, 0.5)])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="expected three numbers of at least 0"):
        make_splits(scans(), fractions)


def test_manifest_is_read_back_and_checked(tmp_path):
    manifest = make_splits(scans())
    file = tmp_path / "splits.json"

    def write(record) -> None:
        file.write_text(json.dumps(record))

    write(manifest.to_dict())
    assert SplitManifest.from_json(file) == manifest
    changed = manifest.to_dict() | {"subjects": {"train": ["s0"], "test": ["s1"]}}
    write(changed)
    with pytest.raises(ValueError, match="was changed: its subjects have the hash"):
        SplitManifest.from_json(file)
    write({"subjects": {"train": ["s0"], "test": ["s0"]}})
    with pytest.raises(ValueError, match="has s0 in two splits"):
        SplitManifest.from_json(file)
    write({"subjects": {"dev": ["s0"]}})
    with pytest.raises(ValueError, match=r"names the splits \['dev'\]"):
        SplitManifest.from_json(file)
    file.write_text("[]")
    with pytest.raises(ValueError, match="is not a split manifest"):
        SplitManifest.from_json(file)
