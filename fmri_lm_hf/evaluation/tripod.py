"""A reporting checklist in the order of TRIPOD+AI [1]_, filled in with what an evaluation knows.

What a paper has to say and an evaluation cannot know is left to its authors. For prompts of a language model,
TRIPOD-LLM [2]_ asks for their wording, which stands with the outcome.

References
----------
.. [1] Collins GS, Moons KGM, Dhiman P et al. (2024). TRIPOD+AI statement: updated guidance for reporting clinical
   prediction models that use regression or machine learning methods. BMJ 385, e078378. doi:10.1136/bmj-2023-078378
.. [2] Gallifant J, Afshar M, Ameen S et al. (2025). The TRIPOD-LLM reporting guideline for studies using large language
   models. Nature Medicine 31, 60-69. doi:10.1038/s41591-024-03425-5
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .predictors import OURS, title_of
from .tables import interval, number

TO_BE_SAID = "to be said by the authors"


def tripod_table(results: Mapping[str, Any]) -> str:
    """The checklist as Markdown.

    Parameters
    ----------
    results : mapping
        What `evaluate` returned, or the content of `results.json`.
    """
    rows = [(number, item, _cell(found) if found else TO_BE_SAID) for number, item, found in _items(results)]
    lines = ["| item | about | said |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    n_open = sum(row[2] == TO_BE_SAID for row in rows)
    return (
        "# Reporting checklist\n\n"
        "Items in the order of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378), in short; read the "
        f"statement for what each asks. {len(rows) - n_open} of {len(rows)} are filled in from `results.json`, as far "
        "as it knows; check them, and say the others.\n\n" + "\n".join(lines) + "\n"
    )


def _items(results: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """Number, subject, and what is known; None for what only authors know."""
    asked = results["asked"]
    return [
        ("1", "title", None),
        ("2", "abstract", None),
        ("3a-c", "background: context, target population, inequalities", None),
        ("4", "objectives", f"evaluation of one model on {_split(results)} for {', '.join(asked)}"),
        ("5a-b", "data: sources, dates", _simulated(results)),
        ("6a-c", "participants: setting, eligibility, treatments", None),
        ("7", "data preparation", "`provenance.json` of the scan dataset has the preprocessing of each scan"),
        ("8a-c", "outcome: what is predicted, how it was assessed", _outcomes(asked)),
        ("9a-c", "predictors", "the fMRI series of ROIs of one scan; confounds stand beside as a control"),
        ("10", "sample size", _sizes(asked)),
        ("11", "missing data", _missing(results)),
        ("12a-b", "analysis: how data were used", _leaks(results)),
        ("12c-d", "model type, building, hyperparameters", "`training_info.json` of the model"),
        ("12e-f", "performance measures, comparisons", _measures(results)),
        ("12g", "model updating", "none"),
        ("13", "class imbalance", "balanced accuracy decides; linear readers weight classes equally"),
        ("14", "fairness", _groups(results)),
        ("15", "model output", "a probability of each answer to a question in words; the likeliest counts"),
        ("16", "training against evaluation data", _difference(results)),
        ("17", "ethical approval", None),
        ("18a-f", "open science: funding, interests, protocol, registration, data, code", _versions(results)),
        ("19", "patient and public involvement", None),
        ("20a-c", "participants: flow, characteristics, comparison with training", _flow(results)),
        ("21", "model development", "`training_info.json` of the model"),
        ("22", "model specification", "the checkpoint, in safetensors, with its configuration"),
        ("23a", "performance with intervals", _performance(results)),
        ("23b", "heterogeneity", _heterogeneity(results)),
        ("24", "results of updating", "none"),
        ("25", "interpretation, in view of controls and baselines", _verdicts(results)),
        ("26", "limitations", None),
        ("27a-c", "usability, poor input, future steps", _poor_input(results)),
    ]


def _cell(text: str) -> str:
    """One line, whatever labels and site names hold."""
    return " ".join(text.replace("|", "\\|").split())


def _split(results: Mapping[str, Any]) -> str:
    if "leave_one_site_out" in results:
        return "each site in turn"
    site = results.get("holdout_site")
    return f"{results.get('split', 'test')} subjects" + (f" of the unseen site {site}" if site else "")


def _simulated(results: Mapping[str, Any]) -> str | None:
    return "simulated scans: the results mean nothing clinically" if results.get("simulated") else None


def _outcomes(asked: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name}: asked “{about['question']}”, answers {' / '.join(about['classes'])}"
        for name, about in asked.items()
    )


def _sizes(asked: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name}: {about['n_test']} judged scans, {about['n_train']} that linear readers were fitted to"
        for name, about in asked.items()
    )


def _missing(results: Mapping[str, Any]) -> str:
    n_failures = len(results.get("failures", ()))
    return (
        f"{n_failures} scans could not be read and are listed; scans without an answer to a task are left out of it; "
        "missing ROIs are masked"
    )


def _leaks(results: Mapping[str, Any]) -> str:
    leaks = results.get("leaks", [])
    found = (
        f"{len(leaks)} leaks found and reported"
        if leaks
        else "no leak between training and judged scans was found"
    )
    return f"subjects are in one split each; {found}. {results.get('test_split', '')}"


def _measures(results: Mapping[str, Any]) -> str:
    readers = dict.fromkeys(name for task in results["tasks"].values() for name in task if name != OURS)
    return (
        "balanced accuracy and AUC with 95 % intervals of a bootstrap over subjects, permutation p, Brier score, "
        f"calibration error and slope; beside {', '.join(map(title_of, readers))}"
    )


def _groups(results: Mapping[str, Any]) -> str | None:
    groups = results.get("subgroups")
    return "scores by subgroup are in `subgroups` of `results.json`" if groups else None


def _difference(results: Mapping[str, Any]) -> str | None:
    site = results.get("holdout_site")
    return f"the judged site {site} took no part in training" if site else None


def _versions(results: Mapping[str, Any]) -> str:
    commits = results.get("commits") or {}
    told = [f"{name} at {commit}" for name, commit in commits.items()]
    return f"code: fmri_lm_hf; judged scans have the hash {results.get('scans_sha256', 'unknown')}" + "".join(
        f"; {each}" for each in told
    )


def _flow(results: Mapping[str, Any]) -> str:
    told = []
    for name, about in results["asked"].items():
        counts = [f"{sum(row)} {label}" for label, row in zip(about["classes"], results["confusion"][name])]
        told.append(f"{name}: {', '.join(counts)}")
    return "; ".join(told)


def _performance(results: Mapping[str, Any]) -> str:
    told = []
    for name, readers in results["tasks"].items():
        scores, calibrated = readers[OURS], results["calibration"][name].get(OURS)
        trusted = (
            f"no answer in {scores['no_answer']:.1%}"
            if calibrated is None
            else f"ECE {number(calibrated['ece'])}"
        )
        told.append(
            f"{name}: balanced accuracy {number(scores['balanced_accuracy'])} "
            f"({interval(scores.get('balanced_accuracy_interval'))}), {trusted}"
        )
    return "; ".join(told)


def _heterogeneity(results: Mapping[str, Any]) -> str | None:
    if "sites" in results:
        return f"scores of {len(results['sites'])} sites are in `sites` of `results.json`"
    return None


def _verdicts(results: Mapping[str, Any]) -> str:
    told = []
    for name, verdict in results["verdict"].items():
        beaten = verdict["not_beaten"]
        told.append(
            f"{name}: "
            + (
                f"not above {', '.join(map(title_of, beaten))}"
                if beaten
                else "above all that stands beside it"
            )
        )
    return "; ".join(told)


def _poor_input(results: Mapping[str, Any]) -> str | None:
    told = []
    if "robustness" in results:
        told.append("answers about scans measured worse are in `robustness`")
    if (mirage := results.get("truth", {}).get("mirage")) is not None:
        told.append(
            f"share of prompts without a scan, or with noise, described: {number(mirage['absent_described'])}"
        )
    return "; ".join(told) or None
