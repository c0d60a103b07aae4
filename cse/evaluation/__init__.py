"""Scores that can be trusted: tasks, the STS engine, transfer, significance, reports, MTEB.

Read `suite` (which tasks exist), `pairs` and `sources` (where their rows come from), `sts` (what is computed) and
`harness` (the one path from an encoder to scores). `scoring`, `comparison` and `reporting` hold the functions
behind `cse eval`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.evaluation.comparison import Difference, compare
    from cse.evaluation.evaluator import STSEvaluator
    from cse.evaluation.reporting import report
    from cse.evaluation.results import Scored
    from cse.evaluation.scoring import evaluate, run_mteb

_HOMES = {
    "Difference": "comparison",
    "STSEvaluator": "evaluator",
    "Scored": "results",
    "compare": "comparison",
    "evaluate": "scoring",
    "report": "reporting",
    "run_mteb": "scoring",
}
__all__ = ["Difference", "STSEvaluator", "Scored", "compare", "evaluate", "report", "run_mteb"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cse.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"cse.evaluation.{_HOMES[name]}"), name)
