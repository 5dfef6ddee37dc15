"""The demo on a small cohort: what it writes, what it refuses, and that the held-out site stays out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import load_dataset
from safetensors.torch import load_file
from small_cohort import SMALL, rows
from transformers import AutoModelForCausalLM, AutoProcessor

from fmri_lm_hf import ScanError
from fmri_lm_hf.cli import main
from fmri_lm_hf.demo import run_demo
from fmri_lm_hf.demo.report import aal2_atlas
from fmri_lm_hf.demo.run import DemoReport
from fmri_lm_hf.scans import write_scan_dataset


@pytest.fixture(scope="module")
def finished(scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out, scans, labels=["sex", "group"], options=SMALL)


@pytest.mark.slow
def test_the_demo_writes_scores_with_their_baselines(finished):
    out, results = finished
    assert DemoReport.from_json(out / "results.json") == results
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results.to_dict()))
    assert set(results.tasks) == {"sex", "group"}
    for name, predictors in results.tasks.items():
        for predictor in ("fmri_lm", "connectivity_logistic", "majority", "without_scan", "other_scan"):
            assert {"accuracy", "balanced_accuracy", "auc"} <= set(predictors[predictor])
        assert predictors["majority"]["balanced_accuracy"] == predictors["without_scan"]["balanced_accuracy"] == 0.5
        assert results.questions[name]["n_test"] == 8
    assert results.questions["sex"]["n_train"] == 16  # the baselines have the scan that is too short to describe
    assert results.questions["group"]["n_train"] == 15
    assert [failure["scan_id"] for failure in results.failures] == ["sub-A0006_ses-1"]
    assert results.seconds > 0
    assert results.peak_rss_mb > 0
    assert sorted(path.name for path in out.iterdir()) == [
        "corpus",
        "model",
        "report.html",
        "results.json",
        "scan.npz",
    ]


@pytest.mark.slow
def test_the_report_stands_alone_and_warns(finished):
    out, _ = finished
    report = (out / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 3
    assert "Nothing here may guide decisions about a person" in report
    assert "sub-A0006_ses-1" in report
    assert 'src="http' not in report


@pytest.mark.slow
def test_the_saved_model_answers(finished):
    out, _ = finished
    model = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    processor = AutoProcessor.from_pretrained(out / "model")
    conversation = [
        {
            "role": "user",
            "content": [
                {"type": "fmri", "fmri": str(out / "scan.npz")},
                {"type": "text", "text": "What is the sex?"},
            ],
        }
    ]
    inputs = processor.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True)
    assert isinstance(processor.decode_answer(model.generate(**inputs, max_new_tokens=4)[0]), str)
    info = json.loads((out / "model" / "training_info.json").read_text())
    assert not info["simulated"]
    assert info["n_subjects"] == 15


def words(scans, out, *more: str) -> list[str]:
    return ["demo", "--scans", str(scans), "--out", str(out), *more]


@pytest.mark.slow
def test_nothing_of_the_held_out_site_reaches_weights_vocabulary_or_texts(finished, cohort, scans, tmp_path):
    out, _ = finished
    noise = np.random.default_rng(0)
    changed = rows(
        cohort,
        group=lambda i, row: None if i == 3 else i % 2,
        bold=lambda i, row: (
            noise.normal(size=row["bold"].shape) if row["site"] == "B" else row["bold"][:12] if i == 5 else row["bold"]
        ),
        n_timepoints=lambda i, row: 12 if i == 5 else row["n_timepoints"],
    )
    other = write_scan_dataset(changed, tmp_path / "scans", cohort.atlas)
    run_demo(tmp_path / "out", other, labels=["sex", "group"], options=SMALL)
    for name in ("tokenizer.json", "preprocessor_config.json", "processor_config.json"):
        if (out / "model" / name).exists():
            assert (out / "model" / name).read_bytes() == (tmp_path / "out" / "model" / name).read_bytes()
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "out"))
    assert all(tensor.equal(after[name]) for name, tensor in before.items())
    texts = [load_dataset(str(folder / "corpus"), split="train")["text"] for folder in (out, tmp_path / "out")]
    assert list(texts[0]) == list(texts[1])


@pytest.mark.parametrize(
    ("labels", "site", "message"),
    [
        (["handedness"], "B", r"no column 'handedness': found scan_id, .*--labels"),
        (["sex"], "C", r"Site 'C' cannot be held out: the scans come from 'A', 'B'"),
        (["age"], "B", r"Column 'age' has \d+ different values .* expected 2 to 10 classes. Bin"),
    ],
)
def test_what_cannot_be_asked_is_refused(scans, labels, site, message, tmp_path):
    with pytest.raises((ScanError, ValueError), match=message):
        run_demo(tmp_path / "out", scans, labels=labels, holdout_site=site)


def test_a_label_that_the_held_out_site_lacks_is_refused(cohort, tmp_path):
    changed = rows(cohort, sex=lambda i, row: None if row["site"] == "B" else row["sex"])
    folder = write_scan_dataset(changed, tmp_path / "scans", cohort.atlas)
    with pytest.raises(ValueError, match=r"No test scan has a value of 'sex' .*\(female, male\)"):
        run_demo(tmp_path / "out", folder, labels=["sex"])


def test_scans_without_an_atlas_need_one(scans, tmp_path, capsys):
    bare = tmp_path / "bare.parquet"
    bare.write_bytes(next(scans.glob("data/*.parquet")).read_bytes())
    assert main(words(bare, tmp_path / "out")) == 2
    assert "give `--atlas` the JSON file of its ROIs" in capsys.readouterr().err


def test_the_regions_of_the_real_scans_are_those_of_their_atlas():
    atlas = aal2_atlas()
    assert atlas.n_rois == len(set(atlas.roi_names)) == 94
    assert atlas.roi_names[0] == "Precentral_L"
    assert atlas.roi_names[-1] == "Temporal_Inf_R"
