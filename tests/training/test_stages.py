"""The stages from end to end on tiny simulated scans, and what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from scripts import TRAINING, run
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoProcessor, pipeline

from fmri_lm_hf.cli import main
from fmri_lm_hf.hub.contents import read_folder
from fmri_lm_hf.hub.privacy import find_private
from fmri_lm_hf.models.answers import answer_log_probabilities, encode_question
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.scans.likeness import ScanRecord, content_sketch
from fmri_lm_hf.scans.splits import SplitManifest
from fmri_lm_hf.training.backbone import load_backbone
from fmri_lm_hf.training.texts import CorpusTexts
from fmri_lm_hf.training.tokenizer import embed_descriptions

pytestmark = pytest.mark.slow
SMALL = {
    "n_timepoints": 60,
    "hidden_size": 8,
    "num_hidden_layers": 0,
    "num_attention_heads": 1,
    "patch_size": 60,
}
IQ = {"iq": {"ask": ["IQ?"], "answers": {1: "low"}}}


def weights(folder, file="model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / file)


def changed(before, after) -> set[str]:
    """Names of the weights that are not equal."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def log_probabilities(model, processor, scan) -> torch.Tensor:
    prompt, answers = encode_question(processor, "What is the sex?", ["female", "male"])
    return answer_log_probabilities(model.eval(), prompt, answers, **processor.feature_extractor(scan))


def recipe(tmp_path, stage: str, **changes) -> str:
    """A tiny recipe with some arguments changed (None: left out)."""
    arguments = yaml.safe_load((TRAINING / "recipes" / "tiny" / f"{stage}.yaml").read_text()) | changes
    path = tmp_path / f"{stage}.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in arguments.items() if value is not None}))
    return str(path)


def test_three_stages_give_a_model_that_answers(trained, tiny):
    scan = load_scan_dataset(tiny / "scans")[0][0]
    classify = pipeline("fmri-zero-shot-classification", model=str(trained / "instruction"))
    answers = classify(scan, candidate_labels=["female", "male"], question="What is the sex?")
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    assert "declined" not in answers[0]
    assert set(classify.model.config.answers["What is the sex?"]) == {"female", "male"}
    assert "declined" in classify(scan, candidate_labels=["rain", "sun"])[0]
    describe = pipeline("fmri-to-text", model=str(trained / "alignment"))
    assert isinstance(describe(scan, max_new_tokens=5)[0]["generated_text"], str)


def test_a_stage_keeps_what_the_one_before_it_trained(trained):
    """Frozen: the tokenizer with its codebook; trained: all the rest, next codes with it."""
    for_training = ("alignment.", "steps.")  # what stage 1 keeps for itself
    tokenizer = {
        name: tensor for name, tensor in weights(trained / "tokenizer").items() if not name.startswith(for_training)
    }
    alignment, instruction = weights(trained / "alignment"), weights(trained / "instruction")
    for stage in (alignment, instruction):
        assert all(torch.equal(stage[f"fmri_tokenizer.{name}"], tensor) for name, tensor in tokenizer.items())
    extractor = AutoFeatureExtractor.from_pretrained(trained / "tokenizer")
    assert AutoProcessor.from_pretrained(trained / "instruction").feature_extractor.to_dict() == extractor.to_dict()
    assert AutoModel.from_pretrained(trained / "tokenizer").config.n_patches == 3
    logs = [
        json.loads((trained / name / "training_info.json").read_text())["log_history"]
        for name in ("tokenizer", "alignment", "instruction")
    ]
    assert {"contrastive_loss", "reconstruction_loss", "codebook_usage", "codebook_perplexity"} <= set(logs[0][0])
    assert {"text_loss", "text_only_loss", "fmri_loss"} <= set().union(*logs[1])
    assert {"eval_loss", "eval_text_loss"} <= set().union(*logs[2])
    assert "projector.linear.weight" in changed(alignment, instruction)
    assert "language_model.model.layers.0.mlp.up_proj.weight" in changed(alignment, instruction)


def test_what_is_written_says_what_was_trained_on_and_names_nobody(trained, made):
    manifest = SplitManifest.from_json(trained / "corpus" / "splits.json")
    record = json.loads((trained / "instruction" / "training_info.json").read_text())
    assert record["simulated"] is True
    assert record["n_subjects"] == len(manifest.subjects["train"])
    assert record["alignment"]["fmri_tokenizer"]["manifest_sha256"] == manifest.sha256
    assert record["alignment"]["arguments"]["corpus"] == "corpus"
    assert "required" not in record["arguments"]  # no option
    subjects = [subject for members in manifest.subjects.values() for subject in members]
    for stage in ("tokenizer", "alignment", "instruction"):
        files = read_folder(trained / stage).files  # what a push would take; refuses what is incomplete
        assert find_private(files) == []
        for name in files:
            if name.endswith(".json"):
                text = (trained / stage / name).read_text()
                assert str(made) not in text
                assert not any(f'"{subject}"' in text for subject in subjects)


