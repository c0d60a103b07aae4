"""Negatives that are mined anew in training: which they are, when, that a run resumes exactly, on two processes too."""

import numpy as np
import pytest
import torch

from cse import (
    Batch,
    Dropout,
    Encoder,
    Example,
    Masked,
    NearTexts,
    PccTuning,
    Random,
    RefreshNegatives,
    Texts,
    TextViews,
    TopK,
    Trainer,
    Triplets,
    UserError,
)
from cse.data.tokens import TokenStore
from cse.mining.refresh import RowsWithNegatives
from cse.seeding import seed_dropout
from cse.teachers.copy import EncoderCopy
from cse.training import preflight
from tests.refusals import refuses
from tests.runs import NO_DROPOUT, Dies, make_run, metrics, weights, write_recipe, write_texts, write_triplets

ROUNDING = 1e-6  # of a float32 cosine, at most


def run_with(folder, backbone, *, triplets=True, k=2, steps=2, miner=None, encoder=None, **options):
    """A run whose sentences are not all alike from the start."""
    if encoder is None:
        seed_dropout("refresh")
        encoder = Encoder(backbone, head="mlp")
        for weight in encoder.parameters():
            weight.data *= 4
    run = make_run(folder, backbone, triplets=triplets, encoder=encoder, max_steps=8, **options)
    miner = miner or TopK(last=12, absolute_margin=0.0)
    run.source = RefreshNegatives(miner=miner, k=k, steps=steps, precision="fp32")
    return run


def assert_nearest(got, encoder, data, k):
    """They are the k nearest of all positives and own negatives that are no nearer than the positive, in float64.

    Where cosines are within float32's rounding of each other, or of the limit, either decision is right.
    """
    pool = list(dict.fromkeys(text for example in data for text in example.texts[1:]))
    texts = list(dict.fromkeys(text for example in data for text in example.texts))
    vectors = {text: v / np.linalg.norm(v) for text, v in zip(texts, encoder.encode(texts).astype(float), strict=True)}
    for example, chosen in zip(data, got, strict=True):
        cosine = {text: float(vectors[text] @ vectors[example.texts[0]]) for text in (*pool, *example.texts)}
        near = sorted(set(pool) - set(example.texts), key=cosine.get, reverse=True)[:12]
        limit = cosine[example.texts[1]]
        assert set(chosen) <= {text for text in near if cosine[text] <= limit + ROUNDING}
        left_out = [cosine[text] for text in near if text not in chosen and cosine[text] <= limit - ROUNDING]
        found = [cosine[text] for text in chosen]
        assert found == pytest.approx(sorted(found, reverse=True), abs=ROUNDING)
        assert len(found) == k or (len(found) < k and not left_out)
        assert not left_out or max(left_out) <= min(found) + ROUNDING


def test_they_are_the_nearest_of_the_encoder_as_it_is(tiny_bert, tmp_path, monkeypatch):
    run = run_with(tmp_path, tiny_bert, learning_rate=1e-2)
    seen, real = {}, RefreshNegatives.mine

    def spy(self, encoder, step):
        chosen = real(self, encoder, step)
        rows = self.with_negatives(chosen)
        got = [rows[i].texts[3:] for i in range(len(rows))]
        assert_nearest(got, encoder, run.data, 2)
        assert [rows[i].texts[:3] for i in range(len(rows))] == [e.texts for e in run.data]
        seen[step] = got
        return chosen

    monkeypatch.setattr(RefreshNegatives, "mine", spy)
    Trainer(run).fit()
    assert list(seen) == [0, 2, 4, 6]
    assert seen[0] != seen[6]  # the encoder has learnt, and its neighbors with it
    assert len({len(texts) for rows in seen.values() for texts in rows}) > 1  # unequal numbers


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    """A run that nothing disturbs, with refreshes before steps 1, 4 and 7, and evaluations after 2, 4, 6 and 8."""
    run = run_with(tmp_path_factory.mktemp("whole"), tiny_bert, steps=3, learning_rate=1e-2)
    Trainer(run).fit()
    return run


