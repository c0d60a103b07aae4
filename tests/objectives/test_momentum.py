"""Momentum contrast against the authors' programs (oracles), loops, limits, and whole runs that are killed."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import linear

from cse import Batch, Encoder, Matryoshka, Momentum, StepContext, TextViews, Views, distributed
from cse.objectives.momentum import cosine_momentum, hard_filter
from cse.teachers.queue import Queue
from tests.cases import cases, load, settings
from tests.objectives.helpers import agrees, batch_of, close, collated, refuses, set_up

MOCOSE = {"candidates": "keys", "key_head": "average", "schedule": "cosine", "asymmetric": True}
DUAL = {"candidates": "keys", "dual_view": True, "hardest": 3}
ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["the cat sat on a mat", "the dog ran", "red house", "blue tree sun moon", "slow dog", "fast red cat"]


def holding(queue, **arguments):
    """An objective whose queue has these rows."""
    objective = Momentum(**arguments)
    objective.queue = Queue(*queue.shape)
    objective.queue.push(queue)
    return objective


def loss_of(objective, query, candidate, **fields):
    return objective.loss(query, candidate, batch_of(*query.shape[:2], **fields))


# Against the authors' programs
@pytest.mark.parametrize("name", cases("momentum", "mocose"))
def test_every_loss_of_mocose(name):
    """The gradient of the anchors; theirs also reaches the keys."""
    about, data = load("momentum", name)
    query = data["query"].requires_grad_()
    objective = holding(data["queue"], candidates="keys", temperature=about["temperature"])
    output = loss_of(objective, torch.stack([query, query], 1), torch.stack([data["key"], data["key"]], 1))
    agrees(output, about, data, {"query": query})


@pytest.mark.parametrize("name", cases("momentum", "esimcse"))
def test_every_loss_of_esimcse(name):
    """Theirs drops hard negatives where it has a queue."""
    about, data = load("momentum", name)
    hidden = data["cls_hidden"].requires_grad_()
    views = 2 if about["queue"] else about["views"]
    rows = torch.tanh(linear(hidden, data["mlp_w"], data["mlp_b"]))[:, :views]
    objective = holding(data.get("queue", torch.zeros(0, rows.shape[-1])), temperature=about["temperature"])
    agrees(loss_of(objective, rows, rows), about, data, {"cls_hidden": hidden})


@pytest.mark.parametrize("name", cases("momentum", "dual", "single"))
def test_every_loss_of_the_dual_view(name):
    about, data = load("momentum", name)
    both = about["both_views"]
    arguments = {"hardest": about["hardest"], "ceiling": about["max_similarity"], "temperature": about["temperature"]}
    objective = holding(data["queue"], candidates="keys", dual_view=both, **arguments)
    queries = [data[n].requires_grad_() for n in (("query", "query2") if both else ("query", "query"))]
    keys = [data[n] for n in (("key2", "key") if both else ("key", "key"))]
    output = loss_of(objective, torch.stack(queries, 1), torch.stack(keys, 1))
    agrees(output, about, data, {n: data[n] for n in ("query", "query2")[: 1 + both]})


@pytest.mark.parametrize("name", cases("momentum", has="decays"))
def test_every_schedule_of_mocose(name):
    about = settings("momentum")[name]
    got = [cosine_momentum(about["decay"], s, about["total_steps"]) for s in range(1, about["updates"] + 1)]
    assert got == pytest.approx(about["decays"], rel=1e-9)


# By hand, and in limits
def test_the_hardest_under_a_ceiling_by_a_slow_loop():
    cosine = torch.rand(6, 20)
    for hardest, ceiling in ((3, None), (3, 0.6), (None, 0.5), (25, 0.5), (30, None)):
        mask = hard_filter(cosine, hardest, ceiling)
        for row, chosen in zip(cosine.tolist(), mask.tolist(), strict=True):
            kept = sorted((c for c in row if ceiling is None or c <= ceiling), reverse=True)[:hardest]
            assert sorted((c for c, there in zip(row, chosen, strict=True) if there), reverse=True) == kept


# From tokens
def built(backbone, **arguments):
    encoder, objective = set_up(backbone, Momentum(**arguments), scale=5, head="mlp", pooler="mean")
    return encoder.double(), objective.double()


def views_of(encoder, rows=slice(None)):
    """Two views of each text, the second with its words in reverse, and the encoder's vectors of them."""
    pairs = [(text, " ".join(reversed(text.split()))) for text in TEXTS][rows]
    tokens = collated(encoder, pairs, TextViews(max_length=12))
    output = encoder(tokens.input_ids.flatten(0, 1), tokens.attention_mask.flatten(0, 1))
    batch = Batch(tokens.input_ids, tokens.attention_mask)  # of this process alone, whose text ids no other knows
    return batch, *(distributed.gather(t.view(len(pairs), 2, -1)) for t in (output.projected, output.embedding))


