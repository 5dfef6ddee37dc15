"""Configuration and report of an evaluation, and the comparison of reports of several models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..deprecation import warn_renamed
from ..files import write_json
from .calibration import Calibration, ConformalSets
from .design import FittedStatistics
from .predictors import MODEL, PREDICTORS
from .scoring import Scores, Verdict

if TYPE_CHECKING:
    from typing_extensions import Self

    # For type checkers only: a report needs none of the analyses to be read.
    from ..models.atlas import Atlas
    from .attribution import Explanation
    from .confounds import ConfoundPrediction, Subgroups
    from .few_shot import FewShotScores
    from .robustness import RobustnessResults, WordingInvariance
    from .truth import TruthResults
    from .uncertainty import SiteSpread

SCHEMA_VERSION = 1
SPLITS = ("test", "validation")
COMPARED = ("balanced_accuracy", "auc", "mean_absolute_error")  # metrics of a comparison of models
# Names in files and calls of the release before this one.
_OLD_KEYS = {"asked": "questions"}
_OLD_OPTIONS = {"readers": "predictors", "refuse_leaks": "refuse_leakage"}


@dataclass(frozen=True)
class EvaluationConfig:
    """What an evaluation measures besides the scores of the model.

    Parameters
    ----------
    predictors : sequence of str, optional
        Baselines and controls, by their names in `PREDICTORS`; all of them when None. The model is always scored.
    split : {"test", "validation"}
        The subjects whose scans are scored. Choose between models by validation subjects.
    n_resamples : int
        Draws of the bootstrap over subjects, and permutations of labels.
    n_wordings : int
        Other wordings of each task to ask, to see whether answers depend on them (`wording_invariance`).
    confounding : bool
        Whether to analyse confounds: how well scan tokens predict them, and scores within their strata.
    n_truth : int
        Test scans whose descriptions and answers about network pairs are checked (`truth`), for a model that sees
        network pairs.
    languages : sequence of str
        Languages besides English in which network pairs are asked about, with `n_truth`.
    shots : sequence of int
        Numbers of labelled scans of each class to learn from (`few_shot`).
    n_occluded : int
        Test scans for which the networks that moved the answers are computed (`explanations`).
    n_robustness : int
        Test scans to ask about again, degraded in several ways (`robustness`). This and `n_wordings`, `shots` and
        `n_occluded` are for tasks whose answers are chosen, not written into a form.
    fitted : sequence of FittedStatistics
        Statistics, feature selections and harmonisations that were used to make scans, model or baselines, besides
        those that the model's own files declare.
    refuse_leakage : bool
        Whether leakage is an error; it is reported with the scores otherwise.
    seed : int
        Of the bootstrap, the permutations, and every control that draws.

    Raises
    ------
    ValueError
        For an unknown predictor or split, or a negative number.
    """

    predictors: Sequence[str] | None = None
    split: str = "test"
    n_resamples: int = 1000
    n_wordings: int = 0
    confounding: bool = True
    n_truth: int = 0
    languages: Sequence[str] = ()
    shots: Sequence[int] = ()
    n_occluded: int = 0
    n_robustness: int = 0
    fitted: Sequence[FittedStatistics] = ()
    refuse_leakage: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.predictors, str):
            raise ValueError(f"`predictors` is {self.predictors!r}: expected a sequence of names.")
        if unknown := sorted(set(self.predictors or ()) - set(PREDICTORS)):
            raise ValueError(f"Unknown predictors {', '.join(unknown)}; expected some of {', '.join(PREDICTORS)}.")
        if self.split not in SPLITS:
            raise ValueError(f"`split` is {self.split!r}: expected {' or '.join(SPLITS)}.")
        for name in ("n_resamples", "n_wordings", "n_truth", "n_occluded", "n_robustness"):
            least = 2 if name == "n_resamples" else 0
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}: expected {least} or more.")
        if self.shots and min(self.shots) < 0:
            raise ValueError(f"`shots` holds {min(self.shots)}: expected 0 or more.")

    @property
    def names(self) -> list[str]:
        """The model and the chosen predictors, in the order of the registry."""
        chosen = PREDICTORS if self.predictors is None else self.predictors
        return [name for name in PREDICTORS if name == MODEL or name in chosen]

    @classmethod
    def of_call(cls, config: EvaluationConfig | Sequence[str] | None, options: Mapping[str, Any]) -> EvaluationConfig:
        """Make the configuration of a call with `config`, or with keywords as in the release before."""
        if not options and (config is None or isinstance(config, EvaluationConfig)):
            return config or cls()
        if isinstance(config, EvaluationConfig):
            raise TypeError(f"Give either `config` or keywords: found both, {', '.join(options)}.")
        warn_renamed("evaluate(..., readers=..., seed=...)", "evaluate(..., EvaluationConfig(...))")
        given = {_OLD_OPTIONS.get(name, name): value for name, value in options.items()}
        if config is not None:  # the names of predictors were the sixth argument
            given["predictors"] = config
        return cls(**given)


class TaskQuestion(TypedDict):
    """How a task was asked and scored."""

    question: str
    classes: list[str]
    kind: str  # classification, ordinal or regression
    scored_by: str  # the metric that decides
    n_train: int
    n_test: int


class Failure(TypedDict):
    """A test scan that could not be read."""

    scan_id: str
    reason: str


class EarlierEvaluations(TypedDict):
    """How often the test scans were evaluated before."""

    n_earlier: int
    statement: str


class SitesLeftOut(TypedDict):
    """Sites that were left out in turn; `not_evaluated` has the others, each with the reason."""

    sites: list[str]
    not_evaluated: dict[str, str]
    model_retrained: bool


@dataclass
class EvaluationReport:
    """The results of an evaluation, as `evaluate` and `evaluate_sites` return them and `results.json` holds them.

    Attributes
    ----------
    tasks : dict
        Task -> predictor -> `Scores`.
    verdict : dict
        Task -> `Verdict`: whether the model is better than controls and baselines.
    questions : dict
        Task -> `TaskQuestion`.
    confusion : dict
        Task -> true classes by answers of the model, in the order of the classes; for a field of a form the last
        column counts texts that are no answer.
    calibration, conformal : dict
        Task -> predictor -> `Calibration`, and `ConformalSets`; of predictors that give probabilities.
    left_out : dict
        Task -> predictor that is not available -> reason.
    failures : list of Failure
        Test scans that could not be read.
    n_unreadable : int
    unreadable : list of Failure
        Test scans that were scored although they are no readable resting-state scans: pipelines decline them.
    split, scans_sha256, splits_sha256 : str, optional
        The split that was scored, and hashes of the content of its scans and of the split manifest.
    holdout_site, dataset : str, optional
        The site that was held out; the id of the scan dataset on the Hub.
    simulated : bool
        Whether the scans are simulated.
    commits : dict
        Id on the Hub -> commit of what was fetched.
    leaks : list of dict
        `kind` and `message` of leakage that was found and not refused.
    history : EarlierEvaluations, optional
        Set by `History.record`.
    wordings : dict, optional
        Task -> `WordingInvariance`.
    confounding, subgroups : dict, optional
        Confound -> `ConfoundPrediction`; task -> `Subgroups`.
    truth : TruthResults, optional
    few_shot : dict, optional
        Task -> number of labelled scans of each class, as text -> predictor -> `FewShotScores`.
    occlusion, integrated_gradients : dict, optional
        Task -> `Explanation`.
    robustness : RobustnessResults, optional
    leave_one_site_out : SitesLeftOut, optional
    sites : dict, optional
        Site -> task -> predictor -> `Scores`.
    between_sites : dict, optional
        Task -> predictor -> `SiteSpread` of the deciding metric.
    schema_version : int
    """

    tasks: dict[str, dict[str, Scores]]
    verdict: dict[str, Verdict] = field(default_factory=dict)
    questions: dict[str, TaskQuestion] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Calibration]] = field(default_factory=dict)
    conformal: dict[str, dict[str, ConformalSets | None]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    n_unreadable: int = 0
    unreadable: list[Failure] = field(default_factory=list)
    split: str | None = None
    scans_sha256: str | None = None
    splits_sha256: str | None = None
    holdout_site: str | None = None
    dataset: str | None = None
    simulated: bool = False
    commits: dict[str, str] = field(default_factory=dict)
    leaks: list[dict[str, str]] = field(default_factory=list)
    history: EarlierEvaluations | None = None
    wordings: dict[str, WordingInvariance] | None = None
    confounding: dict[str, ConfoundPrediction] | None = None
    subgroups: dict[str, Subgroups] | None = None
    truth: TruthResults | None = None
    few_shot: dict[str, dict[str, dict[str, FewShotScores]]] | None = None
    occlusion: dict[str, Explanation] | None = None
    integrated_gradients: dict[str, Explanation] | None = None
    robustness: RobustnessResults | None = None
    leave_one_site_out: SitesLeftOut | None = None
    sites: dict[str, dict[str, dict[str, Scores]]] | None = None
    between_sites: dict[str, dict[str, SiteSpread | None]] | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `results.json`, without what was not measured."""
        # not `asdict`, which copies: a report holds thousands of small dictionaries
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self, path: str | Path) -> None:
        """Write `results.json`."""
        write_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """Read `results.json`, or its content; also files that were written before there was a schema version.

        Raises
        ------
        ValueError
            When it is not an evaluation, or one of a later release.
        """
        if isinstance(source, Mapping):
            name, record = "The record", source
        else:
            name, record = str(source), json.loads(Path(source).read_text(encoding="utf-8"))
        if not isinstance(record, Mapping) or not isinstance(record.get("tasks"), Mapping):
            raise ValueError(f"{name} is not an evaluation: expected the content of a results.json, with `tasks`.")
        if (version := record.get("schema_version", 0)) > SCHEMA_VERSION:
            raise ValueError(
                f"{name} has schema version {version}, and this release of fmri_lm_hf reads versions up to "
                f"{SCHEMA_VERSION}: upgrade it with `pip install -U fmri-lm-hf`."
            )
        values = {_OLD_KEYS.get(key, key): value for key, value in record.items()}
        # Before the schema version, the history lay in two keys of its own.
        if "test_split" in values:
            values["history"] = {
                "n_earlier": values.get("judged_before", 0),
                "statement": values["test_split"],
            }
        if "not_judged" in (sites := values.get("leave_one_site_out") or {}):
            sites = {"not_evaluated" if key == "not_judged" else key: value for key, value in sites.items()}
            values["leave_one_site_out"] = sites
        # Without the version: a file of an earlier one is of the present one once it is read, and saved as such.
        known = {each.name for each in fields(cls)} - {"schema_version"}
        return cls(**{key: value for key, value in values.items() if key in known})

    def save(self, folder: str | Path, atlas: Atlas | None = None) -> None:
        """Write `results.json`, `results.csv`, `report.html` and `tripod.md` into a folder.

        Parameters
        ----------
        folder : path
        atlas : Atlas, optional
            Of the scans: networks that moved answers are also drawn on a brain.
        """
        from ..files import write_text
        from .report import report_page
        from .tables import score_csv
        from .tripod import reporting_checklist

        folder = Path(folder)
        self.to_json(folder / "results.json")
        write_text(score_csv(self), folder / "results.csv")
        write_text(report_page(self, atlas), folder / "report.html")
        write_text(reporting_checklist(self), folder / "tripod.md")

    def summary(self) -> str:
        """Return scores, warnings and notes as text for the terminal."""
        from .tables import summary

        return summary(self)

    def __getitem__(self, key: str) -> Any:
        """The value of a key of `results.json`, as `evaluate` returned a dictionary in the release before."""
        warn_renamed(f"results[{key!r}]", f"report.{_OLD_KEYS.get(key, key)}")
        return self.to_dict()[_OLD_KEYS.get(key, key)]

    def __contains__(self, key: object) -> bool:
        return _OLD_KEYS.get(str(key), key) in self.to_dict()


