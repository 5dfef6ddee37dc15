"""Ablation studies: options exist, what a study changes is changed, and what is done is not done again."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import get_dataset_config_names

from experiments import ablation
from experiments.ablation import STUDIES, load_study, run_study, study_rows
from fmri_lm_hf.cli import MOVED, main
from fmri_lm_hf.demo.run import STAGES
from fmri_lm_hf.evaluation.robustness import PERTURBATIONS
from fmri_lm_hf.models.configuration_fmri_tokenizer import FmriTokenizerConfig
from fmri_lm_hf.training.arguments import parse


@pytest.mark.parametrize("name", STUDIES)
def test_the_recipes_take_what_a_study_changes(name, tmp_path):
    study = load_study(name)
    assert study.about
    assert len(study.variants) > 1 or study.n_robustness
    needed = {
        "tokenizer": ["--scans", "s", "--corpus", "c"],
        "alignment": ["--scans", "s", "--corpus", "c", "--plain_text", "c", "--fmri_tokenizer", "t"],
        "instruction": ["--scans", "s", "--corpus", "c", "--questions", "q", "--model", "m"],
    }
    for variant in study.variants:
        for stage, (_, arguments) in STAGES.items():
            words = [f"demo/{stage}", *needed[stage], "--output_dir", str(tmp_path / "out")]
            parsed = parse(arguments, [*words, *variant.words(stage)])
            for option, value in variant.stages.get(stage, {}).items():
                name, _, entry = option.partition(".")
                found = getattr(parsed, name)
                assert (found[entry] if entry else found) == value
            if stage == "tokenizer":
                FmriTokenizerConfig(n_rois=10, **parsed.tokenizer)


def test_one_option_at_a_time_is_changed():
    study = load_study("quantizer")
    by_name = {variant.name: variant for variant in study.variants}
    assert by_name["rvq of 4 stages"].stages == {"alignment": {"fmri_embedding_source": "codes"}}
    assert by_name["no codes"].stages == {"alignment": {"fmri_embedding_source": "encoder"}}
    assert by_name["fsq of 4 codes"].stages["tokenizer"]["tokenizer.fsq_levels"] == [8, 5, 5, 5]


def test_invalid_studies_are_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no study 'horoscope': give one of data, families,"):
        load_study("horoscope")
    file = tmp_path / "mine.yaml"
    file.write_text("about: nothing\n")
    with pytest.raises(ValueError, match=r"mine.yaml is not a study: expected .* found about"):
        load_study(str(file))
    file.write_text("variants: {a: {tokeniser: {seed: 1}}}\n")
    with pytest.raises(ValueError, match="changes tokeniser in 'a'; it can change the stages tokenizer,"):
        load_study(str(file))
    with pytest.raises(ValueError, match="varies the number of simulated scans: leave out --scans"):
        run_study(load_study("data"), tmp_path, scans=tmp_path)


@pytest.mark.slow
def test_a_study_runs_each_variant_once_and_shows_all(scans, small_demo, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "about: Does it matter?\nn_robustness: 4\nlanguages: [fr]\nvariants:\n"
        "  as it is: {}\n"
        "  graphs too:\n    families: [connectivity, graph]\n"
        "    alignment: {reading_questions: 1}\n"
    )
    study, out = load_study(str(file)), tmp_path / "out"
    kept = {}

    def keep(folder, *args, **more):
        results = demo(folder, *args, **more)
        kept[folder.name] = get_dataset_config_names(str(folder / "corpus"))
        return results

    demo = ablation.run_demo
    monkeypatch.setattr(ablation, "run_demo", keep)
    found = run_study(study, out, scans, labels=["sex"], options=small_demo)
    assert list(found["variants"]) == ["as it is", "graphs too"]
    record = json.loads((out / "study.json").read_text())
    assert record == json.loads(json.dumps(found))
    for name, variant in found["variants"].items():
        run = variant["runs"]["0"]
        assert set(run["robustness"]["changes"]) == set(PERTURBATIONS)
        results = json.loads((out / f"{name.replace(' ', '_')}-0" / "results.json").read_text())
        assert run["tasks"] == results["tasks"]
        assert run["truth"]["languages"]["fr"] == results["truth"]["languages"]["fr"]
        assert name in [row[0] for row in study_rows(found)]
    assert "bins, asked in fr" in study_rows(found)[0]
    page = (out / "report.html").read_text()
    assert "Does it matter?" in page
    assert "Degraded scans" in page
    assert "graph" not in kept["as_it_is-0"]
    assert {"connectivity", "graph"} <= set(kept["graphs_too-0"])
    monkeypatch.setattr(ablation, "run_demo", lambda *args, **more: pytest.fail("run again"))
    assert run_study(study, out, scans, labels=["sex"], options=small_demo) == found
    changed = dataclasses.replace(study, variants=study.variants[:1], n_robustness=5)
    with pytest.raises(pytest.fail.Exception, match="run again"):
        run_study(changed, out, scans, labels=["sex"], options=small_demo)


def test_the_command_takes_a_study(monkeypatch, tmp_path, capsys):
    asked = {}

    def fake(study, out, *args):
        asked.update(study=study, out=out, args=args)
        scores = {name: {"balanced_accuracy": 0.7, "auc": 0.8} for name in ("fmri_lm", *ablation.BASELINES)}
        runs = {str(seed): {"tasks": {"sex": scores}, "simulated": True} for seed in args[-1]}
        return {"variants": {"100 scans": {"runs": runs}}, "simulated": True}

    monkeypatch.setattr(ablation, "run_study", fake)
    assert main(["study", "data", "--seeds", "0", "1", "--out", str(tmp_path)]) == 0
    assert asked["study"] == load_study("data")
    assert asked["args"] == (None, None, ["sex", "diagnosis"], "B", [0, 1])
    printed = capsys.readouterr().out
    assert "100 scans  sex   0.700 ± 0.000" in printed
    assert printed.count("0.700 ± 0.000") == 3  # of the model and of both baselines
    assert "not of brains" in printed


@pytest.mark.parametrize(
    ("words", "module"),
    [(["tokens", "report"], "experiments.tokens"), (["study"], "experiments.ablation")],
)
def test_commands_of_the_last_release_name_the_modules_that_run_them_now(words, module):
    command = [sys.executable, "-m", "fmri_lm_hf.cli", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(ablation.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert f"`fmri-lm {words[0]}` is now `python -m {module}`" in done.stderr
    assert f"  python -m {module} " in done.stdout  # in the examples
    assert importlib.util.find_spec(MOVED[words[0]][0]) is not None
