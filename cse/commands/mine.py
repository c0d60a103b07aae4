"""cse mine: choose hard negatives for rows of text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cse.commands import SAME, declare
from cse.errors import UserError
from cse.training import launch

if TYPE_CHECKING:
    from cse.mining.command import Judge, Model
    from cse.mining.given import Vectors
    from cse.mining.miners import Miner

VERB = "cse.mining.command:mine"
HELP = "choose hard negatives for rows of text, and write a file to train on"
KEPT = "nothing was written, except shards that are complete"
FIRST = {"anchors", "pool", "negatives", "rows_without_negatives"}  # counts that are not of a rule
EPILOG = (
    "To train on the file: cse train simcse-sup --data.path=mined.parquet --data.columns=[anchor,positive,negative_1]"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", nargs="?", help="a folder, asset:NAME or Hub id")
    vectors = "vectors instead of a checkpoint: for each row of --data, then of --pool; a .npy file or folder of shards"
    add("--vectors", metavar="FILE", help=vectors)
    out = "a .parquet or .jsonl file; its manifest, a .json file, is written beside it. With shards: a folder"
    add("--out", type=Path, required=True, help=out)
    declare(parser, VERB, {"rows": "--data"}, omit={"model", "miner", "judge", "reranker", "bands", "out"})
    ranks = "ranks of the neighbors to choose from, counted from 1; default: 1 50"
    add("--ranks", type=int, nargs=2, default=[1, 50], metavar=("FIRST", "LAST"), help=ranks)
    positives = "ranks of the neighbors that become positives of a text, each in a row of its own; before --ranks"
    add("--positives", type=int, nargs=2, metavar=("FIRST", "LAST"), help=positives)
    easy = "number of easy negatives: random texts outside the nearest LAST of --ranks; default: 0"
    add("--easy", type=int, default=0, help=easy)
    add("--margin", type=float, help="smallest difference between the cosines of the positive and of a negative")
    add("--relative-margin", type=float, help="the same difference, as a share of the cosine of the positive")
    add("--max-similarity", type=float, help="largest cosine of a negative")
    add("--random", action="store_true", help="choose texts of the pool at random, as a baseline")
    add("--seed", type=int, default=42, help="seed of --random and --easy; default: 42")
    add("--teacher", help="an encoder that drops false negatives: a folder, asset:NAME or Hub id")
    above = "drop candidates to which the teacher gives a cosine with the anchor above this"
    add("--teacher-max", type=float, help=above)
    positive = "drop candidates that, for the teacher, are at least as similar to the anchor as the positive"
    add("--teacher-positive", action="store_true", help=positive)
    add("--reranker", metavar="MODEL", help="a cross-encoder of sentence-transformers that drops false negatives")
    margin = "drop candidates that it scores above the positive minus this; default: 0"
    add("--reranker-margin", type=float, default=0.0, help=margin)
    index = (
        "exact, auto (cells that grow with the pool), or an index of faiss: 'IVF1024,Flat;nprobe=16'; default: exact"
    )
    add("--index", default="exact", help=index)
    add("--shard", metavar="I/N", help=SAME["shard"])
    add("--shards", type=int, metavar="N", help=SAME["shards"])
    launch.add_argument(parser)
    add("--pooler", choices=["cls", "mean", "last"], help=SAME["pooler"])


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse import distributed
    from cse.console import quiet

    quiet()
    with distributed.together():
        return _run(arguments)


def _run(a: argparse.Namespace) -> int:
    miner, judge, model = _miner(a), _judge(a), _model(a)
    from cse import distributed
    from cse.console import say
    from cse.files import require_name
    from cse.inference.shards import chosen
    from cse.mining.command import Source, mine_file
    from cse.mining.miners import Bands
    from cse.mining.reranker import Reranker

    data = Source(a.rows, a.columns, a.limit)
    if a.pool is not None:
        require_name(a.pool, "--pool")
    pool = Source(a.pool, a.pool_columns) if a.pool else None
    reranker = Reranker(a.reranker, margin=a.reranker_margin, device=a.device) if a.reranker else None
    bands = Bands(tuple(a.positives) if a.positives else None, a.easy, a.seed)
    shards = chosen(a.shard, a.shards, together=True)
    options = {"shards": shards, "pool": pool, "judge": judge, "reranker": reranker, "scores": a.scores, "bands": bands}
    manifest = mine_file(model, data, a.out, miner, k=a.k, device=a.device, **options)
    if distributed.rank():
        return 0
    counts = manifest["counts"]
    say("rows", f"{counts['anchors']:,}, of them {counts['rows_without_negatives']:,} without a negative")
    dropped = {n: c for n, c in counts.items() if n not in FIRST}
    rules = ", ".join(f"{name} {count:,}" for name, count in dropped.items())
    say("mined", f"{counts['negatives']:,} from {counts['pool']:,} texts; {rules}")
    say("columns", ",".join(manifest["out"]["columns"]))
    name = manifest["out"]["path"] if shards else a.out.name
    say("wrote", f"{a.out}   settings and counts: {Path(name).with_suffix('.json')}{' and so on' if shards else ''}")
    return 0


def _model(a: argparse.Namespace) -> Model | Vectors:
    from cse.mining.command import Model
    from cse.mining.given import Vectors

    if a.vectors is None and a.checkpoint is None:
        raise UserError(
            "cse mine needs a checkpoint or vectors\nfix: give a folder, asset:NAME or Hub id, or --vectors FILE"
        )
    if a.vectors is None:
        return Model(a.checkpoint, a.pooler, a.device, a.precision, a.prompt, a.pool_prompt)
    unused = {"the checkpoint": a.checkpoint, "--prompt": a.prompt, "--pool-prompt": a.pool_prompt}
    for name, value in unused.items():
        if value is not None:
            raise UserError(f"--vectors is {a.vectors}, so {name} {value} would not be used\nfix: give one of the two")
    return Vectors(a.vectors)


def _miner(a: argparse.Namespace) -> Miner:
    from cse.mining.miners import Random, TopK

    if a.random:
        return Random(seed=a.seed)
    limits = {"absolute_margin": a.margin, "relative_margin": a.relative_margin, "max_similarity": a.max_similarity}
    return TopK(first=a.ranks[0], last=a.ranks[1], index=a.index, **limits)


def _judge(a: argparse.Namespace) -> Judge | None:
    from cse.mining.command import Judge, Model

    rules = a.teacher_max is not None or a.teacher_positive
    if rules and not a.teacher:
        raise UserError(
            "--teacher-max and --teacher-positive need a teacher, but none is given\nfix: add --teacher CHECKPOINT"
        )
    if not a.teacher:
        return None
    if not rules:
        raise UserError(
            f"--teacher is {a.teacher}, but no rule for dropping candidates is given\n"
            "fix: add --teacher-positive, or --teacher-max with a cosine such as 0.9"
        )
    if a.teacher_max is not None and not -1 <= a.teacher_max <= 1:
        raise UserError(f"--teacher-max is {a.teacher_max}\nfix: give a cosine in [-1, 1]")
    return Judge(Model(a.teacher, a.pooler, a.device, a.precision), a.teacher_max, a.teacher_positive)
