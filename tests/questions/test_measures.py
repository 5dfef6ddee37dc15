"""The numbers of one scan: equal to those of the model and of the descriptors, and to nothing but the scan."""

import time

import numpy as np
import pytest
import torch

from fmri_lm_hf.corpus import queries
from fmri_lm_hf.corpus.languages import ENGLISH
from fmri_lm_hf.descriptors import compute_features
from fmri_lm_hf.descriptors.graph import find_communities, modularity
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.network_pairs import network_pair_values, pair_indices
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.questions import bins
from fmri_lm_hf.questions.measures import NETWORK_MEASURES, SCAN_MEASURES, ScanMeasures
from fmri_lm_hf.questions.nulls import Chance, graph_chance, graph_of, rewire, with_random_phases
from fmri_lm_hf.simulation.stream import RandomScans

NAMES = ("default", "visual", "control", "limbic", "motor")
ATLAS = Atlas("toy", tuple(f"roi_{i}" for i in range(40)), tuple(NAMES[i % 5] for i in range(40)))
STREAM = RandomScans(ATLAS, seed=3)


def measures_of(scan, atlas=ATLAS, **changes):
    row = {**scan, **changes}
    return ScanMeasures.of(row["bold"], row["t_r"], atlas, row["roi_mask"], row.get("sample_mask"))


@pytest.fixture(scope="module")
def measures():
    return measures_of(STREAM[0])


# ----- network pairs -----


@pytest.mark.parametrize("index", range(8))
def test_pairs_are_those_that_the_model_reads(index):
    scan = STREAM[index]
    extractor = FmriFeatureExtractor(atlas=ATLAS, n_timepoints=160, t_r=2.0, min_timepoints=20)
    inputs = extractor(scan["bold"], t_r=scan["t_r"])
    own = torch.tensor([NAMES.index(name) for name in ATLAS.networks])
    values, present, rms = network_pair_values(
        inputs["input_values"], inputs["roi_mask"], inputs["padding_mask"], own, len(NAMES)
    )

    found = ScanMeasures.of(
        inputs["input_values"][0].T.numpy(), 2.0, ATLAS, inputs["roi_mask"][0], inputs["padding_mask"][0].numpy()
    )

    for k, (first, second) in enumerate(pair_indices(len(NAMES)).T.tolist()):
        value = found.pair(NAMES[first], NAMES[second])
        assert (value is not None) == bool(present[0, k])
        assert value is None or value == pytest.approx(values[0, k].item(), abs=1e-5)
    assert found.rms == pytest.approx(rms[0].item(), abs=1e-6)


def test_a_pair_has_no_order_and_its_level_is_its_bin(measures):
    for first in NAMES:
        for second in NAMES:
            value = measures.pair(first, second)
            assert value == measures.pair(second, first)
            assert measures.level(first, second) == bins.BINS[int(bins.bin_of(value, first == second))]
    assert len(measures.between) == 10
    assert len(measures.within) == 5


def test_ranks_go_by_signed_value_among_pairs_of_a_kind(measures):
    order = sorted(measures.between, key=measures.between.get, reverse=True)
    assert [measures.rank(*pair) for pair in order] == [(k + 1, 10) for k in range(10)]
    strongest = max(measures.within, key=measures.within.get)
    assert measures.rank(*strongest) == (1, 5)


def test_renamed_networks_carry_their_numbers_with_them(measures):
    renamed = dict(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True))
    atlas = Atlas("renamed", ATLAS.roi_names, tuple(renamed[name] for name in ATLAS.networks))
    other = measures_of(STREAM[0], atlas)
    for first in NAMES:
        assert other.positions[renamed[first]] == pytest.approx(measures.positions[first])
        for second in NAMES:
            assert other.pair(renamed[first], renamed[second]) == pytest.approx(measures.pair(first, second))
    assert other.pair("default", "visual") != pytest.approx(measures.pair("default", "visual"), abs=1e-3)
    assert other.whole("modularity") == measures.whole("modularity")


def test_scale_and_offset_of_the_signal_change_nothing(measures):
    scan = STREAM[0]
    other = measures_of(scan, bold=(scan["bold"].astype(np.float64) * 3 + 50).astype(np.float32))
    for pair, value in {**measures.between, **measures.within}.items():
        assert other.pair(*pair) == pytest.approx(value, abs=1e-3)
    assert other.values("falff") == pytest.approx(measures.values("falff"), abs=1e-3)
    assert other.whole("modularity").value == pytest.approx(measures.whole("modularity").value, abs=1e-3)


