"""Options of the stages: help, recipes, and names of the release before."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import yaml
from scripts import TRAINING, run
from transformers import TrainingArguments

from fmri_lm_hf import FmriTokenizerConfig
from fmri_lm_hf.cli import main
from fmri_lm_hf.training.alignment import AlignmentArguments
from fmri_lm_hf.training.arguments import RENAMED_OPTIONS, fields_of, parse
from fmri_lm_hf.training.backbone import load_backbone
from fmri_lm_hf.training.instruction import InstructionArguments
from fmri_lm_hf.training.random_questions import ReadingRecipe
from fmri_lm_hf.training.reading import ReadingArguments
from fmri_lm_hf.training.tokenizer import TokenizerArguments
from fmri_lm_hf.training.understanding import UnderstandingArguments

STAGES = {
    kind.stage: kind
    for kind in (
        TokenizerArguments,
        AlignmentArguments,
        InstructionArguments,
        ReadingArguments,
        UnderstandingArguments,
    )
}
OF_OPTION = {"tokenizer": "tokenizer", "encoder": "understanding"}  # options that tell the stage of a recipe
# what `fmri-lm demo` adds to its recipes, beside what every recipe of the stage needs
BY_DEMO = {
    "tokenizer": {"corpus"},
    "alignment": {"plain_text"},
    "instruction": {"questions"},
    "reading": set(),
    "understanding": set(),
}
FOLDER = TRAINING / "recipes"
RECIPES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))


def help_of(stage: str, word: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["train", stage, word])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_help_shows_the_options_of_this_package(stage, capsys):
    text = help_of(stage, "--help", capsys)
    assert len(text.splitlines()) <= 80
    assert f"fmri-lm train {stage} " in text
    assert ("scan dataset: a folder of `fmri-lm scans`" in text) == (stage not in ("reading", "understanding"))
    shown = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    of_trainer = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = {field.name for field in dataclasses.fields(STAGES[stage])} - of_trainer
    assert {*shown} == own | {"help", "output_dir", "resume_from_checkpoint", "seed"}
    assert all(f"--{name}" in text for name in STAGES[stage].required)


def test_every_option_has_a_default_in_its_help_or_says_what_happens_without_it():
    for kind in STAGES.values():
        for field in dataclasses.fields(kind):
            if field.name not in {field.name for field in dataclasses.fields(TrainingArguments)}:
                has_default = field.default is not None
                assert ("(default: " in field.metadata["help"]) >= has_default, field.name


def test_help_of_all_adds_the_options_of_the_trainer(capsys):
    text = help_of("alignment", "--help-all", capsys)
    assert "--learning_rate " in text
    assert "--lora_rank " in text


def test_without_a_stage_the_stages_are_named(capsys):
    assert main(["train"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(line.startswith(f"  {stage} ") for line in lines) == 1 for stage in STAGES)


def arguments_of(name: str) -> tuple[type, dict]:
    """The stage of a recipe, and its content."""
    recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    stage = next((key for option, key in OF_OPTION.items() if option in recipe), name.split("/")[-1])
    return STAGES.get(stage, ReadingArguments), recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_options_that_exist(name, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    kind, recipe = arguments_of(name)
    assert not {*recipe, *recipe.get("reading", {})} & {*RENAMED_OPTIONS}
    words = [name, "--output_dir", str(tmp_path / "out")]
    for option in sorted({*kind.required, *BY_DEMO[kind.stage]} - {*recipe, "output_dir"}):
        words += [f"--{option}", "given"]
    arguments = parse(kind, words)
    assert {*recipe.get("tokenizer", {})} <= set(FmriTokenizerConfig.__dataclass_fields__)
    assert {*recipe.get("reading", {})} <= {field.name for field in dataclasses.fields(ReadingRecipe)}
    for option, value in recipe.items():
        if isinstance(value, (dict, list)):
            assert getattr(arguments, option) == value


def test_names_of_the_release_before_work_and_say_their_new_names(tmp_path, capsys):
    old = tmp_path / "old.yaml"
    old.write_text("reader: {look_up_layers: [0, 1], share_own_texts: 0.1}\nmax_steps: 2\n")
    words = [str(old), "--reader.n_own_texts", "5", "--output_dir", str(tmp_path / "out")]
    with pytest.warns(FutureWarning, match=r"`look_up_layers` is now `supervised_layers`"):
        arguments = parse(ReadingArguments, words)
    expected = {"supervised_layers": [0, 1], "share_sampled_texts": 0.1, "n_sampled_texts": 5}
    assert arguments.reading == expected
    with pytest.warns(FutureWarning, match=r"`tiny/reader` is now `tiny/reading`"):
        arguments = parse(ReadingArguments, ["tiny/reader", "--output_dir", str(tmp_path / "out")])
    assert arguments.reading["hidden_size"] == 32
    words = ["tiny/instruction", "--look_up_layers", "0", "2", "--look-up-loss-weight=0.5", "--own_words"]
    with pytest.warns(FutureWarning, match=r"`own_words` is now `extend_vocabulary`"):
        arguments = parse(InstructionArguments, [*words, "--output_dir", str(tmp_path / "out")])
    found = (arguments.supervised_layers, arguments.attention_loss_weight, arguments.extend_vocabulary)
    assert found == ([0, 2], 0.5, True)
    with pytest.warns(FutureWarning, match=r"`fmri-lm train reader` is now `fmri-lm train reading`"):
        assert "fmri-lm train reading" in help_of("reader", "--help", capsys)
    with pytest.warns(FutureWarning, match=r"`reader` is now `bundled`"):
        assert load_backbone("reader").network_pairs is not None


def test_entries_are_changed_with_an_equals_sign_too(tmp_path):
    words = ["tiny/reading", "--reading.hidden_size=16", "--max_steps=3", "--output_dir", str(tmp_path / "out")]
    arguments = parse(ReadingArguments, words)
    assert (arguments.reading["hidden_size"], arguments.max_steps) == (16, 3)


def test_resume_from_checkpoint_false_is_no_folder(tmp_path):
    out = tmp_path / "out"
    words = ["tiny/reading", "--output_dir", str(out), "--resume_from_checkpoint", "false"]
    assert parse(ReadingArguments, words).resume_from_checkpoint is False
    out.mkdir()
    (out / "notes.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"is not empty\. Give `resume_from_checkpoint: true`"):
        parse(ReadingArguments, words)


@pytest.mark.parametrize(
    "given, message",
    [
        ("small", "`tokenizer` is 'small'; expected a mapping of fields of FmriTokenizerConfig"),
        ({"width": 3}, "`tokenizer` has unknown fields: width. Expected fields of FmriTokenizerConfig"),
    ],
)
def test_fields_of_a_configuration_are_checked(given, message):
    with pytest.raises(ValueError, match=message):
        fields_of(FmriTokenizerConfig, "tokenizer", given)
    assert fields_of(FmriTokenizerConfig, "tokenizer", None) == {}


def test_an_unknown_recipe_and_a_missing_option_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe tiny/nothing: give a YAML file, or one .* tiny/tokenizer"):
        run("tokenizer", "tiny/nothing")
    with pytest.raises(ValueError, match="Give `scans`, in the recipe or as `--scans`"):
        run("tokenizer", "--output_dir", str(tmp_path / "out"))
    (tmp_path / "list.yaml").write_text("- scans")
    with pytest.raises(ValueError, match=r"list\.yaml is not a recipe: expected `option: value` lines, found list"):
        run("tokenizer", str(tmp_path / "list.yaml"))


@pytest.mark.parametrize("stage", ["tokenizer", "alignment", "instruction"])
def test_recipes_at_published_sizes_run_until_they_read_scans(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="The scan dataset scans does not exist"):  # all options were read
        run(stage, str(TRAINING / "recipes" / f"{stage}.yaml"))


def test_the_seed_is_set_when_options_are_read(tmp_path):
    drawn = []
    for seed in ("7", "7", "8"):
        parse(ReadingArguments, ["--output_dir", str(tmp_path), "--seed", seed])
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
