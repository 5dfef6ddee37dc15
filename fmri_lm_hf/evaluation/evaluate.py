"""Evaluate a model on the scans of test subjects, next to baselines and controls.

>>> report = evaluate(model, processor, scans, tasks, splits, EvaluationConfig(shots=[0, 2, 8]))
>>> print(report.summary())
>>> report.save("evaluation")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from ..declarations import declared_in_features
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..scans.splits import SplitManifest, make_splits
from .design import Design
from .leakage import LeakError, find_leaks
from .model_answers import Evaluation
from .results import EvaluationConfig, EvaluationReport, SitesLeftOut
from .scoring import TaskScores, pool, score_task
from .tasks import Task
from .uncertainty import between_sites


def evaluate(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: datasets.Dataset,
    tasks: Mapping[str, Task],
    splits: SplitManifest,
    config: EvaluationConfig | None = None,
    **options: Any,
) -> EvaluationReport:
    """Evaluate a model on the scans of test subjects.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
    scans : datasets.Dataset
        A scan dataset with the label columns.
    tasks : mapping of str to Task
    splits : SplitManifest
        Baselines are fitted to training subjects, test subjects are scored.
    config : EvaluationConfig, optional
    **options
        Fields of the configuration, as in the release before.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    LeakError
        For leakage, unless `config.refuse_leakage` is False.
    ValueError
        For a task of which no test scan has an answer that training scans have.
    """
    config = EvaluationConfig.of_call(config, options)
    rows = split_rows(scans, splits, config.split)
    # Leakage is checked before the model reads a scan: an hour of answers about leaked scans is an hour lost.
    design = Design.of_model(model, processor, scans, splits, rows, tasks, config.split, config.fitted)
    leaks = find_leaks(design)
    if leaks and config.refuse_leakage:
        raise LeakError(leaks)
    evaluation = Evaluation(model, processor, scans, tasks, rows["test"], config.seed)
    scores = {name: score_task(evaluation.split(name, rows), config.names, config.n_resamples) for name in tasks}
    report = _report(scores, evaluation)
    held_out = list(splits.parameters.get("holdout_sites") or ())
    if config.split == "test" and len(held_out) == 1:  # validation scans are of the training sites
        report.holdout_site = str(held_out[0])
    report.split = config.split
    report.scans_sha256, report.splits_sha256 = design.evaluated_sha256, splits.sha256
    report.leaks = [each.to_dict() for each in leaks]
    _analyse(report, config, evaluation, scores, rows)
    return report


def _analyse(
    report: EvaluationReport,
    config: EvaluationConfig,
    evaluation: Evaluation,
    scores: Mapping[str, TaskScores],
    rows: Mapping[str, Sequence[int]],
) -> None:
    """Add the further analyses of the configuration; the modules of the others are not imported."""
    # These analyses compare probabilities of answers, which a text written into a form does not have.
    choices = evaluation.multiple_choice()
    scores_of_choices = {name: scores[name] for name in choices.tasks}
    if config.n_wordings:
        from .robustness import wording_invariance

        report.wordings = wording_invariance(evaluation, scores_of_choices, config.n_wordings)
    if config.confounding:
        from .confounds import predictable_confounds, subgroups

        report.confounding = predictable_confounds(evaluation, config.seed)
        report.subgroups = subgroups(evaluation, scores, config.seed)
    if config.n_truth and evaluation.model.config.reads_network_pairs:
        from .truth import truth

        shown = [evaluation.scans[row] for row in evaluation.encoded.rows[: config.n_truth]]
        report.truth = truth(
            evaluation.model, evaluation.processor, shown, seed=config.seed, languages=config.languages
        )
    if config.shots and scores_of_choices:
        from .few_shot import few_shot

        report.few_shot = few_shot(choices, rows, config.shots)
    if config.n_occluded and scores_of_choices:
        from .attribution import explanations

        explained = explanations(choices, config.n_occluded)
        report.occlusion, report.integrated_gradients = explained["occlusion"], explained["integrated_gradients"]
    if config.n_robustness and scores_of_choices:
        from .robustness import robustness

        report.robustness = robustness(choices, scores_of_choices, config.n_robustness)


def evaluate_sites(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: datasets.Dataset,
    tasks: Mapping[str, Task],
    config: EvaluationConfig | None = None,
    **options: Any,
) -> EvaluationReport:
    """Evaluate a model on each site in turn, next to baselines that are fitted to all other sites.

    The model is not trained again: if it was trained on scans of these sites, its scores are not scores on unseen
    sites, and a claim about unseen sites needs a model that was trained without them.

    Parameters
    ----------
    model, processor, scans, tasks
        As `evaluate` takes them.
    config : EvaluationConfig, optional
        Only `predictors`, `n_resamples` and `seed` are used.
    **options
        Fields of the configuration, as in the release before.

    Returns
    -------
    EvaluationReport
        Scores on the scans of all sites together, with `sites`, `between_sites` and `leave_one_site_out`.

    Raises
    ------
    ValueError
        When the scans are of one site, or no site can be evaluated.
    """
    config = EvaluationConfig.of_call(config, options)
    sites = sorted({str(site) for site in scans["site"]})
    if len(sites) < 2:
        raise ValueError(f"All scans are of site {sites[0]}: leaving one site out takes scans of at least two.")
    # All scans are test scans of their own site, so the model reads each of them once, whatever the number of sites.
    evaluation = Evaluation(model, processor, scans, tasks, range(len(scans)), config.seed)
    of_sites: dict[str, dict[str, TaskScores]] = {}
    skipped: dict[str, str] = {}
    for site in sites:
        try:
            rows = split_rows(scans, hold_site_out(scans, site, config.seed))
            task_splits = {name: evaluation.split(name, rows) for name in tasks}
        except ValueError as error:
            skipped[site] = str(error)
            continue
        of_sites[site] = {
            name: score_task(each, config.names, config.n_resamples) for name, each in task_splits.items()
        }
    if not of_sites:
        raise ValueError(f"No site can be evaluated. {next(iter(skipped.values()))}")
    pooled = {name: pool({f"Site {site}": scores[name] for site, scores in of_sites.items()}) for name in tasks}
    report = _report(pooled, evaluation)
    report.leave_one_site_out = SitesLeftOut(sites=list(of_sites), not_evaluated=skipped, model_retrained=False)
    report.sites = {site: {name: each.scores() for name, each in scores.items()} for site, scores in of_sites.items()}
    report.between_sites = {
        name: {
            predictor: between_sites(
                [dict(each[name][predictor]).get(pooled[name].metric) for each in report.sites.values()]  # type: ignore[misc]
            )
            for predictor in predictors
        }
        for name, predictors in report.tasks.items()
    }
    return report


def split_rows(scans: datasets.Dataset, splits: SplitManifest, split: str = "test") -> dict[str, list[int]]:
    """Divide scans into those of training and of test subjects; of the test subjects, only scans of held-out sites.

    With ``split="validation"``, ``test`` has the scans of validation subjects. Without held-out sites, all scans of a
    test subject count.

    Raises
    ------
    ValueError
        If one of the two is empty.
    """
    split_of = splits.split_of()
    held_out = {str(site) for site in splits.parameters.get("holdout_sites") or ()}
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for row, (subject, site) in enumerate(zip(scans["subject_id"], scans["site"])):
        of_subject = split_of.get(str(subject))
        if of_subject == "train":
            rows["train"].append(row)
        # A test subject may have scans of sites that training saw: these are in neither.
        if of_subject == split and (split != "test" or not held_out or str(site) in held_out):
            rows["test"].append(row)
    for name, of_split in (("train", rows["train"]), (split, rows["test"])):
        if not of_split:
            raise ValueError(
                f"None of {len(scans)} scans is of a {name} subject by the splits: do scans and splits belong together?"
            )
    return rows


def hold_site_out(scans: datasets.Dataset, site: str, seed: int = 0) -> SplitManifest:
    """Make splits in which the subjects of one site are the test subjects, and all others train."""
    columns = [{"subject_id": s, "site": each} for s, each in zip(scans["subject_id"], scans["site"])]
    return make_splits(columns, fractions=(1, 0, 0), holdout_sites=[site], seed=seed)


def _report(scores: Mapping[str, TaskScores], evaluation: Evaluation) -> EvaluationReport:
    """Make the report of the scores of all tasks."""
    return EvaluationReport(
        tasks={name: each.scores() for name, each in scores.items()},
        verdict={name: each.verdict() for name, each in scores.items()},
        questions={
            name: {
                "question": each.task.ask[0],
                "classes": list(each.classes),
                "kind": each.task.kind,
                "scored_by": each.metric,
                "n_train": each.n_train,
                "n_test": len(each.rows),
            }
            for name, each in scores.items()
        },
        confusion={name: each.confusion() for name, each in scores.items()},
        calibration={name: each.calibration() for name, each in scores.items()},
        conformal={name: each.conformal() for name, each in scores.items()},
        left_out={name: each.left_out for name, each in scores.items()},
        failures=[{"scan_id": scan_id, "reason": reason} for scan_id, reason in evaluation.encoded.failures.items()],
        n_unreadable=len(evaluation.encoded.unreadable),
        unreadable=[
            {"scan_id": scan_id, "reason": reason} for scan_id, reason in evaluation.encoded.unreadable.items()
        ],
        simulated="simulated" in declared_in_features(evaluation.scans.features),
    )
