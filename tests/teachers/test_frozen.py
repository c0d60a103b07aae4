"""Frozen encoders as teachers: their vectors, what they hide, and what they keep."""

import numpy as np
import pytest
import torch

from cse import Batch, Encoder, Ensemble, FrozenEncoder, FrozenViewEncoder, StepContext
from cse.data.tokens import TokenStore
from cse.encoder.template import added_ids
from tests.models import save_tiny
from tests.objectives.helpers import refuses

TEXTS = ["the cat sat on a mat", "the dog", "red house", "blue tree sun moon"]


def set_up(tiny_bert):
    encoder = Encoder(tiny_bert)
    teacher = FrozenViewEncoder(source=tiny_bert)
    teacher.setup(encoder)
    return encoder, teacher


def batch_of(encoder, *columns):
    """One view of each text of a column."""
    store = TokenStore.build([text for column in columns for text in column], encoder.tokenizer, 12)
    rows = list(zip(*columns, strict=True))
    ids, mask = store.pad([store.ids(store.text_id(text)) for row in rows for text in row])
    shape = (len(columns[0]), len(columns), -1)
    text_id = torch.tensor([[store.text_id(text) for text in row] for row in rows])
    return Batch(ids.view(shape), mask.view(shape), text_id=text_id), store.texts


def counted(teacher):
    """How many rows the teacher's encoder reads, call by call."""
    rows = []
    teacher.encoder.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    return rows


def test_it_gives_the_exported_vectors_of_every_view(tiny_bert):
    encoder, teacher = set_up(tiny_bert)
    want = torch.tensor(Encoder.load(tiny_bert).encode(TEXTS))
    got = teacher.embed(batch_of(encoder, TEXTS, TEXTS[::-1])[0], StepContext(encoder))
    assert got.shape == (4, 2, 16)
    assert not got.requires_grad
    assert torch.allclose(got, torch.stack([want, want.flip(0)], 1), atol=1e-5)


def test_equal_views_are_encoded_once(tiny_bert):
    encoder, teacher = set_up(tiny_bert)
    rows = counted(teacher)
    vectors = teacher.embed(batch_of(encoder, TEXTS, TEXTS)[0], StepContext(encoder))
    assert rows == [4]
    assert torch.equal(vectors[:, 0], vectors[:, 1])


def assert_hidden(teacher):
    holder = torch.nn.ModuleList([teacher]).train()
    assert not teacher.training
    assert not list(holder.parameters())
    assert not holder.state_dict()


def test_it_is_frozen_hidden_and_stays_in_evaluation_mode(tiny_bert):
    teacher = set_up(tiny_bert)[1]
    assert_hidden(teacher)
    assert not teacher.encoder.training
    assert not any(p.requires_grad for p in teacher.encoder.parameters())


# A teacher that reads texts
@pytest.fixture
def other_words(tiny_bert, tmp_path):
    """A model of another architecture and vocabulary than the encoder."""
    folder = save_tiny("roberta", tiny_bert, tmp_path / "other", seed=3, hidden_size=24)
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["zebra"])
    words.save_pretrained(folder)
    return folder


def test_a_teacher_of_another_vocabulary_reads_the_texts_behind_the_views(
    tiny_bert, other_words, tmp_path, monkeypatch
):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))
    encoder = Encoder(tiny_bert)
    teacher = FrozenEncoder(source=other_words, precision="fp32")
    teacher.setup(encoder)
    batch, texts = batch_of(encoder, TEXTS, TEXTS[::-1])
    got = teacher.embed(batch, StepContext(encoder, texts=texts))
    want = Encoder.load(other_words).encode(TEXTS).astype(np.float64)
    want /= np.sqrt((want**2).sum(1, keepdims=True))
    assert got.shape == (4, 2, 24)
    assert not got.requires_grad
    np.testing.assert_allclose(got.numpy(), np.stack([want, want[::-1]], 1), atol=1e-6)
    assert_hidden(teacher)


def test_a_text_is_encoded_once_by_whichever_run(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))
    encoder, asked = Encoder(tiny_bert), []
    real = Encoder.read
    monkeypatch.setattr(Encoder, "read", lambda self, rows, **more: asked.append(len(rows)) or real(self, rows, **more))
    for _ in range(2):
        teacher = FrozenEncoder(source=tiny_bert)
        teacher.setup(encoder)
        for columns in ((TEXTS, TEXTS), (TEXTS, TEXTS[::-1])):
            batch, texts = batch_of(encoder, *columns)
            vectors = teacher.embed(batch, StepContext(encoder, texts=texts))
        assert vectors.shape == (4, 2, 16)
    assert asked == [4]


def test_refusals(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.tokenizer.add_tokens(["zebra"])
    refuses(
        r"another vocabulary.*\nfix: .* or a FrozenEncoder, which reads texts",
        FrozenViewEncoder(source=tiny_bert).setup,
        encoder,
    )
    refuses("prompt", FrozenEncoder(source=tiny_bert, prompt_name="query").setup, encoder)
    teacher = FrozenEncoder(source=tiny_bert)
    teacher.setup(encoder)
    bare = Batch(torch.zeros(2, 2, 1, dtype=torch.int64), torch.ones(2, 2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"FrozenEncoder .* needs Batch\.text_id"):
        teacher.embed(bare, StepContext(encoder))


TEMPLATE = 'the "{text}" is a'


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))


