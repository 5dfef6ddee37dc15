"""The demo from end to end: a cohort, its corpus, the stages' recipes, `evaluate`, and a new process that asks."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import yaml

from ..corpus.build import CorpusConfig, build_corpus
from ..evaluation.evaluate import evaluate, split_rows
from ..evaluation.tables import score_table, truth_table
from ..evaluation.tasks import Task, tasks_of_columns
from ..files import write_json, write_text
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
from .report import describe_real_scans, write_report

logger = logging.getLogger(__name__)

N_TRUTH = 60  # scans whose descriptions and answers about network pairs are checked
# What stands beside the model; `fmri-lm evaluate` has more, which take longer
READERS_BESIDE = (
    "connectivity_logistic",
    "network_logistic",
    "confounds",
    "majority",
    "without_scan",
    "other_scan",
)
MAX_TIMEPOINTS = 480  # longest input; cohorts of shorter scans use the length of their longest one
STAGES: dict[str, tuple[Any, type[StageArguments]]] = {
    "tokenizer": (tokenizer.train, tokenizer.TokenizerArguments),
    "alignment": (alignment.train, alignment.AlignmentArguments),
    "instruction": (instruction.train, instruction.InstructionArguments),
}


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
    seed : int
        Of the cohort, the corpus and every stage.
    options : mapping of str to sequence of str, optional
        What to change in the recipe ``demo/STAGE``, as words of its command line.
    families : sequence of str
        Families of descriptors that the corpus has.
    n_train : int, optional
        Simulated scans of site A, in place of 800.
    n_robustness : int
        Test scans that are asked about again, measured worse, as `evaluate` takes it.
    languages : sequence of str
        In which the model is asked about network pairs besides English, as `evaluate` takes them.

    Returns
    -------
    dict
        Content of `results.json`: what `evaluate` returns, with `simulated`, `holdout_site`, `n_train`, `n_test`,
        `seconds` and `peak_rss_mb`.
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
    elif atlas is not None:
        scans = _with_atlas(scans, Atlas.from_json(atlas), out / "scans")
    dataset, dataset_atlas = load_scan_dataset(scans)
    if dataset_atlas is None:
        raise ScanError(f"{scans} carries no atlas.json: give `--atlas` the JSON file of its ROIs.")
    _check_site(dataset, holdout_site)
    _say("Every scan is described in words, compared with the training subjects only")
    config = CorpusConfig(
        families=list(families),
        lengths=["sentence"],
        wordings=3,
        fractions=(1, 0, 0),
        holdout_sites=[holdout_site],
        seed=seed,
        simulated=cohort is not None,
    )
    build_corpus(scans, out / "corpus", config, progress=True)
    splits = SplitManifest.from_json(out / "corpus" / "splits.json")
    rows = split_rows(dataset, splits)
    tasks = tasks_of_columns(dataset, labels, rows["train"], rows["test"])
    logs = _train(out, scans, dataset, tasks, seed, options or {})

    _say(f"Site {holdout_site}, which was never seen")
    model = FmriLMForCausalLM.from_pretrained(out / "model")
    processor = FmriLMProcessor.from_pretrained(out / "model")
    results = evaluate(
        model,
        processor,
        dataset,
        tasks,
        splits,
        READERS_BESIDE,
        n_truth=N_TRUTH,
        n_robustness=n_robustness,
        languages=languages,
        seed=seed,
        confounding=False,
    )
    if cohort is not None:
        oracle = cohort.oracle_scores(dataset.select(rows["test"]))
        for name, readers in results["tasks"].items():
            readers["oracle"] = oracle[name]
    results |= {"simulated": cohort is not None, "holdout_site": holdout_site}
    write_json(results, out / "model" / "results.json")

    sections = _single_scans(
        out, dataset, dataset_atlas, processor, rows["test"], next(iter(tasks.values())), cohort
    )
    shutil.rmtree(out / "stages")
    results |= {
        "n_train": len(rows["train"]),
        "n_test": len(rows["test"]),
        "failures": json.loads((out / "corpus" / "failures.json").read_text(encoding="utf-8")),
        "seconds": round(time.time() - start, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    write_json(results, out / "results.json")
    shown = _first_usable(dataset, rows["test"], results)
    inputs, extractor = processor.feature_extractor(dataset[shown]), processor.feature_extractor
    scan_id = str(dataset[shown]["scan_id"])
    write_report(out / "report.html", inputs, scan_id, dataset_atlas, extractor.t_r, logs, results, sections)
    print("\n" + score_table(results))
    if "truth" in results:
        print("\n" + truth_table(results["truth"]))
    for title, text in sections:
        print(f"\n{title}\n{text}")
    print(f"\n{results['seconds']:.0f} s, {results['peak_rss_mb']} MB. Pictures: {out / 'report.html'}")
    if cohort is not None:
        print("These weights were trained on simulated scans. They mean nothing clinically.")
    return results


def _say(what: str) -> None:
    print(f"\n{what}", flush=True)


def _simulate(folder: Path, seed: int, n_train: int | None) -> SimulatedCohort:
    to_learn, to_test = DEFAULT_SITES
    if n_train is not None:
        to_learn = replace(to_learn, n_subjects=n_train)
    _say(
        f"Simulating two sites: {to_learn.n_subjects} scans of site {to_learn.name} to learn from, "
        f"{to_test.n_subjects} of site {to_test.name} to be tested on"
    )
    cohort = simulate_cohort(sites=(to_learn, to_test), seed=seed)
    shutil.rmtree(folder, ignore_errors=True)
    write_scan_dataset(cohort.dataset, folder, cohort.atlas, parameters={"simulated": True, "seed": seed})
    return cohort


def _with_atlas(scans: Path, atlas: Atlas, folder: Path) -> Path:
    """A copy of a scan dataset with the atlas that it lacks."""
    dataset, _ = load_scan_dataset(scans)
    shutil.rmtree(folder, ignore_errors=True)
    return write_scan_dataset(dataset, folder, atlas)


def _check_site(dataset: datasets.Dataset, holdout_site: str) -> None:
    sites = dataset.unique("site")
    if holdout_site not in sites or len(sites) < 2:
        raise ScanError(
            f"Site {holdout_site!r} cannot be held out: the scans come from {', '.join(map(repr, sites))}. "
            "Give `--holdout-site` one of at least two sites."
        )


def _train(
    out: Path,
    scans: Path,
    dataset: datasets.Dataset,
    tasks: Mapping[str, Task],
    seed: int,
    options: Mapping[str, Sequence[str]],
) -> dict[str, list[dict[str, float]]]:
    """Run the recipes of the demo, one after the other; return what each stage logged."""
    stages, corpus = out / "stages", str(out / "corpus")
    write_text(yaml.safe_dump({name: task.to_dict() for name, task in tasks.items()}), stages / "tasks.yaml")
    n_timepoints = str(_input_length(dataset, t_r=2.0))
    given = {
        "tokenizer": {
            "scans": scans,
            "corpus": corpus,
            "tokenizer.n_timepoints": n_timepoints,
            "tokenizer.patch_size": n_timepoints,
        },
        "alignment": {
            "scans": scans,
            "corpus": corpus,
            "plain_text": corpus,
            "fmri_tokenizer": stages / "tokenizer",
        },
        "instruction": {
            "scans": scans,
            "corpus": corpus,
            "questions": stages / "tasks.yaml",
            "model": stages / "alignment",
        },
    }
    titles = {
        "tokenizer": "Stage 1: the tokenizer learns to turn scans into tokens",
        "alignment": "Stage 2: the language model learns to read the tokens",
        "instruction": "Stage 3: it learns to answer questions about scans",
    }
    logs = {}
    for stage, (train, arguments) in STAGES.items():
        _say(titles[stage])
        folder = out / "model" if stage == "instruction" else stages / stage
        common = {"output_dir": folder, "feature_store": stages / "features", "seed": seed}
        words = [f"demo/{stage}"]
        for name, value in (given[stage] | common).items():
            words += [f"--{name}", str(value)]
        trainer = train(parse(arguments, [*words, *options.get(stage, ())]))
        logs[stage] = [entry for entry in trainer.state.log_history if "loss" in entry]
    return logs


def _input_length(dataset: datasets.Dataset, t_r: float) -> int:
    """Time points that hold the longest scan at the model's TR, within limits."""
    lengths = [
        len(scan["bold"]) * float(scan["t_r"] or t_r) / t_r
        for scan in dataset.select_columns(["bold", "t_r"])
    ]
    return int(np.clip(np.floor(max(lengths)), 40, MAX_TIMEPOINTS))


