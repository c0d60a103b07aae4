"""Which texts count as the same."""

import pytest

from cse.data.reading.texts import same_text_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A man, running.", "a man running"),
        ("``It is,'' he said .", '"It is," he said.'),
        ("ﬁve ＦＵＬＬ", "Five full"),
        ("Straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("a\u00a0b\tc\u200bd", "abcd"),
        ("don't", "don’t"),
        ("I do n't", "I don't"),
        ("back yard", "backyard"),
        ("  The Cat,\tsat! ", "the cat sat"),
    ],
)
def test_copies_in_disguise_are_the_same(one, other):
    assert same_text_key(one) == same_text_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("C++", "C"), ("$5", "5"), ("कि", "का"), ("cafe", "café"), ("a b", "b a"), ("1", "2"), ("cats", "cat")],
)
def test_different_texts_stay_different(one, other):
    assert same_text_key(one) != same_text_key(other)


def test_punctuation_alone_is_nothing():
    assert same_text_key(" ... !? ``") == ""