@pytest.mark.parametrize("step", [5, 7])
def test_a_killed_run_resumes_bit_for_bit(tiny_bert, tmp_path, monkeypatch, whole, step):
    """From within a stretch, and from a state that was saved right before a refresh."""
    killed = run_with(tmp_path, tiny_bert, steps=3, learning_rate=1e-2)
    killed.callbacks = [Dies(step)]
    with pytest.raises(RuntimeError, match="killed"):
        Trainer(killed).fit()
    at, real = [], RefreshNegatives.mine
    monkeypatch.setattr(RefreshNegatives, "mine", lambda self, e, s: at.append(s) or real(self, e, s))
    again = run_with(tmp_path, tiny_bert, steps=3, learning_rate=1e-2)
    Trainer(again).fit(resume=True)
    assert at == [6]
    assert metrics(again.folder) == metrics(whole.folder)
    assert weights(again.folder / "last") == weights(whole.folder / "last")


def test_rows_of_one_text_are_their_own_positive(tiny_bert, tmp_path):
    run = run_with(tmp_path, tiny_bert, triplets=False, k=1, miner=Random(seed=1))
    Trainer(run).fit()
    chosen = run.source.mine(run.encoder, 0)
    for i in range(len(run.data)):
        anchor, positive, negative = run.source.with_negatives(chosen)[i].texts
        assert anchor == positive == run.data[i].texts[0] != negative
    encoder = Encoder(tiny_bert, dropout=Dropout(attention=0.0, hidden=0.0))
    bare = run_with(tmp_path / "bare", tiny_bert, triplets=False, encoder=encoder)
    refuses("dropout", lambda: Trainer(bare).fit())


def test_a_pool_of_its_own(tiny_bert, tmp_path):
    (tmp_path / "pool.txt").write_text("the moon\na red tree\nthe slow dog\n")
    run = make_run(tmp_path / "run", tiny_bert, triplets=True, max_steps=1)
    run.source = RefreshNegatives(miner=TopK(), k=3, pool=str(tmp_path / "pool.txt"), epochs=0.5)
    Trainer(run).fit()
    rows = run.source.with_negatives(run.source.mine(run.encoder, 0))
    assert all(sorted(rows[i].texts[3:]) == ["a red tree", "the moon", "the slow dog"] for i in range(len(rows)))
    run.source.setup(run.data, 7)
    assert run.source.interval == 4


def test_rows_keep_what_else_is_known_of_them():
    data = [Example(("a", "b"), weight=2.0, label=3, row_id=0), Example(("c", "d", "e"), row_id=1)]
    rows = RowsWithNegatives(data, ["x", "y"], np.array([[1, -1], [0, 1]]))
    assert rows[0:2] == [
        Example(("a", "b", "y"), weight=2.0, label=3, row_id=0),
        Example(("c", "d", "e", "x", "y"), row_id=1),
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"k": 0}, "negatives.k is 0"),
        ({"epochs": 0.0}, "negatives.epochs is 0.0"),
        ({"steps": 0}, "negatives.steps is 0"),
        ({"pool": "nowhere.txt"}, "there is no such file"),
    ],
)
def test_what_is_refused(options, named):
    refuses(named, RefreshNegatives, miner=TopK(), **options)


# Unequal numbers of views on several processes
def test_a_batch_is_widened_by_views_that_are_not_there(tiny_bert):
    encoder = Encoder(tiny_bert)
    examples = [Example(("the cat", "a cat")), Example(("the dog", "a dog", "red sun"))]
    collator = Masked(views=TextViews(max_length=8), probability=0.9)
    collator.setup(TokenStore.build([t for e in examples for t in e.texts], encoder.tokenizer, 8), 1)
    batch = collator(examples).widened(5)
    assert batch.view_mask.tolist() == [[True, True, False, False, False], [True, True, True, False, False]]
    for name, tensor in batch.tensors().items():
        assert tensor.shape[:2] == (2, 5) or name == "row_id", name
    assert (batch.mlm_labels[~batch.view_mask] == -100).all()
    assert torch.equal(batch.input_ids[:, 4], batch.input_ids[:, 0])
    same = Batch(batch.input_ids, batch.attention_mask).widened(5)
    assert same.view_mask.all()
    assert torch.equal(same.input_ids, batch.input_ids)


