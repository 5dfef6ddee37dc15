"""Make the scans and the corpus that the recipes tiny/*.yaml train on, offline and in seconds.

    python training/make_tiny_inputs.py tiny
    fmri-lm train reading tiny/reading
    fmri-lm train tokenizer tiny/tokenizer
    fmri-lm train alignment tiny/alignment
    fmri-lm train instruction tiny/instruction

Into the folder come `scans` (a simulated scan dataset), `corpus` (descriptions of them) and `plain.txt`. Models
trained on them mean nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import datasets

from fmri_lm_hf import Atlas
from fmri_lm_hf.corpus.build import CorpusConfig, build_corpus
from fmri_lm_hf.scans.dataset import write_scan_dataset
from fmri_lm_hf.simulation import Site, simulate_cohort

NETWORKS = ("Visual", "Motor", "Default", "Control")
ATLAS = Atlas(
    name="tiny",
    roi_names=tuple(f"roi-{i}" for i in range(12)),
    networks=tuple(NETWORKS[i // 3] for i in range(12)),
)


def make(out: Path) -> None:
    """Write all inputs into the new folder `out`."""
    cohort = simulate_cohort(ATLAS, [Site("A", 16, n_timepoints=60), Site("B", 4, n_timepoints=60)])
    scans = write_scan_dataset(cohort.dataset, out / "scans", ATLAS, parameters={"simulated": True})
    config = CorpusConfig(families=["connectivity"], lengths=["sentence"], wordings=2, fractions=(0.7, 0.15, 0.15))
    build_corpus(scans, out / "corpus", config)
    texts = datasets.load_dataset(str(out / "corpus"), "connectivity", split="train")["text"]
    (out / "plain.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    make(Path(sys.argv[1]))
