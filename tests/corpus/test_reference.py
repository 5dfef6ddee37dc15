from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fmri_lm_hf.corpus import CohortReference
from fmri_lm_hf.corpus.reference import RunningMoments
from fmri_lm_hf.descriptors import FAMILIES, ReferenceMaps, compute_features
from fmri_lm_hf.descriptors.connectivity import GroupConnectivity
from fmri_lm_hf.descriptors.prepared import prepare_scan
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError

NETWORKS = ("Visual", "Motor", "Default")


def make_scan(seed: int, atlas: Atlas, n_timepoints: int = 120, **columns) -> dict:
    rng = np.random.default_rng(seed)
    networks = np.array([atlas.network_names.index(name) for name in atlas.networks])
    signals = rng.standard_normal((n_timepoints, len(atlas.network_names)))
    bold = signals[:, networks] + rng.standard_normal((n_timepoints, atlas.n_rois))
    row = {
        "scan_id": f"scan-{seed}",
        "subject_id": f"sub-{seed // 2}",
        "t_r": 2.0,
        "bold": bold.astype(np.float32),
    }
    return row | columns


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas("toy", tuple(f"roi_{k}" for k in range(24)), tuple(NETWORKS[k // 8] for k in range(24)))


@pytest.fixture(scope="module")
def scans(atlas) -> list[dict]:
    return [make_scan(seed, atlas) for seed in range(8)]


@pytest.fixture(scope="module")
def reference(scans, atlas) -> CohortReference:
    return CohortReference.fit(scans, atlas, n_components=4)


def test_running_moments_equal_numpy_and_skip_nan():
    values = np.random.default_rng(0).normal(1e6, 1.0, size=(50, 3))
    values[::7, 1] = np.nan
    moments = RunningMoments(3)
    for row in values:
        moments.update(row)
    np.testing.assert_allclose(moments.mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, np.nanstd(values, axis=0, ddof=1), rtol=1e-9)
    assert moments.count.tolist() == [50, 42, 50]


def test_statistics_are_those_of_the_training_features(reference, scans):
    rows = [reference.compute(scan["bold"], scan["t_r"]) for scan in scans]
    table = np.array([[row[name] for name in reference.feature_names] for row in rows])
    np.testing.assert_allclose(reference.statistics.mean, table.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(reference.statistics.std, table.std(axis=0, ddof=1), rtol=1e-6)
    assert (reference.n_scans, reference.n_subjects) == (8, 4)


def test_z_scores_of_the_training_scans_have_mean_0_and_sd_1(reference, scans):
    z = np.array([list(reference.z_scores(reference.compute(s["bold"], s["t_r"])).values()) for s in scans])
    z = z[:, np.isfinite(z).all(axis=0)]
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(axis=0, ddof=1), 1, atol=1e-6)


def test_saving_and_loading_give_the_same_facts(reference, scans, tmp_path):
    reference.save(tmp_path / "reference")
    loaded = CohortReference.load(tmp_path / "reference")
    scan = scans[0]
    assert loaded.facts(loaded.compute(scan["bold"], 2.0)) == reference.facts(reference.compute(scan["bold"], 2.0))
    assert loaded.subjects_sha256 == reference.subjects_sha256
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == [
        "reference.json",
        "reference.safetensors",
    ]


def test_the_files_name_no_subject(reference, tmp_path):
    reference.save(tmp_path)
    assert (
        b"sub-" not in (tmp_path / "reference.json").read_bytes() + (tmp_path / "reference.safetensors").read_bytes()
    )


def test_files_that_do_not_belong_together_are_refused(reference, scans, atlas, tmp_path):
    reference.save(tmp_path)
    CohortReference.fit(scans[:4], atlas, n_components=4).save(tmp_path / "other")
    (tmp_path / "other" / "reference.safetensors").replace(tmp_path / "reference.safetensors")
    with pytest.raises(ValueError, match="do not belong together"):
        CohortReference.load(tmp_path)


def test_an_unknown_format_and_an_empty_folder_are_refused(reference, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no reference\.json"):
        CohortReference.load(tmp_path)
    reference.save(tmp_path)
    description = json.loads((tmp_path / "reference.json").read_text()) | {"format_version": 99}
    (tmp_path / "reference.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="format version 99"):
        CohortReference.load(tmp_path)


def test_another_atlas_is_refused_with_the_name_that_differs(reference, scans, atlas):
    renamed = Atlas("other", (*atlas.roi_names[:-1], "cerebellum"), atlas.networks)
    with pytest.raises(ValueError, match="'cerebellum' instead of 'roi_23'"):
        compute_features(scans[0]["bold"], 2.0, renamed, maps=reference.maps)
    with pytest.raises(ValueError, match="3 ROIs instead of 24"):
        reference.maps.check_atlas(Atlas("small", ("a", "b", "c"), ("x", "x", "y")))
    regrouped = Atlas("other", atlas.roi_names, ("Motor", *atlas.networks[1:]))
    with pytest.raises(ValueError, match=r"networks.*'Motor' instead of 'Visual' at position 0"):
        reference.maps.check_atlas(regrouped)


def test_features_computed_with_other_maps_are_refused(reference, scans, atlas):
    without = compute_features(scans[0]["bold"], 2.0, atlas)
    with pytest.raises(ValueError, match=r"reference\.compute"):
        reference.facts(without)
    fewer = compute_features(scans[0]["bold"], 2.0, atlas, families=("connectivity", "graph"))
    assert reference.facts(fewer)  # these families need no maps


def test_unknown_features_are_refused(reference):
    with pytest.raises(ValueError, match="no feature 'graph/smallness'"):
        reference.facts({"graph/smallness": 1.0})


def test_a_one_time_iterator_is_refused(scans, atlas):
    with pytest.raises(ValueError, match="reads them twice"):
        CohortReference.fit(iter(scans), atlas)


def test_unusable_scans_are_skipped_with_a_warning_and_too_few_refused(reference, scans, atlas, caplog):
    broken = make_scan(99, atlas, n_timepoints=5)
    fitted = CohortReference.fit([*scans, broken], atlas, families=("connectivity",))
    assert fitted.n_scans == 8
    with pytest.raises(ScanError, match="No training scan could be used"):
        CohortReference.fit([broken, broken], atlas)
    with pytest.raises(ScanError, match="at least two usable training scans, found 1"):
        CohortReference.fit(scans[:1], atlas, families=("connectivity",))


def test_a_reference_without_statistics_gives_no_facts(reference, scans):
    maps = dataclasses.replace(reference, statistics=None)
    with pytest.raises(ValueError, match="call fit_statistics"):
        maps.facts(maps.compute(scans[0]["bold"], 2.0))


def test_an_roi_that_no_scan_has_leaves_the_rest_usable(scans, atlas):
    mask = np.arange(24) != 3
    masked = [scan | {"roi_mask": mask} for scan in scans]
    reference = CohortReference.fit(masked, atlas, n_components=4)
    assert np.isfinite(reference.statistics.mean).all()
    assert not reference.maps.ica_maps[:, 3].any()


def test_a_datasets_dataset_gives_the_same_reference(scans, atlas, reference):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "scan_id": datasets.Value("string"),
            "subject_id": datasets.Value("string"),
            "t_r": datasets.Value("float32"),
            "bold": datasets.Array2D((None, 24), "float32"),
        }
    )
    dataset = datasets.Dataset.from_list(scans, features=features)
    from_dataset = CohortReference.fit(dataset, atlas, n_components=4)
    np.testing.assert_array_equal(from_dataset.statistics.mean, reference.statistics.mean)
    assert from_dataset.subjects_sha256 == reference.subjects_sha256


def test_fitting_leaves_out_what_test_subjects_would_change(scans, atlas, reference):
    outlier = make_scan(50, atlas)
    outlier["bold"] = np.cumsum(outlier["bold"], axis=0)
    with_leak = CohortReference.fit([*scans, outlier], atlas, n_components=4)
    assert with_leak.subjects_sha256 != reference.subjects_sha256
    assert with_leak.maps.fingerprint != reference.maps.fingerprint


def test_maps_from_sums_taken_in_parts_are_those_of_all_scans(scans, atlas, reference):
    whole = GroupConnectivity(24)
    for part in (scans[:3], scans[3:]):
        group = GroupConnectivity(24)
        for scan in part:
            group.add(prepare_scan(scan["bold"], 2.0, atlas).connectivity, np.ones(24, dtype=bool))
        whole.total += group.total
        whole.n_known += group.n_known
    maps = ReferenceMaps.fit(whole, atlas, FAMILIES, n_components=4)
    np.testing.assert_allclose(maps.gradients, reference.maps.gradients, atol=1e-6)
    np.testing.assert_allclose(maps.ica_maps, reference.maps.ica_maps, atol=1e-4)


def test_masked_rois_do_not_lower_the_mean_connectivity(scans, atlas):
    """An ROI that half of the scans lack has the mean over the other half, not half of it."""
    usable = np.arange(24) != 5
    connectivity = prepare_scan(scans[0]["bold"], 2.0, atlas).connectivity
    whole, half = GroupConnectivity(24), GroupConnectivity(24)
    for group, masks in ((whole, [usable | True] * 2), (half, [usable | True, usable])):
        for mask in masks:
            group.add(connectivity[np.ix_(mask, mask)], mask)
    of_whole, of_half = (ReferenceMaps.fit(group, atlas, FAMILIES, n_components=4) for group in (whole, half))
    np.testing.assert_allclose(of_half.gradients, of_whole.gradients, atol=1e-9)