class Spread(TypedDict):
    """A metric over several models: `sd` is that of the models, not of the mean."""

    mean: float
    sd: float
    lowest: float
    highest: float


class Comparison(TypedDict):
    """Variation between models that were evaluated on the same scans, such as trainings with other seeds.

    ``tasks`` -> task -> predictor -> metric -> `Spread`; ``beats_controls`` and ``beats_baselines`` -> task -> how many
    models do.
    """

    models: list[str]
    tasks: dict[str, dict[str, dict[str, Spread]]]
    beats_controls: dict[str, int]
    beats_baselines: dict[str, int]


def _spread(values: Sequence[Any]) -> Spread:
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    return {"mean": mean, "sd": sd, "lowest": min(values), "highest": max(values)}


def compare(reports: Mapping[str, EvaluationReport]) -> Comparison:
    """Compare the reports of several models, by name. Predictors that one of them lacks are left out.

    Raises
    ------
    ValueError
        When the models were evaluated on different scans, or asked different tasks.
    """
    every = list(reports.values())
    if len({report.scans_sha256 for report in every}) > 1:
        raise ValueError("The models were evaluated on different scans: evaluate them with the same scans and splits.")
    if len({tuple(report.tasks) for report in every}) > 1:
        raise ValueError("The models were asked different tasks: evaluate them with the same tasks.")
    tasks: dict[str, dict[str, dict[str, Spread]]] = {}
    for task, predictors in every[0].tasks.items():
        tasks[task] = {}
        for name in predictors:
            scores: list[Mapping[str, Any]] = [report.tasks[task].get(name, {}) for report in every]
            if all(scores):
                values = {metric: [of_model.get(metric) for of_model in scores] for metric in COMPARED}
                tasks[task][name] = {metric: _spread(each) for metric, each in values.items() if None not in each}
    return {
        "models": list(reports),
        "tasks": tasks,
        "beats_controls": {
            task: sum(report.verdict[task]["beats_controls"] is True for report in every) for task in tasks
        },
        "beats_baselines": {
            task: sum(report.verdict[task]["beats_baselines"] is True for report in every) for task in tasks
        },
    }
