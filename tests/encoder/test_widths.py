"""Which widths of a vector one may ask for."""

import pytest

from cse.encoder import widths
from cse.errors import UserError


@pytest.mark.parametrize(
    ("dim", "want"), [(256, [256, 128, 64, 32]), (576, [576, 288, 144, 72]), (5, [5, 2, 1]), (1, [1])]
)
def test_halves_by_pencil(dim, want):
    assert widths.halves(dim) == want


@pytest.mark.parametrize(
    ("dimensions", "said"),
    [
        ([], "names no width"),
        ([0], "has 0, which is not a width"),
        ([True], "has True, which"),
        ([2.5], "has 2.5, which"),
        ([17], "has 17, but the vectors have 16 dimensions"),
        ([4, 4], "has 4 twice"),
    ],
)
def test_bad_widths_are_named(dimensions, said):
    with pytest.raises(UserError, match=said):
        widths.check(dimensions, 16, option="objective.dimensions")
    widths.check([16, 1], 16, option="objective.dimensions")
