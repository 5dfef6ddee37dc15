"""Wordings: many, different, seeded, all about the same thing; and what they do to answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor

from fmri_lm_hf.evaluation.evaluate import evaluate, hold_site_out
from fmri_lm_hf.evaluation.results import EvaluationConfig, EvaluationReport
from fmri_lm_hf.evaluation.tasks import MAX_WORDINGS, Task, wordings_of
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import Effect, Site, iter_cohort

ANSWERS = {"female": "female", "male": "male"}


def test_wordings_are_different_seeded_and_about_the_same():
    wordings = wordings_of("age group")
    assert len(set(wordings)) == MAX_WORDINGS == 200
    assert all(" age group" in each and each[0].isupper() and each[-1] in "?." for each in wordings)
    assert not any("{" in each for each in wordings)
    assert wordings_of("age group", 7) == wordings[:7]
    assert wordings_of("age group", 7, seed=1) != wordings[:7]
    with pytest.raises(ValueError, match="201 wordings found, expected 0 to 200"):
        wordings_of("sex", 201)


def test_a_task_says_what_it_is_about():
    task = Task.from_dict("sex", {"about": "sex", "answers": ANSWERS})
    assert task.ask[0] == "What is the sex?"
    assert set(wordings_of("sex")) <= set(task.ask)
    declared = {"ask": ["Male or female?"], "about": "sex", "wordings": 3, "answers": ANSWERS}
    task = Task.from_dict("sex", declared)
    assert task.ask == ("Male or female?", *wordings_of("sex", 3))
    assert Task.from_dict("sex", task.to_dict()) == task
    with pytest.raises(ValueError, match=r"expected `ask` .* or `about`"):
        Task.from_dict("sex", {"wordings": 3, "ask": ["Sex?"], "answers": ANSWERS})


def test_other_wordings_are_scored_as_if_each_were_the_first(checkpoint, tmp_path):
    effects = [Effect("sex", (("A", "B"),), (0.4,))]
    sites = [Site("A", 12, n_timepoints=60), Site("B", 12, n_timepoints=60)]
    rows = iter_cohort(tiny.atlas(), sites, effects)
    scans = load_scan_dataset(write_scan_dataset(rows, tmp_path / "scans", tiny.atlas()))[0]
    task = Task("sex", "sex", ("What is the sex ?", "sex ?", "is the scan male ?"), ANSWERS)
    model, processor = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    splits = hold_site_out(scans, "B")

    def evaluated(task: Task, **more) -> EvaluationReport:
        config = EvaluationConfig(["majority"], confounding=False, **more)
        return evaluate(model, processor, scans, {"sex": task}, splits, config)

    results = evaluated(task, n_wordings=5)
    found = results.wordings["sex"]
    assert list(found["wordings"]) == list(task.ask[1:])
    for question, scores in found["wordings"].items():
        alone = evaluated(replace(task, ask=(question,))).tasks["sex"]["fmri_lm"]
        assert scores["balanced_accuracy"] == pytest.approx(alone["balanced_accuracy"])
    agreements = [each["agreement"] for each in found["wordings"].values()]
    assert found["agreement"] == pytest.approx(sum(agreements) / 2)
    assert "sex, asked in 2 other wordings: balanced accuracy" in results.summary()
    assert evaluated(replace(task, ask=task.ask[:1]), n_wordings=5).wordings == {}
