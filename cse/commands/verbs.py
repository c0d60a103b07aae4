"""The commands that are one function each: what they print of what it returned, and the table `COMMANDS`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cse.console import say
from cse.training import launch

if TYPE_CHECKING:
    from cse.adapting.adapt import Adapted
    from cse.evaluation.results import Scored
    from cse.inference.static import Static
    from cse.publish.hub import Upload

DOUBTFUL = 0.98  # mean cosine; no loss in STS was measured at 0.99 (a MiniLM), 19 points at 0.94 (asset:smollm2)
ONNX = """\
The export runs without torch and transformers:

  import numpy as np, onnxruntime, tokenizers
  rows = tokenizers.Tokenizer.from_file("DIR/tokenizer.json").encode_batch([text.strip() for text in texts])
  feed = {"input_ids": np.array([r.ids for r in rows]), "attention_mask": np.array([r.attention_mask for r in rows])}
  # with prompts (see export.json): (prompt + text).strip() in place of text.strip()
  vectors = onnxruntime.InferenceSession("DIR/model.onnx").run(["embedding"], feed)[0]
"""


class Verb(NamedTuple):
    """A command that is a function; the fields are the names that the file of another command defines."""

    VERB: str
    HELP: str
    show: Callable[[Any, Namespace], None]
    KEPT: str = "nothing was written"
    EPILOG: str | None = None
    NAMES: Mapping[str, str] = {}
    add_arguments: Callable[[ArgumentParser], None] = lambda _: None


def adapted(found: Adapted, a: Namespace) -> None:
    """Print what to do next; all else is said on the way."""
    if found.model is not None:
        say("next", f"cse push {found.model} you/name")


def encoded(found: tuple[int, int], a: Namespace) -> None:
    """Print what was written, and which shards are missing."""
    from cse.inference.shards import missing

    rows, size = found
    absent = missing(a.out) if a.shard or a.shards else []
    say("wrote", f"{a.out}   {rows:,} × {size} {a.quantize or 'float32'}")
    if absent:
        say("missing", f"{len(absent)} of {absent[0].of} shards: {', '.join(map(str, absent[:8]))}")


def exported(about: dict[str, Any], a: Namespace) -> None:
    """Print how well the graph agrees with the checkpoint."""
    from cse.inference.export import BATCHES, MODEL, SENTENCES

    size = sum(path.stat().st_size for path in a.out.glob(f"{MODEL}*")) / 1e6
    say("wrote", f"{a.out}   {MODEL}: {about['weights']}, {size:.1f} MB, {about['dim']} dimensions")
    sizes = ", ".join(str(min(n, len(SENTENCES))) for n in BATCHES)
    agrees = f"cosine {about['cosine']:.6f} or more with torch on {len(SENTENCES)} texts, in batches of {sizes}"
    say("checked", f"float32: {agrees}")
    if a.quantize:
        near = about["cosine_int8"]
        say("int8", f"cosine with torch {near['mean']:.4f} on average, {near['min']:.4f} at least")
        if near["mean"] < DOUBTFUL:
            say("warning", "the vectors have changed: score them before use, and keep float32 if the scores are lower")
        say("next", f"cse eval compare {a.checkpoint} {a.out} --tasks sts-mini    (measures the loss)")


def merged(found: dict[str, Scored], a: Namespace) -> None:
    """Print the score of each checkpoint."""
    for name, scored in found.items():
        say("scored", f"{name}   {a.tasks} {scored.results['average']['value']:.2f}")
    say("wrote", str(a.out))


def pushed(upload: Upload, a: Namespace) -> None:
    """Print what was sent, or would be."""
    from cse.publish.hub import shown_size

    for path, size in upload.files.items():
        say("would send" if a.dry_run else "file", f"{path}   {shown_size(size)}")
    for path in upload.left_out:
        say("left out", path)
    missing = f"none were found, and the card says so; run `cse eval {a.checkpoint}`, or give --results"
    say("scores", str(upload.results or missing))
    for line in upload.verified:
        say("verified", line)
    for path in upload.removed:
        say("removed", f"{path}   (a file of the earlier model)")
    say("message", upload.message)
    if a.dry_run:
        total = shown_size(sum(upload.files.values()))
        say("dry run", f"{len(upload.files)} files, {total}; the Hub was not contacted")
    else:
        unchanged = "" if upload.changed else "   (nothing was changed: the Hub has all of it already)"
        say("published", f"{upload.url}{unchanged}")


def made_static(found: Static, a: Namespace) -> None:
    """Print the size of the table, and a warning if its weights are wrong."""
    order = "unknown" if found.sorted is None else f"{found.sorted:.2f}"
    if found.doubtful:
        say("warning", f"the vocabulary is not sorted by frequency (rank correlation with counts in text: {order}), so")
        say("", "the weights of tokens are wrong")
        say("fix:", "give texts whose counts rank the tokens: --data FILE")
    say("tokens", f"{found.tokens:,}, {found.before} -> {found.dimensions} dimensions; order by frequency: {order}")
    say("wrote", str(a.out))


def whitened(found: tuple[int, int, int], a: Namespace) -> None:
    """Print what was fitted."""
    count, before, after = found
    done = "whitened" if a.method == "whiten" else a.method
    say("wrote", f"{a.out}   {done} on {count:,} sentences, {before} -> {after} dimensions")


COMMANDS = {
    "adapt": Verb(
        "cse.adapting.adapt:adapt",
        "make a sentence encoder better on your text, no worse elsewhere, with proof",
        adapted,
        "what is done is kept; the same command resumes",
        "Data are pairs (two columns), texts with labels, or texts. After a kill, the same command resumes.",
    ),
    "encode": Verb(
        "cse.inference.encode:encode",
        "encode the texts of a file as vectors",
        encoded,
        "complete blocks are saved, and the same command resumes after them",
        "If the command is killed, the same command resumes after the last complete block and writes the same file.",
        add_arguments=launch.add_argument,
    ),
    "export": Verb(
        "cse.inference.export:export",
        "write a checkpoint as one ONNX graph that includes pooling and head",
        exported,
        EPILOG=ONNX,
    ),
    "merge": Verb(
        "cse.training.merge:merge",
        "average the weights of checkpoints that began as one model, and score the mean beside them",
        merged,
        EPILOG="A mean of the encoder before and after training often keeps both gains: "
        "cse merge MODEL RUN/best --out MEAN",
    ),
    "push": Verb(
        "cse.publish.hub:push",
        "publish a checkpoint to the Hugging Face Hub",
        pushed,
        "a push that was under way is complete or absent on the Hub",
        "The token is that of huggingface_hub: HF_TOKEN, or the one of `hf auth login`. HF_ENDPOINT names another Hub.",
        {"create_pr": "--pr"},
    ),
    "static": Verb(
        "cse.inference.static:static_checkpoint",
        "make static vectors of an encoder: one for each token, a hundred times as fast, and less good",
        made_static,
    ),
    "whiten": Verb(
        "cse.inference.whiten:whiten_checkpoint",
        "append PCA whitening, or another map that is fitted on sentences, to a checkpoint",
        whitened,
        EPILOG="Meant for models that were not trained for similarity; score both: cse eval compare CHECKPOINT OUT",
    ),
}
