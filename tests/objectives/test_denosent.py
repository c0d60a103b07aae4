"""DenoSent against its authors' program (oracles, whole models), slow computations and limits."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from cse.augment import WordDeletion
from cse.batch import Batch, Example, Views
from cse.data.collators import AugmentedViews, TextViews
from cse.data.tokens import TokenStore
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.denosent import DenoSent
from cse.objectives.simcse import SimCSE
from cse.seeding import seed_dropout
from cse.training.learner import Learner
from cse.training.trainer import Trainer
from tests.cases import below, cases, load
from tests.models import save_beside, save_tiny
from tests.objectives.helpers import Case, agrees, close
from tests.runs import assert_resumes, make_run

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
    seed_dropout("denosent")
    encoder = Encoder(folder, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
    objective = DenoSent(**{**SMALL, **STILL, **options})
    objective.setup(encoder)
    return encoder, objective


def batch_of(encoder, texts=TEXTS, views=2):
    collator = TextViews(max_length=12, views=views)
    collator.setup(TokenStore.build(texts, encoder.tokenizer, 12), 1)
    return collator([Example((text,), row_id=i) for i, text in enumerate(texts)])


def loss_of(encoder, objective, batch, **ctx):
    return Learner(encoder, objective)(batch, StepContext(encoder=encoder, **ctx))[1]


def test_a_decoder_that_says_nothing_costs_the_logarithm_of_the_vocabulary(tiny_bert):
    """With an output matrix and a bias of zeros, every token is as probable as any other."""
    encoder, objective = built(tiny_bert)
    with torch.no_grad():
        encoder.backbone.get_input_embeddings().weight.zero_()
    assert loss_of(encoder, objective, batch_of(encoder)).metrics["rebuild"].item() == pytest.approx(
        math.log(encoder.backbone.config.vocab_size), rel=1e-5
    )


def test_the_loss_by_a_slow_loop_over_tokens(tiny_bert):
    encoder, objective = built(tiny_bert)
    batch = batch_of(encoder)
    output, total, tokens = loss_of(encoder, objective, batch), 0.0, 0
    with torch.no_grad():
        for row in range(len(TEXTS)):
            ids = batch.input_ids[row, :1][:, batch.attention_mask[row, 0] == 1]
            states = encoder.states(ids, torch.ones_like(ids))
            memory = objective.projector(encoder.pooled(states, torch.ones_like(ids)).embedding)
            seen = states.hidden[0]
            for layer in objective.decoder.layers:
                seen = layer(seen, memory[:, None])
            words = encoder.backbone.get_input_embeddings().weight
            for place, token in enumerate(ids[0].tolist()):
                total -= objective.head(seen[0, place], words).log_softmax(-1)[token].item()
                tokens += 1
    assert output.metrics["rebuild"].item() == pytest.approx(total / tokens, rel=1e-5)
    want = 5 * output.metrics["contrastive"] + 7 * output.metrics["rebuild"]
    assert output.loss.item() == pytest.approx(want.item(), rel=1e-6)


def test_without_the_decoder_it_is_simcse_of_projected_vectors(tiny_bert):
    encoder, objective = built(tiny_bert, rebuild_weight=0.0, contrast_weight=1.0)
    batch = batch_of(encoder)
    with torch.no_grad():
        rows = objective.projector(Learner(encoder, SimCSE()).encode(batch).projected)
        want = SimCSE()(Views.split(rows, rows, 1), batch, StepContext(encoder=encoder)).loss
        assert loss_of(encoder, objective, batch).loss.item() == pytest.approx(want.item(), rel=1e-5)


def test_one_text_per_row_rebuilds_itself_without_contrast(tiny_bert):
    encoder, objective = built(tiny_bert, contrast_weight=0.0)
    assert not objective.contrasts
    losses = [loss_of(encoder, objective, batch_of(encoder, views=views)).loss.item() for views in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    with pytest.raises(ValueError, match=r"collator\.views"):
        loss_of(encoder, built(tiny_bert)[1], batch_of(encoder, views=1))


def test_a_zero_vector_tells_nothing_about_the_row(tiny_bert):
    """Equal inputs then give equal logits in all rows, and other vectors do not."""
    encoder, objective = built(tiny_bert)
    embedded = torch.randn(1, 5, 16).expand(3, -1, -1)
    mask, ctx = torch.ones(3, 5, dtype=torch.int64), StepContext(encoder=encoder)
    for vector, same in ((torch.zeros(3, 16), True), (torch.randn(3, 16), False)):
        logits = objective.rebuilt(embedded, mask, vector, ctx).view(3, 5, -1)
        assert torch.allclose(logits[0], logits[1], atol=1e-6) == same


def test_the_vector_learns_to_tell_the_text(tiny_bert):
    """Without contrast, under noise, the decoder ends below the loss that it has when the vector is taken away."""
    encoder, objective = built(tiny_bert, contrast_weight=0.0, rebuild_weight=1.0, decoder_layers=1, input_dropout=0.9)
    for weight in encoder.parameters():
        weight.data *= 5  # so that its texts are not all alike
    batch = batch_of(encoder, ["cat dog sun moon", "red blue tree house", "mat ran fast slow", "the sat on a"])
    learner = Learner(encoder, objective).train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(encoder, objective, batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        trained = sum(loss_of(encoder, objective, batch).loss.item() for _ in range(10)) / 10
        objective.projector.weight.zero_()
        objective.projector.bias.zero_()
        without = sum(loss_of(encoder, objective, batch).loss.item() for _ in range(10)) / 10
    assert trained < without - 0.1


def test_the_decoder_pulls_through_the_vector_and_the_output_matrix_alone(tiny_bert):
    """Its input is detached: with a vector that is cut off, no layer of the encoder has a gradient."""
    encoder, objective = built(tiny_bert, contrast_weight=0.0)
    with torch.no_grad():
        objective.projector.weight.zero_()
    loss_of(encoder, objective, batch_of(encoder)).loss.backward()
    moved = {n for n, p in encoder.backbone.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {"embeddings.word_embeddings.weight"}


def test_padding_and_weights(tiny_bert):
    """Padding changes nothing; a row of weight 2 counts twice in both terms, one of weight 0 not at all."""
    encoder, objective = built(tiny_bert)
    batch = batch_of(encoder)
    want = loss_of(encoder, objective, batch).loss.item()
    pad = torch.nn.functional.pad
    longer = Batch(pad(batch.input_ids, (0, 3)), pad(batch.attention_mask, (0, 3)), text_id=batch.text_id)
    assert loss_of(encoder, objective, longer).loss.item() == pytest.approx(want, rel=1e-5)
    weighted = batch.with_tensors(batch.tensors() | {"weight": torch.tensor([2.0, 0.0, 1.0, 0.0])})
    order = torch.tensor([0, 0, 2])
    repeated = batch.with_tensors({n: t[order] for n, t in batch.tensors().items()})
    found = [loss_of(encoder, objective, b).metrics["rebuild"].item() for b in (weighted, repeated)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_run_resumes_and_saves_the_encoder_alone(tiny_bert, tmp_path):
    def build(folder):
        collator = AugmentedViews(augmentations=[], anchor_augmentations=[WordDeletion(probability=0.3)], max_length=12)
        parts = {"encoder": Encoder(tiny_bert), "objective": DenoSent(**SMALL), "collator": collator}
        return make_run(folder, tiny_bert, max_steps=4, **parts)

    assert_resumes(build, tmp_path)
    folder = tmp_path / "whole" / "run"
    assert sorted(p.name for p in (folder / "last").iterdir() if p.is_dir()) == ["1_Pooling"]
    saved = torch.load(folder / "state" / "state.pt", weights_only=True)["learner"]
    assert {k.split(".")[1] for k in saved if k.startswith("objective.")} == {"projector", "decoder", "head"}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"contrast_weight": -1.0},
        {"rebuild_weight": -1.0},
        {"decoder_layers": 0},
        {"input_dropout": 1.0},
        {"decoder_dropout": -0.1},
    ],
)
def test_out_of_range(options):
    with pytest.raises(UserError, match=next(iter(options))):
        DenoSent(**options)


def test_refusals(tiny_bert, tmp_path):
    encoder = Encoder(save_tiny("llama", tiny_bert, tmp_path / "llama"), pooler="last")
    with pytest.raises(UserError, match="whose positions a llama backbone does not add"):
        DenoSent().setup(encoder)
    with pytest.raises(UserError, match="heads is 3, which does not divide the 16 dimensions"):
        DenoSent(decoder_heads=3).setup(Encoder(tiny_bert))
    run = make_run(tmp_path, tiny_bert, objective=DenoSent(**SMALL), chunk_size=4)
    with pytest.raises(UserError, match="chunk_size"):
        Trainer(run).fit()
