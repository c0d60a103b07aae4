"""Losses on several layers, against sentence-transformers, by pencil and in their limits."""

import pytest
import torch

from cse import AdaptiveLayer, Batch, Encoder, EncoderOutput, Lora, Matryoshka, SimCSE, StepContext, Views
from cse.encoder.poolers import get_pooler
from cse.objectives import adaptive_layer, matryoshka
from cse.seeding import torch_rng
from tests.cases import cases, load
from tests.models import save_tiny
from tests.objectives.helpers import Case, agrees, batch_of, inner


def contract_case(backbone):
    term = Matryoshka(term=SimCSE(), dimensions=[16, 4], dimensions_per_step=1)
    return Case(
        {"term": term, "layers_per_step": 1, "kl_weight": 0.7, "layer_weighting": "log"},
        refuses={"dimension 1": "objective.dimensions has 16, but the vectors have 1"},
    )


class Layered:
    """Stands for an encoder whose hidden states are known: (V, layers, B, L, C), or vectors without L."""

    def __init__(self, states, pooler="mean", mask=None):
        self.states, self.depth, self.asked = states, states.shape[1] - 1, []
        self.pool, self.mask = get_pooler(pooler), mask

    def layer_embeddings(self, input_ids, attention_mask, layers):
        self.asked.append(list(layers))
        rows = self.states.permute(2, 0, 1, *range(3, self.states.dim())).flatten(0, 1)  # (B V, layers, ...)
        mask = None if self.mask is None else self.mask.transpose(0, 1).flatten(0, 1)
        vectors = [rows[:, i] if mask is None else self.pool([rows[:, i]], mask) for i in layers]
        return [EncoderOutput(v, v) for v in vectors]


def result(objective, encoder, generator=None, **fields):
    views, _, size = encoder.states.shape[:3]
    batch = batch_of(size, views, **fields)
    empty = torch.zeros(size, views, 0)
    return objective(Views.split(empty, empty, 1), batch, StepContext(encoder=encoder, generator=generator))


def draws(case):
    """The layers that a case draws, and the widths of each pass, in the order of its calls."""
    some_dims = 0 < case.get("dims_per_step", -1) < len(case.get("dims", []))
    some_layers = 0 < case["layers_per_step"] < case["N"]
    samples = [list(sample) for sample in case["samples"]]
    layers = samples.pop(1 if some_dims else 0) if some_layers else None
    return layers, samples


def built(about, scored):
    names = ("last_weight", "prior_weight", "kl_weight", "kl_temperature", "layer_weighting")
    options = {name: about[name] for name in names}
    options["layers_per_step"] = about["layers_per_step"] if about["layers_per_step"] >= 0 else None
    term = inner(about, scored)
    if "dims" in about:
        some = about["dims_per_step"] if about["dims_per_step"] > 0 else None
        term = Matryoshka(term=term, dimensions=about["dims"], weights=about["dim_weights"], dimensions_per_step=some)
    return AdaptiveLayer(term=term, **options)


@pytest.mark.parametrize("name", cases("adaptive_layer"))
def test_every_case_of_sentence_transformers(name, monkeypatch):
    about, data = load("adaptive_layer", name)
    states = data["hs"].requires_grad_()
    layers, widths = draws(about)
    if layers is not None:
        monkeypatch.setattr(adaptive_layer, "draw", lambda *_: layers)
    if widths:
        monkeypatch.setattr(matryoshka, "draw", lambda *_: widths.pop(0))
    fields = {"score": data["score"]} if "score" in data else {}
    output = result(built(about, "score" in data), Layered(states, about["pooler"], data["mask"]), **fields)
    agrees(output, about, data, {"hs": states})


def test_layers_are_drawn_from_the_step():
    states = torch.randn(2, 5, 3, 4)
    objective = AdaptiveLayer(term=SimCSE(), layers_per_step=2)
    encoder = Layered(states)
    for i in range(20):
        result(objective, encoder, generator=torch_rng("step", i))
    first, encoder.asked = encoder.asked, []
    for i in range(20):
        result(objective, encoder, generator=torch_rng("step", i))
    assert encoder.asked == first
    assert all(asked[0] == 4 and len(set(asked[1:])) == 2 for asked in first)
    assert set().union(*(asked[1:] for asked in first)) == {0, 1, 2, 3}
    result(AdaptiveLayer(term=SimCSE(), layers_per_step=0), encoder)
    assert encoder.asked[-1] == [4]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_layer_learns(tiny_bert, tmp_path, kind):
    """Also under LoRA in a causal backbone: the loss on layer 1 alone leaves the second layer as it is."""
    folder = save_tiny(kind, tiny_bert, tmp_path)
    encoder = Encoder(folder, pooler="mean", adapter=Lora() if kind == "llama" else None).train()
    ids, mask = encoder.pad(encoder.tokenize(["the cat", "a dog", "the cat ran", "a mat"]))
    batch = Batch(ids.view(2, 2, -1), mask.view(2, 2, -1))
    objective = AdaptiveLayer(term=SimCSE(), layers_per_step=None, last_weight=0.0, kl_weight=0.0)
    objective.setup(encoder)
    empty = torch.zeros(2, 2, 0)
    objective(Views.split(empty, empty, 1), batch, StepContext(encoder=encoder)).loss.backward()
    moved = {n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any("layers.0." in n or "layer.0." in n for n in moved)
    assert not any("layers.1." in n or "layer.1." in n for n in moved)
