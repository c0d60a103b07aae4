"""Views in templates of their own: the ids of each view, and what is refused."""

from __future__ import annotations

import pytest

from cse.batch import Example
from cse.commands.augment import views_of
from cse.data.collators import TextViews
from cse.data.masked import Masked
from cse.data.templates import InTemplates
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError

OWN, SECOND, THIRD = "the cat {text} sat {mask} on", "a dog {text} ran {mask} fast", "red sun {text} moon {mask} tree"
ROWS = [("mat",), ("blue house slow",), ("moon " * 30,)]


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert, pooler="mask", template=OWN)


def batch_of(encoder, collator, rows=ROWS):
    texts = [text for row in rows for text in row]
    collator.setup(TokenStore.build(texts, encoder.tokenizer, collator.max_length), 1)
    return collator([Example(row, row_id=i) for i, row in enumerate(rows)])


def tokens(encoder, batch):
    """The tokens of every view, row by row."""
    words = encoder.tokenizer.convert_ids_to_tokens
    pairs = zip(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), strict=True)
    found = [" ".join(words(ids[mask == 1].tolist())) for ids, mask in pairs]
    return [found[i : i + batch.views] for i in range(0, len(found), batch.views)]


def test_each_view_has_its_template(encoder):
    collator = InTemplates(views=TextViews(max_length=12, views=4), templates=[SECOND, THIRD])
    short, _, cut = tokens(encoder, batch_of(encoder, collator))
    first, second, third = (
        f"[CLS] {a} mat {b} [SEP]"
        for a, b in (("the cat", "sat [MASK] on"), ("a dog", "ran [MASK] fast"), ("red sun", "moon [MASK] tree"))
    )
    assert short == [first, second, third, first]
    assert cut[1] == "[CLS] a dog " + "moon " * 5 + "ran [MASK] fast [SEP]"


def test_all_but_the_template_is_that_of_the_other_collator(encoder):
    views = TextViews(max_length=12)
    alone, batch = batch_of(encoder, views), batch_of(encoder, InTemplates(views=views, templates=[SECOND]))
    assert (batch.input_ids[:, 0] == alone.input_ids[:, 0]).all()
    assert (batch.attention_mask == alone.attention_mask).all()
    assert (batch.text_id == alone.text_id).all()
    assert batch.input_ids[0, 1, 3] == alone.input_ids[0, 1, 3]


def test_around_masks_or_within(encoder):
    outside = InTemplates(views=Masked(views=TextViews(max_length=12), probability=0.9), templates=[SECOND])
    inside = Masked(views=InTemplates(views=TextViews(max_length=12), templates=[SECOND]), probability=0.9)
    for name, tensor in batch_of(encoder, outside).tensors().items():
        assert (tensor == batch_of(encoder, inside).tensors()[name]).all(), name
    assert outside.provides == inside.provides


def test_views_differ_without_dropout(encoder):
    assert TextViews().needs_dropout(Example(("a",)))
    assert not InTemplates(views=TextViews(), templates=[SECOND]).needs_dropout(Example(("a",)))


def test_augment_shows_the_texts(encoder):
    collator = InTemplates(views=TextViews(), templates=[SECOND])
    assert views_of(collator, [Example(("mat",))], epoch=0, seed=0) == [["mat", "mat"]]


@pytest.mark.parametrize(
    "template", ["a {text} ran {mask} fast", "a dog {text} ran fast {mask}", "a dog {text} ran on sun"]
)
def test_a_template_of_another_shape_is_refused(encoder, template):
    collator = InTemplates(views=TextViews(max_length=12), templates=[SECOND, template])
    with pytest.raises(
        UserError, match=r"before a text and \d after it, and encoder.template .*\nfix: write templates"
    ):
        batch_of(encoder, collator)


def test_no_template_is_refused():
    with pytest.raises(UserError, match="templates is empty"):
        InTemplates(views=TextViews(), templates=[])
