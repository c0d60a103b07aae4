"""PEARL: the authors' program (oracles), pencil, properties; its negatives as rows of the batch."""

import pytest
import torch

from cse import PEARL, Texts, UserError
from cse.training import preflight
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run
from tests.runs import make_run


class Width:
    """Stands for an encoder of vectors of this size."""

    def __init__(self, dim):
        self.dim = dim


def contract_case(backbone):
    return Case({}, texts=2)


def pearl(types, width, temperature=0.07, weight=None, bias=None):
    objective = PEARL(types=types, temperature=temperature)
    objective.setup(Width(width))
    if weight is not None:
        objective.head.weight.data, objective.head.bias.data = weight, bias
    return objective


def test_types_are_told_in_float32_under_autocast():
    objective, rows = pearl(5, 8), torch.randn(4, 2, 8)
    plain = run(objective, rows, label=torch.arange(4)).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert run(objective, rows, label=torch.arange(4)).loss == plain


@pytest.mark.parametrize("name", cases("pearl"))
def test_every_case_of_the_authors_program(name):
    about, data = load("pearl", name)
    x, x_aug = (data[n].requires_grad_() for n in ("x", "x_aug"))
    objective = pearl(about["types"], x.shape[1], about["temperature"], data["type_w"], data["type_b"])
    output = run(objective, torch.stack([x, x_aug], 1), label=data["label"])
    about["type_losses"] = about["type_loss"] + about["type_loss_augmented"]
    leaves = {"x": x, "x_aug": x_aug, "type_w": objective.head.weight}
    agrees(output, about, data, leaves, ntxent="ntxent", type_loss="type_losses")


def test_one_phrase_alone_has_nothing_to_contrast():
    """Twice the same phrase is one phrase: copies are not compared, and what is left is 0."""
    x = torch.randn(1, 2, 6).expand(2, 2, 6)
    output = run(pearl(3, 6), x, label=torch.tensor([1, 1]), text_id=torch.tensor([[4, 4], [4, 4]]))
    assert output.metrics["ntxent"].item() == pytest.approx(0, abs=1e-6)


def test_more_types_than_it_knows_are_refused_before_anything_is_written(tiny_bert, tmp_path):
    rows = [(f"{a} {b}", a) for a in ("cat", "dog", "sun") for b in ("red", "blue", "fast")]
    path = tmp_path / "types.tsv"
    path.write_text("text\ttype\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    made = make_run(tmp_path, tiny_bert, objective=PEARL(types=2), batch_size=4)
    made.data = Texts(path, label_column="type")
    with pytest.raises(UserError, match=r"PEARL tells 2 labels apart, and .* has 3\nfix: set objective.types to 3"):
        preflight.check(made)
