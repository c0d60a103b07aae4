"""A sum of objectives, by pencil and against the authors' program."""

from types import SimpleNamespace

import pytest
import torch

from cse import Batch, LossOutput, MaskedLM, Objective, SimCSE, StepContext, Views, WeightedSum
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees


def contract_case(backbone):
    return Case({"terms": [SimCSE(), MaskedLM()], "weights": [1.0, 0.1]})


class Constant(Objective):
    """A loss that is a number, and a note of what it was told."""

    def __init__(self, value, *, requires=(), cacheable=True, uses_views=True):
        super().__init__()
        self.value, self.told = value, []
        self.requires, self.cacheable, self.uses_views = frozenset(requires), cacheable, uses_views

    def setup(self, encoder):
        self.told.append(("setup", encoder))

    def forward(self, views, batch, ctx):
        return LossOutput(torch.tensor(self.value), {f"of_{self.value:g}": torch.tensor(self.value)})

    def after_step(self, ctx):
        self.told.append(("after_step", ctx.step))


class Other(Constant):
    """Another name, for the metrics."""


def value_of(objective, step):
    return objective(None, None, StepContext(encoder=None, step=step, max_steps=1000)).loss.item()


def test_weights_decays_and_starts_by_pencil():
    # The second weight is 0.1 x 0.95^(step / 100), from step 200 on.
    objective = WeightedSum(terms=[Constant(2.0), Other(3.0)], weights=[1.0, 0.1], decays=[1.0, 0.95], starts=[0, 200])
    assert value_of(objective, 199) == pytest.approx(2.0)
    assert value_of(objective, 200) == pytest.approx(2.0 + 0.1 * 0.9025 * 3.0)
    assert value_of(objective, 250) == pytest.approx(2.0 + 0.1 * 0.95**2.5 * 3.0)
    assert WeightedSum(terms=[Constant(2.0)], weights=[1.0]).starts == [0]


def test_terms_are_set_up_told_of_steps_and_logged():
    terms = [Constant(2.0), Other(3.0)]
    objective = WeightedSum(terms=terms, weights=[1.0, 0.5])
    objective.setup("encoder")
    objective.after_step(StepContext(encoder=None, step=4))
    assert terms[0].told == terms[1].told == [("setup", "encoder"), ("after_step", 4)]
    logged = objective(None, None, StepContext(encoder=None)).metrics
    assert logged == {"constant_loss": 2.0, "other_loss": 3.0, "of_2": 2.0, "of_3": 3.0}


def test_terms_of_one_class_are_logged_by_their_places():
    objective = WeightedSum(terms=[Constant(2.0), Other(3.0), Constant(4.0)], weights=[1.0, 1.0, 1.0])
    logged = objective(None, None, StepContext(encoder=None)).metrics
    assert {name: value for name, value in logged.items() if "loss" in name} == {
        "constant_loss_0": 2.0,
        "other_loss": 3.0,
        "constant_loss_2": 4.0,
    }


class Given(torch.nn.Module):
    """Stands for an encoder whose last hidden states are known."""

    def __init__(self, states):
        super().__init__()
        self.states = states
        self.backbone = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=None))

    def token_states(self, input_ids, attention_mask, where):
        return self.states[where]


class Linear(torch.nn.Module):
    """The authors' test has one linear layer as masked-LM head."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, states, embeddings):
        return torch.nn.functional.linear(states, self.weight, self.bias)


@pytest.mark.parametrize("name", cases("simcse", has=("loss", "mlm_weight")))
def test_every_case_of_contrast_and_masked_lm(name):
    about, data = load("simcse", name)
    states = data["hs"].requires_grad_()
    rows, views, length = data["labels"].shape
    projected = torch.tanh(torch.nn.functional.linear(states[:, 0], data["mlp_w"], data["mlp_b"]))
    projected = projected.view(rows, views, -1)
    masked_lm = MaskedLM()
    masked_lm.head = Linear(data["lm_w"], data["lm_b"])
    contrast = SimCSE(temperature=about.get("temp", 0.05), hard_negative_weight=about.get("hard_negative_weight", 0.0))
    objective = WeightedSum(terms=[contrast, masked_lm], weights=[1.0, about["mlm_weight"]])
    ids = torch.zeros(rows, views, length, dtype=torch.int64)
    batch = Batch(ids, torch.ones_like(ids), masked_ids=ids, mlm_labels=data["labels"])
    output = objective(Views.split(projected, projected, 1), batch, StepContext(encoder=Given(states)))
    agrees(output, about, data, {"hs": states})