def test_another_scan_has_other_numbers(measures):
    other = measures_of(STREAM[1])
    assert all(abs(other.pair(*pair) - value) > 1e-4 for pair, value in measures.between.items())
    assert all(other.whole(measure).value != measures.whole(measure).value for measure in SCAN_MEASURES)


# ----- masks -----


def test_masked_regions_do_not_count():
    scan = STREAM[0]
    masked = np.array([name == "limbic" for name in ATLAS.networks])
    masked[[i for i, name in enumerate(ATLAS.networks) if name == "motor"][1:]] = True
    noise = np.random.default_rng(0).standard_normal(scan["bold"].shape).astype(np.float32)
    bold = np.where(masked, noise, scan["bold"])

    found = measures_of(scan, bold=bold, roi_mask=~masked)

    assert found.absent == ("limbic",)
    assert found.pair("limbic", "default") is None
    assert found.level("limbic", "default") is None
    assert found.pair("motor", "motor") is None
    assert found.pair("motor", "default") is not None
    assert len(found.between) == 6
    assert "limbic" not in found.values("falff")
    assert found.network("amplitude", "limbic") is None
    assert found.between == measures_of(scan, roi_mask=~masked).between


def test_time_points_that_were_not_observed_do_not_count():
    scan = STREAM[0]
    observed = np.ones(len(scan["bold"]), dtype=bool)
    observed[-15:] = False
    bold = scan["bold"].copy()
    bold[-15:] = 1000
    assert measures_of(scan, bold=bold, sample_mask=observed).between == pytest.approx(
        ScanMeasures.of(scan["bold"][:-15], scan["t_r"], ATLAS, scan["roi_mask"]).between, abs=1e-5
    )


def test_regions_without_a_network_count_for_the_scan_alone():
    atlas = Atlas("part", ATLAS.roi_names, tuple(name.replace("motor", "unassigned") for name in ATLAS.networks))
    found, whole = measures_of(STREAM[0], atlas), measures_of(STREAM[0])
    assert found.network_names == NAMES[:4]
    assert found.rms == whole.rms
    assert found.pair("default", "visual") == whole.pair("default", "visual")


# ----- networks and the whole scan -----


def test_measures_are_the_descriptors(measures):
    scan = STREAM[0]
    features = compute_features(
        scan["bold"], scan["t_r"], ATLAS, ("gradients", "graph", "ica"), None, scan["roi_mask"]
    )
    for measure, descriptor in NETWORK_MEASURES.items():
        assert measures.values(measure) == {name: features[f"{descriptor}/{name}"] for name in NAMES}
    for measure, descriptor in SCAN_MEASURES.items():
        assert measures.whole(measure).value == features[descriptor]


def test_a_network_is_graded_among_those_of_its_scan(measures):
    values = measures.values("amplitude")
    found = {name: measures.network("amplitude", name) for name in NAMES}
    assert sorted(one.rank for one in found.values()) == [1, 2, 3, 4, 5]
    assert sum(one.z for one in found.values()) == pytest.approx(0, abs=1e-9)
    highest = max(values, key=values.get)
    assert found[highest].rank == 1
    assert found[highest].level in ("high", "markedly high")
    assert found[min(values, key=values.get)].level in ("low", "markedly low")


def test_two_networks_alone_have_no_grade():
    atlas = Atlas("two", ATLAS.roi_names, tuple("ab"[i % 2] for i in range(40)))
    assert measures_of(STREAM[0], atlas).network("amplitude", "a").level is None


def test_positions_go_from_one_end_to_the_other(measures):
    first, last = measures.ends
    assert measures.positions[first] == 0
    assert measures.positions[last] == 1
    # The order along the gradient, which no choice of sign changes but for its direction.
    values = {name: measures.gradients[f"gradients/g1/{name}"] for name in NAMES}
    order = sorted(NAMES, key=measures.positions.get)
    assert order == sorted(NAMES, key=values.get)


@pytest.mark.parametrize("call", [lambda m: m.pair("default", "insula"), lambda m: m.network("falff", "insula")])
def test_an_unknown_network_is_named(measures, call):
    with pytest.raises(ValueError, match="Network 'insula' found, expected one of default, visual"):
        call(measures)


