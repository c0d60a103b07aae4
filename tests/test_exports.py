"""What `from cse import ...` knows: the stub names every objective."""

from pathlib import Path

import cse
from tests.objectives.contract import OBJECTIVES


def test_the_package_exports_every_objective():
    """At run time and for type checkers, which both read the stub."""
    stub = (Path(cse.__file__).parent / "__init__.pyi").read_text(encoding="utf-8").splitlines()
    lines = {f"from {c.__module__} import {name} as {name}" for name, c in OBJECTIVES.items()}
    assert {line for line in lines if line.startswith("from cse.")} <= set(stub)
