"""The error that a user is meant to read, and the checks of ranges that raise it."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pkgutil import get_data
from typing import Annotated, Any, get_args, get_type_hints

Positive = Annotated[float, "> 0"]
NotNegative = Annotated[float, ">= 0"]
Share = Annotated[float, "in [0, 1]"]
Count = Annotated[int, ">= 1"]


class UserError(Exception):
    """Bad input: a recipe, an option, a file or a machine that cannot do what is asked.

    The message has at most five lines and names the field, the value and the fix. The command line prints it, without a
    traceback, and exits with code 2.
    """


def require_positive(owner: str, /, **values: float | None) -> None:
    """Check that each value is finite and > 0; None is skipped.

    Args:
        owner: What the values belong to, as the user names it: `objective`, `trainer`, a class.
        values: The values by the name of their option.

    Raises:
        UserError: A value is 0, negative, infinite or not a number.
    """
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{owner}.{name} is {value}\nfix: give a number > 0")


def require_at_least(minimum: float, owner: str, /, **values: float | None) -> None:
    """Check that each value is finite and >= `minimum`; None is skipped. See `require_positive`."""
    for name, value in values.items():
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"{owner}.{name} is {value}\nfix: give a number >= {minimum}")


def require_within(interval: str, owner: str, /, **values: float | None) -> None:
    """Check that each value lies in an interval such as `[0, 1)`; None is skipped. See `require_positive`."""
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise UserError(f"{owner}.{name} is {value}\nfix: give a number in {interval}")


def require_known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Check that each of several names is known, and given once."""
    for name in names:
        if name not in known:
            raise UserError(f"{option} has {name!r}\nfix: give some of {', '.join(known)}")
        if list(names).count(name) > 1:
            raise UserError(f"{option} has {name} twice\nfix: give each one once")


def require_ranges(owner: str, part: Any) -> None:
    """Check what an object keeps of its constructor's arguments against the ranges in their annotations.

    A range is written `Annotated[int, ">= 1"]`; `> 0`, `>= N` and `in [0, 1)` are those of the functions above.

    Raises:
        UserError: A value is out of its range.
    """
    kind: Any = type(part)
    for name, (sign, bound) in _ranges(kind).items():
        value = {name: getattr(part, name)}
        if sign == ">":
            require_positive(owner, **value)
        elif sign == ">=":
            require_at_least(int(bound), owner, **value)
        else:
            require_within(bound, owner, **value)


@cache
def _ranges(kind: Any) -> dict[str, list[str]]:
    """The range of each argument of a constructor that has one, split behind its sign."""
    hints = get_type_hints(kind.__init__, include_extras=True)
    each = [(name, one) for name, hint in hints.items() for one in (hint, *get_args(hint))]
    return {name: bound.split(" ", 1) for name, one in each for bound in getattr(one, "__metadata__", ())}


def require_package(package: str, *, extra: str, user: str) -> Any:
    """Import a package that only an extra installs; else the line that does so is the fix. `user` is what needs it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{user} needs {package} ({error})\nfix: pip install 'cse-embeddings[{extra}]'") from error


def on_demand(package: str) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package whose names are imported on first use.

    The names are those that the package's stub, `__init__.pyi`, imports. Type checkers read the same stub.
    """
    stub = ast.parse(get_data(package, "__init__.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find, sorted(homes)