MINER = {"class_path": "cse.mining.miners.TopK", "init_args": {"first": 2, "last": 9}}
REFRESH = {"class_path": "cse.mining.refresh.RefreshNegatives", "init_args": {"k": 2, "steps": 2, "miner": MINER}}


def tiny_recipe(folder, backbone, negatives=REFRESH, **parts):
    """Rows with 0 to 3 negatives of their own besides those that are mined, no dropout."""
    texts = write_texts(folder, 96).read_text().splitlines()
    rows = [[*texts[i * 5 : i * 5 + 2 + i % 4], "", "", ""][:5] for i in range(18)]
    lines = ["\t".join(row) for row in [["a", "p", "n1", "n2", "n3"], *rows]]
    (folder / "ragged.tsv").write_text("\n".join(lines))
    init = {"path": str(folder / "ragged.tsv"), "columns": ["a", "p", "n1", "n2", "n3"]}
    trainer = {"batch_size": 4, "learning_rate": 1e-2}
    return write_recipe(
        folder, "Triplets", init, {"backbone": backbone, **NO_DROPOUT}, trainer=trainer, negatives=negatives, **parts
    )


def spread(backbone, **options):
    """An encoder whose sentences are not all alike."""
    seed_dropout("near")
    encoder = Encoder(backbone, head="mlp", **options)
    for weight in encoder.parameters():
        weight.data *= 4
    return encoder


def near(**options):
    return NearTexts(**{"miner": TopK(last=6), "k": 2, "precision": "fp32", **options})


@pytest.mark.parametrize(
    ("first", "prompts"), [(1, {}), (3, {"anchor": "the ", "positive": "red sun ", "negative": "dog "})]
)
def test_they_are_the_nearest_by_numpy(tiny_bert, tmp_path, prompts, first):
    encoder, source = spread(tiny_bert).eval(), near(miner=TopK(first=first, last=6))
    data = Texts(str(write_texts(tmp_path, 24)))
    texts = [example.texts[0] for example in data]
    source.prompts = prompts
    source.setup(data, 3)
    rows, until = source.rows(0, encoder)
    assert until == 3

    def unit(role):
        vectors = encoder.encode(texts, prompt=prompts.get(role, "")).astype(float)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    cosine = unit("anchor") @ unit("positive").T
    np.fill_diagonal(cosine, -np.inf)
    for i, row in enumerate(rows):
        assert row.texts[0] == texts[i]
        assert (row.num_positives, row.row_id) == (2, data[i].row_id)
        assert len(set(row.texts)) == 3
        found = [cosine[i, texts.index(text)] for text in row.texts[1:]]
        want = np.sort(cosine[i])[::-1][first - 1 : first + 1]
        assert found == pytest.approx(want, abs=1e-6)  # of two that are as near, either will do


def test_an_encoder_without_dropout_may_learn_from_them(tiny_bert, tmp_path):
    """The views of a row are different texts, with which roles of prompts fit too."""
    plain = spread(tiny_bert, dropout=Dropout(attention=0.0, hidden=0.0))
    views, objective = TextViews(max_length=12, prompts={"positive": None}), PccTuning(teacher=EncoderCopy())
    run = make_run(tmp_path, tiny_bert, encoder=plain, collator=views, objective=objective)
    run.source = near()
    preflight.check(run)
    run.source = make_run(tmp_path / "fixed", tiny_bert).source
    refuses(r"the encoder has no dropout(.|\n)*collator.prompts.positive is None", preflight.check, run)


def test_what_is_refused_of_near_texts(tiny_bert, tmp_path):
    for options, named in (({"k": 0}, "negatives.k is 0"), ({"epochs": 0.0}, "negatives.epochs is 0.0")):
        refuses(named, near, **options)
    with pytest.raises(UserError, match=r"takes single texts, and a row has 3\nfix: give data of single texts"):
        near().setup(Triplets(str(write_triplets(tmp_path))), 1)
    texts = Texts(str(write_texts(tmp_path, 6)))
    refuses(r"negatives.k is 6, and the data has 6 different texts\nfix: ", lambda: near(k=6).setup(texts, 1))
    few = near(miner=TopK(last=3), k=4)
    few.setup(texts, 1)
    refuses(r"negatives.k is 4, and the miner found 3 texts near row 0: 'the cat", few.rows, 0, spread(tiny_bert))
