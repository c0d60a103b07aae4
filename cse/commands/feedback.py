"""cse feedback: sentences become training data with a language model or an encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import require_package

HELP = "make training data with a language model or an encoder"
TASKS = {
    "score": "how similar the two texts of a row are, 0 to 1 (CLAIF)",
    "fill": "versions of a sentence by masking and filling, then scored (CLAIF's data)",
    "contrast": "a positive and a contradiction of each sentence (SynCSE)",
    "write": "sentences from topics and genres (SynCSE-scratch)",
    "rate": "rate the pairs of triplets and keep those that hold (MultiCSR)",
}
EPILOG = """\
A model is KIND:NAME: openai:gpt-4o-mini, encoder:FOLDER or cross-encoder:FOLDER (the last two score and rate only).
openai stands for every endpoint that speaks chat completions, also one on this machine (vLLM, llama.cpp, Ollama):
--model openai:llama3 --base-url http://localhost:11434/v1
Every answer is kept in --cache; the same command resumes where it was stopped, and no question is asked twice.
Exit codes: 0 done, 1 the endpoint does not answer, 2 bad input, 3 a cap is reached, 130 Ctrl-C."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", choices=list(TASKS), help="; ".join(f"{k}: {v}" for k, v in TASKS.items()))
    parser.add_argument("--model", required=True, metavar="KIND:NAME", help="who answers")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file; rejects and manifest go beside it")
    _add_data(parser.add_argument_group("what is asked about"))
    _add_labeler(parser.add_argument_group("the model"))
    _add_limits(parser.add_argument_group("limits"))
    _add_tasks(parser.add_argument_group("tasks"))


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", help="a file, asset:NAME or Hub id; every task but write needs it")
    group.add_argument("--columns", nargs="+", help="names, or numbers of a table without a header; "
                       "default: the usual names among the data's columns, such as text")  # fmt: skip
    group.add_argument("--split", default="train", help="of a data set on the Hub")
    group.add_argument("--limit", type=int, help="number of rows to ask about, from the first")
    group.add_argument(
        "--prompt", type=Path, action="append", default=[], metavar="FILE", help="in place of one of ours"
    )
    group.add_argument("--cache", type=Path, help="folder of the answers; default: feedback in CSE_CACHE")


def _add_labeler(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model-name", metavar="NAME", help="of a folder, for provenance; default: the folder's own")
    group.add_argument("--rater", metavar="KIND:NAME", help="who scores in fill; default: --model")
    group.add_argument("--base-url", help="of an OpenAI-compatible endpoint; default: OpenAI's")
    group.add_argument("--key-env", metavar="NAME", help="environment variable with the key; default: OPENAI_API_KEY, "
                       "with --base-url none")  # fmt: skip
    group.add_argument("--temperature", type=float, help="of sampling; default: the prompt's")
    group.add_argument("--response-format", choices=["json_schema", "json_object", "text"], default="json_schema")
    group.add_argument("--extra", metavar="JSON", help="further parameters of a request, such as '{\"top_p\": 0.9}'")
    group.add_argument("--workers", type=int, default=8, help="requests at once (8)")
    group.add_argument("--timeout", type=float, default=120.0, help="seconds a request may take (120)")
    group.add_argument("--seed", type=int, default=42, help="of masks and combinations (42)")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--requests-per-minute", type=int, metavar="N")
    group.add_argument("--tokens-per-minute", type=int, metavar="N")
    group.add_argument(
        "--max-requests", type=int, metavar="N", help="stop before the next one; counted from this start"
    )
    group.add_argument("--max-tokens", type=int, metavar="N", help="of questions and answers, from this start")
    group.add_argument("--max-cost", type=float, metavar="USD", help="from this start; needs both prices")
    group.add_argument("--price-in", type=float, metavar="USD", help="a million tokens of questions")
    group.add_argument("--price-out", type=float, metavar="USD", help="a million tokens of answers")
    group.add_argument("--attempts", type=int, default=3, help="answers to a question until one is usable (3)")
    group.add_argument("--retries", type=int, default=6, help="of a request that the endpoint fails (6)")
    group.add_argument("--backoff", type=float, default=1.0, help="seconds before the first retry, then doubled (1)")
    group.add_argument(
        "--give-up",
        type=int,
        default=10,
        help="stop after N questions in succession without an answer (10)",
    )


def _add_tasks(group: argparse._ArgumentGroup) -> None:
    rates = [i / 10 for i in range(9)]
    group.add_argument("--rates", type=float, nargs="+", default=rates, help="fill: shares masked (0 0.1 ... 0.8)")
    group.add_argument("--smoothing", type=float, default=0.1, help="fill: scores move this far from 0 and 1 (0.1)")
    group.add_argument("--random-pairs", type=int, default=2, help="fill: pairs of score 0 a sentence (2)")
    group.add_argument(
        "--per-score", type=int, default=2, help="fill: versions of a sentence with one score (2; 0: all)"
    )
    group.add_argument("--requests", type=int, default=100, help="write: how often to ask (100)")
    group.add_argument("--count", type=int, default=10, help="write: sentences a request (10)")
    group.add_argument("--topics", type=Path, metavar="FILE", help="write: one a line; default: ours")
    group.add_argument("--genres", type=Path, metavar="FILE", help="write: one a line; default: ours")
    group.add_argument("--least-positive", type=float, default=0.6, help="rate: keep positives of at least this (0.6)")
    group.add_argument("--most-negative", type=float, default=0.6, help="rate: keep negatives of at most this (0.6)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Ask, and write what came of it."""
    require_package("pydantic", extra="feedback", user="cse feedback")
    from cse.feedback.command import run as work

    return work(arguments)
