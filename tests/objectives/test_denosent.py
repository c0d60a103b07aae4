"""DenoSent against its authors' program (oracles, whole models), slow computations and limits."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from cse import Batch, DenoSent, Dropout, Encoder, StepContext, TextViews
from cse.training.learner import Learner
from tests.cases import below, cases, load
from tests.models import save_beside
from tests.objectives.helpers import Case, agrees, close, collated, padded, refuses, set_up, step, weighted_and_repeated

SMALL = {"decoder_layers": 2, "feed_forward": 16}
STILL = {"input_dropout": 0.0, "decoder_dropout": 0.0}
TEXTS = ["the cat sat on a mat", "moon", "a dog ran fast", "red sun blue moon tree house"]


def contract_case(backbone):
    return Case({**SMALL, **STILL})


class Times(nn.Module):
    """Dropout whose mask is written down."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def own_name(name):
    """The name of an oracle's weight here: `encoder` is the backbone."""
    head = "prediction_head.predictions."
    for theirs, ours in (
        ("sent_embedding_projector.", "projector."),
        (f"{head}transform.dense.", "head.dense."),
        (f"{head}transform.LayerNorm.", "head.layer_norm."),
        (head, "head."),
    ):
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("name", cases("denosent"))
def test_every_whole_model(tiny_bert, tmp_path, name):
    about, data = load("denosent", name)
    state = {own_name(key): weight for key, weight in below(data, "state/").items()}
    model = BertForMaskedLM(BertConfig(**about["config"]))
    model.bert.load_state_dict(below(state, "encoder."))
    encoder = Encoder(
        save_beside(tiny_bert, model, tmp_path),
        pooler="mask",
        template="the {text} {mask} on",  # as many ids after the mask token as in the oracle's template
        dropout=Dropout(attention=0.0, hidden=0.0),
    )
    objective = DenoSent(
        temperature=about["temperature"],
        contrast_weight=about["contrastive_weight"] if about["contrastive"] else 0.0,
        rebuild_weight=about["generative_weight"] if about["generative"] else 0.0,
        decoder_layers=about["decoder_layers"],
        decoder_heads=about["decoder_heads"],
        feed_forward=about["decoder_feed_forward"],
        decoder_dropout=0.0,
    )
    objective.setup(encoder)
    objective.load_state_dict({k: v for k, v in state.items() if not k.startswith("encoder.")})
    objective.noise = Times(data["noise"])

    views = [v for v in ("", "positive_", "negative_") if f"{v}input_ids" in data]
    ids, mask = (torch.stack([data[f"{v}{n}"] for v in views], 1) for n in ("input_ids", "attention_mask"))
    batch, ctx = Batch(ids, mask, num_positives=min(1, len(views) - 1)), StepContext(encoder=encoder)
    output = Learner(encoder, objective).train()(batch, ctx)[1]
    found = dict(objective.named_parameters()) | {f"encoder.{n}": p for n, p in encoder.backbone.named_parameters()}
    gradients = {f"grad/{own_name(key)}": grad for key, grad in below(data, "grad/").items()}
    assert gradients.keys() == {f"grad/{key}" for key in state}
    terms = {"rebuild": "generative_loss"} | ({"contrastive": "contrastive_loss"} if about["contrastive"] else {})
    agrees(output, about, gradients, {key: found[key] for key in state}, **terms)

    with torch.no_grad():
        vector = encoder(ids.transpose(0, 1).flatten(0, 1), mask.transpose(0, 1).flatten(0, 1)).embedding
        close(vector[: len(data["vector"])], data["vector"])
        close(objective.projector(vector)[: len(data["projected"])], data["projected"])
        target = min(1, len(views) - 1)
        embedded = encoder.states(ids[:, target], mask[:, target]).hidden[0]
        logits = objective.rebuilt(embedded, mask[:, target], objective.projector(vector)[: about["B"]], ctx)
        close(logits, data["decoder_logits"][mask[:, target] == 1])


def built(folder, **options):
    return set_up(folder, DenoSent(**{**SMALL, **STILL, **options}), pooler="mean")


def batch_of(encoder, texts=TEXTS, views=2):
    return collated(encoder, texts, TextViews(max_length=12, views=views))


def test_one_text_per_row_rebuilds_itself_without_contrast(tiny_bert):
    encoder, objective = built(tiny_bert, contrast_weight=0.0)
    assert not objective.contrasts
    losses = [step(encoder, objective, batch_of(encoder, views=views)).loss.item() for views in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    refuses(r"collator\.views", step, encoder, built(tiny_bert)[1], batch_of(encoder, views=1))


def test_padding_and_weights(tiny_bert):
    """Padding changes nothing; a row of weight 2 counts twice in both terms, one of weight 0 not at all."""
    encoder, objective = built(tiny_bert)
    batch = batch_of(encoder)
    losses = [step(encoder, objective, padded(encoder, batch, extra)).loss.item() for extra in (0, 3)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    found = [step(encoder, objective, b).metrics["rebuild"].item() for b in weighted_and_repeated(batch)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_state_of_a_run_holds_what_is_trained(tiny_bert):
    saved = Learner(*built(tiny_bert)).trained_state()
    assert {k.split(".")[1] for k in saved if k.startswith("objective.")} == {"projector", "decoder", "head"}


def test_heads_that_do_not_divide_the_dimensions(tiny_bert):
    refuses("heads is 3, which does not divide the 16 dimensions", DenoSent(decoder_heads=3).setup, Encoder(tiny_bert))
