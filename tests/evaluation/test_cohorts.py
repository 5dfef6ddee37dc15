"""Declarations of public cohorts: each can be asked, of tables as their releases write them."""

from __future__ import annotations

from importlib import resources

import datasets
import pandas as pd
import pytest
import yaml

from fmri_lm_hf.evaluation.tasks import COHORTS, load_tasks, tasks_of_cohort


def declared(name: str) -> dict:
    return yaml.safe_load((resources.files("fmri_lm_hf.evaluation") / "cohorts" / f"{name}.yaml").read_text())


def first(columns) -> str:
    return columns if isinstance(columns, str) else columns[0]


def test_the_cohorts_of_the_method_are_there():
    assert set(COHORTS) == {"ukb", "abcd", "hcp", "hcp_aging", "adni", "adhd200", "abide2"}


@pytest.mark.parametrize("name", COHORTS)
def test_every_task_of_a_cohort_can_be_asked(name):
    tasks, missing = tasks_of_cohort(name, [first(task["column"]) for task in declared(name).values()])
    assert set(tasks) == set(declared(name))
    assert not missing
    for task in tasks.values():
        assert len(task.classes) > 1 or task.regression
        assert task.column not in task.forbidden
        assert len(set(task.ask)) == len(task.ask) >= 2
        answers = {answer.lower() for answer in task.classes} - {"yes", "no"}
        asked = " ".join(task.ask).lower().replace("?", "").split()
        # a question that offers one of its answers alone would suggest it
        offered = [answer for answer in answers if answer in asked]
        assert len(offered) in (0, len(answers))


@pytest.mark.parametrize(
    ("name", "column", "written", "expected"),
    [
        ("ukb", "31-0.0", "0\n1\n\n", ["female", "male", None]),
        ("ukb", "p31", "Female\nMale\nFemale", ["female", "male", "female"]),
        ("abcd", "demo_sex_v2", "1\n2\n", ["male", "female"]),
        ("abcd", "ksads_14_853_p", "0\n1\n555", ["no", "yes", None]),
        ("hcp", "Gender", "F\nM", ["female", "male"]),
        ("hcp_aging", "interview_age", "500\n700\n1200", ["under 50", "50 to 69", "70 or older"]),
        ("adni", "DX", "CN\nMCI\nDementia", ["no", None, "yes"]),
        ("adhd200", "DX", "0\n1\n3", ["no", "yes", "yes"]),
        ("abide2", "AGE_AT_SCAN ", "7.5\n14\n30", ["under 12", "12 to 17", "18 or older"]),
        ("abide2", "DX_GROUP", "1\n2\n", ["yes", "no"]),
    ],
)
def test_values_as_pandas_reads_them_have_their_answer(tmp_path, name, column, written, expected):
    (tmp_path / "table.csv").write_text(f'subject,"{column}"\n' + "".join(f"s,{v}\n" for v in written.split("\n")))
    table = pd.read_csv(tmp_path / "table.csv")[: len(expected)]
    scans = datasets.Dataset.from_pandas(table, preserve_index=False)
    tasks, _ = tasks_of_cohort(name, scans.column_names)
    task = next(task for task in tasks.values() if task.column == column)
    assert [task.answer(value) for value in scans[column]] == expected


def test_tasks_without_their_column_are_named():
    tasks, missing = tasks_of_cohort("hcp", ["Gender", "site"])
    assert list(tasks) == ["sex"]
    assert "Task 'age' of hcp is left out: the scans have no column Age_in_Yrs." in missing
    with pytest.raises(ValueError, match="The scans have none of the columns that tasks of hcp ask about"):
        tasks_of_cohort("hcp", ["sex"])
    with pytest.raises(ValueError, match="No tasks are declared for 'oasis': expected one of abcd, abide2"):
        tasks_of_cohort("oasis", ["sex"])


def test_an_unknown_file_names_the_cohorts():
    with pytest.raises(ValueError, match=r"The task file oasis does not exist: .*the name of a cohort: abcd, "):
        load_tasks("oasis")
