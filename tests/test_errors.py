"""The checks of ranges: one shape of message, and what lies on a border."""

import math

import pytest

from cse.errors import UserError, require_at_least, require_positive, require_within


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan])
def test_not_positive(value):
    with pytest.raises(UserError) as error:
        require_positive("objective", margin=1.0, temperature=value, scale=None)
    assert str(error.value) == f"objective.temperature is {value}\nfix: give a number > 0"


def test_below_the_minimum():
    require_at_least(2, "collator", views=2, max_length=None)
    for value in (1, 1.99, math.nan):
        with pytest.raises(UserError) as error:
            require_at_least(2, "collator", views=value)
        assert str(error.value) == f"collator.views is {value}\nfix: give a number >= 2"


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1)", [0.5, 1e-9], [0, 1, math.nan]),
        ("(0, 1]", [1], [0, 1.1]),
        ("[0, 1)", [0], [-0.1, 1, math.inf]),
        ("[-1, 1]", [-1, 1], [-1.1, 1.1]),
    ],
)
def test_outside_an_interval(interval, inside, outside):
    for value in inside:
        require_within(interval, "encoder", dropout=value, other=None)
    for value in outside:
        with pytest.raises(UserError) as error:
            require_within(interval, "encoder", dropout=value)
        assert str(error.value) == f"encoder.dropout is {value}\nfix: give a number in {interval}"
