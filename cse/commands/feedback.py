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
    "propositions": "the propositions of the two sentences of a row, and which say the same (sub-sentence encoder)",
    "rate": "rate the pairs of triplets, and keep the triplets whose ratings agree with their roles (MultiCSR)",
    "queries": "questions that each passage answers (query-as-context, doc2query)",
    "rewrites": "several versions of each sentence with the same meaning (LaCLIP, LM-CPPF)",
    "chain": "a paraphrase of each sentence, and a paraphrase of that without its words (ParaCLIP)",
}
EPILOG = """\
A model is KIND:NAME: openai:gpt-4o-mini, encoder:FOLDER or cross-encoder:FOLDER (the last two only score and rate).
openai means any endpoint for chat completions, including one on this machine (vLLM, llama.cpp, Ollama):
--model openai:llama3 --base-url http://localhost:11434/v1
Every answer is kept in --cache: the same command resumes where it stopped, and no question is asked twice.
Exit codes: 0 done, 1 no answer from the endpoint, 2 bad input, 3 a cap was reached, 130 Ctrl-C."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=list(TASKS), help="; ".join(f"{k}: {v}" for k, v in TASKS.items()))
    parser.add_argument("--model", required=True, metavar="KIND:NAME", help="the model that answers")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file; manifest and rejects lie beside it")
    add = parser.add_argument_group("data").add_argument
    add("--data", help="a file, asset:NAME or Hub id; every task but write needs it")
    add("--columns", nargs="+", help="names, or numbers of a table without a header (default: the usual names)")
    labels = "queries, rewrites, chain: column of labels, which the new rows keep (default: recognized by its name)"
    add("--label-column", metavar="NAME", help=labels)
    add("--split", default="train", help="split of a data set on the Hub")
    add("--limit", type=int, help="number of rows to ask about (default: all)")
    add("--prompt", type=Path, action="append", default=[], metavar="FILE", help="replaces the prompt of the same name")
    add("--cache", type=Path, help="folder for the answers (default: feedback in CSE_CACHE)")
    add = parser.add_argument_group("the model").add_argument
    add("--rater", metavar="KIND:NAME", help="fill: the model that scores (default: --model)")
    add("--base-url", help="address of an OpenAI-compatible endpoint (default: that of OpenAI)")
    add("--key-env", metavar="NAME", help="environment variable of the key (OPENAI_API_KEY; none with --base-url)")
    add("--temperature", type=float, help="sampling temperature (default: that of the prompt)")
    add("--response-format", choices=["json_schema", "json_object", "text"], default="json_schema")
    add("--extra", metavar="JSON", help="more parameters of a request, such as '{\"top_p\": 0.9}'")
    add("--workers", type=int, default=8, help="number of simultaneous requests (8)")
    add("--seed", type=int, default=42, help="seed for masks and combinations (42)")
    add = parser.add_argument_group("limits of this invocation").add_argument
    add("--requests-per-minute", type=int, metavar="N", help="largest rate of requests")
    add("--max-requests", type=int, metavar="N", help="stop after N requests")
    add("--max-cost", type=float, metavar="USD", help="stop at this cost; needs both prices")
    add("--price-in", type=float, metavar="USD", help="price of a million tokens of questions")
    add("--price-out", type=float, metavar="USD", help="price of a million tokens of answers")
    add = parser.add_argument_group("tasks").add_argument
    add("--requests", type=int, default=100, help="write: number of requests (100)")
    add("--count", type=int, help="number of texts for each request: write 10, queries 5, rewrites 3")
    add("--topics", type=Path, metavar="FILE", help="write: one topic on each line (default: those of cse)")
    add("--genres", type=Path, metavar="FILE", help="write: one genre on each line (default: those of cse)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    require_package("pydantic", extra="feedback", user="cse feedback")
    from cse.feedback.command import run as work

    return work(arguments)
