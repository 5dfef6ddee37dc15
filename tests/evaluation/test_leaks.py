"""Every kind of leak is found where it is planted, and none where there is none."""

from __future__ import annotations

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest

from fmri_lm_hf.evaluation.design import Design, FittedStatistics
from fmri_lm_hf.evaluation.leaks import KINDS, LeakError, check_leaks, find_leaks
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.scans.content import ScanRecord, content_sketch
from fmri_lm_hf.scans.splits import SplitManifest, make_splits, subjects_sha256

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
            rows.append(
                person | {"scan_id": f"scan-{subject:02d}-{session}", "bold": bold.astype("float32")}
            )
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
    defaults = {"tasks": {"sex": SEX, "age": AGE}, "confounds": {"sex": ["site", "handedness", "score"], "age": ["score", "sex"]}}
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


def trained_on_judged(rows):
    design = design_of(rows)
    seen = [content_sketch(rows[row]["bold"]) for row in (*design.rows["train"], design.judged[1])]
    stages = {"stage": "instruction", "alignment": {"training_scans": ScanRecord.of(seen).to_dict()}}
    return replace(design, training=json.loads(json.dumps(stages))), rows[design.judged[1]]["scan_id"]


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
    return replace(design, prompts={"sex": prompts}), rows[design.judged[0]]["scan_id"]


def normalised_with_judged(rows):
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
    second = next(r for r in map(rows.__getitem__, design.judged) if r["subject_id"] != first["subject_id"])
    second["bold"] = first["bold"][5:].copy()
    return design_of(rows, design.splits), second["subject_id"]


def judged_as_example(rows):
    design = design_of(rows)
    scan_id = rows[design.judged[0]]["scan_id"]
    return replace(design, examples=[scan_id]), scan_id


PLANTED = dict(
    zip(
        KINDS,
        (
            subject_in_two_splits,
            family_in_two_splits,
            trained_on_judged,
            copy_in_two_splits,
            later_part_in_two_splits,
            answer_in_a_prompt,
            normalised_with_judged,
            harmonised_unseen_site,
            label_as_confound,
            splits_of_other_scans,
            one_person_under_two_names,
            judged_as_example,
        ),
        strict=True,
    )
)


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("seed", range(3))
def test_a_leak_is_found_and_named_and_nothing_else_is(kind, seed):
    design, named = PLANTED[kind](cohort(seed))
    (leak,) = find_leaks(design)
    assert leak.kind == kind
    assert named in leak.message
    assert leak.message.endswith(".")  # what to do
    with pytest.raises(LeakError, match=f"Nothing was judged.*\n- {kind}: "):
        check_leaks(design)


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
        prompts = {
            row["scan_id"]: f"At {row['age']:.0f} years, female or male? Site {row['site']}." for row in rows
        }
        clean = replace(
            design,
            training={"training_scans": ScanRecord.of(trained).to_dict()},
            fitted=[fitted],
            prompts={"sex": prompts, "age": dict.fromkeys(prompts, "Is this person older than fifty?")},
            examples=[rows[row]["scan_id"] for row in design.rows["train"][:2]],
        )
        assert find_leaks(clean) == [], seed
