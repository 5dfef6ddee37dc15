"""Measure few-shot learning of the bundled model, on an unseen simulated site.

    python benchmarks/few_shot.py [--cohorts 2] [--draws 6]

Labelled scans are from site A (200 subjects), test scans from site B (200 subjects, other gain and noise), in cohorts
with other seeds than those on which the adapter was chosen. Two predictors are added to those of
`fmri_lm_hf.evaluation.few_shot`: the adapter's head on network connectivity in place of the model's values, and LoRA
trained on the answers. Results go to benchmarks/results/few_shot.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fmri_lm_hf
from fmri_lm_hf.evaluation import few_shot as few
from fmri_lm_hf.evaluation.model_answers import Answer, EncodedScans, Evaluation, TaskSplit
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.answers import encode_question
from fmri_lm_hf.simulation import Site, simulate_cohort

RESULTS = Path(__file__).parent / "results" / "few_shot.json"
SHOTS = (0, 2, 4, 8, 16, 32)
SITES = (Site("A", 200), Site("B", 200, gain=1.8, noise=0.8))
FIRST_SEED = 100
TASKS = {
    "sex": Task("sex", "sex", ("What is the sex?",), {"female": "female", "male": "male"}),
    "diagnosis": Task(
        "diagnosis", "diagnosis", ("What is the diagnosis?",), {"control": "control", "patient": "patient"}
    ),
}
LORA_STEPS, LORA_RATE = 30, 3e-3


def network_head(split: TaskSplit, encoded: EncodedScans) -> Answer:
    """Fit the adapter's head to mean Fisher z of network pairs; the difference to it is what the model adds."""
    from sklearn.linear_model import LogisticRegression

    features = split.evaluation.features.network_connectivity
    train, test = few.scaled(features(split.train), features(split.test))
    head = LogisticRegression(C=few.ADAPTER_C, class_weight="balanced", max_iter=1000)
    return Answer(head.fit(train, split.labels(split.train)).predict_proba(test))


def lora(split: TaskSplit, encoded: EncodedScans) -> Answer:
    """Train LoRA (rank 4, attention) on the answers to the question about the labelled scans."""
    from peft import LoraConfig, get_peft_model

    evaluation = split.evaluation
    torch.manual_seed(0)
    targets = r".*language_model.*\.(q|k|v|o)_proj"
    adapted = get_peft_model(copy.deepcopy(evaluation.model), LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    prompt, answers = encode_question(evaluation.processor, split.task.ask[0], split.classes)
    right = [answers[split.classes.index(label)] for label in split.labels(split.train)]
    longest = max(map(len, answers))
    rows = [[*prompt, *ids, *[0] * (longest - len(ids))] for ids in right]
    targets_of = [[*[-100] * len(prompt), *ids, *[-100] * (longest - len(ids))] for ids in right]  # the answer alone
    # padding behind the answers needs no mask: no token of a causal model sees it, and it has no label
    inputs = few.inputs_of(encoded, split.train)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], LORA_RATE)
    with torch.enable_grad():
        for _ in range(LORA_STEPS):
            loss = adapted(input_ids=torch.tensor(rows), labels=torch.tensor(targets_of), **inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model = adapted.merge_and_unload().eval()
    of_tasks = evaluation.encoded.log_probabilities(model, evaluation.processor, {split.name: split.task})
    return Answer(split.among_classes(of_tasks[split.name][evaluation.encoded.places(split.test)]))


few.FEW_SHOT_PREDICTORS |= {
    "network_head": few.FewShotPredictor("the adapter's head on network connectivity", network_head),
    "lora": few.FewShotPredictor("LoRA on the answers", lora),
}
COSTLY = {"in_context": 2, "lora": 1}  # slow predictors, and their number of draws


def scores_of_cohort(seed: int, n_draws: int) -> dict[str, Any]:
    """Score all predictors on one cohort."""
    cohort = simulate_cohort(sites=SITES, seed=seed)
    sites = np.array(cohort.dataset["site"])
    rows = {"train": np.flatnonzero(sites == "A").tolist(), "test": np.flatnonzero(sites == "B").tolist()}
    model, processor = fmri_lm_hf.load_bundled_model()
    evaluation = Evaluation(model, processor, cohort.dataset, TASKS, rows["test"])
    quick = [name for name in few.FEW_SHOT_PREDICTORS if name not in COSTLY]
    found = few.few_shot(evaluation, rows, SHOTS, n_draws, quick)
    for name, n in COSTLY.items():
        for task, curve in few.few_shot(evaluation, rows, SHOTS[1:], min(n, n_draws), [name]).items():
            for k, scores in curve.items():
                found[task][k] |= scores
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=2)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    start = time.process_time()
    curves = {f"seed {FIRST_SEED + i}": scores_of_cohort(FIRST_SEED + i, args.draws) for i in range(args.cohorts)}
    means: dict[str, dict[str, Any]] = {}
    tasks = [curve for cohort in curves.values() for curve in cohort.values()]
    for k in map(str, SHOTS):
        means[k] = {}
        for name in tasks[0][k]:
            scores = [task[k][name] for task in tasks]
            if "left_out" in scores[0]:
                means[k][name] = scores[0]
                continue
            means[k][name] = {m: float(np.mean([s[m] for s in scores])) for m in ("balanced_accuracy", "auc")}
            if name not in ("fmri_lm", "adapter"):  # the same draws
                pairs = [
                    np.subtract(t[k]["adapter"]["draws"][: len(t[k][name]["draws"])], t[k][name]["draws"])
                    for t in tasks
                ]
                difference = np.concatenate(pairs)
                means[k][name]["adapter_above_by"] = float(difference.mean())
                means[k][name]["adapter_above_by_se"] = float(difference.std(ddof=1) / len(difference) ** 0.5)
        shown = {
            n: f"{s.get('balanced_accuracy', float('nan')):.3f}/{s.get('auc', float('nan')):.3f}"
            for n, s in means[k].items()
        }
        print(k, *(f"{name} {value}" for name, value in shown.items()), sep="  ")
    write_json({"means": means, "cohorts": curves, "cpu_seconds": time.process_time() - start}, args.out)


if __name__ == "__main__":
    main()
