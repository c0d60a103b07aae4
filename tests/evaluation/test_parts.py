"""The pieces of `python -m eval parts`, by pencil."""

from __future__ import annotations

import numpy as np
import pytest

from eval.parts import DIFFERING, average_precision, differing, lacking, marked, reciprocal, unmarked


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
