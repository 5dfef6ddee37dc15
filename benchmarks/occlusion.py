"""Test occlusion and integrated gradients on simulated scans in which one network pair carries the label.

    python benchmarks/occlusion.py [--scans 40]

The bundled model is trained to answer a question about a phenotype that raises the connectivity of one network pair
(site A), and its answers about another site are explained. Counted is for how many right answers the planted pair is
the first, or among the first three, of the 15 pairs by the size of their effect. The same is counted for the pairs in
questions about connectivity bins, which the untrained model is asked. The randomisation test is run as well.
Results go to benchmarks/results/occlusion.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

import fmri_lm_hf
from fmri_lm_hf.corpus.queries import BINS, bin_of, bin_question
from fmri_lm_hf.evaluation.attribution import EXPLANATIONS, Effects, occlude, randomisation_test
from fmri_lm_hf.evaluation.truth import scan_pairs
from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.answers import encode_question
from fmri_lm_hf.models.network_pairs import pair_indices
from fmri_lm_hf.simulation import Effect, Site, simulate_cohort

RESULTS = Path(__file__).parent / "results" / "occlusion.json"
PLANTED = ("default", "sensorimotor")
STRENGTH = 0.6  # Fisher z between the sexes; a default effect is 0.24 in each of four pairs
QUESTION, CLASSES = "What is the sex?", ("female", "male")
N_TAUGHT, N_STEPS, BATCH, RATE, SEED = 800, 450, 32, 1.5e-3, 100


def teach(bundled: Any, inputs: dict[str, torch.Tensor], labels: Sequence[str]) -> None:
    """Train the language model on the answers to the question about these scans."""
    model, processor = bundled
    prompt, answers = encode_question(processor, QUESTION, CLASSES)
    right = [answers[CLASSES.index(label)] for label in labels]
    longest = max(map(len, answers))
    ids = torch.tensor([[*prompt, *each, *[0] * (longest - len(each))] for each in right])
    targets = torch.tensor([[*[-100] * len(prompt), *each, *[-100] * (longest - len(each))] for each in right])
    # features do not change while the language model learns: computed once, not in every step
    with torch.no_grad():
        features = model.get_fmri_features(**inputs)
    masks = {name: inputs[name] for name in ("roi_mask", "padding_mask")}
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=N_STEPS)
    generator = torch.Generator().manual_seed(SEED)
    order = torch.cat([torch.randperm(len(ids), generator=generator) for _ in range(N_STEPS * BATCH // len(ids) + 1)])
    model.train()
    for step in tqdm(range(N_STEPS), desc="Teaching", unit="step"):
        rows = order[step * BATCH : (step + 1) * BATCH]
        batch = {name: mask[rows] for name, mask in masks.items()}
        model(input_ids=ids[rows], labels=targets[rows], fmri_features=features[rows], **batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def hits(occlusion: Effects, planted: Sequence[str], right: np.ndarray) -> dict[str, Any]:
    """Count for how many right answers the planted pair is among the first ones."""
    tops = [[set(pair) for pair in occlusion.top_pairs(scan, len(occlusion.pairs))] for scan in np.flatnonzero(right)]
    place = np.array([top.index(set(planted)) for top in tops])
    return {
        "n_right": int(right.sum()),
        "n_scans": len(right),
        "among_first_three": float((place < 3).mean()),
        "first": float((place == 0).mean()),
        "by_chance_among_first_three": 3 / len(occlusion.pairs),
    }


def hits_of_bin_questions(
    bundled: Any, inputs: dict[str, torch.Tensor], subjects: Sequence[str], n_scans: int
) -> dict[str, Any]:
    """As `hits`, for the pairs in questions about bins.

    With series of two different subjects any pair is in the bin 'low': occlusion cannot change answers in that bin.
    """
    values, _, names = scan_pairs(bundled[1], inputs)
    numbers = pair_indices(len(names)).T.tolist()
    rows: dict[str, list[Any]] = {"all": [], "not low": []}
    for pair in (PLANTED, ("default", "cerebellum"), ("occipital", "fronto-parietal")):
        asked = bin_question(list(pair))
        occlusion = occlude(*bundled, inputs, subjects, asked, BINS, n_scans)
        value = values[:n_scans, numbers.index(sorted(names.index(name) for name in pair))].numpy()
        truth = bin_of(value)
        right = occlusion.answers == truth
        rows["all"].append(hits(occlusion, pair, right))
        rows["not low"].append(hits(occlusion, pair, right & (truth != BINS.index("low"))))
    return {
        name: {
            key: float(np.average([row[key] for row in each], weights=[row["n_right"] for row in each]))
            for key in ("among_first_three", "first")
        }
        | {"n_right": sum(row["n_right"] for row in each)}
        for name, each in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    effects = [Effect("sex", (PLANTED,), (STRENGTH,))]
    bundled = fmri_lm_hf.load_bundled_model()
    taught = simulate_cohort(sites=[Site("A", N_TAUGHT)], effects=effects, seed=SEED).dataset
    seen = simulate_cohort(sites=[Site("B", args.scans, gain=1.8, noise=0.8)], effects=effects, seed=SEED + 1).dataset
    inputs = dict(bundled[1](fmri=list(seen.with_format("numpy"))))
    subjects = list(seen["subject_id"])
    results: dict[str, Any] = {"bin questions": hits_of_bin_questions(bundled, inputs, subjects, args.scans // 2)}
    teach(bundled, dict(bundled[1](fmri=list(taught.with_format("numpy")))), list(taught["sex"]))
    asked = (*bundled, inputs, subjects, QUESTION, CLASSES)
    truth = np.array([CLASSES.index(label) for label in seen["sex"]])
    for method, explain in EXPLANATIONS.items():
        effects = explain(*asked)
        results[method] = {
            "one planted pair": hits(effects, PLANTED, effects.answers == truth),
            "summary": effects.summary(),
            "randomisation test": randomisation_test(explain, *asked, n_scans=args.scans // 2, found=effects),
        }
    for name, row in results.items():
        print(name, row)
    write_json(results, args.out)


if __name__ == "__main__":
    main()
