"""DiffCSE against its authors' program (oracle, whole models), pencil, limits, and one process against two halves."""

import math

import pytest
import torch

from cse import Batch, DiffCSE, Dropout, Encoder, Lora, Masked, StepContext, TextViews, Views
from cse.training.learner import Learner
from tests.cases import below, cases, load, state
from tests.models import from_weights, save_beside, save_tiny
from tests.objectives.helpers import Case, agrees, collated, refuses, set_up, step, weighted_and_repeated


def contract_case(backbone):
    return Case({"generator": backbone})


NO_DROPOUT = {"dropout": Dropout(attention=0.0, hidden=0.0)}


def generator_of(weights):
    """A DistilBERT or a RoBERTa with these weights and their sizes, of heads of 8."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    if "distilbert.embeddings.word_embeddings.weight" not in weights:
        model = RobertaForMaskedLM(RobertaConfig())
        model.roberta = from_weights(below(weights, "roberta."), "roberta")
        model.config, model.lm_head = model.roberta.config, type(model.lm_head)(model.roberta.config)
    else:
        vocabulary, hidden = weights["distilbert.embeddings.word_embeddings.weight"].shape
        layers = {name.split(".")[3] for name in weights if name.startswith("distilbert.transformer.layer.")}
        config = DistilBertConfig(
            vocab_size=vocabulary,
            dim=hidden,
            n_layers=len(layers),
            n_heads=hidden // 8,
            hidden_dim=len(weights["distilbert.transformer.layer.0.ffn.lin1.bias"]),
            max_position_embeddings=len(weights["distilbert.embeddings.position_embeddings.weight"]),
        )
        model = DistilBertForMaskedLM(config)
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("name", cases("diffcse"))
def test_every_whole_model(tiny_bert, tmp_path, name):
    (about, data), weights = load("diffcse", name), state("diffcse", name)
    kind = "bert" if below(weights, "bert.") else "roberta"
    encoder = Encoder(
        save_beside(tiny_bert, from_weights(below(weights, f"{kind}."), kind), tmp_path / "backbone"), **NO_DROPOUT
    )
    generator = save_beside(tiny_bert, generator_of(below(weights, "generator.")), tmp_path / "generator")
    objective = DiffCSE(generator=generator, temperature=about.get("temp", 0.05), rtd_weight=about["lam"])
    objective.setup(encoder)
    parts = {  # under the names of the authors' program
        "discriminator.": objective.discriminator.backbone,
        "mlp.net.": objective.projector,
        "electra_head.": objective.discriminator.head,
    }
    for prefix, part in parts.items():
        own = {n: w for n, w in below(weights, prefix).items() if "running" not in n and "num_batches" not in n}
        part.load_state_dict(own)
    for module in objective.modules():  # the program ran without dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids, mask, masked = (data[k] for k in ("input_ids", "attention_mask", "mlm_input_ids"))
    batch, ctx = Batch(ids, mask, masked_ids=masked), StepContext(encoder=encoder)

    filled = objective.masked_lm(masked.flatten(0, 1), mask.flatten(0, 1))
    real = mask.flatten(0, 1) == 1
    assert torch.equal(filled[real], data["generator_argmax"][real])
    assert torch.equal(objective.edited(batch, ctx) * mask.flatten(0, 1), data["e_inputs"])

    _, output = Learner(encoder, objective).train()(batch, ctx)
    found = {f"{p}{n}": w for p, part in parts.items() for n, w in part.named_parameters()}
    found |= {f"{kind}.{n}": w for n, w in encoder.backbone.named_parameters()}
    assert found.keys() == below(data, "grad/").keys()
    agrees(output, about, data, found, contrastive="contrastive", rtd="rtd_loss")
    share = output.metrics["replaced"].item() * mask.sum().item()  # theirs is of all positions but the first
    assert share / (mask.numel() - mask.shape[0] * mask.shape[1]) == pytest.approx(about["frac_replaced"], rel=1e-5)


class Fixed:
    """A generator that puts one token everywhere."""

    def __init__(self, token):
        self.token = token

    def __call__(self, masked_ids, mask, chance=None):
        return torch.full_like(masked_ids, self.token)


def texts(encoder):
    """Two views of four texts of unequal lengths, with masked copies."""
    rows = ["the cat sat on a mat", "moon", "a dog ran fast", "red sun blue moon tree house"]
    return collated(encoder, rows, Masked(views=TextViews(max_length=12), probability=0.3))


def built(tiny_bert, **options):
    return set_up(tiny_bert, DiffCSE(generator=tiny_bert, **options))


def test_detection_by_pencil(tiny_bert):
    """A head that says "replaced" with logit x everywhere: the mean of two known numbers."""
    encoder, objective = built(tiny_bert)
    objective.masked_lm = Fixed(5)
    with torch.no_grad():
        objective.discriminator.head.weight.zero_()
        objective.discriminator.head.bias.copy_(torch.tensor([0.0, math.log(3.0)]))  # P(replaced) = 3/4
    ids = torch.tensor([[[2, 5, 6, 3]] * 2, [[2, 7, 3, 0]] * 2])  # 2 x 2 replaced, then 2 x 2: 8 of 16 positions
    mask = (ids > 0).long()
    batch = Batch(ids, mask, masked_ids=ids)
    got = step(encoder, objective, batch).metrics
    assert got["replaced"].item() == pytest.approx(8 / 14)
    assert got["rtd"].item() == pytest.approx(-(8 * math.log(3 / 4) + 8 * math.log(1 / 4)) / 16, rel=1e-5)
    objective.padding = "excluded"
    got = step(encoder, objective, batch).metrics
    assert got["rtd"].item() == pytest.approx(-(8 * math.log(3 / 4) + 6 * math.log(1 / 4)) / 14, rel=1e-5)


def test_detection_counts_a_row_of_weight_2_twice(tiny_bert):
    """And one of weight 0 not at all: against the detection over repeated rows."""
    encoder, objective = built(tiny_bert, padding="excluded")
    objective.masked_lm = Fixed(6)
    batch, projected = texts(encoder), torch.randn(4, 2, 16)
    weighted, repeated = weighted_and_repeated(batch)
    got = objective.detection(projected, weighted, StepContext(encoder=encoder))[0]
    want = objective.detection(projected[[0, 0, 2]], repeated, StepContext(encoder=encoder))[0]
    plain = objective.detection(projected, batch, StepContext(encoder=encoder))[0]
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert abs(plain.item() - want.item()) > 1e-4


def test_a_generators_dropout_is_an_option(tiny_bert):
    assert not built(tiny_bert)[1].masked_lm.model.training
    assert built(tiny_bert, generator_dropout=True)[1].masked_lm.model.training


def test_projected_vectors_are_float32_under_autocast(tiny_bert):
    encoder, objective = built(tiny_bert)
    rows, batch, ctx = torch.randn(4, 2, 16), texts(encoder), StepContext(encoder=encoder)
    plain = objective(Views.split(rows, rows, 1), batch, ctx)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(Views.split(rows, rows, 1), batch, ctx)
    assert rounded.metrics["contrastive"] == plain.metrics["contrastive"]
    assert rounded.metrics["rtd"] != plain.metrics["rtd"]  # its backbone computes in bfloat16


def test_the_state_of_a_run_holds_what_is_trained_and_not_the_generator(tiny_bert):
    saved = Learner(*built(tiny_bert)).trained_state()
    assert {k.split(".")[1] for k in saved if k.startswith("objective.")} == {"discriminator", "projector"}


def test_lora_encoders_start_the_discriminator_from_the_merged_backbone(tiny_bert):
    encoder = Encoder(tiny_bert, adapter=Lora(rank=2, targets=["query"]))
    objective = DiffCSE(generator=tiny_bert)
    objective.setup(encoder)
    plain = Encoder(tiny_bert).backbone.state_dict()
    assert all(torch.equal(plain[k], v) for k, v in objective.discriminator.backbone.state_dict().items())


def test_refusals(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert)
    headless = save_tiny("bert", tiny_bert, tmp_path / "headless")
    refuses("is not a trained masked language model", DiffCSE(generator=headless).setup, encoder)
    llama = Encoder(save_tiny("llama", tiny_bert, tmp_path / "llama"), pooler="last")
    refuses("llama backbone", DiffCSE(generator=tiny_bert).setup, llama)
    encoder.tokenizer.add_tokens(["zebra"])
    refuses("another vocabulary", DiffCSE(generator=tiny_bert).setup, encoder)
