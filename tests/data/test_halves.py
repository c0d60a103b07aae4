"""The halves of a text: which words, ids and numbers they have."""

import pytest

from cse.batch import Example
from cse.commands.augment import views_of
from cse.data.tokens import TokenStore
from cse.data.views.texts import Halves, halves
from cse.encoder.model import Encoder
from cse.errors import UserError
from tests.conftest import WORDS


@pytest.mark.parametrize(
    ("text", "parts"), [("a b c d", ("a b", "c d")), ("a b c", ("a b", "c")), ("a  b", ("a", "b")), ("a", ("a", "a"))]
)
def test_by_pencil(text, parts):
    assert halves(text) == parts


def test_the_halves_of_any_text_are_its_words():
    for n in range(2, 12):
        text = " ".join(WORDS[:n])
        left, right = halves(text)
        assert f"{left} {right}" == text
        assert 0 <= len(left.split()) - len(right.split()) <= 1


def test_a_batch_of_wholes_and_halves(tiny_bert):
    tokenizer = Encoder(tiny_bert).tokenizer
    texts = ["the cat sat", "moon", "a dog ran fast " * 3]
    collator = Halves(max_length=8)
    collator.setup(TokenStore.build(texts, tokenizer, 8), 1)
    batch = collator([Example((text,), row_id=i) for i, text in enumerate(texts)])
    found = [
        [tokenizer.decode(ids[m == 1], skip_special_tokens=True) for ids, m in zip(*row, strict=True)]
        for row in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    assert found[0] == ["the cat sat", "the cat", "sat"]
    assert found[1] == ["moon", "moon", "moon"]
    assert found[2] == ["a dog ran fast a dog", "a dog ran fast a dog", "ran fast a dog ran fast"]  # cut after 6 words
    assert batch.num_positives == 2
    assert (batch.text_id == batch.text_id[:, :1]).all()
    assert batch.text_id[:, 0].unique().numel() == 3
    assert views_of(collator, [Example(("a b",))], epoch=0, seed=0) == [["a b", "a", "b"]]


def test_several_texts_are_refused():
    assert not Halves().needs_dropout(Example(("a",)))
    with pytest.raises(UserError, match=r"a row has 2\nfix: "):
        Halves().needs_dropout(Example(("a", "b")))
