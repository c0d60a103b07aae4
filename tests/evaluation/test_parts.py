"""The pieces of `python -m eval parts`, by pencil."""

import numpy as np
import pytest

from cse.batch import Example, TextSpans
from eval.parts import (
    DIFFERING,
    _interval,
    average_precision,
    differing,
    lacking,
    marked,
    reciprocal,
    reciprocals,
    unmarked,
)


def test_marks():
    text = "A [man] plays a [red guitar]."
    assert unmarked(text) == "A man plays a red guitar."
    assert [unmarked(text)[start:end] for start, end in marked(text)] == ["man", "red guitar"]
    assert all(marked(text) for pair in DIFFERING for text in pair)


def test_words_that_the_other_text_lacks():
    found = lacking("The man sat.", "the dog sat")
    assert [word.score for word in found.words_a] == [0, 1, 0]
    assert [word.text for word in found.words_b] == ["the", "dog", "sat"]
    assert 0 < differing([lacking(*map(unmarked, pair)) for pair in DIFFERING]) < 100


def test_average_precision():
    """Of the order hit, miss, hit it is (1 + 2/3) / 2; equal scores are one step."""
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx(5 / 6)
    assert average_precision(np.array([0.5, 0.5, 0.5]), np.array([True, False, True])) == pytest.approx(2 / 3)


def test_reciprocal_ranks():
    assert reciprocal(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.0, 0.3, 0.2]])).tolist() == [1, 1 / 3, 1 / 2]


class Placed:
    """An encoder whose spans are at given angles: the first number of a span's range, in degrees."""

    def encode_spans(self, texts, spans):
        angles = [np.radians([ranges[0][0] for ranges in each]) for each in spans]
        return [np.stack([np.cos(a), np.sin(a)], 1).reshape(-1, 2) for a in angles]


def placed(first, second):
    """A row whose propositions have these angles and groups, as {angle: group} for each sentence."""
    spans = [TextSpans(tuple(((a, a + 1),) for a in side), tuple(side.values())) for side in (first, second)]
    return Example(("a", "b"), spans=tuple(spans))


def test_reciprocal_ranks_of_equal_propositions():
    """Row 0: 0 finds its equal at 10 behind nothing, and 40 its own at 60 behind 30; back, 10 finds 0 and 60 finds 40.

    Row 1 has no equal pair, and its propositions, 90 and 30, are candidates only.
    """
    rows = [placed({0: 0, 40: 1}, {10: 0, 60: 1}), placed({90: 0}, {30: 5})]
    first, second = reciprocals(Placed(), rows)
    assert first.tolist() == [1, 1 / 2, 1, 1]
    assert second.size == 0


def test_the_nearest_of_several_equal_ones_counts():
    (found,) = reciprocals(Placed(), [placed({0: 0}, {50: 0, 20: 0, 10: 3})])
    assert found.tolist() == [1 / 2, 1, 1]


def test_an_interval_of_units_of_unequal_size():
    """The mean is that of all values; of equal units, with one value each, it is the plain one."""
    assert _interval(np.array([3.0, 1.0]), np.array([3.0, 1.0])) == [1, 1, 1]
    assert _interval(np.array([6.0, 0.0]), np.array([3.0, 1.0]))[0] == 1.5
    values = np.arange(10.0)
    assert _interval(values)[0] == 4.5
    assert _interval(values) == _interval(3 * values, np.full(10, 3.0))
