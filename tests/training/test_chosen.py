"""The maximal length that a run chooses for itself."""

from types import SimpleNamespace

import pytest

from cse.data.datasets import Pairs, Texts
from cse.data.mixture import Mixture, Source
from cse.data.views.around import Masked
from cse.data.views.texts import TextViews
from cse.encoder.model import Encoder
from cse.training import lengths


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert, pooler="mean")


def chosen(encoder, data, collator):
    lengths.fit(SimpleNamespace(encoder=encoder, data=data, collator=collator))
    return collator.max_length


@pytest.mark.parametrize(
    ("words", "length", "said"),
    [
        ([3] * 100, 8, "the least that leaves 98 % of the texts whole (100.0%"),  # and 2 special tokens
        ([3] * 98 + [20] * 2, 8, "the least that leaves 98 % of the texts whole (98.0%"),
        ([3] * 97 + [9] * 3, 16, "the least that leaves 98 % of the texts whole (100.0%"),  # 11, and so 16
        ([50] * 100, 38, "the most that the model reads (0.0%"),
    ],
)
def test_the_length_by_counting(encoder, words, length, said, capsys, monkeypatch):
    texts = [" ".join(["cat", "sat", *["mat"] * (n - 3), str(i)]) for i, n in enumerate(words)]
    monkeypatch.setattr(encoder, "max_length", 38)
    assert chosen(encoder, Texts(texts), TextViews(max_length=None)) == length
    assert f"length     {length} tokens, {said} of 100 measured" in capsys.readouterr().out


def test_what_is_set_stays_and_a_collator_around_another_has_its_length(encoder, capsys):
    data = Pairs([("cat sat", "dog ran fast on a mat with a hat"), ("dog", "red moon")])
    assert chosen(encoder, data, TextViews(max_length=12)) == 12
    assert capsys.readouterr().out == ""
    around = Masked(views=TextViews(max_length=None))
    assert chosen(encoder, data, around) == around.views.max_length == 16  # 9 words and 2 special tokens


def test_a_source_with_a_collator_of_its_own_has_a_length_of_its_own(encoder):
    short, long = Texts(["cat sat", "dog ran"]), Texts(["a cat sat on a mat and a dog ran fast", "dog"])
    own, common = TextViews(max_length=None), TextViews(max_length=None)
    data = Mixture(sources={"short": Source(data=short, collator=own), "long": Source(data=long)})
    assert chosen(encoder, data, common) == 16
    assert own.max_length == 8
