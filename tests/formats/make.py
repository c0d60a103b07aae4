"""Writes what a version leaves on a disk: `python -m tests.formats.make tests/formats/0.1`, once, before its release.

Later versions read it (`test_formats.py`). A folder is never written again: what it holds is what users of that version
have.
"""

import os
import sys
from pathlib import Path

import numpy as np

from cse import Encoder, cli
from tests.conftest import WORDS
from tests.models import save_tiny, save_words

TEXTS = ["the cat sat on a mat", "a dog ran fast", "the red house"]


def main(folder: Path) -> None:
    """Train, score, mine and quantize with a tiny model."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    save_words(WORDS, Path("model"))
    save_tiny("bert", "model", Path("model"))
    texts = [f"the {a} {b} {c}" for a in WORDS[5:9] for b in WORDS[9:13] for c in WORDS[1:3]]
    Path("texts.txt").write_text("".join(f"{text}\n" for text in texts))
    options = ["--encoder=model", "--data=texts.txt", "--trainer.batch_size=8", "--trainer.max_steps=4"]
    options += ["--trainer.eval_every=2", "--trainer.precision=fp32", "--trainer.device=cpu"]
    run("train", "simcse-unsup", *options, "--run-dir", "run")
    run("eval", "run/last", "--tasks", "sts-mini-test", "--out", "run/results.json", "--precision", "fp32")
    run("encode", "run/last", "texts.txt", "--out", "shards", "--shards", "1", "--precision", "fp32")
    run("mine", "run/last", "--data", "texts.txt", "--out", "mined.jsonl", "--k", "1", "--ranks", "1", "9")
    np.save("vectors.npy", Encoder.load("run/last").encode(TEXTS))


def run(*words: str) -> None:
    """Run a command."""
    if code := cli.main([*words]):
        raise SystemExit(f"cse {' '.join(words)} ended with {code}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
