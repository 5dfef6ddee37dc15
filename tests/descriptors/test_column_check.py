"""Columns that are shifted, reversed or repeated are seen in the connectivity."""

from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.descriptors.column_check import ColumnCheck, mirrored_pairs, symmetry
from fmri_lm_hf.descriptors.prepared import prepare_scan
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.simulation import Site, iter_cohort

SIZES = {"Vis": 4, "SomMot": 10, "Default": 6, "Cont": 8}
AREAS = [f"{network}_{k + 1}" for network, size in SIZES.items() for k in range(size)]
BRAIN = Atlas.from_names([f"{side}_{area}" for side in ("LH", "RH") for area in AREAS], "brain")


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    return [row["bold"] for row in iter_cohort(BRAIN, [Site("A", 12)])]


def connectivity(bold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scan = prepare_scan(bold, 2.0, BRAIN)
    return scan.connectivity, scan.usable


@pytest.fixture(scope="module")
def check(scans) -> ColumnCheck:
    return ColumnCheck(np.mean([connectivity(bold)[0] for bold in scans[:8]], axis=0), BRAIN)


def test_scans_as_they_should_be_pass(check, scans):
    for bold in scans[8:]:
        assert check.problem(*connectivity(bold)) is None
        masked = bold.copy()
        masked[:, [2, 30]] = 0
        assert check.problem(*connectivity(masked)) is None


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda bold: np.roll(bold, 3, axis=1), r"seem to be shifted by \+3"),
        (lambda bold: np.roll(bold, -2, axis=1), "seem to be shifted by -2"),
        (lambda bold: bold[:, ::-1], "seem to be reversed"),
        (lambda bold: np.repeat(bold[:, :28], 2, axis=1), "28 of 56 ROIs are copies of others .*repeated"),
    ],
)
def test_columns_out_of_place_are_named(check, scans, change, said):
    for bold in scans[8:]:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(check.problem(*connectivity(change(bold))))


def test_similarity_is_the_correlation_with_the_group(check, scans):
    matrix, usable = connectivity(scans[9])
    group = np.mean([connectivity(bold)[0] for bold in scans[:8]], axis=0)
    upper = np.triu_indices(len(group), 1)
    expected = np.corrcoef(matrix[upper], group[upper])[0, 1]
    assert check.similarity(matrix, usable)["as given"] == pytest.approx(expected, abs=1e-4)
    kept = np.arange(len(group)) != 4
    smaller, upper = matrix[np.ix_(kept, kept)], np.triu_indices(len(group) - 1, 1)
    expected = np.corrcoef(smaller[upper], group[np.ix_(kept, kept)][upper])[0, 1]
    assert check.similarity(smaller, kept)["as given"] == pytest.approx(expected, abs=1e-4)


def test_side_similarity_is_a_correlation_that_turns_with_them(check, scans):
    matrix, usable = connectivity(scans[9])
    group = np.mean([connectivity(bold)[0] for bold in scans[:8]], axis=0)
    other = np.roll(np.arange(len(group)), len(AREAS))
    upper = np.triu_indices(len(group), 1)
    differences = [(each - each[np.ix_(other, other)])[upper] for each in (matrix, group)]
    similarity, n_pairs = check.side_similarity(matrix, usable)
    assert similarity == pytest.approx(np.corrcoef(differences)[0, 1], abs=1e-4)
    assert n_pairs == (len(upper[0]) - len(AREAS)) // 2  # a pair of mirrored ROIs is its own mirror image
    exchanged, _ = check.side_similarity(matrix[np.ix_(other, other)], usable)
    assert exchanged == pytest.approx(-similarity, abs=1e-4)
    kept = np.arange(len(group)) != 4  # neither it nor its mirror image counts
    both = kept & kept[other]
    smaller, _ = check.side_similarity(matrix[np.ix_(kept, kept)], kept)
    assert smaller == pytest.approx(check.side_similarity(matrix[np.ix_(both, both)], both)[0], abs=1e-6)


def lateralised(bold: np.ndarray) -> np.ndarray:
    """A scan in which association networks hold together more on the left, as in language."""
    more = np.random.default_rng(0).normal(size=(len(bold), 1)) * 2 * bold.std()
    of_left = [name.startswith(("LH_Default", "LH_Cont")) for name in BRAIN.roi_names]
    return bold + more * np.array(of_left)


def test_exchanged_sides_are_seen_where_the_group_has_sides(scans):
    sided = [lateralised(bold) for bold in scans]
    check = ColumnCheck(np.mean([connectivity(bold)[0] for bold in sided[:8]], axis=0), BRAIN)
    for bold in sided[8:]:
        assert check.problem(*connectivity(bold)) is None
        exchanged = connectivity(np.roll(bold, len(AREAS), axis=1))
        with pytest.raises(AssertionError, match=r"Left and right seem to be exchanged: .* at -0\.\d\d\. Check"):
            raise AssertionError(check.problem(*exchanged))
    nameless = Atlas.numbered(BRAIN.n_rois)  # has no sides that could be exchanged
    group = np.mean([connectivity(bold)[0] for bold in sided[:8]], axis=0)
    assert ColumnCheck(group, nameless).problem(*exchanged) is None


def test_the_two_sides_of_a_group_are_alike_unless_its_columns_are_out_of_place(scans):
    assert len(mirrored_pairs(BRAIN)) == 28
    group = np.mean([connectivity(bold)[0] for bold in scans], axis=0)
    assert symmetry(group, BRAIN).problem is None
    mixed = np.random.default_rng(0).permutation(len(group))
    problem = symmetry(group[np.ix_(mixed, mixed)], BRAIN).problem
    assert "mirrored ROIs correlate at" in problem
    assert "connections on the left correlate with those on the right at" in problem
    numbered = Atlas.numbered(len(group))
    assert (symmetry(group, numbered).n_pairs, symmetry(group, numbered).problem) == (0, None)
