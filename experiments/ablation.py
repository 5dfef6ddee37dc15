"""Studies: the demo's stages with one thing changed at a time, judged on the same unseen site.

A study is a YAML file in `studies/`, or one of yours: what it asks (`about`), what all its variants change in the demo
(`every`), and `variants`, each a name and what it changes besides. What can be changed: options of the recipe of a
stage, by the stage's name; `families` of descriptors in the corpus; `n_train`, how many simulated scans to learn from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fmri_lm_hf.demo.run import STAGES, run_demo
from fmri_lm_hf.evaluation.predictors import OURS
from fmri_lm_hf.evaluation.report import COLOURS, robustness_parts
from fmri_lm_hf.evaluation.tables import number
from fmri_lm_hf.files import content_hash, write_json, write_text
from fmri_lm_hf.pages import html_table, new_figure, page, picture

_FOLDER = Path(__file__).with_name("studies")
STUDIES = tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
BESIDE = ("connectivity_logistic", "network_logistic")  # readers whose scores stand beside the model's


@dataclass(frozen=True)
class Variant:
    """What is changed in the demo.

    Attributes
    ----------
    name : str
    stages : dict of str to dict
        Stage -> option of its recipe -> value.
    families : tuple of str
        Of the corpus.
    n_train : int, optional
        Simulated scans to learn from.
    """

    name: str
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    families: tuple[str, ...] = ("connectivity",)
    n_train: int | None = None

    def words(self, stage: str) -> list[str]:
        """The options of a stage as words of its command line."""
        words = []
        for name, value in self.stages.get(stage, {}).items():
            if "." in name or isinstance(value, bool):  # an entry of a mapping is read as YAML
                given = [value if isinstance(value, str) else json.dumps(value)]
            else:
                given = list(map(str, value if isinstance(value, list) else [value]))
            words += [f"--{name}", *given]
        return words


@dataclass(frozen=True)
class Study:
    """A question and its variants.

    Attributes
    ----------
    name, about : str
    variants : tuple of Variant
    n_robustness : int
        Scans that are asked about again, measured worse, as `evaluate` takes it.
    languages : tuple of str
        In which models are asked about network pairs besides English.
    """

    name: str
    about: str
    variants: tuple[Variant, ...]
    n_robustness: int = 0
    languages: tuple[str, ...] = ()


def load_study(name: str) -> Study:
    """One of `STUDIES`, or a YAML file.

    Raises
    ------
    ValueError
        When there is no such study, or something in it is unknown.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"There is no study {name}: give {', '.join(STUDIES)}, or a YAML file.")
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {"about", "every", "variants", "n_robustness", "languages"}
    if not isinstance(declared, Mapping) or not declared.get("variants") or set(declared) - known:
        found = ", ".join(map(str, declared)) if isinstance(declared, Mapping) else "no mapping"
        raise ValueError(
            f"{path.name} is no study: expected `about` and `variants`, and perhaps `every`, `n_robustness` and "
            f"`languages`; found {found}."
        )
    every = declared.get("every") or {}
    variants = tuple(
        _variant(path.name, str(variant), every, changes or {})
        for variant, changes in declared["variants"].items()
    )
    return Study(
        path.stem,
        str(declared.get("about", "")),
        variants,
        int(declared.get("n_robustness", 0)),
        tuple(declared.get("languages", ())),
    )


def _variant(file: str, name: str, every: Mapping[str, Any], changes: Mapping[str, Any]) -> Variant:
    if unknown := sorted((set(every) | set(changes)) - {*STAGES, "families", "n_train"}):
        raise ValueError(
            f"{file} changes {', '.join(unknown)} in {name!r}; it can change the stages {', '.join(STAGES)}, "
            "`families` and `n_train`."
        )
    stages = {stage: {**every.get(stage, {}), **changes.get(stage, {})} for stage in STAGES}
    both = {**every, **changes}
    more: dict[str, Any] = {}
    if "families" in both:
        more["families"] = tuple(both["families"])
    if "n_train" in both:
        more["n_train"] = int(both["n_train"])
    return Variant(name, {stage: options for stage, options in stages.items() if options}, **more)


