"""Run an ablation study: the demo's stages with one part of the method changed at a time, evaluated on an unseen site.

  python -m experiments.ablation data --out study_data                       # 100, 200, 400, 800 training scans
  python -m experiments.ablation lora --seeds 0 1 2 --out study_lora
  python -m experiments.ablation lora --scans my_scans --labels sex --holdout-site B --out study_lora_mine
  python -m experiments.ablation my_study.yaml --out my_study

The studies in experiments/studies: pairs (with and without network pairs of scans and texts), families (each family of
descriptors left out), lora (adapters against all weights), data (number of training scans), quantizer, input_features,
robustness (perturbed scans), languages (questions in French and German). A study of your own is a YAML file:

  about: Does a wider tokenizer help?
  every: {}                            # changed in all variants
  variants:
    as it is: {}
    wider: {tokenizer: {tokenizer.hidden_size: 256}}

A variant may change options of the recipe of a stage (by the stage's name), `families` of descriptors in the corpus,
and `n_train`, the number of simulated training scans. A study may also have `n_robustness` and `languages`.

Each variant takes as long as the demo, a few minutes on two cores. Finished variants are not run again, so a stopped
study can be resumed. Into --out go study.json, report.html, and a folder for each variant and seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import yaml

from experiments import run_command, text_table
from fmri_lm_hf.cli.demo import add_cohort_arguments
from fmri_lm_hf.demo.run import STAGES, run_demo
from fmri_lm_hf.evaluation.predictors import MODEL
from fmri_lm_hf.evaluation.report import COLOURS, robustness_parts
from fmri_lm_hf.evaluation.tables import number
from fmri_lm_hf.files import content_hash, write_json, write_text
from fmri_lm_hf.pages import html_table, new_figure, page, paragraph, picture

_FOLDER = Path(__file__).with_name("studies")
STUDIES = tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
BASELINES = ("connectivity_logistic", "network_logistic")  # in the table and the figure, next to the model
SIMULATED = "Trained and evaluated on simulated scans: a study of the method, not of brains."


@dataclass(frozen=True)
class Variant:
    """The changes that one variant makes to the demo.

    Attributes
    ----------
    name : str
    stages : dict of str to dict
        Stage -> option of its recipe -> value.
    families : tuple of str
        Of the corpus.
    n_train : int, optional
        Number of simulated training scans.
    """

    name: str
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    families: tuple[str, ...] = ("connectivity",)
    n_train: int | None = None

    def words(self, stage: str) -> list[str]:
        """The options of a stage as words of its command line."""
        words = []
        for name, value in self.stages.get(stage, {}).items():
            # an entry of a mapping (`tokenizer.fsq_levels`) is read as YAML, one word for a whole list; any other
            # list is one word for each item
            if "." in name or isinstance(value, bool):
                values = [value if isinstance(value, str) else json.dumps(value)]
            else:
                values = list(map(str, value if isinstance(value, list) else [value]))
            words += [f"--{name}", *values]
        return words


@dataclass(frozen=True)
class AblationStudy:
    """A question and its variants.

    Attributes
    ----------
    name, about : str
    variants : tuple of Variant
    n_robustness : int
        Scans that are perturbed and asked about again, as `evaluate` takes it.
    languages : tuple of str
        Languages besides English in which models are asked about network pairs.
    """

    name: str
    about: str
    variants: tuple[Variant, ...]
    n_robustness: int = 0
    languages: tuple[str, ...] = ()


class VariantResults(TypedDict):
    """The changes of a variant, and the results of its demo by seed."""

    changed: dict[str, Any]
    runs: dict[str, dict[str, Any]]


class StudyResults(TypedDict):
    """The contents of `study.json`; `simulated` if all scans were."""

    study: str
    about: str
    simulated: bool
    variants: dict[str, VariantResults]


def load_study(name: str) -> AblationStudy:
    """Load one of `STUDIES`, or a YAML file.

    Raises
    ------
    ValueError
        When there is no such study, or something in it is unknown.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"There is no study {name!r}: give one of {', '.join(STUDIES)}, or a YAML file.")
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {"about", "every", "variants", "n_robustness", "languages"}
    if not isinstance(declared, Mapping) or not declared.get("variants") or set(declared) - known:
        found = ", ".join(map(str, declared)) if isinstance(declared, Mapping) else "not a mapping"
        raise ValueError(
            f"{path.name} is not a study: expected `about` and `variants`, and optionally `every`, `n_robustness` and "
            f"`languages`; found {found}."
        )
    every = declared.get("every") or {}
    variants = declared["variants"].items()
    return AblationStudy(
        path.stem,
        str(declared.get("about", "")),
        tuple(_variant(path.name, str(variant), every, changes or {}) for variant, changes in variants),
        int(declared.get("n_robustness", 0)),
        tuple(declared.get("languages", ())),
    )


