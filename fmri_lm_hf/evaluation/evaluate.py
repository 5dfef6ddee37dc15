"""One way to judge: a model and the scans of test subjects in, scores with their baselines and controls out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..scans.splits import SplitManifest, make_splits
from .attribution import explanations
from .confounds import predictable_confounds, subgroups
from .design import Design, FittedStatistics
from .few_shot import few_shot
from .judgement import Judgement, joined, judge
from .leakage import LeakError, find_leaks
from .model_answers import Study
from .predictors import OURS, READERS
from .robustness import robustness, wording_invariance
from .tasks import Task
from .truth import truth as check_truth
from .uncertainty import between_sites


def split_rows(scans: datasets.Dataset, splits: SplitManifest, judged: str = "test") -> dict[str, list[int]]:
    """Rows of the training and of the test subjects; where sites were held out, test scans are those of these sites.

    With ``judged="validation"``, ``test`` has the scans of validation subjects.

    Raises
    ------
    ValueError
        If one of the two is empty.
    """
    split_of = splits.split_of()
    subjects = [str(subject) for subject in scans["subject_id"]]
    held_out = {str(site) for site in splits.parameters.get("holdout_sites") or ()}
    sites = list(scans["site"])
    rows = {
        "train": [row for row, subject in enumerate(subjects) if split_of.get(subject) == "train"],
        "test": [
            row
            for row, subject in enumerate(subjects)
            if split_of.get(subject) == judged
            and (judged != "test" or not held_out or str(sites[row]) in held_out)
        ],
    }
    for split, of_split in rows.items():
        if not of_split:
            raise ValueError(
                f"None of {len(subjects)} scans is of a {judged if split == 'test' else split} subject by the splits: "
                "do scans and splits belong together?"
            )
    return rows


def hold_site_out(scans: datasets.Dataset, site: str, seed: int = 0) -> SplitManifest:
    """Splits in which the people of a site are judged, and all others are trained on."""
    columns = [{"subject_id": s, "site": each} for s, each in zip(scans["subject_id"], scans["site"])]
    return make_splits(columns, fractions=(1, 0, 0), holdout_sites=[site], seed=seed)


def evaluate(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: datasets.Dataset,
    tasks: Mapping[str, Task],
    splits: SplitManifest,
    readers: Sequence[str] | None = None,
    n_resamples: int = 1000,
    n_truth: int = 0,
    languages: Sequence[str] = (),
    shots: Sequence[int] = (),
    n_occluded: int = 0,
    n_wordings: int = 0,
    n_robustness: int = 0,
    seed: int = 0,
    split: str = "test",
    fitted: Sequence[FittedStatistics] = (),
    refuse_leaks: bool = True,
    confounding: bool = True,
) -> dict[str, Any]:
    """Judge a model on the scans of test subjects.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
    scans : datasets.Dataset
        A scan dataset with the label columns.
    tasks : mapping of str to Task
    splits : SplitManifest
        Test subjects are judged, training subjects are what baselines are fitted to.
    readers : sequence of str, optional
        What stands beside the model, by the names in `READERS`; all that are there when None.
    n_resamples : int
        Of the bootstrap over subjects, and of the permutations of labels.
    n_truth : int
        Test scans whose descriptions and answers about network pairs are checked (`truth`); 0 leaves it out. Only for
        a model that sees network pairs.
    languages : sequence of str
        In which it is asked about network pairs besides English, as `truth` takes them.
    shots : sequence of int
        Numbers of labelled scans of each class to learn from, as :func:`few_shot` takes them; none leaves it out.
    n_occluded : int
        Test scans that are looked into for the networks that moved the answers (`explanations`); 0 leaves it out.
    n_wordings : int
        Other wordings of each task to ask, to see whether answers hang on them (`wording_invariance`).
    n_robustness : int
        Test scans that are asked about again, measured worse in several ways (`robustness`); 0 leaves it out.
        This and the three before it are about tasks whose answers are chosen, not written into a form.
    seed : int
        Of the bootstrap, the permutations, and all that draws.
    split : {"test", "validation"}
        Whose scans are judged. Choose by those of validation subjects.
    fitted : sequence of FittedStatistics
        Statistics, selections of features and harmonisations that scans, model or baselines rest on, besides those
        that the model's own files declare.
    refuse_leaks : bool
        Whether leaks (`leaks.KINDS`) are an error; they are reported with the scores otherwise.
    confounding : bool
        Whether to look at confounds: what scan tokens tell of them, and scores within and without their levels.

    Returns
    -------
    dict
        What :func:`results_of` says of the answers; ``asked``, ``left_out`` and ``failures``, test scans that could
        not be read; ``truth``, ``few_shot`` and ``robustness``, as the functions of these names return them;
        ``occlusion`` and ``integrated_gradients``, as `explanations` has them; ``wordings``, as `wording_invariance`;
        ``split``; ``scans_sha256``, a hash of what was judged; ``leaks``, each with ``kind`` and ``message``;
        ``confounding``, as `predictable_confounds`, and ``subgroups``, as the function of that name.

    Raises
    ------
    LeakError
        When what is judged leaked into what was made before.
    ValueError
        For an unknown reader, or a task of which no test scan has an answer that training scans have.
    """
    names = with_ours(readers)
    rows = split_rows(scans, splits, split)
    design = Design.of_model(model, processor, scans, splits, rows, tasks, split, fitted)
    leaks = find_leaks(design)
    if leaks and refuse_leaks:
        raise LeakError(leaks)
    study = Study(model, processor, scans, tasks, rows["test"], seed)
    judgements = {name: judge(study.question(name, rows), names, n_resamples) for name in tasks}
    results = results_of(judgements, study)
    results |= {
        "split": split,
        "scans_sha256": design.evaluated_sha256,
        "leaks": [each.to_dict() for each in leaks],
    }
    chosen_from = study.chosen_from()
    of_choices = {name: judgements[name] for name in chosen_from.tasks}
    if n_wordings:
        results["wordings"] = wording_invariance(study, of_choices, n_wordings)
    if confounding:
        results["confounding"] = predictable_confounds(study, seed)
        results["subgroups"] = subgroups(study, judgements, seed)
    if n_truth and model.config.reads_network_pairs:
        judged = [scans[row] for row in study.read.rows[:n_truth]]
        results["truth"] = check_truth(model, processor, judged, seed=seed, languages=languages)
    if of_choices:
        if shots:
            results["few_shot"] = few_shot(chosen_from, rows, shots)
        if n_occluded:
            results |= explanations(chosen_from, n_occluded)
        if n_robustness:
            results["robustness"] = robustness(chosen_from, of_choices, n_robustness)
    return results


def evaluate_sites(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: datasets.Dataset,
    tasks: Mapping[str, Task],
    readers: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a model on each site in turn, beside baselines that are fitted to all other sites.

    The model itself is not trained again: where it learnt from scans of these sites, its scores are not those of
    unseen sites, and what is claimed of it has to come from another evaluation.

    Parameters
    ----------
    model, processor, scans, tasks, readers, n_resamples, seed
        As :func:`evaluate` takes them.

    Returns
    -------
    dict
        What :func:`results_of` says of the answers about all sites together; ``sites`` -> site -> task -> reader, the
        scores on each; ``between_sites`` -> task -> reader, how the metric that decides varies between them, as
        :func:`uncertainty.between_sites` has it; ``leave_one_site_out``: the ``sites``, those ``not_judged`` and why,
        and ``model_retrained`` (False).

    Raises
    ------
    ValueError
        When the scans are of one site, or no site can be judged.
    """
    names = with_ours(readers)
    sites = sorted({str(site) for site in scans["site"]})
    if len(sites) < 2:
        raise ValueError(
            f"All scans are of site {sites[0]}: leaving one site out takes scans of at least two."
        )
    study = Study(model, processor, scans, tasks, range(len(scans)), seed)
    judged: dict[str, dict[str, Judgement]] = {name: {} for name in tasks}
    not_judged: dict[str, str] = {}
    for site in sites:
        try:
            rows = split_rows(scans, hold_site_out(scans, site, seed))
            questions = {name: study.question(name, rows) for name in tasks}
        except ValueError as error:
            not_judged[site] = str(error)
            continue
        for name, question in questions.items():
            judged[name][f"Site {site}"] = judge(question, names, n_resamples)
    if len(not_judged) == len(sites):
        raise ValueError(f"No site can be judged. {next(iter(not_judged.values()))}")
    results = results_of({name: joined(parts) for name, parts in judged.items()}, study)
    kept = [site for site in sites if site not in not_judged]
    results["sites"] = {
        site: {name: parts[f"Site {site}"].scores() for name, parts in judged.items()} for site in kept
    }
    results["between_sites"] = {
        name: {
            reader: between_sites(
                [results["sites"][site][name][reader].get(asked["scored_by"]) for site in kept]
            )
            for reader in results["tasks"][name]
        }
        for name, asked in results["asked"].items()
    }
    return results | {
        "leave_one_site_out": {"sites": kept, "not_judged": not_judged, "model_retrained": False}
    }


