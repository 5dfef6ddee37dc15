"""The demo from end to end: a cohort, three stages, scores beside baselines, a saved model used by a new process."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json
from ..models.atlas import Atlas
from ..models.scan_images import ScanError
from ..scans import load_scan_dataset, write_scan_dataset
from ..scans.synthetic_image import write_nifti
from ..simulation import SimulatedCohort, simulate_cohort
from ..training.trainer import write_training_info
from .data import ASK_LABEL, DemoData, describe, prepare
from .real_scans import describe_real_scans
from .recipe import Recipe
from .report import score_rows, write_report
from .scoring import score_tasks
from .training import Training

logger = logging.getLogger(__name__)


def run_demo(
    out: Path,
    scans: Path | None = None,
    atlas: Path | None = None,
    labels: Sequence[str] = ("sex", "diagnosis"),
    holdout_site: str = "B",
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """Train and judge a small model; write `model/`, `results.json` and `report.html` into `out`.

    Parameters
    ----------
    out : Path
        A folder; results of an earlier run in it are replaced.
    scans : Path, optional
        A scan dataset; a cohort is simulated when not given.
    atlas : Path, optional
        JSON file of the scans' atlas, where the dataset does not carry it.
    labels : sequence of str
        Columns of classes to ask about.
    holdout_site : str
        The site whose scans are kept for testing.
    recipe : Recipe, optional

    Returns
    -------
    dict
        Content of `results.json`: ``{"tasks": {label: {"fmri_lm": {"accuracy", "balanced_accuracy", "auc"},
        "connectivity_logistic": {...}, "majority": {...}, "text_only": {...}}}, "seconds", "peak_rss_mb", ...}``.
    """
    start = time.time()
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    cohort = None
    if scans is None:
        cohort = _simulate(out / "scans", recipe.seed)
        scans = out / "scans"
    dataset, dataset_atlas = load_scan_dataset(scans)
    loaded_atlas = Atlas.from_json(atlas) if atlas is not None else dataset_atlas
    if loaded_atlas is None:
        raise ScanError(f"{scans} carries no atlas.json: give `--atlas` the JSON file of its ROIs.")
    n_timepoints = _input_length(dataset, recipe)
    data = prepare(dataset, loaded_atlas, labels, holdout_site, n_timepoints, recipe.t_r)
    descriptions = describe(data, n_wordings=3, seed=recipe.seed)

    with tempfile.TemporaryDirectory() as trainer_out:
        training = Training(data, descriptions, recipe, trainer_out)
        _say("A small language model reads the descriptions (in place of a pretrained one)")
        language_model = training.pretrain_text()
        _say("Stage 1: the tokenizer learns to turn scans into tokens")
        tokenizer = training.train_tokenizer(language_model)
        model = training.join(tokenizer, language_model)
        views = training.training_views(model)
        _say("Stage 2: the language model learns to read the tokens")
        training.train_language_model(
            model,
            views,
            "alignment",
            recipe.alignment_epochs,
            n_pairs=4,
            ask_labels=False,
            share_described=1.0,
            n_plain=len(data.train) // 4,
        )
        _say("Stage 3: it learns to answer questions about scans")
        training.train_language_model(
            model,
            views,
            "instruction",
            recipe.instruction_epochs,
            n_pairs=0,
            ask_labels=True,
            share_described=0.05,
            n_plain=0,
        )
        del views

    _say(f"Site {holdout_site}, which was never seen")
    tasks = score_tasks(model, training.processor, data)
    if cohort is not None:
        oracle = cohort.oracle_scores(data.dataset.select(data.test.tolist()))
        for label, task in tasks.items():
            task["oracle"] = oracle[label]

    model_dir = out / "model"
    model.save_pretrained(model_dir)
    training.processor.save_pretrained(model_dir)
    sections = _single_scans(model_dir, data, cohort, out, next(iter(data.labels)))
    results = {
        "tasks": tasks,
        "simulated": cohort is not None,
        "holdout_site": holdout_site,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "failures": data.failures,
        "recipe": vars(recipe),
        "seconds": round(time.time() - start, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    write_training_info(
        model_dir,
        simulated=cohort is not None,
        n_scans=len(data.train),
        n_subjects=len(set(np.array(data.dataset["subject_id"])[data.train])),
        recipe=vars(recipe),
        scores=tasks,
        log_history=training.logs,
    )
    write_json(results, out / "results.json")
    write_report(out / "report.html", data, training.logs, results, sections)
    print(_table(results))
    for title, text in sections:
        print(f"\n{title}\n{text}")
    print(f"\n{results['seconds']:.0f} s, {results['peak_rss_mb']} MB. Pictures: {out / 'report.html'}")
    if cohort is not None:
        print("These weights were trained on simulated scans. They mean nothing clinically.")
    return results


def _say(what: str) -> None:
    print(f"\n{what}", flush=True)


def _simulate(folder: Path, seed: int) -> SimulatedCohort:
    _say("Simulating two sites: 800 scans of site A to learn from, 300 of site B to be tested on")
    cohort = simulate_cohort(seed=seed)
    shutil.rmtree(folder, ignore_errors=True)
    write_scan_dataset(cohort.dataset, folder, cohort.atlas, parameters={"simulated": True, "seed": seed})
    return cohort


def _input_length(dataset, recipe: Recipe) -> int:
    """Time points that hold the longest scan at the model's TR, within the recipe's limit."""
    lengths = [len(scan["bold"]) * float(scan["t_r"] or recipe.t_r) / recipe.t_r for scan in dataset]
    return int(np.clip(np.floor(max(lengths)), 40, recipe.max_timepoints))


def _single_scans(
    model_dir: Path, data: DemoData, cohort: SimulatedCohort | None, out: Path, label: str
) -> list[tuple[str, str]]:
    """Answers about a held-out scan, given by a new process that loads the saved model with the Auto classes."""
    row = int(data.labelled(label, data.test)[0])
    scan = data.dataset[row]
    table = out / "scan.npz"
    np.savez(table, bold=scan["bold"], t_r=scan["t_r"], roi_names=np.array(data.atlas.roi_names))
    files = {"its table of ROI time series": table}
    if cohort is not None:
        image = write_nifti(scan["bold"], data.atlas, out / "scan_bold.nii.gz", t_r=scan["t_r"])
        files["the same scan as a 4D NIfTI image in MNI space"] = image
    _say("The saved model, loaded by a new process, is asked about single scans")
    question = ASK_LABEL[0].format(label=label)
    command = [sys.executable, "-m", "fmri_lm_hf.demo.fresh", str(model_dir), question]
    command += [json.dumps(data.classes(label)), *map(str, files.values())]
    answered = subprocess.run(command, capture_output=True, text=True)
    if answered.returncode:
        raise RuntimeError(f"The saved model could not be used by a new process:\n{answered.stderr}")
    told = json.loads(answered.stdout)
    lines = [f"{question} The truth is {data.labels[label][row]!r}."]
    for name, answer in zip(files, told["answers"]):
        scores = ", ".join(f"{each}: {score:.2f}" for each, score in answer["scores"].items())
        lines.append(f"From {name}: {scores}. Described: {answer['text']}")
    sections = [
        (f"Scan {scan['scan_id']} of the held-out site, read by a {told['class']}", "\n\n".join(lines))
    ]
    if cohort is not None:
        _say(
            "Two real resting-state scans are described (computed from their connectivity, not by the model)"
        )
        sections += [(f"Real scan: {name}", text) for name, text in describe_real_scans()]
    return sections


def _table(results: dict[str, Any]) -> str:
    rows = [["task", "reader", "accuracy", "balanced", "AUC"], *score_rows(results["tasks"])]
    return "\n" + "\n".join(f"{a:<12} {b:<36} {c:>9} {d:>9} {e:>6}" for a, b, c, d, e in rows)


__all__ = ["run_demo"]
