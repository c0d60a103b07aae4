"""Scores that can be trusted: tasks, the STS engine, transfer, significance, reports, MTEB.

Read `suite` (which tasks exist), `pairs` and `sources` (where their rows come from), `sts` (what is computed) and
`harness` (the one path from an encoder to scores). `scoring`, `comparison` and `reporting` hold the functions
behind `cse eval`.
"""

from __future__ import annotations

from cse.errors import on_demand

__getattr__, __all__ = on_demand(__name__)
