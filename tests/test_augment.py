"""Word deletion, and views made of it."""

from __future__ import annotations

import random

import pytest

from cse.augment import WordDeletion
from cse.batch import Example
from cse.collators import AugmentedViews
from cse.encoder import Encoder
from cse.errors import UserError
from cse.tokens import TokenStore
from tests.conftest import WORDS


def test_words_fall_out_in_order_at_the_given_rate():
    words = [str(i) for i in range(20_000)]
    kept = WordDeletion(probability=0.3)(" ".join(words), random.Random(0)).split()
    assert kept == sorted(kept, key=int)
    assert abs(len(kept) / len(words) - 0.7) < 4 * (0.3 * 0.7 / len(words)) ** 0.5


def test_a_text_of_which_nothing_is_left_stays_whole():
    assert WordDeletion(probability=0.999999)("the cat", random.Random(0)) == "the cat"


@pytest.mark.parametrize("probability", [0.0, 1.0, -1.0])
def test_the_probability_is_checked(probability):
    with pytest.raises(UserError, match="probability"):
        WordDeletion(probability=probability)


def test_views_depend_on_seed_epoch_row_and_view_alone(tiny_bert):
    text = " ".join(WORDS)
    tokens = TokenStore.build([text], Encoder(tiny_bert).tokenizer, 32)

    def ids(seed, epoch, row, neighbours=0):
        collator = AugmentedViews(augmentations=[WordDeletion(probability=0.5)], max_length=32)
        collator.setup(tokens, seed)
        batch = collator([Example((text,), row_id=row), *[Example((text,), row_id=99)] * neighbours], epoch)
        views = zip(batch.input_ids[0], batch.attention_mask[0], strict=True)
        return tuple(tuple(i[m == 1].tolist()) for i, m in views), batch

    first, batch = ids(1, 0, 5)
    assert first[0] != first[1]
    assert batch.text_id.tolist() == [[0, 0]]  # one text, however it is rendered
    assert ids(1, 0, 5, neighbours=3)[0] == first
    assert len({first, ids(2, 0, 5)[0], ids(1, 1, 5)[0], ids(1, 0, 6)[0]}) == 4
