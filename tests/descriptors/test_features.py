from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.descriptors import FAMILIES, MEASURES, compute_features, feature_table
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError


def test_every_measure_of_the_catalogue_is_computed_in_its_order(bold, atlas):
    features = compute_features(bold, 2.0, atlas)
    assert list(features) == list(feature_table(atlas))
    assert {"/".join(name.split("/")[:2]) for name in features} == set(MEASURES)
    assert all(type(value) is float and np.isfinite(value) for value in features.values())


def test_names_say_measure_and_networks(bold, atlas):
    features = compute_features(bold, 2.0, atlas)
    for name in (
        "connectivity/mean/Visual-Default",
        "connectivity/mean/Default-Default",
        "gradients/g1/Default",
        "gradients/g1_range",
        "graph/modularity",
        "graph/node_strength/Limbic",
        "ica/falff",
        "ica/falff/Default",
        "ica/fnc/Visual-Limbic",
    ):
        assert name in features


def test_a_choice_of_families_gives_that_part_of_all(bold, atlas):
    everything = compute_features(bold, 2.0, atlas)
    parts = {}
    for family in FAMILIES:
        part = compute_features(bold, 2.0, atlas, families=(family,))
        assert all(name.startswith(f"{family}/") for name in part)
        parts |= part
    assert parts == everything


def test_units_of_the_signal_do_not_matter(bold, atlas):
    rng = np.random.default_rng(1)
    rescaled = bold * rng.uniform(0.5, 20, bold.shape[1]) + rng.uniform(100, 1000, bold.shape[1])
    ours, theirs = compute_features(bold, 2.0, atlas), compute_features(rescaled, 2.0, atlas)
    np.testing.assert_allclose(list(theirs.values()), list(ours.values()), rtol=5e-3, atol=2e-3)


def test_equal_scans_give_equal_bits(bold, atlas):
    assert compute_features(bold, 2.0, atlas) == compute_features(bold.astype(float).copy(), 2.0, atlas)


@pytest.mark.parametrize("damage", ["nan", "inf", "constant", "masked"])
def test_an_roi_without_data_is_left_out_and_spoils_nothing(bold, atlas, damage):
    others = np.delete(np.arange(atlas.n_rois), 5)
    smaller = Atlas("toy", tuple(np.array(atlas.roi_names)[others]), tuple(np.array(atlas.networks)[others]))
    damaged, mask = bold.copy(), np.ones(atlas.n_rois, dtype=bool)
    if damage == "masked":
        mask[5] = False
    else:
        damaged[7 if damage == "nan" else slice(None), 5] = {"nan": np.nan, "inf": np.inf, "constant": 1e4}[damage]
    found = compute_features(damaged, 2.0, atlas, roi_mask=mask)
    assert found == compute_features(bold[:, others], 2.0, smaller)


def test_a_network_without_rois_has_nan_and_the_others_values(bold, atlas):
    mask = np.array(atlas.networks) != "Motor"
    features = compute_features(bold, 2.0, atlas, roi_mask=mask)
    for name, value in features.items():
        assert np.isnan(value) == ("Motor" in name), name


def test_a_network_of_one_roi_has_no_connectivity_within(bold):
    networks = ("Solo", *["Rest"] * 47)
    atlas = Atlas("toy", tuple(map(str, range(48))), networks)
    features = compute_features(bold, 2.0, atlas, families=("connectivity",))
    assert np.isnan(features["connectivity/mean/Solo-Solo"])
    assert np.isfinite(features["connectivity/mean/Solo-Rest"])


def test_subcortical_and_cerebellar_networks_take_part(bold):
    networks = tuple(np.repeat(["Default", "Subcortical", "Cerebellum"], 16))
    features = compute_features(bold, 2.0, Atlas("toy", tuple(map(str, range(48))), networks))
    for network in ("Subcortical", "Cerebellum"):
        assert np.isfinite(features[f"graph/node_strength/{network}"])
        assert np.isfinite(features[f"gradients/g1/{network}"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda bold: bold.T, r"shape \(48, 150\), expected \(n_timepoints, 48\).*pass bold\.T"),
        (lambda bold: bold[:, :-1], r"shape \(150, 47\), expected \(n_timepoints, 48\)"),
        (lambda bold: bold[:, 0], r"shape \(150,\)"),
        (lambda bold: bold[:19], "19 time points; descriptors need at least 20"),
        (lambda bold: np.ones_like(bold), "Only 0 of 48 ROIs are usable .*48 constant"),
        (lambda bold: np.where(np.arange(150)[:, None] == 3, np.nan, bold), "48 with NaN or infinite"),
    ],
)
def test_scans_that_cannot_be_used_are_refused_with_the_reason(bold, atlas, change, message):
    with pytest.raises(ScanError, match=message):
        compute_features(change(bold), 2.0, atlas)


@pytest.mark.parametrize("t_r", [0, -2.0, float("nan"), 720])
def test_a_repetition_time_that_is_not_in_seconds_is_refused(bold, atlas, t_r):
    with pytest.raises(ScanError, match="expected the repetition time in seconds"):
        compute_features(bold, t_r, atlas)


def test_a_mask_of_another_length_is_refused(bold, atlas):
    with pytest.raises(ScanError, match=r"roi_mask has shape \(3,\), expected \(48,\)"):
        compute_features(bold, 2.0, atlas, roi_mask=[True] * 3)


@pytest.mark.parametrize("families", [("graphs",), ()])
def test_unknown_families_are_refused(bold, atlas, families):
    with pytest.raises(ValueError, match="expected some of connectivity, gradients, graph, ica"):
        compute_features(bold, 2.0, atlas, families=families)


def test_network_names_that_make_feature_names_ambiguous_are_refused():
    atlas = Atlas("toy", ("1", "2", "3", "4"), ("a-b", "c", "a", "b-c"))
    with pytest.raises(ValueError, match="Rename the networks"):
        feature_table(atlas)