def results_of(judgements: Mapping[str, Judgement], study: Study) -> dict[str, Any]:
    """What is said of the answers to each task, in the form of `results.json`.

    Returns
    -------
    dict
        - ``tasks`` -> task -> reader -> ``accuracy``, ``balanced_accuracy``, ``auc``, each of the last two with
          ``_se`` and ``_interval``; ``interval``, that of the metric that decides; ``p``, of a permutation of labels;
          for fields of a form ``no_answer``, the share of texts that are none and count as wrong;
          for an order also ``rank_correlation``, ``within_one`` and ``mean_class_error``; for a number
          ``mean_absolute_error``, ``pearson`` and ``r2``; with several sites ``balanced_accuracy_within_sites``.
        - ``verdict`` -> task, as `Judgement.verdict`.
        - ``calibration`` -> task -> reader, as :func:`calibration`, and ``conformal``, as :func:`conformal_sets`; of
          readers that give probabilities, which one that writes does not.
        - ``confusion`` -> task: true classes by answers of the model, in the order of the classes; for fields of
          a form with a last column, no answer.
        - ``asked`` -> task -> ``question``, ``classes``, ``kind``, ``scored_by``, ``n_train``, ``n_test``.
        - ``left_out`` -> task -> reader -> why it could not be had.
        - ``failures``: test scans that could not be read.
    """
    return {
        "tasks": {name: each.scores() for name, each in judgements.items()},
        "verdict": {name: each.verdict() for name, each in judgements.items()},
        "calibration": {name: each.calibration() for name, each in judgements.items()},
        "conformal": {name: each.conformal() for name, each in judgements.items()},
        "confusion": {name: each.confusion() for name, each in judgements.items()},
        "asked": {
            name: {
                "question": each.task.ask[0],
                "classes": list(each.classes),
                "kind": each.task.kind,
                "scored_by": each.scored_by,
                "n_train": each.n_train,
                "n_test": len(each.rows),
            }
            for name, each in judgements.items()
        },
        "left_out": {name: each.left_out for name, each in judgements.items()},
        "failures": [
            {"scan_id": scan_id, "reason": reason} for scan_id, reason in study.read.failures.items()
        ],
    }


def with_ours(readers: Sequence[str] | None) -> list[str]:
    """The model and these readers, in the order of the registry."""
    if readers is None:
        return list(READERS)
    if unknown := sorted(set(readers) - set(READERS)):
        raise ValueError(f"Unknown readers {', '.join(unknown)}; expected some of {', '.join(READERS)}.")
    return [name for name in READERS if name == OURS or name in readers]
