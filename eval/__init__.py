"""Scores that can be trusted, in one command: `python -m eval CHECKPOINT --tasks sts`.

Read `suite` (which tasks there are), `pairs` and `sources` (where their rows come from), `sts` (what is computed) and
`harness` (the one code path that the command line, the evaluator in training and the report share).
"""
