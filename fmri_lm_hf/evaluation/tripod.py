"""A reporting checklist in the order of TRIPOD+AI [1]_, filled in from an evaluation report.

Items that no report contains are left to the authors. TRIPOD-LLM [2]_ asks for the wording of prompts, which is stated
with the outcome.

References
----------
.. [1] Collins GS, Moons KGM, Dhiman P et al. (2024). TRIPOD+AI statement: updated guidance for reporting clinical
   prediction models that use regression or machine learning methods. BMJ 385, e078378. doi:10.1136/bmj-2023-078378
.. [2] Gallifant J, Afshar M, Ameen S et al. (2025). The TRIPOD-LLM reporting guideline for studies using large language
   models. Nature Medicine 31, 60-69. doi:10.1038/s41591-024-03425-5
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .predictors import MODEL, title_of
from .results import EvaluationReport
from .tables import interval, number

TO_BE_STATED = "to be stated by the authors"


def reporting_checklist(report: EvaluationReport) -> str:
    """Write the checklist as Markdown."""
    items = _items(report)
    # labels and names of sites may hold anything: a cell is one line without its own separators
    cells = [" ".join((text or TO_BE_STATED).replace("|", "\\|").split()) for _, _, text in items]
    lines = [f"| {item} | {about} | {cell} |" for (item, about, _), cell in zip(items, cells)]
    n_filled = sum(bool(text) for _, _, text in items)
    return (
        "# Reporting checklist\n\n"
        "Items in the order of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378), shortened; the original "
        f"explains each. {n_filled} of {len(items)} are filled in from `results.json`: check them, and state the "
        "others.\n\n"
        "| item | about | statement |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _items(report: EvaluationReport) -> list[tuple[str, str, str]]:
    """List number, subject and statement of each item; "" for a statement that only authors can make."""

    def of_tasks(statement: Callable[[str], str]) -> str:
        return "; ".join(f"{task}: {statement(task)}" for task in report.questions)

    def outcome(task: str) -> str:
        asked = report.questions[task]
        return f"asked “{asked['question']}”, answers {' / '.join(asked['classes'])}"

    def size(task: str) -> str:
        asked = report.questions[task]
        return f"{asked['n_test']} test scans, {asked['n_train']} training scans of the linear baselines"

    def flow(task: str) -> str:
        counts = zip(report.confusion[task], report.questions[task]["classes"])
        return ", ".join(f"{sum(row)} {label}" for row, label in counts)

    def performance(task: str) -> str:
        scores, calibrated = report.tasks[task][MODEL], report.calibration[task].get(MODEL)
        return (
            f"balanced accuracy {number(scores['balanced_accuracy'])} "
            f"({interval(scores.get('balanced_accuracy_interval'))}), "
            + (f"ECE {number(calibrated['ece'])}" if calibrated else f"no answer in {scores['no_answer']:.1%}")
        )

    def verdict(task: str) -> str:
        not_beaten = report.verdict[task]["not_beaten"]
        return f"not above {_titles(not_beaten)}" if not_beaten else "above all baselines and controls"

    site = report.holdout_site
    tested = f"{report.split or 'test'} subjects" + (f" of the unseen site {site}" if site else "")
    tested = "each site in turn" if report.leave_one_site_out else tested
    leakage = f"{len(report.leaks)} cases of leakage were found and reported" if report.leaks else ""
    leakage = leakage or "no leakage between training and test scans was found"
    earlier = report.history["statement"] if report.history else ""
    others = [name for predictors in report.tasks.values() for name in predictors if name != MODEL]
    fetched = "".join(f"; {name} at {commit}" for name, commit in report.commits.items())
    described = report.truth["mirage"]["absent_described"] if report.truth else None
    poor_input = ["answers about degraded scans are in `robustness`"] if report.robustness else []
    if report.truth:
        poor_input.append(f"share of prompts without a scan, or with noise, described: {number(described)}")
    return [
        ("1", "title", ""),
        ("2", "abstract", ""),
        ("3a-c", "background: context, target population, inequalities", ""),
        ("4", "objectives", f"evaluation of one model on {tested} for {', '.join(report.questions)}"),
        ("5a-b", "data: sources, dates", _if(report.simulated, "simulated scans: the results mean nothing clinically")),
        ("6a-c", "participants: setting, eligibility, treatments", ""),
        ("7", "data preparation", "`provenance.json` of the scan dataset has the preprocessing of each scan"),
        ("8a-c", "outcome: what is predicted, how it was assessed", of_tasks(outcome)),
        ("9a-c", "predictors", "the fMRI series of ROIs of one scan; confounds alone are a control"),
        ("10", "sample size", of_tasks(size)),
        ("11", "missing data", f"{len(report.failures)} scans could not be read (listed); scans without an answer "
         "to a task are left out of it; missing ROIs are masked"),
        ("12a-b", "analysis: how data were used", f"one split a subject; {leakage}. {earlier}"),
        ("12c-d", "model type, building, hyperparameters", "`training_info.json` of the model"),
        ("12e-f", "performance measures, comparisons", "balanced accuracy and AUC with 95 % intervals of a bootstrap "
         "over subjects, permutation p, Brier score, calibration error and slope; compared with "
         + _titles(dict.fromkeys(others))),
        ("12g", "model updating", "none"),
        ("13", "class imbalance", "balanced accuracy decides; linear baselines weight classes equally"),
        ("14", "fairness", _if(report.subgroups, "scores by subgroup are in `subgroups` of `results.json`")),
        ("15", "model output", "a probability of each answer to a question in words; the likeliest counts"),
        ("16", "training against evaluation data", _if(site, f"the test site {site} took no part in training")),
        ("17", "ethical approval", ""),
        ("18a-f", "open science: funding, interests, protocol, registration, data, code",
         f"code: fmri_lm_hf; test scans have the hash {report.scans_sha256 or 'unknown'}{fetched}"),
        ("19", "patient and public involvement", ""),
        ("20a-c", "participants: flow, characteristics, comparison with training", of_tasks(flow)),
        ("21", "model development", "`training_info.json` of the model"),
        ("22", "model specification", "the checkpoint, in safetensors, with its configuration"),
        ("23a", "performance with intervals", of_tasks(performance)),
        ("23b", "heterogeneity", _if(report.sites, "scores of each site are in `sites` of `results.json`")),
        ("24", "results of updating", "none"),
        ("25", "interpretation, in view of controls and baselines", of_tasks(verdict)),
        ("26", "limitations", ""),
        ("27a-c", "usability, poor input, future steps", "; ".join(poor_input)),
    ]  # fmt: skip


def _if(known: object, statement: str) -> str:
    return statement if known else ""


def _titles(names: Iterable[str]) -> str:
    return ", ".join(map(title_of, names))
