"""The numbers of tests/oracles, or of the folder that CSE_ORACLES names: which cases there are, and what one holds."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

OWN = Path(__file__).parent / "oracles"
ORACLES = Path(os.environ.get("CSE_ORACLES") or OWN)
READ: set[str] = set()  # the stems of the files that tests are parametrized with


def settings(family):
    """case -> its settings, or {} where the folder lacks the family; facts beside the cases are left out."""
    path = ORACLES / f"{family}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {name: about for name, about in found.items() if isinstance(about, dict)}


def cases(family, *beginnings, has="loss", where=lambda about: True):
    """The cases of a family, for `pytest.mark.parametrize`.

    Args:
        family: The stem of the JSON file.
        beginnings: The names begin with one of these; all names if none is given.
        has: One or more keys that the settings have.
        where: What else is true of the settings.
    """
    has = {has} if isinstance(has, str) else {*has}
    found = {n: c for n, c in settings(family).items() if n.startswith(beginnings or "") and has <= c.keys()}
    names = [name for name, about in found.items() if where(about)]
    READ.update(f"{family}_{name}" for name in names)
    return names or _absent(family)


def files(pattern, but=()):
    """The names of the files that match a pattern, but for some beginnings, for `pytest.mark.parametrize`."""
    names = [path.name for path in sorted(ORACLES.glob(pattern)) if not path.name.startswith(but)]
    READ.update(name.partition(".")[0] for name in names)
    return names or _absent(pattern)


def _absent(what):
    """No cases: an error of pytest at our own folder, and a skipped test at another, which may have fewer families."""
    reason = f"no such case of {what} in {ORACLES}"
    return [] if ORACLES == OWN else [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def load(family, case):
    """The settings of a case, and its arrays: tensors of numbers, and arrays of strings."""
    arrays = np.load(ORACLES / f"{family}_{case}.npz")
    data = {name: value if value.dtype.kind in "US" else torch.tensor(value) for name, value in arrays.items()}
    return settings(family)[case], data


def state(family, case):
    """The weights of the whole model of a case, without the buffers that transformers 4 saved."""
    weights = torch.load(ORACLES / f"{family}_{case}_state.pt", weights_only=True)
    return {name: weight for name, weight in weights.items() if "position_ids" not in name}


def below(weights, *prefixes):
    """The entries below a prefix, under the names that follow it."""
    return {name.removeprefix(p): w for p in prefixes for name, w in weights.items() if name.startswith(p)}


def not_offered(option):
    """End a test of a case whose program has an option that ours lacks; a case of our own folder may have none."""
    assert ORACLES != OWN, f"no test reads a case with {option}"
    pytest.skip(f"option not offered: {option}")