def asked(teacher, tiny_bert):
    """The vectors (4, 2, Dt) of the texts, forwards and backwards."""
    encoder = Encoder(tiny_bert, layers=1)
    teacher.setup(encoder)
    batch, texts = batch_of(encoder, TEXTS, TEXTS[::-1])
    return teacher.embed(batch, StepContext(encoder, texts=texts)).double().numpy()


def unit(rows):
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


def vectors(source, *, center, **options):
    """Those of the texts (4, D), computed by the encoder alone."""
    rows = unit(Encoder(source, **options).eval().encode(TEXTS).astype(np.float64))
    return unit(rows - rows.mean(0)) if center else rows


def test_the_mean_of_teachers_of_one_size(tiny_bert):
    options = [{"pooler": "mean"}, {"pooler": "cls", "template": TEMPLATE}]
    teachers = [FrozenEncoder(source=tiny_bert, precision="fp32", center=True, **one) for one in options]
    got = asked(Ensemble(teachers=teachers, weights=[1.0, 3.0]), tiny_bert)
    first, second = (vectors(tiny_bert, center=True, **one) for one in options)
    np.testing.assert_allclose(got[:, 0], unit(first + 3 * second), atol=1e-4)  # centering magnifies rounding
    np.testing.assert_allclose(got[:, 1], got[::-1, 0], atol=1e-12)


def test_teachers_of_two_sizes_stand_side_by_side_and_cosines_are_the_mean_of_theirs(tiny_bert, other_words):
    teachers = [FrozenEncoder(source=source, precision="fp32") for source in (tiny_bert, other_words)]
    ensemble = Ensemble(teachers=teachers, weights=[1.0, 3.0])
    got = asked(ensemble, tiny_bert)
    assert got.shape == (4, 2, 16 + 24)
    assert ensemble.dim == 16 + 24
    one, other = vectors(tiny_bert, center=False, pooler="mean"), vectors(other_words, center=False, pooler="mean")
    np.testing.assert_allclose(got[:, 0] @ got[:, 0].T, (one @ one.T + 3 * other @ other.T) / 4, atol=1e-5)
    assert_hidden(ensemble)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 2, "pooler": "mean", "template": TEMPLATE},
        {"pooler": "mask", "template": "the {text} [MASK] on"},
    ],
    ids=["as the encoder", "a template", "a mask that the encoder lacks"],
)
def test_a_teacher_without_a_source_has_that_of_the_encoder(tiny_bert, options):
    """Cut as the encoder is, unless it says otherwise."""
    got = asked(FrozenEncoder(precision="fp32", **options), tiny_bert)
    want = vectors(tiny_bert, center=False, **{"layers": 1, **options})
    np.testing.assert_allclose(got[:, 0], want, atol=1e-5)


@pytest.mark.parametrize(("saved", "pooler"), [(False, "mean"), (True, "mask")])
def test_a_teacher_without_a_source_in_another_template_than_the_encoder(tiny_bert, tmp_path, saved, pooler):
    """Whether the encoder's template is an argument or in the tokenizer of its checkpoint."""
    masked = " [MASK] on" if pooler == "mask" else ""
    encoder = Encoder(tiny_bert, pooler=pooler, template=f"a red {{text}} ran{masked}")
    if saved:
        encoder.save(tmp_path / "best")
        encoder = Encoder.load(str(tmp_path / "best"))
    batch, texts = batch_of(encoder, TEXTS, TEXTS)
    for template in (None, f"the cat sat on {{text}}{masked}"):
        teacher = FrozenEncoder(precision="fp32", template=template)
        teacher.setup(encoder)
        got = teacher.embed(batch, StepContext(encoder, texts=texts)).double().numpy()
        want = vectors(tiny_bert, center=False, pooler=pooler, template=template or f"a red {{text}} ran{masked}")
        np.testing.assert_allclose(got[:, 0], want, atol=1e-5)
    assert encoder.encode(TEXTS[:1]).shape == (1, 16)
    assert added_ids(encoder.tokenizer)[0] == [2, 9, 15]  # [CLS] a red: the encoder's own is as it was


def test_a_template_of_the_teacher_that_does_not_fit_is_refused(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="mask", template="a {text} [MASK]", max_length=12).save(tmp_path / "best")
    encoder = Encoder.load(str(tmp_path / "best"))
    for template, named in (
        ("the cat", "0 times"),
        ("the {text}", "the template 'the {text}' holds 0 mask tokens"),
        ("{text} [MASK]" + " on" * 12, "max_length is 12, and .* takes 15 of it: no room for a text"),
    ):
        refuses(named, FrozenEncoder(template=template).setup, encoder)


def test_it_does_not_change_with_the_encoder(tiny_bert):
    encoder = Encoder(tiny_bert)
    teacher = FrozenEncoder(precision="fp32")
    teacher.setup(encoder)
    for weight in encoder.parameters():
        weight.data.zero_()
    batch, texts = batch_of(encoder, TEXTS, TEXTS)
    got = teacher.embed(batch, StepContext(encoder, texts=texts)).numpy()
    np.testing.assert_allclose(got[:, 0], vectors(tiny_bert, center=False), atol=1e-5)


def test_refusals_of_several(tiny_bert):
    one = FrozenEncoder(source=tiny_bert)
    refuses(r"teachers has 1 entries\nfix: ", Ensemble, teachers=[one])
    refuses(r"weights has 1 entries for 2 teachers\nfix: ", Ensemble, teachers=[one, one], weights=[1.0])
    refuses(r"weights\[1\] is 0", Ensemble, teachers=[one, one], weights=[1.0, 0.0])