def _first_usable(dataset: datasets.Dataset, rows: Sequence[int], results: Mapping[str, Any]) -> int:
    failed = {failure["scan_id"] for failure in results["failures"]}
    ids = list(dataset["scan_id"])
    return next(row for row in rows if str(ids[row]) not in failed)


def _single_scans(
    out: Path,
    dataset: datasets.Dataset,
    atlas: Atlas,
    processor: FmriLMProcessor,
    test: Sequence[int],
    task: Task,
    cohort: SimulatedCohort | None,
) -> list[tuple[str, str]]:
    """Answers about a held-out scan, given by a new process that loads the saved model with the Auto classes."""
    values = list(dataset[task.column])
    row = next(row for row in test if task.answer(values[row]) is not None)
    scan = dataset[row]
    table = out / "scan.npz"
    np.savez(table, bold=scan["bold"], t_r=scan["t_r"], roi_names=np.array(atlas.roi_names))
    files = {"its table of ROI time series": table}
    if cohort is not None:
        image = write_nifti(scan["bold"], atlas, out / "scan_bold.nii.gz", t_r=scan["t_r"])
        files["the same scan as a 4D NIfTI image in MNI space"] = image
    _say("The saved model, loaded by a new process, is asked about single scans")
    question = task.ask[0]
    command = [sys.executable, "-m", "fmri_lm_hf.demo.ask", str(out / "model"), question]
    command += [json.dumps(task.classes), *map(str, files.values())]
    answered = subprocess.run(command, capture_output=True, text=True)
    if answered.returncode:
        raise RuntimeError(f"The saved model could not be used by a new process:\n{answered.stderr}")
    told = json.loads(answered.stdout)
    lines = [f"{question} The truth is {task.answer(values[row])!r}."]
    for name, answer in zip(files, told["answers"]):
        scores = ", ".join(f"{each}: {score:.2f}" for each, score in answer["scores"].items())
        lines.append(f"From {name}: {scores}. Described: {answer['text']}")
    sections = [
        (f"Scan {scan['scan_id']} of the held-out site, read by a {told['class']}", "\n\n".join(lines))
    ]
    sections += [(f"Real scan: {name}", text) for name, text in describe_real_scans()]
    return sections
