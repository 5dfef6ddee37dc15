"""Run the demo end to end: a cohort, its corpus, three stages of training, an evaluation, and answers about a scan."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import yaml

from ..corpus.build import CorpusConfig, build_corpus
from ..evaluation.evaluate import evaluate, split_rows
from ..evaluation.results import EvaluationConfig, EvaluationReport
from ..evaluation.tasks import Task, tasks_of_columns
from ..files import write_text
from ..models.atlas import Atlas
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..models.scan_errors import ScanError
from ..scans.dataset import load_scan_dataset, write_scan_dataset
from ..scans.splits import SplitManifest
from ..simulation import SimulatedCohort, simulate_cohort
from ..simulation.cohort import DEFAULT_SITES
from ..simulation.images import write_nifti
from ..training import alignment, instruction, tokenizer
from ..training.arguments import StageArguments, parse
from .report import demo_page, describe_real_scans, scan_part, training_part

N_TRUTH = 60  # scans whose descriptions and answers about network pairs are checked
# Baselines and controls; `fmri-lm evaluate` has more, which take longer
PREDICTORS = (
    "connectivity_logistic",
    "network_logistic",
    "confounds",
    "majority",
    "without_scan",
    "other_scan",
)
MAX_TIMEPOINTS = 480  # longest input; cohorts of shorter scans use the length of their longest one
TITLES = {
    "tokenizer": "Stage 1: the tokenizer learns to turn scans into tokens",
    "alignment": "Stage 2: the language model learns to read the tokens",
    "instruction": "Stage 3: it learns to answer questions about scans",
}
STAGES: dict[str, tuple[Any, type[StageArguments]]] = {
    "tokenizer": (tokenizer.train, tokenizer.TokenizerArguments),
    "alignment": (alignment.train, alignment.AlignmentArguments),
    "instruction": (instruction.train, instruction.InstructionArguments),
}


@dataclass
class DemoReport(EvaluationReport):
    """The results of the demo: an evaluation, with numbers of scans, time in seconds and peak memory in MB.

    `failures` are the scans that could not be described.
    """

    n_train: int = 0
    n_test: int = 0
    seconds: float = 0.0
    peak_rss_mb: int = 0


def run_demo(
    out: Path,
    scans: Path | None = None,
    atlas: Path | None = None,
    labels: Sequence[str] = ("sex", "diagnosis"),
    holdout_site: str = "B",
    seed: int = 0,
    options: Mapping[str, Sequence[str]] | None = None,
    families: Sequence[str] = ("connectivity",),
    n_train: int | None = None,
    n_robustness: int = 0,
    languages: Sequence[str] = (),
) -> DemoReport:
    """Train and evaluate a small model; write `model/`, `results.json` and `report.html` into `out`.

    Parameters
    ----------
    out : Path
        A folder; results of an earlier run in it are replaced.
    scans : Path, optional
        A scan dataset; a cohort is simulated by default.
    atlas : Path, optional
        JSON file of the scans' atlas, where the dataset does not carry it.
    labels : sequence of str
        Label columns to ask about.
    holdout_site : str
        The site whose scans are kept for testing.
    seed : int
        Of the cohort, the corpus and every stage.
    options : mapping of str to sequence of str, optional
        Stage -> changes to the recipe ``demo/STAGE``, as words of its command line.
    families : sequence of str
        Families of descriptors in the corpus.
    n_train : int, optional
        Simulated scans of site A, in place of 800.
    n_robustness, languages
        As `EvaluationConfig` has them.

    Returns
    -------
    DemoReport
    """
    if scans is not None and n_train is not None:
        raise ValueError("`n_train` varies the number of simulated scans: leave out --scans.")
    start = time.time()
    for name in ("model", "corpus", "stages"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    cohort = None
    if scans is None:
        cohort = _simulate(out / "scans", seed, n_train)
        scans = out / "scans"
    elif atlas is not None:  # a copy of the dataset with the atlas that it lacks
        dataset, _ = load_scan_dataset(scans)
        shutil.rmtree(out / "scans", ignore_errors=True)
        scans = write_scan_dataset(dataset, out / "scans", Atlas.from_json(atlas))
    dataset, dataset_atlas = load_scan_dataset(scans)
    if dataset_atlas is None:
        raise ScanError(f"{scans} has no atlas.json: give `--atlas` the JSON file of its ROIs.")
    sites = dataset.unique("site")
    if holdout_site not in sites or len(sites) < 2:
        raise ScanError(
            f"Site {holdout_site!r} cannot be held out: the scans come from {', '.join(map(repr, sites))}. "
            "Give `--holdout-site` one of at least two sites."
        )
    _announce("Every scan is described in words, compared with the training subjects only")
    corpus = CorpusConfig(
        families=list(families),
        lengths=["sentence"],
        wordings=3,
        fractions=(1, 0, 0),
        holdout_sites=[holdout_site],
        seed=seed,
        simulated=cohort is not None,
    )
    build_corpus(scans, out / "corpus", corpus, progress=True)
    splits = SplitManifest.from_json(out / "corpus" / "splits.json")
    rows = split_rows(dataset, splits)
    tasks = tasks_of_columns(dataset, labels, rows["train"], rows["test"])
    logs = _train(out, scans, dataset, tasks, seed, options or {})

    _announce(f"Evaluation on site {holdout_site}, none of whose scans were used in training")
    model = FmriLMForCausalLM.from_pretrained(out / "model")
    processor = FmriLMProcessor.from_pretrained(out / "model")
    config = EvaluationConfig(
        predictors=PREDICTORS,
        n_truth=N_TRUTH,
        n_robustness=n_robustness,
        languages=languages,
        seed=seed,
        confounding=False,
    )
    evaluation = evaluate(model, processor, dataset, tasks, splits, config)
    evaluation.simulated = cohort is not None
    if cohort is not None:
        for name, scores in cohort.oracle_scores(dataset.select(rows["test"])).items():
            if name in evaluation.tasks:
                evaluation.tasks[name]["oracle"] = scores  # type: ignore[assignment]
    evaluation.to_json(out / "model" / "results.json")

    first_task = next(iter(tasks.values()))
    sections = _single_scans(out, dataset, dataset_atlas, rows["test"], first_task, cohort)
    shutil.rmtree(out / "stages")
    report = DemoReport(
        **vars(evaluation),
        n_train=len(rows["train"]),
        n_test=len(rows["test"]),
        seconds=round(time.time() - start, 1),
        peak_rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )
    report.failures = json.loads((out / "corpus" / "failures.json").read_text(encoding="utf-8"))
    report.to_json(out / "results.json")
    failed, ids = {each["scan_id"] for each in report.failures}, list(map(str, dataset["scan_id"]))
    shown = next(row for row in rows["test"] if ids[row] not in failed)
    pictures = [
        scan_part(processor.feature_extractor, dataset[shown], dataset_atlas),
        training_part(logs),
    ]
    write_text(demo_page(report, dataset_atlas, pictures, sections), out / "report.html")
    print("\n" + report.summary())
    for title, text in sections:
        print(f"\n{title}\n{text}")
    print(f"\n{report.seconds:.0f} s, {report.peak_rss_mb} MB. Pictures: {out / 'report.html'}")
    if cohort is not None:
        print("These weights were trained on simulated scans. They mean nothing clinically.")
    return report


def _announce(step: str) -> None:
    print(f"\n{step}", flush=True)


def _simulate(folder: Path, seed: int, n_train: int | None) -> SimulatedCohort:
    to_learn, to_test = DEFAULT_SITES
    if n_train is not None:
        to_learn = replace(to_learn, n_subjects=n_train)
    _announce(
        f"Simulating two sites: {to_learn.n_subjects} scans of site {to_learn.name} for training, "
        f"{to_test.n_subjects} of site {to_test.name} for testing"
    )
    cohort = simulate_cohort(sites=(to_learn, to_test), seed=seed)
    shutil.rmtree(folder, ignore_errors=True)
    write_scan_dataset(cohort.dataset, folder, cohort.atlas, parameters={"simulated": True, "seed": seed})
    return cohort


def _train(
    out: Path,
    scans: Path,
    dataset: datasets.Dataset,
    tasks: Mapping[str, Task],
    seed: int,
    options: Mapping[str, Sequence[str]],
) -> dict[str, list[dict[str, float]]]:
    """Run the recipes of the demo in order; return the log of each stage."""
    stages, corpus = out / "stages", out / "corpus"
    write_text(yaml.safe_dump({name: task.to_dict() for name, task in tasks.items()}), stages / "tasks.yaml")
    length = _input_length(dataset, t_r=2.0)
    common = {"scans": scans, "corpus": corpus, "feature_store": stages / "features", "seed": seed}
    given: dict[str, dict[str, Any]] = {
        "tokenizer": {"tokenizer.n_timepoints": length, "tokenizer.patch_size": length},
        "alignment": {"plain_text": corpus, "fmri_tokenizer": stages / "tokenizer"},
        "instruction": {"questions": stages / "tasks.yaml", "model": stages / "alignment"},
    }
    logs = {}
    for stage, (train, arguments) in STAGES.items():
        _announce(TITLES[stage])
        folder = out / "model" if stage == "instruction" else stages / stage
        words = [f"demo/{stage}"]
        for name, value in (common | given[stage] | {"output_dir": folder}).items():
            words += [f"--{name}", str(value)]
        trainer = train(parse(arguments, [*words, *options.get(stage, ())]))
        logs[stage] = [entry for entry in trainer.state.log_history if "loss" in entry]
    return logs


def _input_length(dataset: datasets.Dataset, t_r: float) -> int:
    """Return the number of time points that hold the longest scan at the model's TR, within limits."""
    lengths = [len(scan["bold"]) * float(scan["t_r"] or t_r) / t_r for scan in dataset.select_columns(["bold", "t_r"])]
    return int(np.clip(np.floor(max(lengths)), 40, MAX_TIMEPOINTS))


