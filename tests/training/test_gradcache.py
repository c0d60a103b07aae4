"""Gradients cached by rows or by tokens: how texts are cut into chunks, and that nothing else changes."""

import pytest
import torch
from accelerate import Accelerator

from cse.batch import Batch
from cse.data.tokens import TokenStore
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.masked_lm import MaskedLM
from cse.objectives.simcse import SimCSE
from cse.recipe.settings import Settings
from cse.seeding import seed_dropout
from cse.training import gradcache
from cse.training.learner import Learner
from cse.training.trainer import Trainer
from tests.runs import make_run, metrics

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


def gradients(learner):
    return {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


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


def test_a_run_is_that_without_caching(tiny_bert, tmp_path):
    losses = []
    for options in ({}, {"chunk_tokens": 40}):
        encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
        for weight in encoder.parameters():
            weight.data = torch.sin(torch.arange(weight.numel(), dtype=torch.float32)).view_as(weight) / 5
        run = make_run(tmp_path / str(len(options)), tiny_bert, triplets=True, encoder=encoder, max_steps=3, **options)
        Trainer(run).fit()
        losses.append([line["loss"] for line in metrics(run.folder)[1:]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


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
