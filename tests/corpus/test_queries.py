"""What can be said of a scan from the scan alone: facts, questions, descriptions."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from fmri_lm_hf.corpus.check import check_text
from fmri_lm_hf.corpus.queries import (
    ABSENT_ANSWERS,
    BINS,
    BOUNDS_BETWEEN,
    ask_bin,
    ask_comparison,
    ask_description,
    ask_extreme,
    bin_of,
    check_statements,
    display_text,
    pair_truth,
    says_no_scan,
    scan_facts,
)
from fmri_lm_hf.simulation.stream import draw_network_names

NAMES = ["default", "visual", "fronto-parietal"]
VALUES = [0.2, 0.6, -0.3, 1.2, 0.9, 1.6]  # default: within, with visual, with fronto-parietal; visual: ...


def facts(values=VALUES, names=NAMES, present=None):
    return scan_facts(values, [True] * len(values) if present is None else present, names)


def test_levels_of_pairs_and_the_extremes():
    said = {fact["feature"]: BINS[round(fact["z"]) + 2] for fact in facts()[:6]}
    assert said["connectivity/bin/default-visual"] == "high"
    assert said["connectivity/bin/default-fronto-parietal"] == "markedly low"
    assert said["connectivity/bin/default-default"] == "markedly low"  # little for what lies within a network
    assert [fact["network"] for fact in facts()[6:]] == [
        ["visual", "fronto-parietal"],
        ["default", "fronto-parietal"],
    ]


def test_strong_and_weak_go_by_magnitude():
    strongest, weakest = facts([1.0, -1.4, 0.1, 1.0, -0.6, 1.0])[6:]
    assert strongest["network"] == ["default", "visual"]
    assert weakest["network"] == ["default", "fronto-parietal"]


def test_a_pair_without_rois_has_no_fact():
    present = [True, True, True, True, False, True]
    assert all(fact["network"] != ["visual", "fronto-parietal"] for fact in facts(present=present))


def test_levels_are_cut_at_the_bounds():
    assert bin_of(np.array(BOUNDS_BETWEEN)).tolist() == [1, 2, 3, 4]
    assert bin_of(np.array(BOUNDS_BETWEEN) - 1e-9).tolist() == [0, 1, 2, 3]


def test_every_description_is_read_back_as_true():
    rng, names_rng = random.Random(0), np.random.default_rng(0)
    for _ in range(100):
        names = draw_network_names(int(names_rng.integers(3, 9)), names_rng)
        n_pairs = len(names) * (len(names) + 1) // 2
        about = facts(names_rng.normal(0.5, 0.5, n_pairs).tolist(), names)
        text = ask_description(about, rng).answer
        result = check_text(text, about, names)
        assert result.precision == 1.0, (text, result.contradicted, result.invented)
        assert len(result.matched) >= 4


def test_a_description_of_another_scan_is_seen_to_be_wrong():
    other = facts(VALUES[::-1])
    assert check_text(ask_description(facts(), random.Random(1)).answer, other, NAMES).precision < 0.5


def test_answers_follow_the_facts():
    about = facts()
    assert ask_bin(about[1]).answer == "high"
    assert ask_extreme(about, "strongest").answer == "between visual and fronto-parietal"
    assert ask_extreme(about, "weakest").answer == "between default and fronto-parietal"
    assert ask_comparison(about[1], about[2]).answer == "yes"
    assert ask_comparison(about[2], about[1]).answer == "no"


@pytest.mark.parametrize("text", ABSENT_ANSWERS)
def test_absence_is_recognised(text):
    assert says_no_scan(text)
    assert not says_no_scan(ask_description(facts(), random.Random(2)).answer)


def test_a_models_description_is_displayed_in_plain_english_and_still_true():
    rng = random.Random(0)
    about = facts()
    for _ in range(50):
        text = ask_description(about, rng).answer
        shown = display_text(text, NAMES)
        found = check_text(shown, about, NAMES)
        assert found.precision == 1.0, (text, shown)
        assert found.matched == check_text(text, about, NAMES).matched
        for sentence in shown.removesuffix(".").split(". "):
            assert sentence.startswith(
                ("The strongest connection is ", "The weakest connection is ", "In this scan, ")
            )


@pytest.mark.parametrize(
    "text, shown",
    [
        (
            "Within this scan, between default and visual lies the weakest network pair.",
            "The weakest connection is between the default and the visual network.",
        ),
        (
            "Between visual and fronto-parietal, coupling within this scan is markedly low.",
            "In this scan, connectivity between the visual and the fronto-parietal network is markedly low.",
        ),
        (
            "Within-scan connectivity within the default network is found to be moderate.",
            "In this scan, connectivity within the default network is moderate.",
        ),
        ("between default and visual", "Between the default and the visual network."),
        ("No scan can be read here.", "No scan can be read here."),
        ("Modularity is raised.", "Modularity is raised."),
        (
            "Connectivity within the visual network is high.",
            "In this scan, connectivity within the visual network is high.",
        ),
        ("markedly low", "markedly low"),
        ("yes", "yes"),
        ("", ""),
    ],
)
def test_display_text(text, shown):
    assert display_text(text, NAMES) == shown
    assert display_text(shown, NAMES) == shown


def test_a_statement_is_checked_beside_its_numbers():
    true, wrong, nothing = check_statements(
        "The strongest connection lies between visual and fronto-parietal. "
        "Coupling within this scan between visual and default is low. The scan is beautiful.",
        facts(),
    )
    assert (true.is_true, true.truth.value, true.truth.rank, true.truth.n_pairs) == (True, 0.9, 1, 3)
    assert (wrong.is_true, wrong.truth.value, wrong.truth.bin) == (False, 0.6, "high")
    assert (nothing.is_true, nothing.truth) == (None, None)
    (alone,) = check_statements("markedly low", facts())
    assert alone.is_true is None
    (absent,) = check_statements("Coupling within this scan between visual and limbic is low.", facts(), ["limbic"])
    assert (absent.is_true, absent.truth) == (False, None)
    assert "(0.60 times the scan's RMS correlation)." in display_text(wrong.text, NAMES, facts())


def test_truth_of_a_pair():
    assert pair_truth(facts(), ["fronto-parietal", "default"]).rank == 3
    within = pair_truth(facts(), ["visual", "visual"])
    assert (within.bin, within.rank, within.n_pairs) == ("high", 2, 3)
    with pytest.raises(ValueError, match="Name two networks"):
        pair_truth(facts(), ["default", "limbic"])


def test_questions_about_a_scan_load_no_cohort_and_no_builder():
    code = (
        "import sys, fmri_lm_hf.corpus.queries; print([m for m in sys.modules if m.startswith('fmri_lm_hf.corpus')])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "queries" in loaded
    assert not any(name in loaded for name in ("build", "chunks", "steps", "reference"))