def _variant(file: str, name: str, every: Mapping[str, Any], changes: Mapping[str, Any]) -> Variant:
    if unknown := sorted((set(every) | set(changes)) - {*STAGES, "families", "n_train"}):
        raise ValueError(
            f"{file} changes {', '.join(unknown)} in {name!r}; it can change the stages {', '.join(STAGES)}, "
            "`families` and `n_train`."
        )
    both = {**every, **changes}
    stages = {stage: {**every.get(stage, {}), **changes.get(stage, {})} for stage in STAGES if stage in both}
    return Variant(
        name,
        {stage: options for stage, options in stages.items() if options},
        tuple(both.get("families", Variant.families)),
        int(both["n_train"]) if "n_train" in both else None,
    )


def run_study(
    study: AblationStudy,
    out: Path,
    scans: Path | None = None,
    atlas: Path | None = None,
    labels: Sequence[str] = ("sex", "diagnosis"),
    holdout_site: str = "B",
    seeds: Sequence[int] = (0,),
    options: Mapping[str, Sequence[str]] | None = None,
) -> StudyResults:
    """Run the demo once for each variant and seed; write `study.json` and `report.html` into `out`.

    A variant whose results are already in `out` is not run again.

    Parameters
    ----------
    study : AblationStudy
    out : Path
        Each run gets a folder of its own in it.
    scans, atlas, labels, holdout_site
        As `run_demo` takes them.
    seeds : sequence of int
    options : mapping of str to sequence of str, optional
        Changes to the recipes of all variants, as `run_demo` takes them.

    Returns
    -------
    StudyResults
        Each run has ``tasks``, ``truth``, ``seconds``, ``simulated``, and ``robustness`` if the study has it.
    """
    results: StudyResults = {"study": study.name, "about": study.about, "simulated": scans is None, "variants": {}}
    for variant in study.variants:
        changed = {"stages": variant.stages, "families": list(variant.families), "n_train": variant.n_train}
        runs = {}
        for seed in seeds:
            folder = out / f"{variant.name.replace(' ', '_')}-{seed}"
            given = {"options": options, "labels": list(labels), "holdout_site": holdout_site, "seed": seed}
            # all that the results depend on: a folder of other settings must not be taken for this run
            key = content_hash(changed, given, str(scans), study.n_robustness, study.languages)
            record_file = folder / "study_run.json"
            if not record_file.exists() or json.loads(record_file.read_text(encoding="utf-8"))["key"] != key:
                print(f"\n== {study.name}: {variant.name}, seed {seed}", flush=True)
                words = {stage: [*(options or {}).get(stage, ()), *variant.words(stage)] for stage in STAGES}
                report = run_demo(
                    folder,
                    scans,
                    atlas,
                    labels,
                    holdout_site,
                    seed,
                    words,
                    families=variant.families,
                    n_train=variant.n_train,
                    n_robustness=study.n_robustness,
                    languages=study.languages,
                )
                kept = ("tasks", "truth", "robustness", "simulated", "seconds")
                record = {name: value for name, value in report.to_dict().items() if name in kept}
                write_json({"key": key, "results": record}, record_file)
                for name in ("scans", "corpus"):  # a study has many, all made again in seconds
                    shutil.rmtree(folder / name, ignore_errors=True)
            # read again even after a new run, so that both ways give the same types
            runs[str(seed)] = json.loads(record_file.read_text(encoding="utf-8"))["results"]
        results["variants"][variant.name] = {"changed": changed, "runs": runs}
        results["simulated"] = all(run["simulated"] for run in runs.values())
        write_json(results, out / "study.json")  # after each variant: a stopped study keeps what it has
    write_text(page(f"Ablation study: {study.name}", _page_parts(results)), out / "report.html")
    return results