def test_a_pair_without_data_has_no_rank():
    scan = STREAM[0]
    mask = np.array([name != "limbic" for name in ATLAS.networks])
    with pytest.raises(ValueError, match="limbic and default have no connectivity in this scan"):
        measures_of(scan, roi_mask=mask).rank("limbic", "default")


def test_a_scan_that_does_not_fit_is_refused():
    with pytest.raises(ScanError, match="expected \\(n_timepoints, 40\\)"):
        ScanMeasures.of(np.ones((100, 39)), 2.0, ATLAS)


# ----- chance -----


def test_rewiring_keeps_degrees_and_weights(measures):
    graph = graph_of(measures.scan)
    null = rewire(graph, np.random.default_rng(0))
    np.testing.assert_array_equal(null, null.T)
    np.testing.assert_array_equal((null > 0).sum(axis=0), (graph > 0).sum(axis=0))
    np.testing.assert_array_equal(np.sort(null, axis=None), np.sort(graph, axis=None))
    assert not null.diagonal().any()
    assert ((null > 0) & (graph > 0)).sum() < 0.6 * (graph > 0).sum()


def test_rewiring_leaves_a_graph_alone_that_has_no_other_form():
    full = np.ones((6, 6)) - np.eye(6)
    np.testing.assert_array_equal(rewire(full, np.random.default_rng(0)), full)
    assert graph_chance(full)["clustering"].level(1.0) == "moderate"


def random_graph(share):
    """Make a graph of 80 ROIs from the share (80, 80) of edges that is drawn for each pair."""
    chosen = np.triu(np.random.default_rng(1).random((80, 80)) < share, 1)
    return np.where(chosen | chosen.T, 0.5, 0.0)


def test_random_graphs_are_no_more_modular_than_chance_and_groups_are():
    same_group = np.equal.outer(np.arange(80) // 20, np.arange(80) // 20)
    random, grouped = random_graph(0.1), random_graph(np.where(same_group, 0.3, 0.03))
    for graph, low, high in ((random, -4, 4), (grouped, 5, np.inf)):
        found = modularity(graph, find_communities(graph))
        assert found > 0.2
        assert low < graph_chance(graph)["modularity"].z(found) < high


def test_noise_has_no_gradient_beyond_chance_and_networks_have():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((150, 40)).astype(np.float32)
    networks = noise + 2 * rng.standard_normal((150, 5)).astype(np.float32)[:, np.arange(40) % 5]
    assert abs(ScanMeasures.of(noise, 2.0, ATLAS).whole("range").z) < 3
    assert ScanMeasures.of(networks, 2.0, ATLAS).whole("range").level in ("high", "markedly high")
    assert ScanMeasures.of(networks, 2.0, ATLAS).whole("modularity").level == "markedly high"


@pytest.mark.parametrize("length", [100, 101])
def test_random_phases_keep_the_spectrum_and_remove_the_relation(length):
    rng = np.random.default_rng(0)
    signal = np.repeat(rng.standard_normal((length, 1)), 2, axis=1)
    signal -= signal.mean(axis=0)
    null = with_random_phases(signal, rng)
    spectra = [np.abs(np.fft.rfft(one, axis=0)) for one in (signal, null)]
    np.testing.assert_allclose(*spectra, atol=1e-4)
    assert abs(np.corrcoef(null.T)[0, 1]) < 0.5


def test_grades_against_chance():
    chance = Chance(0.2, 0.01, 19, "graphs")
    assert [chance.level(value) for value in (0.1, 0.17, 0.2, 0.23, 0.3)] == list(bins.BINS)


def test_chance_is_the_same_on_every_run_and_quick():
    atlas = Atlas("large", tuple(f"roi_{i}" for i in range(160)), tuple(NAMES[i % 5] for i in range(160)))
    scan = RandomScans(atlas, seed=1)[0]
    first, second = measures_of(scan, atlas), measures_of(scan, atlas)
    start = time.process_time()
    found = {measure: first.whole(measure) for measure in SCAN_MEASURES}
    assert time.process_time() - start < 3  # 0.4 s on one core, with room for a busy machine
    assert found == {measure: second.whole(measure) for measure in SCAN_MEASURES}


# ----- bins -----


def test_bins_are_those_of_the_corpus():
    assert queries.BINS == bins.BINS == ENGLISH.bins
    assert queries.bin_of is bins.bin_of
    assert (queries.BOUNDS_BETWEEN, queries.BOUNDS_WITHIN) == (bins.BOUNDS_BETWEEN, bins.BOUNDS_WITHIN)
