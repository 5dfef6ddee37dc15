"""The stream of random scans."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from fmri_lm_hf import Atlas
from fmri_lm_hf.simulation.stream import RandomScans, ScanRanges, random_atlas, random_scan

ATLAS = Atlas("small", tuple(f"r{k}" for k in range(24)), tuple("abcd"[k // 6] for k in range(24)))


def correlation(row):
    return np.corrcoef(row["bold"][:, row["roi_mask"]].T)


def test_a_scan_depends_on_its_seed_and_index_alone():
    first, again = RandomScans(ATLAS, seed=1), RandomScans(ATLAS, seed=1)
    again[3]
    np.testing.assert_array_equal(first[7]["bold"], again[7]["bold"])
    assert not np.array_equal(first[7]["bold"][:80], RandomScans(ATLAS, seed=2)[7]["bold"][:80])


def test_scans_have_the_form_that_models_take():
    for index in range(30):
        row = random_scan(ATLAS, 0, index)
        assert row["bold"].dtype == np.float32
        assert row["bold"].shape == (row["n_timepoints"], 24)
        assert np.isfinite(row["bold"]).all()
        assert (row["bold"].std(0) > 0).tolist() == row["roi_mask"].tolist()
        assert 80 <= row["n_timepoints"] <= 280
        assert 0.6 <= row["t_r"] <= 3


def test_networks_hold_together_except_where_there_is_only_noise():
    own = np.array(ATLAS.networks)[:, None] == np.array(ATLAS.networks)
    np.fill_diagonal(own, False)

    def within(kind):
        rows = [random_scan(ATLAS, 0, k, ScanRanges(missing=(0, 0)), kind) for k in range(20)]
        return np.mean([correlation(row)[own].mean() for row in rows])

    assert within("brain") > 0.3 > 0.05 > abs(within("noise"))


def test_random_atlases_have_networks_of_two_rois_or_more_and_different_names():
    for index in range(40):
        atlas = random_atlas(0, index)
        assert 4 <= len({name.lower() for name in atlas.network_names}) <= 12
        assert min(atlas.networks.count(name) for name in atlas.network_names) >= 2
    assert random_atlas(0, 3).networks == random_atlas(0, 3).networks


def test_scans_of_one_batch_have_equally_many_networks():
    stream = RandomScans(seed=5, scans_per_atlas=2, atlases_per_size=4)
    sizes = [len(stream.atlas_of(index).network_names) for index in range(16)]
    assert len(set(sizes[:8])) == len(set(sizes[8:])) == 1


def test_as_a_dataset_it_works_in_workers_and_resumes():
    stream = RandomScans(ATLAS, seed=1)
    dataset = stream.iterable(8, num_shards=2)
    rows = list(dataset.with_format("numpy"))
    assert sorted(row["scan_id"] for row in rows) == sorted(f"random-1-{k}" for k in range(8))
    loaded = DataLoader(dataset, batch_size=None, num_workers=2)
    assert sorted(row["scan_id"] for row in loaded) == sorted(row["scan_id"] for row in rows)
    iterator = iter(dataset)
    for _ in range(3):
        next(iterator)
    resumed = stream.iterable(8, num_shards=2)
    resumed.load_state_dict(dataset.state_dict())
    assert [row["scan_id"] for row in resumed] == [row["scan_id"] for row in rows][3:]


@pytest.mark.parametrize(
    "ranges, message",
    [({"gain": (1.0, 0.0)}, "lower bound first"), ({"n_timepoints": (5, 50)}, "at least 20 time points")],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        ScanRanges(**ranges)


def test_a_dataset_of_many_atlases_is_refused():
    with pytest.raises(ValueError, match="give the stream an `atlas`"):
        RandomScans().iterable(4)
