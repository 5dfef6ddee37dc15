"""Every kind of leak is found where it is planted, and none where there is none."""

from __future__ import annotations

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest

from fmri_lm_hf.corpus.reference import CohortReference
from fmri_lm_hf.evaluation.design import Design, FittedStatistics
from fmri_lm_hf.evaluation.leakage import KINDS, LeakError, find_leaks
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.scans.likeness import ScanRecord, content_sketch
from fmri_lm_hf.scans.splits import SplitManifest, make_splits, subjects_sha256
from fmri_lm_hf.simulation import Site, simulate_cohort

SEX = Task.from_dict("sex", {"ask": "What is the sex?", "answers": {"F": "female", "M": "male"}})
AGE = Task.from_dict("age", {"ask": "How old?", "below": {50: "younger", 200: "older"}})


def cohort(seed: int = 0) -> list[dict]:
    """About thirty scans of families at two sites, of lengths and regions that depend on the seed."""
    draw = np.random.default_rng(seed)
    n_rois, n_subjects = int(draw.integers(8, 20)), int(draw.integers(20, 26))
    mixing = draw.normal(size=(n_rois, n_rois))  # regions go together, the same way in everybody
    rows = []
    for subject in range(n_subjects):
        person = {
            "subject_id": f"sub-{subject:02d}",
            "site": "AB"[subject // 6 % 2],
            "family_id": None if subject % 3 else f"family-{subject // 6}",
            "sex": "FM"[int(draw.integers(2))],
            "age": round(float(draw.uniform(20, 80)), 1),
            "handedness": "LR"[int(draw.random() < 0.9)],
            "score": int(draw.integers(0, 30)),
            "t_r": 2.0,
        }
        for session in range(int(draw.integers(1, 3))):
            noise = draw.normal(size=(int(draw.integers(40, 90)), n_rois))
            bold = noise @ (np.eye(n_rois) + 0.3 * mixing) * draw.uniform(0.5, 20)
            rows.append(person | {"scan_id": f"scan-{subject:02d}-{session}", "bold": bold.astype("float32")})
    rows[0]["sex"], rows[1]["sex"] = "F", "M"
    return rows


def design_of(rows: list[dict], splits: SplitManifest | None = None, **changes) -> Design:
    splits = make_splits(rows, (0.5, 0.2, 0.3), group_by="family_id") if splits is None else splits
    of_split = splits.split_of()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    features = datasets.Features(
        {
            name: datasets.Array2D((None, rows[0]["bold"].shape[1]), "float32")
            if name == "bold"
            else datasets.Value({float: "float64", int: "int64"}.get(type(rows[0][name]), "string"))
            for name in rows[0]
        }
    )
    scans = datasets.Dataset.from_dict(columns, features=features)
    scans = scans.with_format("numpy", columns=["bold"], output_all_columns=True)
    places = {
        split: [i for i, row in enumerate(rows) if of_split.get(row["subject_id"]) == split]
        for split in ("train", "test")
    }
    defaults = {
        "tasks": {"sex": SEX, "age": AGE},
        "confounds": {"sex": ["site", "handedness", "score"], "age": ["score", "sex"]},
    }
    return Design(scans, splits, places, **(defaults | changes))


def of_split(design: Design, split: str, place: int = 0) -> int:
    return [row for row, each in enumerate(design.split_of_row) if each == split][place]


# ------------------------------------------------------------------------------------ one leak each, planted on purpose


def subject_in_two_splits(rows):
    splits = design_of(rows).splits
    moved = splits.subjects["test"][0].removeprefix("sub-")  # the same person, written without the prefix
    members = {**splits.subjects, "train": [*splits.subjects["train"], moved]}
    return design_of(rows, SplitManifest(members)), moved


def family_in_two_splits(rows):
    design = design_of(rows)
    train, test = of_split(design, "train"), of_split(design, "test")
    for row in rows:
        if row["subject_id"] in (rows[train]["subject_id"], rows[test]["subject_id"]):
            row["family_id"] = "the-planted-family"
    return design_of(rows, design.splits), "the-planted-family"


def trained_on_evaluated(rows):
    design = design_of(rows)
    seen = [content_sketch(rows[row]["bold"]) for row in (*design.rows["train"], design.evaluated[1])]
    stages = {"stage": "instruction", "alignment": {"training_scans": ScanRecord.of(seen).to_dict()}}
    return replace(design, training=json.loads(json.dumps(stages))), rows[design.evaluated[1]]["scan_id"]


def copy_in_two_splits(rows):
    design = design_of(rows)
    source = rows[of_split(design, "train")]
    scales = np.linspace(0.5, 2, source["bold"].shape[1])
    copy = source["bold"] * scales + 100  # and what float32 leaves of it
    rows[of_split(design, "test")]["bold"] = copy.astype("float32")
    return design_of(rows, design.splits), source["scan_id"]


def later_part_in_two_splits(rows):
    design = design_of(rows)
    source = rows[of_split(design, "validation")]
    rows[of_split(design, "test")]["bold"] = source["bold"][14:].copy()
    return design_of(rows, design.splits), source["scan_id"]


def answer_in_a_prompt(rows):
    design = design_of(rows)
    words = {"F": "female", "M": "male"}
    prompts = {row["scan_id"]: f"A scan of a {words[row['sex']]} patient. What is the sex?" for row in rows}
    return replace(design, prompts={"sex": prompts}), rows[design.evaluated[0]]["scan_id"]


def normalised_with_evaluated(rows):
    design = design_of(rows)
    everybody = sorted({row["subject_id"] for row in rows})
    fitted = FittedStatistics(
        "the normalisation", subjects_sha256=subjects_sha256(everybody), n_subjects=len(everybody)
    )
    return replace(design, fitted=[fitted]), "all subjects of the scan dataset"


def harmonised_unseen_site(rows):
    splits = make_splits(rows, (1, 0, 0), holdout_sites=["B"])
    fitted = FittedStatistics.from_dict({"name": "ComBat", "sites": ["A", "B"]})
    return replace(design_of(rows, splits), fitted=[fitted]), "ComBat has parameters of B"


def label_as_confound(rows):
    for row in rows:
        row["gender"] = {"F": "2", "M": "1"}[row["sex"]]
    return design_of(rows, confounds={"sex": ["site", "gender"]}), "'gender' has one value for each answer"


def splits_of_other_scans(rows):
    splits = design_of(rows).splits
    others = {split: [f"other-{subject}" for subject in ids] for split, ids in splits.subjects.items()}
    return design_of(rows, SplitManifest(others)), "0 are in the scan dataset"


def one_person_under_two_names(rows):
    design = design_of(rows)
    first = rows[of_split(design, "test")]
    second = next(r for r in map(rows.__getitem__, design.evaluated) if r["subject_id"] != first["subject_id"])
    second["bold"] = first["bold"][5:].copy()
    return design_of(rows, design.splits), second["subject_id"]


def evaluated_as_example(rows):
    design = design_of(rows)
    scan_id = rows[design.evaluated[0]]["scan_id"]
    return replace(design, examples=[scan_id]), scan_id


PLANTED = dict(
    zip(
        KINDS,
        (
            subject_in_two_splits,
            family_in_two_splits,
            trained_on_evaluated,
            copy_in_two_splits,
            later_part_in_two_splits,
            answer_in_a_prompt,
            normalised_with_evaluated,
            harmonised_unseen_site,
            label_as_confound,
            splits_of_other_scans,
            one_person_under_two_names,
            evaluated_as_example,
        ),
        strict=True,
    )
)


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("seed", range(3))
def test_each_leak_is_found_and_nothing_else(kind, seed):
    design, named = PLANTED[kind](cohort(seed))
    (leak,) = find_leaks(design)
    assert leak.kind == kind
    assert named in leak.message
    assert leak.message.endswith(".")  # what to do
    with pytest.raises(LeakError, match=rf"Evaluation refused: data leakage \(1 problem\).*\n- {kind}: "):
        raise LeakError(find_leaks(design))


def test_a_hundred_clean_designs_are_clean():
    for seed in range(100):
        rows = cohort(1000 + seed)
        design = design_of(rows)
        trained = [content_sketch(rows[row]["bold"]) for row in design.rows["train"]]
        fitted = FittedStatistics(
            "the reference",
            subjects_sha256=subjects_sha256(design.splits.subjects["train"]),
            n_subjects=len(design.splits.subjects["train"]),
            sites=frozenset("AB"),
            of_these_splits=True,
        )
        prompts = {row["scan_id"]: f"At {row['age']:.0f} years, female or male? Site {row['site']}." for row in rows}
        clean = replace(
            design,
            training={"training_scans": ScanRecord.of(trained).to_dict()},
            fitted=[fitted],
            prompts={"sex": prompts, "age": dict.fromkeys(prompts, "Is this person older than fifty?")},
            examples=[rows[row]["scan_id"] for row in design.rows["train"][:2]],
        )
        assert find_leaks(clean) == [], seed


# ------------------------------------------------------------------------------ other forms of the twelve


def found(design: Design) -> str:
    (leak,) = find_leaks(design)
    return f"{leak.kind}: {leak.message}"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda train, test: {"subjects": [*train, test[0]]}, "was fitted to 1 evaluated subject: sub-"),
        (
            lambda train, test: {"subjects_sha256": subjects_sha256([*train, *test]), "n_subjects": 9},
            "was fitted to the train subjects together with the evaluated ones. Fit it again",
        ),
        (lambda train, test: {"subjects_sha256": subjects_sha256(test)}, "was fitted to the test subjects"),
    ],
)
def test_statistics_of_evaluated_scans_are_recognised_by_names_and_by_hashes(record, message):
    design = design_of(cohort())
    members = design.splits.subjects
    declared = {"name": "the selection of features", **record(members["train"], members["test"])}
    leaky = replace(design, fitted=[FittedStatistics.from_dict(declared)])
    assert f"The selection of features {message}" in found(leaky)


