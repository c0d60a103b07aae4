"""CLIP-KD: the authors' program (oracles), limits."""

from functools import partial

import pytest
import torch
from torch import nn

from cse import ClipKD, FrozenViewEncoder
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run, sized, vectors

NONE = {"task": 0.0, "fd": 0.0, "ckd": 0.0, "icl": 0.0}


def contract_case(backbone):
    return Case({"teacher": FrozenViewEncoder(source=backbone)})


built = partial(sized, ClipKD)


@pytest.mark.parametrize("part", ["fd", "ckd", "icl", "task"])
@pytest.mark.parametrize("name", cases("distill", "clipkd_", has="task"))
def test_every_case(name, part):
    about, data = load("distill", name)
    rows, leaves = vectors(data)
    objective = built(
        about["D"],
        dim=about["teacher_dim"],
        temperature=1 / about["student_scale"],
        teacher_temperature=1 / about["teacher_scale"],
        cross_temperature=1 / about["cross_scale"],
        **NONE | {part: 1.0},
    )
    for side, project in zip(("anchor", "positive"), objective.projections, strict=True):
        if isinstance(project, nn.Linear):
            project.load_state_dict({"weight": data[f"proj_{side}_w"], "bias": data[f"proj_{side}_b"]})
    output = run(objective, rows, teacher=torch.cat([data["teacher_anchor"], data["teacher_positive"]], 1))
    gradients = {f"grad_{side}": data.get(f"grad_{part}_{side}") for side in leaves}  # of two parts there are none
    agrees(output, about, gradients, leaves if part != "task" else {}, loss=part)
