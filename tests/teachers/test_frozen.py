"""Frozen encoders as teachers: their vectors, what they hide, and what they keep."""

import numpy as np
import pytest
import torch

from cse import Batch, Encoder, FrozenEncoder, FrozenViewEncoder, StepContext
from cse.data.tokens import TokenStore
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


# -- A teacher that reads texts ----------------------------------------------------------------------------------------


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