def test_statistics_of_more_subjects_than_train_are_refused_where_they_belong_to_the_splits():
    design = design_of(cohort())
    fitted = FittedStatistics("the reference", subjects_sha256="unknown", n_subjects=99)
    assert find_leaks(replace(design, fitted=[fitted])) == []  # they may be those of another cohort
    ours = replace(fitted, of_these_splits=True)
    assert "fitted to 99 subjects, and the splits have" in found(replace(design, fitted=[ours]))


def test_a_corpus_and_an_extractor_record_the_subjects_they_were_fitted_to(tmp_path):
    rows = cohort()
    design = design_of(rows)
    names = tuple(f"r{i}" for i in range(len(rows[0]["bold"][0])))
    atlas = Atlas("few", names, tuple("AB"[i % 2] for i in range(len(names))))
    CohortReference.fit(rows, atlas, families=("connectivity",)).save(tmp_path / "reference")
    (reference,) = FittedStatistics.of_corpus(tmp_path)
    assert reference.sites <= {"A", "B"}
    assert "cohort reference" in found(replace(design, fitted=[reference]))
    assert FittedStatistics.of_corpus(tmp_path / "elsewhere") == []

    extractor = FmriFeatureExtractor(atlas=atlas, n_timepoints=40)
    assert FittedStatistics.of_extractor(extractor, True) == []
    extractor.fit_normalization(rows)
    extractor.save_pretrained(tmp_path / "extractor")
    loaded = FmriFeatureExtractor.from_pretrained(tmp_path / "extractor")
    (normalisation,) = FittedStatistics.of_extractor(loaded, False)
    assert normalisation.n_subjects == len({row["subject_id"] for row in rows})
    assert "normalisation of the model's input was fitted to all subjects" in found(
        replace(design, fitted=[normalisation])
    )
    extractor.fit_normalization(rows[row] for row in design.rows["train"])
    clean = FittedStatistics.of_extractor(extractor, True)
    assert find_leaks(replace(design, fitted=clean)) == []


