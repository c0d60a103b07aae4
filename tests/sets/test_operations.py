"""Operations on sets: a slow loop's numbers (oracles), pencil, properties, and what is refused."""

import re

import numpy as np
import pytest

from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.sets import difference, intersection, ranked
from tests.cases import cases, load, not_offered

RNG = np.random.default_rng(1)
A, B, C = (RNG.normal(size=(n, 6)) for n in (7, 3, 2))


def parsed(expression, names):
    """The set that is ranked, those that it is to resemble, and those that it is not to: A n B \\ C."""
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    first, *rest = re.findall(rf"{known}|\S", expression)
    signs, sets = rest[::2], rest[1::2]
    like, unlike = {"n", "\u2229", "&"}, {"\\", "-"}
    if len(signs) != len(sets) or not {*signs} <= like | unlike or not {first, *sets} <= names:
        not_offered(f"the expression {expression!r}")
    return first, *([name for sign, name in zip(signs, sets, strict=True) if sign in kind] for kind in (like, unlike))


@pytest.mark.parametrize("name", cases("setcse", has="expression"))
def test_every_case_of_the_slow_loop(name):
    """The expression names the arrays."""
    about, data = load("setcse", name)
    first, like, unlike = parsed(about["expression"], data.keys() - {"score", "order"})
    found = ranked(data[first].numpy(), like=[data[n] for n in like], unlike=[data[n] for n in unlike])
    assert found.score == pytest.approx(data["score"].numpy(), rel=1e-5, abs=1e-7)
    assert found.order.tolist() == data["order"].tolist()


def test_how_an_expression_is_read():
    names = {"A", "B", "B1", "B2", "C"}
    assert parsed("A n B1 n B2 \\ C", names) == ("A", ["B1", "B2"], ["C"])
    assert parsed("A\\B", names) == ("A", [], ["B"])
    assert parsed("AnBnC", names) == ("A", ["B", "C"], [])


def test_by_pencil():
    # B = {e1, e2} has the mean cosine 1/2 with e1, 1/sqrt(2) with (1, 1), and 0 with e3; C = {e1}.
    members = np.array([[2.0, 0, 0], [1.0, 1, 0], [0.0, 0, 3]])
    b, c = np.eye(3)[:2] * 5, [[4.0, 0, 0]]
    found = intersection(members, b)
    assert found.score == pytest.approx([0.5, 0.5**0.5, 0.0])
    assert found.order.tolist() == [1, 0, 2]
    found = ranked(members, like=[b], unlike=[c])
    assert found.score == pytest.approx([-0.5, 0.0, 0.0])
    assert found.order.tolist() == [1, 2, 0]  # equal scores keep their order


def test_operations_are_parts_of_one_and_lengths_do_not_matter():
    assert intersection(A, B, C).score == pytest.approx(ranked(A, like=[C, B]).score)
    assert difference(A, B, C).score == pytest.approx(-intersection(A, B, C).score)
    assert ranked(9 * A, like=[3 * B]).score == pytest.approx(intersection(A, B).score)
    assert sorted(intersection(A, B).order) == list(range(7))
    swapped = intersection(B, A)
    assert len(swapped.score) == len(B)  # the first set is the one that is ranked


def test_texts_are_those_of_their_vectors(tiny_bert):
    encoder = Encoder(tiny_bert)
    a, b = ["the cat sat", "red house", "fast dog"], ["blue house", "slow cat"]
    from_texts = ranked(a, like=[b], unlike=[[a[0]]], encoder=encoder)
    vectors = encoder.encode(a), encoder.encode(b)
    assert from_texts.score == pytest.approx(
        ranked(vectors[0], like=[vectors[1]], unlike=[vectors[0][:1]]).score, abs=1e-6
    )
    assert intersection(a, vectors[1], encoder=encoder).score == pytest.approx(intersection(*vectors).score, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ranked(A), "no set to compare with"),
        (lambda: intersection(A, np.zeros((0, 6))), r"like\[0\] is empty"),
        (lambda: difference([], B), "members is empty"),
        (lambda: difference(["a text"], B), "members has texts, but there is no encoder"),
        (lambda: intersection("a text", B), "members is 'a text'"),
        (lambda: intersection(3, B), "members is '3'"),
        (lambda: difference(A, B[:, :4]), r"different dimensions: members 6, unlike\[0\] 4"),
        (lambda: difference(A, B[0]), r"unlike\[0\] has the shape \(6,\)"),
        (lambda: intersection(A * np.nan, B), "members has a value that is not finite"),
        (lambda: intersection(["a", 3], B), "members is not an array of numbers"),
    ],
)
def test_refusals(call, named):
    with pytest.raises(UserError, match=named):
        call()
