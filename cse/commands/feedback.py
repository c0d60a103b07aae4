"""cse feedback: make training data from sentences with a language model or an encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.commands import call, declare
from cse.console import say
from cse.errors import require_package

VERB = "cse.feedback.command:feedback"
HELP = "make training data with a language model or an encoder"
EPILOG = """\
A task asks for:
  score        how similar the two texts of a row are, 0 to 1 (CLAIF)
  fill         versions of a sentence, made by masking and filling and then scored (the data of CLAIF)
  contrast     a positive and a contradiction of each sentence (SynCSE)
  write        sentences from topics and genres (SynCSE-scratch)
  propositions the propositions of the two sentences of a row, and which say the same (sub-sentence encoder)
  rate         rate the pairs of triplets, and keep the triplets whose ratings agree with their roles (MultiCSR)
  queries      questions that each passage answers (query-as-context, doc2query)
  rewrites     several versions of each sentence with the same meaning (LaCLIP, LM-CPPF)
  chain        a paraphrase of each sentence, and a paraphrase of that without its words (ParaCLIP)
A model is KIND:NAME: openai:gpt-4o-mini, encoder:FOLDER or cross-encoder:FOLDER (the last two only score and rate).
openai means any endpoint for chat completions, including one on this machine (vLLM, llama.cpp, Ollama):
--model openai:llama3 --base-url http://localhost:11434/v1
Every answer is kept in --cache: the same command resumes where it stopped, and no question is asked twice.
Exit codes: 0 done, 1 no answer from the endpoint, 2 bad input, 3 a cap was reached, 130 Ctrl-C."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    declare(parser, VERB, omit={"prompt"})
    add = parser.add_argument
    add("--prompt", type=Path, action="append", default=[], metavar="FILE", help="replaces the prompt of the same name")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    require_package("pydantic", extra="feedback", user="cse feedback")
    from cse.feedback.meter import Stop
    from cse.feedback.tasks import TASKS

    try:
        rows = call(VERB, arguments, prompt=arguments.prompt)
    except Stop as stop:
        say("stopped", stop.reason)
        say("", f"{stop.answered}, which are kept; no file was written")
        say("next", "the same command resumes from here (with a higher cap, if a cap stopped it)")
        return stop.code
    if rows and (recipe := TASKS[arguments.task].trains):
        say("next", f"cse train {recipe} --data {arguments.out}")
    return 0 if rows else 1
