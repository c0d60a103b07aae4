"""A frozen encoder as teacher: its vectors, what it hides, and what it keeps."""

from __future__ import annotations

import pytest
import torch

from cse.batch import Batch
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.teachers.frozen import FrozenEncoder

TEXTS = ["the cat sat on a mat", "the dog", "red house", "blue tree sun moon"]


def set_up(tiny_bert, **options):
    encoder = Encoder(tiny_bert)
    teacher = FrozenEncoder(source=tiny_bert, **options)
    teacher.setup(encoder)
    return encoder, teacher


def batch_of(encoder, *columns):
    """One view of each text a column."""
    store = TokenStore.build([text for column in columns for text in column], encoder.tokenizer, 12)
    padded = [store.ids(store.text_id(text)) for row in zip(*columns, strict=True) for text in row]
    ids, mask = store.pad(padded)
    shape = (len(columns[0]), len(columns), -1)
    return Batch(ids.view(shape), mask.view(shape))


def counted(teacher):
    """How many rows the teacher's encoder reads, call by call."""
    rows = []
    teacher.encoder.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    return rows


def test_it_gives_the_exported_vectors_of_every_view(tiny_bert):
    encoder, teacher = set_up(tiny_bert)
    want = torch.tensor(Encoder.load(tiny_bert).encode(TEXTS))
    got = teacher.embed(batch_of(encoder, TEXTS, TEXTS[::-1]), StepContext(encoder))
    assert got.shape == (4, 2, 16)
    assert not got.requires_grad
    assert torch.allclose(got, torch.stack([want, want.flip(0)], 1), atol=1e-5)


def test_equal_views_are_encoded_once(tiny_bert):
    encoder, teacher = set_up(tiny_bert)
    rows = counted(teacher)
    vectors = teacher.embed(batch_of(encoder, TEXTS, TEXTS), StepContext(encoder))
    assert rows == [4]
    assert torch.equal(vectors[:, 0], vectors[:, 1])


def test_it_is_frozen_hidden_and_stays_in_evaluation_mode(tiny_bert):
    teacher = set_up(tiny_bert)[1]
    holder = torch.nn.ModuleList([teacher]).train()
    assert not teacher.training
    assert not teacher.encoder.training
    assert not list(holder.parameters())
    assert not holder.state_dict()
    assert not any(p.requires_grad for p in teacher.encoder.parameters())


def test_kept_vectors_are_not_computed_again(tiny_bert):
    encoder, teacher = set_up(tiny_bert, cache_size=5)
    plain = set_up(tiny_bert)[1]
    rows = counted(teacher)
    batches = [(TEXTS[:3],), (TEXTS, TEXTS[::-1]), (TEXTS,), (["sun"] * 4,), (["moon"] * 4,), (["moon"] * 4,)]
    for columns in batches:
        batch = batch_of(encoder, *columns)
        got, want = (t.embed(batch, StepContext(encoder)) for t in (teacher, plain))
        assert torch.allclose(got, want, atol=1e-6)
    assert rows == [3, 1, 1, 1, 1]  # the last text finds no room


def test_refusals(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.tokenizer.add_tokens(["zebra"])
    with pytest.raises(UserError, match="another vocabulary"):
        FrozenEncoder(source=tiny_bert).setup(encoder)
    with pytest.raises(UserError, match=r"teacher\.cache_size is -1"):
        FrozenEncoder(source="-", cache_size=-1)