def test_the_record_knows_the_scans_that_were_trained_on_and_names_none(trained):
    text = (trained / "instruction" / "training_info.json").read_text()
    record = json.loads(text)
    scans, _ = load_scan_dataset(trained / "scans")
    split_of = SplitManifest.from_json(trained / "corpus" / "splits.json").split_of()
    held = ScanRecord.from_dict(record["training_scans"]).holds([content_sketch(x) for x in scans["bold"]])
    assert held == [split_of[subject] == "train" for subject in scans["subject_id"]]
    assert not any(name in text for name in (*scans["scan_id"], *scans["subject_id"]))
    # stages that were trained on the same scans do not list them again
    assert text.count('"training_scans"') == 1


def test_texts_are_whitened_by_what_is_said_of_training_subjects(trained, tiny):
    saved = weights(trained / "tokenizer")
    corpus = CorpusTexts(str(tiny / "corpus"), None, ["sentence"])
    dataset, atlas = load_scan_dataset(tiny / "scans")
    train = set(SplitManifest.from_json(tiny / "corpus" / "splits.json").subjects["train"])
    backbone = load_backbone(str(tiny / "reading"))
    model, tokenizer = backbone.language_model.eval(), backbone.tokenizer_of(atlas)
    ids = [scan_id for scan_id, of in zip(dataset["scan_id"], dataset["subject_id"]) if of in train]
    embeds = embed_descriptions(corpus, ids, model, tokenizer)
    torch.testing.assert_close(saved["alignment.text_mean"], embeds.mean(0), rtol=1e-3, atol=1e-4)
    of_all = embed_descriptions(corpus, list(dataset["scan_id"]), model, tokenizer).mean(0)
    assert not torch.allclose(saved["alignment.text_mean"], of_all, rtol=1e-3, atol=1e-4)
    whitened = (embeds - saved["alignment.text_mean"]) @ saved["alignment.text_whitening"]
    assert torch.linalg.eigvalsh(torch.cov(whitened.T)).max() < 1.5  # of raw ones one direction has most


def test_scans_of_test_subjects_change_nothing(trained, tiny, tmp_path):
    dataset, atlas = load_scan_dataset(tiny / "scans")
    held_out = set(SplitManifest.from_json(tiny / "corpus" / "splits.json").subjects["test"])
    noise = np.random.default_rng(0)
    rows = [
        scan | {"bold": noise.normal(size=scan["bold"].shape) * 100} if scan["subject_id"] in held_out else scan
        for scan in dataset
    ]
    write_scan_dataset(rows, tmp_path / "scans", atlas)
    words = ["tokenizer", "tiny/tokenizer", "--normalization", "cohort", "--output_dir"]
    run(*words, str(tmp_path / "a"))
    run(*words, str(tmp_path / "b"), "--scans", str(tmp_path / "scans"))
    assert changed(weights(tmp_path / "a"), weights(tmp_path / "b")) == set()
    assert changed(weights(tmp_path / "a"), weights(trained / "tokenizer"))  # the argument had an effect
    assert (tmp_path / "a" / "preprocessor_config.json").read_text() == (
        tmp_path / "b" / "preprocessor_config.json"
    ).read_text()


