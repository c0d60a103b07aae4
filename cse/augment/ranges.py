"""The ranges of augmentations' arguments."""

from __future__ import annotations

from cse.errors import UserError


def inside(option: str, value: float) -> float:
    """A share or probability of which neither end makes sense.

    Raises:
        UserError: It is outside (0, 1).
    """
    if not 0 < value < 1:
        raise UserError(f"{option} is {value}; give a number between 0 and 1")
    return value


def above_zero(option: str, value: float) -> float:
    """A share or probability that may be all.

    Raises:
        UserError: It is outside (0, 1].
    """
    if not 0 < value <= 1:
        raise UserError(f"{option} is {value}; give a number above 0, 1 at most")
    return value


def at_least(option: str, value: int, least: int) -> int:
    """A count.

    Raises:
        UserError: It is below `least`.
    """
    if value < least:
        raise UserError(f"{option} is {value}; give {least} or more")
    return value