def run_study(
    study: Study,
    out: Path,
    scans: Path | None = None,
    atlas: Path | None = None,
    labels: Sequence[str] = ("sex", "diagnosis"),
    holdout_site: str = "B",
    seeds: Sequence[int] = (0,),
    options: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Run the demo once for each variant and seed; write `study.json` and `report.html` into `out`.

    A variant whose results are in `out` already is not run again.

    Parameters
    ----------
    study : Study
    out : Path
        Each run gets a folder of its own in it.
    scans, atlas, labels, holdout_site
        As `run_demo` takes them.
    seeds : sequence of int
    options : mapping of str to sequence of str, optional
        Changes to the recipes of all variants, as `run_demo` takes them.

    Returns
    -------
    dict
        ``about``; ``simulated``; ``variants`` -> name -> ``changed``, and ``runs`` by seed, each with ``tasks``,
        ``truth``, ``seconds``, and ``robustness`` if the study wants it.
    """
    found: dict[str, Any] = {"study": study.name, "about": study.about, "variants": {}}
    for variant in study.variants:
        changed = {"stages": variant.stages, "families": list(variant.families), "n_train": variant.n_train}
        runs = {}
        for seed in seeds:
            folder = out / f"{variant.name.replace(' ', '_')}-{seed}"
            given = {"options": options, "labels": list(labels), "holdout_site": holdout_site, "seed": seed}
            key = content_hash(changed, given, str(scans), study.n_robustness, study.languages)
            done = folder / "study_run.json"
            if not done.exists() or json.loads(done.read_text(encoding="utf-8"))["key"] != key:
                print(f"\n== {study.name}: {variant.name}, seed {seed}", flush=True)
                words = {stage: [*(options or {}).get(stage, ()), *variant.words(stage)] for stage in STAGES}
                results = run_demo(
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
                record = {name: results[name] for name in kept if name in results}
                write_json({"key": key, "results": record}, done)
                for name in ("scans", "corpus"):  # a study has many, all made again in seconds
                    shutil.rmtree(folder / name, ignore_errors=True)
            runs[str(seed)] = json.loads(done.read_text(encoding="utf-8"))["results"]
        found["variants"][variant.name] = {"changed": changed, "runs": runs}
        found["simulated"] = all(run["simulated"] for run in runs.values())
        write_json(found, out / "study.json")
    write_text(page(f"Study: {study.name}", _parts(found)), out / "report.html")
    return found


HEAD = (
    "variant",
    "task",
    "balanced accuracy",
    "AUC",
    "connectivity",
    "networks",
    "levels of pairs",
    "descriptions",
)


def study_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The table of a study: means over seeds, with SD where there are several. The first row is that of its head."""
    languages = sorted(
        {
            code
            for variant in found["variants"].values()
            for run in variant["runs"].values()
            for code in run.get("truth", {}).get("languages", {})
        }
    )
    rows = [[*HEAD, *(f"levels, asked in {code}" for code in languages)]]
    for name, variant in found["variants"].items():
        runs = list(variant["runs"].values())
        truths = [run["truth"] for run in runs if "truth" in run]
        said = [
            _mean([truth["pair_level"]["exact"] for truth in truths]),
            _mean([truth["descriptions"]["precision"] for truth in truths]),
            *(_mean([truth["languages"][code]["exact"] for truth in truths]) for code in languages),
        ]
        for task in runs[0]["tasks"]:
            scores = [run["tasks"][task] for run in runs]
            ours = [_mean([each[OURS][metric] for each in scores]) for metric in ("balanced_accuracy", "auc")]
            # a reader that could not be had is not there
            beside = [
                _mean([each.get(reader, {}).get("balanced_accuracy") for each in scores]) for reader in BESIDE
            ]
            rows.append([name, task, *ours, *beside, *said])
    return rows


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return number(float(np.mean(known))) + spread


def study_table(found: Mapping[str, Any]) -> str:
    """The table of a study as text for the terminal."""
    rows = study_rows(found)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def _parts(found: Mapping[str, Any]) -> list[str]:
    warning = (
        "<p class='warning'>Trained and judged on simulated scans: a study of the method, not of brains.</p>"
    )
    beside = (
        "<p>connectivity, networks: balanced accuracy of logistic regression on connectivity and on network "
        "connectivity, fitted to the same scans. levels of pairs, descriptions: the share that is true.</p>"
    )
    head, *rows = study_rows(found)
    parts = [f"<p>{found['about']}</p>", *([warning] if found["simulated"] else [])]
    parts += [
        picture(_drawn(found), "balanced accuracy of the variants"),
        html_table(head, rows),
        beside,
    ]
    for variant in found["variants"].values():
        for run in variant["runs"].values():
            parts += robustness_parts(run.get("robustness"))
    return parts


def _drawn(found: Mapping[str, Any]) -> Any:
    """A dot for each run of each variant, and the linear readers beside."""
    names = list(found["variants"])
    tasks = list(next(iter(found["variants"][names[0]]["runs"].values()))["tasks"])
    figure = new_figure(figsize=(4.5 * len(tasks), 1.2 + 0.4 * len(names)), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0], tasks):
        for place, name in enumerate(names):
            for run in found["variants"][name]["runs"].values():
                for reader, mark in ((OURS, "o"), *zip(BESIDE, "|x")):
                    value = run["tasks"][task].get(reader, {}).get("balanced_accuracy")
                    if value is not None:
                        axes.plot(
                            value, place, mark, color=COLOURS["model" if reader == OURS else "baseline"]
                        )
        axes.set_yticks(range(len(names)), names)
        axes.set(title=task, xlabel="balanced accuracy (| connectivity, x networks)")
    figure.axes[0].invert_yaxis()
    return figure
