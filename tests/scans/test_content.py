"""Copies of scans are known by their content, people by their connectivity, and a record names nobody."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from fmri_lm_hf.scans.likeness import (
    ScanRecord,
    connectivity_profile,
    content_sketch,
    like_pairs,
    shared_content,
)
from fmri_lm_hf.simulation import Site, simulate_cohort


def series(n_scans: int = 40, n_timepoints: int = 120, n_rois: int = 30, seed: int = 0) -> list[np.ndarray]:
    """Smooth scans with a common wave, as BOLD is."""
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(n_rois, n_rois)) / n_rois**0.5
    scans = []
    for _ in range(n_scans):
        noise = gaussian_filter1d(draw.normal(size=(n_timepoints, n_rois)), 1.5, axis=0)
        scans.append((noise @ mixing + 0.5 * noise[:, :1]).astype("float32"))
    return scans


COPIES = {
    "in other units": lambda bold: 250 * bold + 10_000,
    "scaled by region": lambda bold: bold * np.linspace(0.1, 9, bold.shape[1]) - 3,
    "standardised": lambda bold: (bold - bold.mean(0)) / bold.std(0),
    "in half precision": lambda bold: bold.astype("float16"),
    "rounded": lambda bold: bold.round(3),
    "begun later": lambda bold: bold[20:],
    "stopped half-way": lambda bold: bold[: len(bold) // 2],
    "a part": lambda bold: bold[30:85],
    "without a region": lambda bold: np.where(np.arange(bold.shape[1]) == 2, np.float32(0), bold),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_found_and_nothing_else_is(change):
    scans = series()
    copies = [COPIES[change](bold) for bold in scans]
    found = shared_content([content_sketch(bold) for bold in (*scans, *copies)])
    assert [(each.first, each.second - len(scans)) for each in found] == [(i, i) for i in range(len(scans))]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ("in other units", 1.0),
        ("standardised", 1.0),
        ("rounded", 0.95),
        ("begun later", 0.95),
        ("stopped half-way", 0.7),
    ],
)
def test_a_record_knows_its_scans_and_no_other(change, least):
    scans = series()
    record = ScanRecord.of([content_sketch(bold) for bold in scans[:20]])
    held = record.holds([content_sketch(COPIES[change](bold)) for bold in scans])
    assert np.mean(held[:20]) >= least
    assert not any(held[20:])


def test_a_record_is_a_function_of_its_scans_and_tells_nothing_to_those_who_lack_them():
    sketches = [content_sketch(bold) for bold in series(12)]
    record = ScanRecord.of(sketches)
    assert ScanRecord.of(sketches[::-1]) == record
    assert ScanRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert len(record.digests) == 12
    # the records of two models with scans in common share nothing by which they could be joined
    other = ScanRecord.of(sketches[:11])
    words = [{d[i : i + 8] for d in each.digests for i in range(0, len(d), 8)} for each in (record, other)]
    assert not words[0] & words[1]
    # nor do the words of a scan stand in it as they are
    assert not words[0] & {f"{int(word) & 0xFFFFFFFF:08x}" for sketch in sketches for word in sketch}


def test_scans_without_content_are_no_copies_of_each_other():
    flat = np.ones((100, 5), dtype="float32")
    wave = np.tile(np.sin(np.arange(100))[:, None], (1, 12))  # every region moves alike
    for bold in (flat, wave, flat[:3], np.full((50, 4), np.nan)):
        assert len(content_sketch(bold)) == 0
    assert shared_content([content_sketch(flat)] * 2) == []
    record = ScanRecord.of([content_sketch(flat)])
    assert record.digests == ()
    assert record.holds([content_sketch(flat)]) == [False]
    with pytest.raises(ValueError, match=r"A scan of shape \(5,\) found, expected \(n_timepoints, n_rois\)"):
        content_sketch(np.ones(5))


@pytest.fixture(scope="module")
def sessions():
    """Two sessions each of sixty people: profiles, sites, subjects."""
    sites = [Site("A", 40), Site("B", 20, gain=1.8)]
    dataset = simulate_cohort(sites=sites, scans_per_subject=2, seed=3).dataset
    dataset = dataset.with_format("numpy", columns=["bold"], output_all_columns=True)
    rows = list(dataset)
    profiles = np.stack([connectivity_profile(row["bold"]) for row in rows])
    return profiles, [row["site"] for row in rows], [row["subject_id"] for row in rows]


def test_people_are_told_apart_and_known_under_a_second_name(sessions):
    profiles, sites, subjects = sessions
    everyone = range(len(subjects))
    assert like_pairs(profiles, sites, subjects, everyone) == []
    named_twice = list(range(1, 120, 12))  # ten people, each with a second session under another name
    names = [f"other-{i}" if i in named_twice else subject for i, subject in enumerate(subjects)]
    found = like_pairs(profiles, sites, names, everyone)
    assert {tuple(sorted(pair[:2])) for pair in found} <= {(i - 1, i) for i in named_twice}
    assert len(found) >= 6
    assert all(z > 8 for *_, z in found)
    assert like_pairs(profiles, sites, names, [0]) == [pair for pair in found if 0 in pair[:2]]


def test_few_or_unknown_scans_tell_nothing(sessions):
    profiles, sites, _ = sessions
    assert like_pairs(profiles[:10], sites[:10], [f"s{i}" for i in range(10)], range(10)) == []
    unknown = np.full_like(profiles[:30], np.nan)
    assert like_pairs(unknown, sites[:30], [f"s{i}" for i in range(30)], range(30)) == []
    assert np.isnan(connectivity_profile(np.ones((10, 3)), sample_mask=[True] * 2 + [False] * 8)).all()