def step_of(encoder, objective, rows=slice(None), step=0):
    batch, projected, embedding = views_of(encoder, rows)
    ctx = StepContext(encoder, step=step, max_steps=10)
    return objective(Views.split(projected, embedding, 1), batch, ctx), projected, ctx


@pytest.mark.parametrize(
    ("arguments", "view"), [({}, 0), ({"candidates": "keys"}, 1), (MOCOSE, 1), (DUAL, 1), ({"key_head": "average"}, 0)]
)
def test_the_keys_of_every_part_of_a_step_are_pushed_once(tiny_bert, arguments, view):
    """The keys of the anchors or of the positives, before the copy follows; the first step has an empty queue."""
    encoder, objective = built(tiny_bert, **arguments, queue_size=5)
    parts = [slice(0, 3), slice(3, 6)]
    for part in parts:
        output, _, ctx = step_of(encoder, objective, part)
        assert output.metrics["queue"] == 0
    _, projected, _ = views_of(encoder)
    want = objective.projection(projected)[1:, view].detach()  # the copy is equal still; the oldest key had no room
    objective.after_step(ctx)
    close(objective.queue.rows(), want, 1e-9)
    objective.after_step(ctx)
    close(objective.queue.rows(), want, 1e-9)


def test_a_rehearsal_pushes_nothing(tiny_bert):
    encoder, objective = built(tiny_bert)
    _, _, ctx = step_of(encoder, objective.eval())
    objective.after_step(ctx)
    assert not len(objective.queue.rows())


def test_the_copy_follows_by_the_schedule(tiny_bert):
    encoder, objective = built(tiny_bert, **MOCOSE, momentum=0.75, schedule_steps=4)
    start = [p.detach().clone() for p in (*encoder.parameters(), *objective.projection.parameters())]
    with torch.no_grad():
        for weight in (*encoder.parameters(), *objective.projection.parameters()):
            weight += 1
    objective.after_step(StepContext(encoder, step=0, max_steps=99))  # update 2 of 4: m is 1 - 1/4 * 1/2
    followers = (*objective.copy.encoder.parameters(), *objective.key_projection.parameters())
    for own, was in zip(followers, start, strict=True):
        assert torch.allclose(own, was + 0.125)


def test_the_published_setting_begins_with_as_many_vectors_as_the_authors_loss_reads():
    """Theirs reads the first `start_size` vectors beyond those that it counts, which are as many at first."""
    for about in settings("momentum").values():
        if "start_size" in about:
            assert about["columns_used_by_the_loss_at_each_step"][0] == min(about["queue"], 2 * about["start_size"])
    published = yaml.safe_load((ROOT / "recipes" / "paper" / "mocose-bert-base.yaml").read_text())
    assert published["objective"]["init_args"]["queue_start"] == min(256, 2 * 128)


def test_random_rows_at_the_start_are_unit_vectors(tiny_bert):
    _, objective = built(tiny_bert, queue_size=9, queue_start=4)
    assert objective.queue.rows().shape == (4, 16)
    assert torch.allclose(objective.queue.rows().norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_a_wrapper_that_cuts_vectors_refuses_the_queue(tiny_bert):
    refuses(
        r"Momentum, which has a queue of its own\nfix: .*WeightedSum",
        Matryoshka(term=Momentum(), dimensions=[4, 16]).setup,
        Encoder(tiny_bert),
    )


def test_rows_of_one_view_are_refused(tiny_bert):
    encoder, objective = built(tiny_bert)
    batch, projected, embedding = views_of(encoder)
    with pytest.raises(ValueError, match="one view"):
        objective(Views.split(projected[:, :1], embedding[:, :1], 1), batch.with_views([0]), StepContext(encoder))
