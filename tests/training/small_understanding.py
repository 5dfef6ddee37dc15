"""Inputs of the stage `understanding`: a tiny pretrained BERT, two voices with a few questions, and wordings."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from fmri_lm_hf.questions.classes import MAX_LENGTH

NETWORKS = ["default", "visual", "limbic", "control"]
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz?.,'-0123456789[]")
VOCABULARY = (
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "of", "how", "strong", "is", "seldom", "rarely", "which"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
)


def row(text, intent, networks=(), lang="en", **extra):
    """A labelled question."""
    return {"text": text, "atlas": "toy", "intent": intent, "networks": [*networks], "extra": extra, "lang": lang}


def part(intent, networks=(), **extra):
    return {"intent": intent, "networks": [*networks], "extra": extra}


VOICES = {
    "plain": [
        row("How strong is default with visual?", "level", ("default", "visual")),
        row("How strong is limbic inside?", "within", ("limbic",)),
        row("Which network is the hub?", "graph", measure="hub"),
        row("Is control with limbic low?", "yesno", ("control", "limbic"), claim="low"),
        row("Am I ill?", "unanswerable", kind="personal"),
        row(
            "How strong is default inside, and which one is the hub?",
            "two_in_one",
            ("default",),
            parts=[part("within", ("default",)), part("graph", measure="hub")],
        ),
    ],
    "other": [
        row("zzz default xylophone", "within", ("default",)),
        row("zzz quark", "unanswerable", "", "de", kind="not_about_scan"),
        row("zzz visual ñandú and limbic", "level", ("visual", "limbic")),
    ],
}
WORDINGS = {"level": ["{a} with {b}"], "graph/hub": ["the hub"], "unanswerable/not_in_atlas": ["how is {x}"]}


def write_inputs(folder: Path) -> Path:
    """Write `bert` and `questions`."""
    questions = folder / "questions"
    (questions / "wordings").mkdir(parents=True)
    for voice, rows in VOICES.items():
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
        (questions / f"{voice}.jsonl").write_text(lines, encoding="utf-8")
    (questions / "atlases.json").write_text(json.dumps({"toy": NETWORKS}), encoding="utf-8")
    (questions / "wordings" / "en.json").write_text(json.dumps(WORDINGS), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=MAX_LENGTH,
    )
    BertModel(config).save_pretrained(folder / "bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    return folder
