"""Gradients cached by rows or by tokens, with a queue too: how texts are cut, and that nothing else changes."""

import pytest
import torch
from accelerate import Accelerator

from cse import Batch, Dropout, Encoder, MaskedLM, Momentum, Settings, SimCSE, StepContext, Trainer, UserError
from cse.data.tokens import TokenStore
from cse.seeding import seed_dropout
from cse.training import gradcache
from cse.training.learner import Learner
from tests.runs import Dies, assert_resumes, make_run, metrics
from tests.training.helpers import MOCOSE, gradients

LENGTHS = [[3, 9], [2, 2], [12, 1], [5, 5]]  # tokens of the views of each row


def batch():
    """Rows whose tokens are numbered, with the lengths above and padding of 0."""
    mask = (torch.arange(12) < torch.tensor(LENGTHS)[..., None]).long()  # (4, 2, 12)
    ids = torch.arange(1, 97).view(4, 2, 12) * mask
    return Batch(ids, mask, source="nli")


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        (1000, [[4, 1, 6, 7, 0, 2, 3, 5]]),  # places of the lengths 12, 9, 5, 5, 3, 2, 2, 1
        (24, [[4, 1], [6, 7, 0, 2], [3, 5]]),  # 2 x 12; 4 x 5 of at most 24; 2 x 2
        (10, [[4], [1], [6, 7], [0, 2, 3], [5]]),  # the text of 12 tokens is longer than a chunk may be
        (1, [[4], [1], [6], [7], [0], [2], [3], [5]]),
    ],
)
def test_chunks_hold_texts_of_similar_length_without_needless_padding(tokens, want):
    whole = batch()
    chunks = gradcache.by_tokens(whole, tokens)
    assert [chunk.texts.tolist() for chunk in chunks] == want
    ids = whole.input_ids.flatten(0, 1)
    for chunk in chunks:
        longest = max(LENGTHS[i // 2][i % 2] for i in chunk.texts.tolist())
        assert chunk.batch.input_ids.shape == (len(chunk.texts), 1, longest)
        assert torch.equal(chunk.batch.input_ids[:, 0], ids[chunk.texts, :longest])
        assert not ids[chunk.texts, longest:].any()
        assert chunk.batch.source == "nli"


def batch_of(encoder, run, rows):
    tokens = TokenStore.build(run.data.unique_texts(), encoder.tokenizer, 12)
    run.collator.setup(tokens, 0)
    return run.collator([run.data[i] for i in range(rows)])


@pytest.mark.parametrize(
    ("options", "triplets", "head"),
    [
        ({"chunk_size": 1}, True, "mlp"),
        ({"chunk_size": 3}, False, "mlp"),
        ({"chunk_size": 3}, True, "none"),
        ({"chunk_size": 8}, False, "mlp"),
        ({"chunk_tokens": 1}, True, "mlp"),
        ({"chunk_tokens": 30}, True, "mlp"),
        ({"chunk_tokens": 30}, False, "none"),
        ({"chunk_tokens": 1000}, True, "none"),
    ],
)
def test_cached_gradients_are_the_direct_ones(tiny_bert, tmp_path, options, triplets, head):
    """Of texts with a head, which have two vectors, or without."""
    encoder = Encoder(tiny_bert, head=head, dropout=Dropout(attention=0.0, hidden=0.0)).double()
    run = make_run(tmp_path, tiny_bert, triplets=triplets, encoder=encoder)
    learner, ctx = Learner(encoder, SimCSE()).train(), StepContext(encoder=encoder)
    whole = batch_of(encoder, run, 8)
    encoded, output = learner(whole, ctx)
    output.loss.backward()
    want = gradients(learner)
    learner.zero_grad()
    found, again = gradcache.backward(Accelerator(cpu=True), learner, whole, ctx, seed=lambda i: None, **options)
    assert again.loss.item() == pytest.approx(output.loss.item(), rel=1e-12)
    assert torch.allclose(found.embedding, encoded.embedding.detach(), rtol=1e-10)
    assert (found.projected is found.embedding) == (head == "none")
    got = gradients(learner)
    assert want.keys() == got.keys()
    assert max(float((want[n] - got[n]).abs().max()) for n in want) < 1e-12


@pytest.mark.parametrize(
    ("options", "cut"), [({"chunk_size": 3}, gradcache.by_size), ({"chunk_tokens": 30}, gradcache.by_tokens)]
)
def test_both_passes_of_a_chunk_draw_the_same_dropout(tiny_bert, tmp_path, options, cut):
    """Against the direct gradient of one graph in which each chunk is encoded once, under the chunk's seed."""
    encoder = Encoder(tiny_bert, head="mlp").double()
    run = make_run(tmp_path, tiny_bert, encoder=encoder)
    learner, ctx = Learner(encoder, SimCSE()).train(), StepContext(encoder=encoder)
    whole = batch_of(encoder, run, 8)

    def seed(chunk):
        seed_dropout("test", chunk)

    rows: dict[int, torch.Tensor] = {}
    for i, (chunk, texts) in enumerate(cut(whole, *options.values())):
        seed(i)
        rows |= dict(zip(texts.tolist(), learner(chunk)[0].projected.flatten(0, 1), strict=True))
    joined = torch.stack([rows[i] for i in range(len(rows))]).view(8, 2, -1)
    learner.loss(whole, gradcache.Encoded(joined, joined), ctx).loss.backward()
    want = gradients(learner)
    learner.zero_grad()
    gradcache.backward(Accelerator(cpu=True), learner, whole, ctx, seed=seed, **options)
    assert max(float((want[n] - g).abs().max()) for n, g in gradients(learner).items()) < 1e-12


def test_caching_and_accumulation_together_are_accumulation(tiny_bert, tmp_path):
    logs = []
    for chunk_size in (None, 3):
        seed_dropout("test")
        encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
        options = {"accumulation": 2, "chunk_size": chunk_size, "max_steps": 2}
        run = make_run(tmp_path / str(chunk_size), tiny_bert, triplets=True, encoder=encoder, **options)
        Trainer(run).fit()
        logs.append(metrics(run.folder)[-1])
    assert [logs[1][k] for k in ("loss", "grad_norm", "dev")] == pytest.approx(
        [logs[0][k] for k in ("loss", "grad_norm", "dev")], rel=1e-4
    )


def test_what_cannot_be_cached_is_refused_by_the_name_of_the_option(tiny_bert, tmp_path):
    with pytest.raises(UserError, match=r"chunk_tokens is 9, but objective MaskedLM(.|\n)*remove trainer.chunk_tokens"):
        Trainer(make_run(tmp_path, tiny_bert, objective=MaskedLM(), chunk_tokens=9))
    with pytest.raises(UserError, match=r"chunk_size is 2 and trainer.chunk_tokens is 9(.|\n)*fix: give one"):
        Settings(chunk_size=2, chunk_tokens=9)


# A queue, and a copy that follows
def build(folder, backbone, *, objective=None, encoder=None, **more):
    """A run on triplets."""
    seed_dropout(1)
    encoder = encoder or Encoder(backbone, pooler="mean")
    seed_dropout(2)  # for what the objective draws in its setup
    objective = objective or Momentum(**MOCOSE)
    return make_run(folder, backbone, triplets=True, encoder=encoder, objective=objective, **more)


def state(run):
    """The tensors that a run would resume with."""
    return torch.load(run.folder / "state" / "state.pt", weights_only=True)["learner"]


def test_a_killed_run_has_the_queue_and_the_copy_of_one_that_was_not(tiny_bert, tmp_path):
    """Killed in step 5, after the state of step 4 was written; the queue is then full, and the copy has moved."""
    whole, again = assert_resumes(lambda folder: build(folder, tiny_bert), tmp_path, Dies(5))
    assert metrics(whole.folder)[-1]["queue"] == 20
    want, got = state(whole), state(again)
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    copied = {name.partition("average.module.")[2] for name in want if "copy" in name}
    assert copied == {name.removeprefix("encoder.") for name in want if name.startswith("encoder.")} != set()


@pytest.mark.parametrize("settings", [{"chunk_size": 3}, {"accumulation": 2}, {"accumulation": 2, "chunk_size": 3}])
def test_cached_and_accumulated_steps_are_the_direct_ones(tiny_bert, tmp_path, settings):
    """Without negatives of the batch, the loss of a row depends on the queue alone, so that parts of a batch add up."""
    arguments = {"candidates": "keys", "dual_view": True, "hardest": 4, "queue_size": 12, "queue_start": 6}

    def run(folder, **more):
        encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
        objective = Momentum(**arguments)
        return Trainer(build(folder, tiny_bert, encoder=encoder, objective=objective, max_steps=3, **more)).fit()

    direct, other = run(tmp_path / "direct"), run(tmp_path / "other", **settings)
    queue, same = (state(r)["objective.queue.vectors"] for r in (direct, other))
    assert torch.allclose(queue, same, atol=1e-4)
    losses = [[line["loss"] for line in metrics(r.folder)[1:]] for r in (direct, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert min(losses[0]) > 0.1