# ---------------------------------------------------------------------------------------------- table, page and figure


def study_rows(results: StudyResults) -> list[list[str]]:
    """The table of a study: means over seeds, with SD where there are several. The first row is the head."""
    languages = sorted(
        {
            code
            for variant in results["variants"].values()
            for run in variant["runs"].values()
            for code in run.get("truth", {}).get("languages", {})
        }
    )
    columns = ["balanced accuracy", "AUC", "connectivity", "networks", "bins of pairs", "descriptions"]
    rows = [["variant", "task", *columns, *(f"bins, asked in {code}" for code in languages)]]
    for name, variant in results["variants"].items():
        runs = list(variant["runs"].values())
        truths = [run["truth"] for run in runs if "truth" in run]
        truth = [
            _mean([each["pair_level"]["exact"] for each in truths]),
            _mean([each["descriptions"]["precision"] for each in truths]),
            *(_mean([each["languages"][code]["exact"] for each in truths]) for code in languages),
        ]
        for task in runs[0]["tasks"]:
            scores = [run["tasks"][task] for run in runs]
            model = [_mean([each[MODEL][metric] for each in scores]) for metric in ("balanced_accuracy", "auc")]
            # a baseline that could not be computed is absent
            baselines = [
                _mean([each.get(baseline, {}).get("balanced_accuracy") for each in scores]) for baseline in BASELINES
            ]
            rows.append([name, task, *model, *baselines, *truth])
    return rows


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return number(float(np.mean(known))) + deviation


def _page_parts(results: StudyResults) -> list[str]:
    head, *rows = study_rows(results)
    parts = [paragraph(results["about"]), *([paragraph(SIMULATED, "warning")] if results["simulated"] else [])]
    parts += [
        picture(_figure(results), "balanced accuracy of the variants"),
        html_table(head, rows),
        paragraph(
            "connectivity, networks: balanced accuracy of logistic regression on connectivity and on network "
            "connectivity, fitted to the same scans. bins of pairs, descriptions: share of true answers and statements."
        ),
    ]
    for variant in results["variants"].values():
        for run in variant["runs"].values():
            parts += robustness_parts(run.get("robustness"))
    return parts


def _figure(results: StudyResults) -> Any:
    """A dot for each run of each variant, and marks for the baselines."""
    names = list(results["variants"])
    tasks = list(next(iter(results["variants"][names[0]]["runs"].values()))["tasks"])
    figure = new_figure(figsize=(4.5 * len(tasks), 1.2 + 0.4 * len(names)), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0], tasks):
        for place, name in enumerate(names):
            for run in results["variants"][name]["runs"].values():
                for predictor, mark in ((MODEL, "o"), *zip(BASELINES, "|x")):
                    value = run["tasks"][task].get(predictor, {}).get("balanced_accuracy")
                    if value is not None:
                        colour = COLOURS["model" if predictor == MODEL else "baseline"]
                        axes.plot(value, place, mark, color=colour)
        axes.set_yticks(range(len(names)), names)
        axes.set(title=task, xlabel="balanced accuracy (| connectivity, x networks)")
    figure.axes[0].invert_yaxis()
    return figure


# ------------------------------------------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("study", metavar="STUDY", help=f"{', '.join(STUDIES)}, or a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    add_cohort_arguments(parser)
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="SEED",
        help="run each variant once for each (default: 0)",
    )


def run(args: argparse.Namespace) -> None:
    """Run the study and print its table."""
    study = load_study(args.study)
    results = run_study(study, args.out, args.scans, args.atlas, args.labels, args.holdout_site, args.seeds)
    print(f"\n{study.about}\n{text_table(study_rows(results))}\nPage: {args.out / 'report.html'}")
    if results["simulated"]:
        print(SIMULATED)


if __name__ == "__main__":
    run_command("python -m experiments.ablation", __doc__, add_arguments, run)