@pytest.mark.parametrize("options", [(), ("--lora_rank", "2")], ids=["full", "lora"])
def test_a_resumed_training_ends_like_one_that_was_never_interrupted(options, trained, tiny, tmp_path):
    words = ["alignment", "tiny/alignment", *options, "--output_dir"]
    run(*words, str(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    run(*words, str(tmp_path / "resumed"), "--resume_from_checkpoint", "true")
    assert changed(weights(tmp_path / "whole"), weights(tmp_path / "resumed")) == set()
    epochs = json.loads((tmp_path / "resumed" / "training_info.json").read_text())["log_history"]
    assert epochs[-1]["epoch"] == 2
    shutil.rmtree(tmp_path / "whole")


def test_low_rank_alignment_is_merged(trained, tiny, tmp_path):
    run("alignment", "tiny/alignment", "--lora_rank", "2", "--output_dir", str(tmp_path / "out"))
    merged = weights(tmp_path / "out")
    of_reading = weights(tiny / "reading")
    base = {name: tensor for name, tensor in of_reading.items() if name.startswith("language_model.")}
    differing = {name for name in base if not torch.equal(base[name], merged[name])}
    assert differing == {name for name in base if "_proj." in name}
    assert merged.keys() == weights(trained / "alignment").keys()


def test_low_rank_instruction_is_an_adapter_of_its_model(trained, tiny, tmp_path):
    words = ("--lora_rank", "2", "--learning_rate", "0.01", "--output_dir", str(tmp_path / "adapter"))
    run("instruction", "tiny/instruction", *words)
    names = set(weights(tmp_path / "adapter", "adapter_model.safetensors"))
    assert all("language_model." in name or "projector." in name for name in names)
    scan = load_scan_dataset(tiny / "scans")[0][0]
    processor = AutoProcessor.from_pretrained(tmp_path / "adapter")
    assert AutoProcessor.from_pretrained(tmp_path / "adapter").answers["What is the sex?"] == ["female", "male"]
    by_peft = log_probabilities(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter"), processor, scan)
    by_auto = log_probabilities(AutoModelForCausalLM.from_pretrained(tmp_path / "adapter"), processor, scan)
    before = log_probabilities(AutoModelForCausalLM.from_pretrained(trained / "alignment"), processor, scan)
    torch.testing.assert_close(by_peft, by_auto)
    assert not torch.allclose(by_peft, before, atol=0.01)


def test_words_of_the_questions_become_tokens(trained, tiny, tmp_path):
    def pieces(folder):
        tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
        return tokenizer("What is the handedness?", add_special_tokens=False)["input_ids"], tokenizer

    questions = {"sex": {"ask": ["What is the handedness?"], "answers": {"female": "female", "male": "male"}}}
    path = recipe(
        tmp_path, "instruction", questions=questions, extend_vocabulary=True, output_dir=str(tmp_path / "out")
    )
    run("instruction", path)
    (before, _), (after, tokenizer) = pieces(trained / "alignment"), pieces(tmp_path / "out")
    assert len(after) < len(before)
    assert tokenizer.decode(after) == "What is the handedness?"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    with pytest.raises(ValueError, match="whose embeddings are trained: give `questions`, and set `lora_rank: 0`"):
        run("instruction", path, "--lora_rank", "2")


def test_conversations_are_learnt_from_a_file(trained, tiny, tmp_path):
    scan_ids = load_scan_dataset(tiny / "scans")[0]["scan_id"]
    talk = [{"role": "user", "content": "What is the sex?"}, {"role": "assistant", "content": "female"}]
    lines = [json.dumps({"scan_id": scan_id, "messages": talk}) for scan_id in scan_ids[:8]]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines))
    path = recipe(tmp_path, "instruction", questions=None, splits=None, eval_strategy="no", num_train_epochs=20,
                  learning_rate="1e-2", save_strategy="no", conversations=str(tmp_path / "talk.jsonl"),
                  output_dir=str(tmp_path / "out"))  # fmt: skip
    run("instruction", path)
    assert json.loads((tmp_path / "out" / "training_info.json").read_text())["n_scans"] == 8
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    margins = []
    for folder in (trained / "alignment", tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        female, male = log_probabilities(model, processor, load_scan_dataset(tiny / "scans")[0][12])[0]
        margins.append(float(female - male))
    assert margins[0] + 2 < margins[1] > 2
    lines.append(json.dumps({"scan_id": "nobody", "messages": talk}))
    (tmp_path / "talk.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="about scan 'nobody', which is not in the scan dataset"):
        run("instruction", path, "--output_dir", str(tmp_path / "other"))


@pytest.mark.parametrize(
    "stage, changes, message",
    [
        ("tokenizer", {"text_model": None}, "Alignment needs both `corpus` and `text_model`"),
        ("tokenizer", {"corpus": None, "text_model": None}, "Evaluation needs held-out subjects: give `splits`"),
        ("tokenizer", {"text_length": "novel"}, "no text of length novel: found sentence"),
        ("tokenizer", {"learnig_rate": 1}, "unknown options: learnig_rate"),
        ("tokenizer", {"text_tokens": -1}, "`text_tokens` must not be negative, got -1"),
        (
            "tokenizer",
            {"tokenizer": {**SMALL, "codebook_warmup_steps": 8}},
            "`codebook_warmup_steps` is 8, but the training has 8 steps: its codebooks would never start",
        ),
        ("tokenizer", {"tokenizer": {"hidden": 1}}, "`tokenizer` has unknown fields: hidden"),
        ("alignment", {"roi_dropout": 1.0}, "`roi_dropout` must be at least 0 and less than 1, got 1.0"),
        ("alignment", {"shortest_window": 0}, "`shortest_window` must be more than 0 and at most 1"),
        (
            "instruction",
            {"share_described": 0.5, "reading_questions": 0},
            "`share_described` needs descriptions: give `corpus`",
        ),
        ("tokenizer", {"output_dir": "tiny"}, "The folder tiny is not empty. Give `resume_from_checkpoint: true`"),
        ("alignment", {"plain_text": None}, "T2T needs plain text: give `plain_text`, or set"),
        ("alignment", {"plain_text": "tiny/empty.txt"}, "empty.txt has no text to train on"),
        ("alignment", {"plain_text": "tiny/notes.jsonl"}, "notes.jsonl has no column text: found note"),
        ("alignment", {"splits": "tiny/other_splits.json"}, "differ from those of the corpus"),
        ("instruction", {"splits": "tiny/other_splits.json"}, "scans is of a validation subject: the splits name 0"),
        ("instruction", {"questions": None}, "Give either `questions` about label columns or `conversations`"),
        ("instruction", {"questions": IQ}, "ask about 'iq', which the scans do not have: found scan_id"),
        ("instruction", {"questions": {"sex": {"ask": []}}}, "expected `ask` .* and either `answers`"),
        (
            "instruction",
            {"questions": {"sex": {"ask": ["Sex?"], "answers": {"F": "female"}}}},
            "No scan's 'sex' has the answer 'female': found the values female, male",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(stage, changes, message, trained, tiny, tmp_path):
    (tiny / "empty.txt").write_text("\n\n")
    (tiny / "notes.jsonl").write_text('{"note": "a"}\n')
    subjects = {"train": ["sub-A0001"], "test": ["sub-A0002"]}
    (tiny / "other_splits.json").write_text(json.dumps({"subjects": subjects}))
    path = recipe(tmp_path, stage, **({"output_dir": str(tmp_path / "out")} | changes))
    with pytest.raises(ValueError, match=message):
        run(stage, path)


def test_bad_scans_are_left_out_with_their_reason(trained, tiny, tmp_path, caplog):
    dataset, atlas = load_scan_dataset(tiny / "scans")
    rows = [dict(scan) for scan in dataset]
    rows[0] |= {"bold": rows[0]["bold"][:5], "sample_mask": None}
    write_scan_dataset(rows, tmp_path / "scans", atlas)
    arguments = {"corpus": None, "text_model": None, "eval_strategy": "no", "num_train_epochs": 1}
    path = recipe(tmp_path, "tokenizer", **arguments, scans=str(tmp_path / "scans"), output_dir=str(tmp_path / "out"))
    run("tokenizer", path)
    assert json.loads((tmp_path / "out" / "training_info.json").read_text())["n_scans"] == len(rows) - 1
    assert f"Scan {rows[0]['scan_id']} is left out: The scan is too short" in caplog.text


def test_script_and_command_give_the_same_weights_again(trained, tiny, tmp_path):
    command = [str(TRAINING / "train_tokenizer.py"), str(TRAINING / "recipes" / "tiny" / "tokenizer.yaml")]
    done = subprocess.run(
        [sys.executable, *command, "--output_dir", str(tmp_path / "script")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert changed(weights(tmp_path / "script"), weights(trained / "tokenizer")) == set()
    assert main(["train", "tokenizer", "tiny/tokenizer", "--output_dir", str(tmp_path / "command")]) == 0
    assert changed(weights(tmp_path / "command"), weights(trained / "tokenizer")) == set()


def test_entries_of_a_recipe_are_changed_one_by_one(trained, tiny, tmp_path):
    words = ("--tokenizer.codebook_size", "8", "--tokenizer.input_features", "[connectivity]")
    run(
        "tokenizer",
        "tiny/tokenizer",
        *words,
        "--network_means",
        "true",
        "--output_dir",
        str(tmp_path / "out"),
    )
    config = AutoModel.from_pretrained(tmp_path / "out").config
    assert (config.codebook_size, config.codebook_dim, config.input_features) == (8, 8, ["connectivity"])
    atlas = load_scan_dataset(tiny / "scans")[1]
    assert [atlas.network_names[i] for i in config.roi_networks] == list(atlas.networks)