def test_forbidden_columns_are_kept_out_of_prompts():
    rows = cohort()
    design = design_of(rows)
    prompts = {row["scan_id"]: f"A person with score {row['score']}. What is the sex?" for row in rows}
    asked = replace(design, prompts={"sex": prompts})
    assert find_leaks(asked) == []
    forbidden = replace(asked, tasks={"sex": replace(SEX, forbidden=("score",))}, confounds={})
    assert "with the scan's 'score', which is declared as `forbidden`" in found(forbidden)


@pytest.mark.parametrize(
    ("column", "make", "message"),
    [
        ("months", lambda row: row["age"] * 12, "orders the scans as 'age' does"),
        ("born", lambda row: 2000 - row["age"], "orders the scans as 'age' does"),
        ("group", lambda row: int(row["age"] >= 50), "has one value for each answer (0: younger, 1: older)"),
        ("age", lambda row: row["age"], "is the column that is asked about"),
    ],
)
def test_a_confound_that_is_the_label_in_other_words_is_refused(column, make, message):
    rows = cohort()
    for row in rows:
        row[column] = make(row)
    assert message in found(design_of(rows, confounds={"age": ["site", column]}))


def test_splits_whose_sites_are_others_are_those_of_other_scans():
    rows = cohort()
    splits = make_splits(rows, (1, 0, 0), holdout_sites=["B"])
    elsewhere = replace(splits, parameters=splits.parameters | {"holdout_sites": ["C"]})
    design = design_of(rows, elsewhere)
    assert "hold out C, and the scans are from A, B" in found(design)
    swapped = replace(splits, parameters=splits.parameters | {"holdout_sites": ["A"]})
    assert "training subjects with scans of a site that the splits hold out" in found(design_of(rows, swapped))
    half = {"train": splits.subjects["train"][:3], "test": splits.subjects["test"][:3]}
    assert "6 are named by the splits" in found(design_of(rows, replace(splits, subjects=half)))


def test_one_person_is_recognised_by_connectivity_without_shared_content():
    cohorts = [Site("A", 40), Site("B", 20, gain=1.8)]
    rows = [dict(row) for row in simulate_cohort(sites=cohorts, scans_per_subject=2, seed=3).dataset]
    rows = [{**row, "bold": np.asarray(row["bold"], dtype="float32"), "roi_mask": None} for row in rows]
    splits = make_splits(rows, (0.6, 0, 0.4))
    assert find_leaks(design_of(rows, splits, tasks={})) == []
    known = {row["subject_id"] for row in rows if splits.split_of()[row["subject_id"]] == "test"}
    renamed = 0
    for row in rows:  # second sessions of test subjects go into training under another name
        if row["subject_id"] in sorted(known)[:6] and row["session"] == "ses-2":
            row["subject_id"] = f"new-{renamed}"
            renamed += 1
    members = splits.subjects | {"train": [*splits.subjects["train"], *(f"new-{i}" for i in range(renamed))]}
    assert "one person under two names: " in found(design_of(rows, SplitManifest(members), tasks={}))


def test_declared_statistics_are_validated():
    with pytest.raises(
        ValueError, match="Fitted statistics declare name, people: expected `name` and at least one of"
    ):
        FittedStatistics.from_dict({"name": "ComBat", "people": ["a"]})
    with pytest.raises(ValueError, match="declare nothing"):
        FittedStatistics.from_dict({})
