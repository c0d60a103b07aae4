import pytest

from cse.errors import UserError
from cse.evaluation.evaluators import sts_rows


def test_the_seven_tasks_and_their_known_sizes():
    # SemEval's published numbers of pairs.
    sizes = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186, "STSB": 1379, "SICKR": 4927}
    assert {task.name: task.total for task in sts_rows.resolve("sts")} == sizes
    assert {task.name: task.total for task in sts_rows.resolve("sts-dev")} == {"STSB-dev": 1500, "SICKR-dev": 500}


def test_every_task_says_what_it_is():
    for task in sts_rows.tasks().values():
        assert task.version >= 1
        assert task.license
        assert task.shipped or (task.senteval and len(task.hub["revision"]) == 40)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("STSBenchmark", ["STSB"]),
        ("sts-b", ["STSB"]),
        ("STSB-test", ["STSB"]),
        ("SICK-R,SICKRelatedness", ["SICKR"]),
        (" STS12 , sts-dev,STS12", ["STS12", "STSB-dev", "SICKR-dev"]),
        ("sts-mini", ["sts-mini-dev", "sts-mini-test"]),
    ],
)
def test_spellings(written, names):
    assert [task.name for task in sts_rows.resolve(written)] == names


@pytest.mark.parametrize(("wrong", "near"), [("STS-12", "STS12"), ("SICKRR", "SICKR"), ("stsmini", "sts-mini")])
def test_unknown_task_names_the_nearest(wrong, near):
    with pytest.raises(UserError, match=f"unknown task '{wrong}'; the nearest is '{near}"):
        sts_rows.resolve(wrong)
