"""Values of a scan as scan tokens: every grade keeps its bounds, and connectivity is what the model reads anyway."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.network_pairs import PRESENT, VALUE, network_pair_features, pair_indices
from fmri_lm_hf.questions.measures import BINS, BOUNDS_BETWEEN, BOUNDS_NETWORKS, ScanMeasures
from fmri_lm_hf.questions.nulls import BOUNDS_NULL
from fmri_lm_hf.questions.query import SPECTRAL
from fmri_lm_hf.questions.value_tables import (
    BOUNDS_POSITION,
    FAMILIES,
    HIGHEST,
    LOWEST,
    POSITION,
    WHOLE,
    Entry,
    ValueTable,
    family_table,
    on_scale,
)
from fmri_lm_hf.simulation.stream import RandomScans

NAMES = ("default", "visual", "control", "limbic", "motor")
ATLAS = Atlas("toy", tuple(f"roi_{i}" for i in range(40)), tuple(NAMES[i % 5] for i in range(40)))
SCAN = RandomScans(ATLAS, seed=3)[0]


def measures_of(atlas=ATLAS, roi_mask=None):
    return ScanMeasures.of(SCAN["bold"], SCAN["t_r"], atlas, SCAN["roi_mask"] if roi_mask is None else roi_mask)


@pytest.fixture(scope="module")
def measures():
    return measures_of()


# ----- the scale -----


@pytest.mark.parametrize("bounds", [BOUNDS_BETWEEN, BOUNDS_NETWORKS, BOUNDS_NULL, BOUNDS_POSITION, (1, 2, 30, 31)])
def test_bounds_of_a_measure_lie_on_those_of_the_model(bounds):
    np.testing.assert_allclose(on_scale(np.array(bounds), bounds), BOUNDS_BETWEEN, atol=1e-12)


@pytest.mark.parametrize("bounds", [BOUNDS_BETWEEN, BOUNDS_NETWORKS, BOUNDS_NULL, BOUNDS_POSITION, (1, 2, 30, 31)])
def test_the_scale_keeps_order_and_grades(bounds):
    reach = 2 * (bounds[-1] - bounds[0])
    values = np.linspace(bounds[0] - reach, bounds[-1] + reach, 2003)

    tokens = on_scale(values, bounds)

    assert (np.diff(tokens) > 0).all()
    np.testing.assert_array_equal(np.digitize(tokens, BOUNDS_BETWEEN), np.digitize(values, bounds))


def test_the_scale_is_steeper_next_to_a_bound():
    near, far = on_scale(np.array([[0.25, 0.26], [0.5, 0.51]]), BOUNDS_NETWORKS) @ [-1, 1]
    assert near > 2 * far


def test_the_scale_ends_far_beyond_the_outer_bounds():
    np.testing.assert_array_equal(on_scale(np.array([-1e9, 1e9]), BOUNDS_NULL), [LOWEST, HIGHEST])
    assert LOWEST < on_scale(BOUNDS_NULL[0] - 5, BOUNDS_NULL) < BOUNDS_BETWEEN[0]


@pytest.mark.parametrize("bounds", [(0, 1, 2), (0, 1, 1, 2), (3, 2, 1, 0)])
def test_bounds_must_be_four_that_increase(bounds):
    with pytest.raises(ValueError, match="expected four numbers that increase"):
        on_scale(0.5, bounds)


# ----- tables -----


def table_of(n_names, pairs=None):
    names = tuple(f"name {k}" for k in range(n_names))
    pairs = itertools.combinations_with_replacement(names, 2) if pairs is None else pairs
    return ValueTable(names, {pair: Entry(0.1, "low", 0.1) for pair in pairs})


def test_a_name_stands_in_a_table_once():
    with pytest.raises(ValueError, match=r"\['visual', 'visual'\], expected each name once"):
        ValueTable(("visual", "visual"), {})


@pytest.mark.parametrize("pair", [("name 1", "name 0"), ("name 0", "other")])
def test_an_entry_is_of_two_names_in_their_order(pair):
    with pytest.raises(ValueError, match="expected two of its names"):
        table_of(3, [pair])


@pytest.mark.parametrize(("n_names", "most"), [(5, 8), (9, 8), (24, 24), (31, 24), (60, 24)])
def test_parts_hold_every_entry(n_names, most):
    table = table_of(n_names)
    parts = list(table.parts(most))

    assert set().union(*(part.entries for part in parts)) == set(table.entries)
    assert all(len(part.names) <= most for part in parts)
    assert (len(parts) == 1) == (n_names <= most)


def test_parts_without_an_entry_of_their_own_are_left_out():
    rows, columns = [f"name {k}" for k in range(26)], [f"name {k}" for k in range(26, 30)]
    table = table_of(30, itertools.product(rows, columns))
    parts = list(table.parts(24))
    assert len(parts) == 2  # of three blocks of names, the last holds the columns: two blocks beside it
    assert set().union(*(part.entries for part in parts)) == set(table.entries)


def test_features_of_connectivity_are_those_of_the_model(measures):
    present = torch.tensor(np.array(SCAN["roi_mask"]))[None]
    signal = torch.tensor(np.array(SCAN["bold"])).T[None]
    own = torch.tensor([NAMES.index(name) for name in ATLAS.networks])
    expected = network_pair_features(signal, present, torch.ones(1, signal.shape[2], dtype=torch.bool), own, 5)[0]

    torch.testing.assert_close(family_table(measures, "connectivity").features(), expected, atol=2e-5, rtol=1e-4)


def test_features_of_measures_hold_their_tokens_and_a_scan_as_scans_are(measures):
    table = family_table(measures, "spectral")
    features = table.features()

    first, second = pair_indices(len(table.names)).tolist()
    for row, (i, j) in zip(features[1:], zip(first, second, strict=True), strict=True):
        entry = table.entries.get((table.names[i], table.names[j]))
        assert row[PRESENT] == (entry is not None)
        assert entry is None or row[VALUE] == pytest.approx(entry.token, abs=1e-6)
    assert (features[0] > 0).all()


# ----- families -----


def test_every_entry_has_the_level_of_the_measures(measures):
    for (first, second), entry in family_table(measures, "connectivity").entries.items():
        assert entry.level == measures.level(first, second)
        assert entry.value == entry.token == measures.pair(first, second)
    for family in FAMILIES[1:]:
        for (name, measure), entry in family_table(measures, family).entries.items():
            if measure == POSITION:
                assert entry.value == measures.positions[name]
                continue
            found = measures.whole(measure) if name == WHOLE else measures.network(measure, name)
            assert (entry.value, entry.level) == (found.value, found.level)
            assert BINS[int(np.digitize(entry.token, BOUNDS_BETWEEN))] == entry.level


def test_families_have_every_measure_of_every_network(measures):
    pairs = {family: set(family_table(measures, family).entries) for family in FAMILIES}
    assert len(pairs["connectivity"]) == 15
    whole = {(WHOLE, name) for name in ("modularity", "global_efficiency", "clustering")}
    assert pairs["graph"] == whole | {(name, "node_strength") for name in NAMES}
    assert pairs["gradients"] == {(WHOLE, "range")} | {(name, POSITION) for name in NAMES}
    assert pairs["spectral"] == set(itertools.product(NAMES, SPECTRAL))


def test_a_network_without_usable_regions_is_in_no_table():
    mask = np.array(SCAN["roi_mask"]) & (np.array(ATLAS.networks) != "limbic")
    measures = measures_of(roi_mask=mask)
    for family in FAMILIES:
        assert not any("limbic" in pair for pair in family_table(measures, family).entries)
    assert "limbic" not in family_table(measures, "spectral").names


def test_of_two_networks_none_stands_out():
    atlas = Atlas("two", ATLAS.roi_names, tuple("ab"[i % 2] for i in range(40)))
    assert family_table(measures_of(atlas), "spectral").entries == {}


def test_an_unknown_family_is_refused_by_name(measures):
    with pytest.raises(ValueError, match="'ica', expected one of connectivity, graph, gradients, spectral"):
        family_table(measures, "ica")


def test_a_network_called_like_a_measure_is_refused_by_name():
    atlas = replace(ATLAS, networks=tuple("range" if name == "limbic" else name for name in ATLAS.networks))
    measures = measures_of(atlas)
    with pytest.raises(ValueError, match="called 'range', which names a measure"):
        family_table(measures, "gradients")
    assert family_table(measures, "spectral").entries
