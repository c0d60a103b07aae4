"""cse feedback: make training data from sentences with a language model or an encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import require_package

HELP = "make training data with a language model or an encoder"
TASKS = {
    "score": "how similar the two texts of a row are, 0 to 1 (CLAIF)",
    "fill": "versions of a sentence, made by masking and filling and then scored (the data of CLAIF)",
    "contrast": "a positive and a contradiction of each sentence (SynCSE)",
    "write": "sentences from topics and genres (SynCSE-scratch)",
    "rate": "rate the pairs of triplets, and keep the triplets whose ratings agree with their roles (MultiCSR)",
}
EPILOG = """\
A model is KIND:NAME: openai:gpt-4o-mini, encoder:FOLDER or cross-encoder:FOLDER (the last two only score and rate).
openai means any endpoint for chat completions, including one on this machine (vLLM, llama.cpp, Ollama):
--model openai:llama3 --base-url http://localhost:11434/v1
Every answer is kept in --cache: the same command resumes where it stopped, and no question is asked twice.
Exit codes: 0 done, 1 no answer from the endpoint, 2 bad input, 3 a cap was reached, 130 Ctrl-C."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", choices=list(TASKS), help="; ".join(f"{k}: {v}" for k, v in TASKS.items()))
    parser.add_argument("--model", required=True, metavar="KIND:NAME", help="the model that answers")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .jsonl file; the manifest and the rejected rows are written beside it",
    )
    _add_data(parser.add_argument_group("data"))
    _add_labeler(parser.add_argument_group("the model"))
    _add_limits(parser.add_argument_group("limits of this invocation"))
    _add_tasks(parser.add_argument_group("tasks"))


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", help="a file, asset:NAME or Hub id; every task but write needs it")
    group.add_argument("--columns", nargs="+", help="names, or numbers of a table without a header; "
                       "default: the usual names among the data's columns, such as text")  # fmt: skip
    group.add_argument("--split", default="train", help="split of a data set on the Hub")
    group.add_argument("--limit", type=int, help="number of rows to ask about (default: all)")
    group.add_argument(
        "--prompt",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a prompt of your own, used instead of the one of its name",
    )
    group.add_argument("--cache", type=Path, help="folder for the answers; default: feedback in CSE_CACHE")


def _add_labeler(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model-name", metavar="NAME", help="name of the model in the manifest; default: the name of its folder"
    )
    group.add_argument("--rater", metavar="KIND:NAME", help="fill: the model that scores; default: --model")
    group.add_argument("--base-url", help="address of an OpenAI-compatible endpoint; default: that of OpenAI")
    group.add_argument("--key-env", metavar="NAME", help="environment variable of the key; default: OPENAI_API_KEY, "
                       "or none with --base-url")  # fmt: skip
    group.add_argument("--temperature", type=float, help="sampling temperature; default: that of the prompt")
    group.add_argument("--response-format", choices=["json_schema", "json_object", "text"], default="json_schema")
    group.add_argument("--extra", metavar="JSON", help="more parameters of a request, such as '{\"top_p\": 0.9}'")
    group.add_argument("--workers", type=int, default=8, help="number of simultaneous requests (8)")
    group.add_argument("--timeout", type=float, default=120.0, help="timeout of a request in seconds (120)")
    group.add_argument("--seed", type=int, default=42, help="seed for masks and combinations (42)")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--requests-per-minute", type=int, metavar="N", help="largest rate of requests")
    group.add_argument("--tokens-per-minute", type=int, metavar="N", help="largest rate of tokens")
    group.add_argument("--max-requests", type=int, metavar="N", help="stop after N requests")
    group.add_argument("--max-tokens", type=int, metavar="N", help="stop after N tokens of questions and answers")
    group.add_argument("--max-cost", type=float, metavar="USD", help="stop at this cost; needs both prices")
    group.add_argument("--price-in", type=float, metavar="USD", help="price of a million tokens of questions")
    group.add_argument("--price-out", type=float, metavar="USD", help="price of a million tokens of answers")
    group.add_argument("--attempts", type=int, default=3, help="times to ask a question until its answer is usable (3)")
    group.add_argument("--retries", type=int, default=6, help="retries of a request that fails (6)")
    group.add_argument(
        "--backoff", type=float, default=1.0, help="seconds before the first retry; doubled for each further one (1)"
    )
    group.add_argument(
        "--give-up",
        type=int,
        default=10,
        help="stop after this number of questions in succession without an answer (10)",
    )


def _add_tasks(group: argparse._ArgumentGroup) -> None:
    rates = [i / 10 for i in range(9)]
    group.add_argument(
        "--rates", type=float, nargs="+", default=rates, help="fill: shares of the words to mask (0 0.1 ... 0.8)"
    )
    group.add_argument(
        "--smoothing", type=float, default=0.1, help="fill: distance of smoothed scores from 0 and 1 (0.1)"
    )
    group.add_argument("--random-pairs", type=int, default=2, help="fill: pairs of score 0 for each sentence (2)")
    group.add_argument(
        "--per-score", type=int, default=2, help="fill: versions of a sentence to keep for each score (2; 0: all)"
    )
    group.add_argument("--requests", type=int, default=100, help="write: number of requests (100)")
    group.add_argument("--count", type=int, default=10, help="write: number of sentences for each request (10)")
    group.add_argument(
        "--topics", type=Path, metavar="FILE", help="write: one topic on each line; default: those of cse"
    )
    group.add_argument(
        "--genres", type=Path, metavar="FILE", help="write: one genre on each line; default: those of cse"
    )
    group.add_argument("--least-positive", type=float, default=0.6, help="rate: keep positives of at least this (0.6)")
    group.add_argument("--most-negative", type=float, default=0.6, help="rate: keep negatives of at most this (0.6)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Ask the model and write the data."""
    require_package("pydantic", extra="feedback", user="cse feedback")
    from cse.feedback.command import run as work

    return work(arguments)
