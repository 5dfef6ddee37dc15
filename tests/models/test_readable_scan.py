"""Tables that are no scans are refused with a reason; scans pass, also in parts, filtered and censored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import signal

from fmri_lm_hf.bundled import example_scan
from fmri_lm_hf.models import readable_scan as module
from fmri_lm_hf.models.readable_scan import unreadable_reason
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_files import read_scan
from fmri_lm_hf.simulation.no_scans import NO_SCANS
from fmri_lm_hf.simulation.stream import RandomScans

T_R = 2.0
# Slow waves of a scan that has none below 0.01 Hz are slow waves again, however often they are summed up.
UNDETECTED = {"cumulative sums of a scan"}


@pytest.fixture(scope="module")
def scan() -> SimpleNamespace:
    """The bundled example, with the networks of its columns."""
    from fmri_lm_hf import Atlas

    atlas = Atlas.load("dosenbach_2010")
    return SimpleNamespace(bold=read_scan(example_scan(), atlas).bold.astype(float), networks=atlas.networks)


def refusal(table: np.ndarray, networks) -> str | None:
    """The reason of reading or of the check, as a pipeline meets them."""
    try:
        found = read_scan({"bold": table, "t_r": T_R}, n_rois=len(networks))
    except ScanError as error:
        return str(error)
    return unreadable_reason(found.bold, found.t_r, found.roi_mask, found.sample_mask, networks)


def test_a_scan_is_readable(scan):
    assert unreadable_reason(scan.bold, T_R, networks=scan.networks) is None
    assert unreadable_reason(scan.bold) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(set(NO_SCANS) - UNDETECTED))
def test_what_is_no_scan_is_refused_in_a_sentence(scan, kind):
    reason = refusal(NO_SCANS[kind](scan.bold, np.random.default_rng(7)), scan.networks)
    assert reason is not None
    assert reason[0].isupper()
    assert reason.endswith((".", "?"))


def test_there_are_more_than_66_kinds():
    assert len(set(NO_SCANS) - UNDETECTED) >= 66


def _filtered(bold):
    return signal.sosfiltfilt(signal.butter(2, [0.01, 0.1], "band", fs=1 / T_R, output="sos"), bold, axis=0)


def _without_global(bold):
    centred = bold - bold.mean(0)
    mean = centred.mean(1)
    return centred - np.outer(mean, mean @ centred / (mean @ mean))


@pytest.mark.parametrize(
    "change",
    [
        lambda bold: bold[:75],
        lambda bold: bold[75:],
        lambda bold: bold[40:90],
        _filtered,
        _without_global,
        lambda bold: _filtered(_without_global(bold))[:75],
        lambda bold: np.round(bold * 100),
        lambda bold: (bold + 1000).astype(np.float32),
        lambda bold: bold * 1e4,
        lambda bold: -bold,
    ],
)
def test_a_scan_stays_readable_when_it_is_processed(scan, change):
    assert unreadable_reason(change(scan.bold), T_R, networks=scan.networks) is None


def test_censored_padded_and_masked_scans_are_readable(scan):
    rng = np.random.default_rng(0)
    kept = rng.random(len(scan.bold)) > 0.4
    censored = np.where(kept[:, None], scan.bold, 1e6)
    assert unreadable_reason(censored, T_R, sample_mask=kept, networks=scan.networks) is None
    padded = np.concatenate([scan.bold, np.zeros((50, scan.bold.shape[1]))])
    assert unreadable_reason(padded, T_R, sample_mask=np.arange(200) < 150, networks=scan.networks) is None
    rois = rng.random(scan.bold.shape[1]) > 0.4
    masked = np.where(rois, scan.bold, np.nan)
    assert unreadable_reason(masked, T_R, roi_mask=rois, networks=scan.networks) is None


def test_simulated_scans_of_random_atlases_are_readable():
    stream = RandomScans(None, seed=9)
    reasons = {
        number: unreadable_reason(
            stream[number]["bold"],
            stream[number]["t_r"],
            stream[number]["roi_mask"],
            networks=stream.atlas_of(number).networks,
        )
        for number in range(24)
    }
    assert not {number: reason for number, reason in reasons.items() if reason}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("white noise", "white noise: they have no slow fluctuations"),
        ("noise with the spectrum of a scan in each column", "correlations are those of independent noise"),
        ("random walks", r"only drift: \d+% of their power is below"),
        ("noise that alternates from volume to volume", r"too fast: \d+% of their power is above 0.1 Hz|jump over"),
        ("a scan of four values", "take only 4 different values"),
        ("saturated", r"clipped: \d+% of the values"),
        ("each volume four times", "stand still"),
        ("dead from the middle on", "stand still"),
        ("an overflow of 16-bit integers", "jump over most of their range"),
        ("squares of the signals", "far to one side of their median"),
        ("spikes", "flat but for a few spikes"),
        ("ramps", "a parabola explains"),
        ("one ROI in all columns", "All ROIs have the same signal"),
        ("mixtures of three signals", "mix only 3 signals"),
        ("a few ROIs over and over", "copies of another ROI"),
        ("a sine of its own in each column", "at one frequency"),
        ("the same twenty volumes over and over", "the same again 20 volumes later|the same again 40 volumes later"),
        ("a half and its mirror image", "its volumes are mirrored"),
        (
            "a half scan, a half of noise",
            "In the second half of the scan: the (signals are white noise|ROIs have nothing in common)",
        ),
        ("ROIs in random order", "in another order than the atlas says"),
        ("a connectivity matrix", "The table is symmetric"),
        ("times a trillion", "no scanner writes such values"),
        ("ten volumes", r"10 observed volumes \(20 s\): at least 25 volumes and 30 s are needed"),
    ],
)
def test_a_reason_says_what_is_wrong(scan, kind, message):
    table = NO_SCANS[kind](scan.bold, np.random.default_rng(7))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(unreadable_reason(table, T_R, networks=scan.networks))


def test_a_step_and_halves_of_unequal_strength(scan):
    late = np.arange(len(scan.bold))[:, None] > 74
    rng = np.random.default_rng(0)
    stepped = late * 8.0 * rng.choice([-1, 1], scan.bold.shape[1]) + (scan.bold - scan.bold.mean(0)) / scan.bold.std(0)
    assert "change in a step" in unreadable_reason(stepped, T_R, networks=scan.networks)
    centred = scan.bold - scan.bold.mean(0)
    assert "many times as strong" in unreadable_reason(np.where(late, centred, 0.1 * centred), T_R)


def test_too_few_rois_and_a_single_network(scan):
    assert "Only 3 of 160 ROIs" in unreadable_reason(scan.bold, T_R, roi_mask=np.arange(160) < 3)
    alone = np.array(scan.networks) == scan.networks[0]
    assert "one network" in unreadable_reason(scan.bold, T_R, roi_mask=alone, networks=scan.networks)


def test_reversed_columns_are_recognised_where_networks_lie_together():
    stream = RandomScans(None, seed=3, n_networks=(5, 6))
    networks = np.sort(np.array(stream.atlas_of(0).networks))
    order = np.argsort(np.array(stream.atlas_of(0).networks), kind="stable")
    reasons = []
    for number in range(4):
        bold = stream[number]["bold"][:, order]
        mask = stream[number]["roi_mask"][order]
        reasons.append(unreadable_reason(bold[:, ::-1], 2.0, mask[::-1], networks=networks))
    assert any(reason and "reversed" in reason for reason in reasons)


def test_the_order_of_rois_is_checked_only_by_networks(scan):
    shuffled = scan.bold[:, np.random.default_rng(0).permutation(160)]
    assert unreadable_reason(shuffled, T_R) is None
    assert unreadable_reason(shuffled, T_R, networks=[None] * 160) is None
    assert unreadable_reason(shuffled, T_R, networks=scan.networks) is not None


def test_a_threshold_decides(scan, monkeypatch):
    monkeypatch.setattr(module, "MIN_ARRANGED", 1e9)
    assert "another order" in unreadable_reason(scan.bold, T_R, networks=scan.networks)
    monkeypatch.setattr(module, "MAX_FIRST", 0.0)
    assert "the same signal" in unreadable_reason(scan.bold, T_R, networks=scan.networks)


def test_equal_tables_have_equal_reasons(scan):
    noise = NO_SCANS["an electroencephalogram"](scan.bold, np.random.default_rng(1))
    first, second = (unreadable_reason(noise, T_R, networks=scan.networks) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bold": np.zeros(5)}, r"A table of shape \(5,\) found, expected \(n_timepoints, n_rois\)"),
        ({"bold": np.zeros((1, 4, 9))}, r"A table of shape \(1, 4, 9\) found, expected \(n_timepoints, n_rois\)"),
        ({"bold": np.zeros((9, 4)), "roi_mask": [True]}, r"`roi_mask` has length 1, expected 4"),
        ({"bold": np.zeros((9, 4)), "sample_mask": [True]}, r"`sample_mask` has length 1, expected 9"),
        ({"bold": np.zeros((9, 4)), "networks": ["a"]}, r"`networks` has length 1, expected 4"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        unreadable_reason(**arguments)
