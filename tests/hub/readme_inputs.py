"""What the README's commands start from and no command of it makes: derivatives, tables, pretrained weights.

Small, but in the layout and under the names of the README.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas
import yaml
from conversion.conftest import GOLDEN
from conversion.test_converted_pipelines import WORDS
from readme_blocks import README
from scans.test_atlas_command import TABLE, label_image
from scans.test_sources import T, confound_table
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fmri_lm_hf import Atlas
from fmri_lm_hf.simulation import Site, simulate_cohort, write_nifti

RECIPES = README.parent / "training" / "recipes"
MNI = "space-MNI152NLin2009cAsym"
# Sizes for seconds, in place of those of the recipes.
SMALL_STAGE = {"num_train_epochs": 1, "per_device_train_batch_size": 8}
SMALL_TOKENIZER = {"hidden_size": 16, "intermediate_size": 32, "codebook_size": 16, "codebook_dim": 8}


def derivatives(folder: Path) -> None:
    """`derivatives/fmriprep` of two sites, `derivatives/xcp_d`, their participants, and one image by itself."""
    rng = np.random.default_rng(0)
    atlas = Atlas.load("dosenbach_2010")
    cohort = simulate_cohort(atlas, [Site("A", 24, n_timepoints=T), Site("B", 8, n_timepoints=T)]).dataset
    people = []
    for number, scan in enumerate(cohort.with_format("numpy", columns=["bold"], output_all_columns=True), 1):
        subject = f"sub-{number:02d}"
        sex = scan["sex"][0].upper()
        people.append([subject, scan["site"], sex, scan["diagnosis"]])
        func = folder / "derivatives" / "fmriprep" / subject / "func"
        func.mkdir(parents=True)
        stem = f"{func}/{subject}_task-rest"
        image = write_nifti(scan["bold"], atlas, f"{stem}_{MNI}_desc-preproc_bold.nii.gz", 2.0, 6)
        opened = nibabel.load(image)
        mask = nibabel.Nifti1Image(np.ones(opened.shape[:3], np.uint8), opened.affine)
        nibabel.save(mask, f"{stem}_{MNI}_desc-brain_mask.nii.gz")
        table = confound_table(rng, censored=(30, 31))
        table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
        Path(f"{stem}_desc-confounds_timeseries.json").write_text("{}")
        if number == 1:
            shutil.copy(image, folder / f"{subject}_{MNI}_desc-preproc_bold.nii.gz")
    participants = pandas.DataFrame(people, columns=["participant_id", "site", "sex", "diagnosis"])
    for place in (folder, folder / "derivatives" / "fmriprep"):
        participants.to_csv(place / "participants.tsv", sep="\t", index=False)
    func = folder / "derivatives" / "xcp_d" / "sub-01" / "func"
    func.mkdir(parents=True)
    series = pandas.DataFrame(rng.normal(size=(T, 3)), columns=["LH_Vis_1", "RH_Vis_1", "HIP-lh"])
    stem = func / f"sub-01_task-rest_{MNI}"
    series.to_csv(f"{stem}_seg-4S456Parcels_stat-mean_timeseries.tsv", sep="\t", index=False)
    Path(f"{stem}_desc-denoised_bold.json").write_text('{"RepetitionTime": 0.8}')
    outliers = pandas.DataFrame({"outlier": np.zeros(T, int)})
    outliers.to_csv(func / "sub-01_task-rest_outliers.tsv", sep="\t", index=False)
    motion = pandas.DataFrame({"framewise_displacement": np.full(T, 0.2)})
    motion.to_csv(func / "sub-01_task-rest_motion.tsv", sep="\t", index=False)


def tables(folder: Path) -> None:
    """`tables/SITE/SUBJECT.tsv`, and a label image with the table of its names."""
    rng = np.random.default_rng(1)
    for site in ("site_a", "site_b"):
        (folder / "tables" / site).mkdir(parents=True)
        frame = pandas.DataFrame(rng.normal(size=(100, 3)), columns=["LH_Vis_1", "RH_Vis_1", "HIP"])
        frame.to_csv(folder / "tables" / site / "p1.tsv", sep="\t", index=False)
    label_image(folder / "labels.nii.gz")
    (folder / "labels.tsv").write_text(TABLE)


def recipes(folder: Path) -> None:
    """`training/recipes`, with small sizes, and `gpt2`, a small GPT-2 in the folder that stands for it."""
    for path in RECIPES.rglob("*.yaml"):
        recipe: dict[str, Any] = yaml.safe_load(path.read_text())
        recipe |= {name: size for name, size in SMALL_STAGE.items() if name in recipe}
        if isinstance(recipe.get("tokenizer"), dict):
            recipe["tokenizer"] |= SMALL_TOKENIZER
        place = folder / "training" / "recipes" / path.relative_to(RECIPES)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump(recipe))
    core = ByteLevelBPETokenizer()
    core.train_from_iterator([README.read_text(encoding="utf-8")], vocab_size=500, special_tokens=["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=core._tokenizer, eos_token="<|endoftext|>").save_pretrained(
        folder / "gpt2"
    )
    sizes = GPT2Config(vocab_size=500, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(sizes).save_pretrained(folder / "gpt2")


def published(folder: Path) -> None:
    """A checkpoint of the published program, and in `qwen` what the Hub has of its language model."""
    name = "fMRI-LM-B-Qwen3-0.6B-instruct.pt"
    shutil.copy(GOLDEN / "qwen3_lora" / "checkpoint.pt", folder / name)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<think>", "</think>"]})
    tokenizer.chat_template = "{{ '<|im_start|>' }}{% if enable_thinking %}<think>{% endif %}"
    tokenizer.save_pretrained(folder / "qwen")
    meta = json.loads((GOLDEN / "qwen3_lora" / "meta.json").read_text())
    (folder / "qwen" / "config.json").write_text(json.dumps(meta["lm_config"]))


def table_of_a_scan(folder: Path, roi_names: list[str] | tuple[str, ...]) -> None:
    """`sub-01_timeseries.tsv`: a scan with a named column for each ROI of the model that is asked."""
    bold = np.random.default_rng(2).normal(size=(160, len(roi_names)))
    pandas.DataFrame(bold, columns=list(roi_names)).to_csv(folder / "sub-01_timeseries.tsv", sep="\t", index=False)
