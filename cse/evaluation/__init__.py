"""Scores that can be trusted: one engine from a checkpoint and evaluators to results, comparisons and reports.

Read `evaluator` (what an evaluator finds), `evaluators/` (what can be scored), `scoring` (the one path from an encoder
to results.json), `comparison` (two models) and `reports/` (how scores are shown).
"""

from __future__ import annotations

from cse.errors import on_demand

__getattr__, __all__ = on_demand(__name__)