def _single_scans(
    out: Path,
    dataset: datasets.Dataset,
    atlas: Atlas,
    test: Sequence[int],
    task: Task,
    cohort: SimulatedCohort | None,
) -> list[tuple[str, str]]:
    """Ask the saved model about a test scan, loaded with the Auto classes in a new process."""
    values = list(dataset[task.column])
    row = next(row for row in test if task.answer(values[row]) is not None)
    scan = dataset[row]
    table = out / "scan.npz"
    np.savez(table, bold=scan["bold"], t_r=scan["t_r"], roi_names=np.array(atlas.roi_names))
    files = {"its table of ROI time series": table}
    if cohort is not None:
        image = write_nifti(scan["bold"], atlas, out / "scan_bold.nii.gz", t_r=scan["t_r"])
        files["the same scan as a 4D NIfTI image in MNI space"] = image
    _announce("The saved model, loaded in a new process, answers about a single scan")
    question = task.ask[0]
    command = [sys.executable, "-m", "fmri_lm_hf.demo.ask", str(out / "model"), question]
    command += [json.dumps(task.classes), *map(str, files.values())]
    # A new process has nothing of this one in memory: what the saved folder lacks shows here, not at a user's desk.
    answered = subprocess.run(command, capture_output=True, text=True)
    if answered.returncode:
        raise RuntimeError(f"The saved model could not be used in a new process:\n{answered.stderr}")
    found = json.loads(answered.stdout)
    lines = [f"{question} The right answer is {task.answer(values[row])!r}."]
    for name, answer in zip(files, found["answers"]):
        scores = ", ".join(f"{each}: {score:.2f}" for each, score in answer["scores"].items())
        told = f"{scores}." if scores else f"declined. {answer['declined']}"
        lines.append(f"From {name}: {told} Described: {answer['text']}")
    title = f"Scan {scan['scan_id']} of the held-out site, read by a {found['class']}"
    sections = [(title, "\n\n".join(lines))]
    sections += [(f"Real scan: {name}", text) for name, text in describe_real_scans()]
    return sections
