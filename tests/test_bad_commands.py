"""Bad options of every command: two lines and exit code 2 before any work, and nothing that lies there is harmed."""

import io
import json
import os
import shlex
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from cse import Encoder, cli
from cse.files import write_sealed
from tests.models import save_tiny

BEGIN = {  # what a line may begin with
    "TRAIN": "train simcse-unsup --encoder asset:mini",
    "MINI": "train simcse-unsup --encoder asset:mini --run-dir new",
    "OWN": "train simcse-unsup --encoder CK --trainer.batch_size=4 --run-dir new",
    "LORA": "train simcse-unsup --encoder CK --data texts.txt --run-dir new --trainer.batch_size=4 "
    "--encoder.adapter=cse.encoder.Lora",
    "MINE": "mine ck --data texts.txt --out m.parquet",
    "GRAPH": "mine --data texts.txt --vectors graph.npy --out m.parquet",
    "SCORE": "feedback score --model encoder:ck",
    "FEEDBACK": "feedback score --model encoder:ck --data pairs.jsonl --columns a b",
    "ASKED": "feedback score --model openai:x --data pairs.jsonl --columns a b --out new.jsonl",
}
BAD = {  # a command line -> what the error names
    "encode ck texts.txt --out folder": "--out is folder",
    "encode ck texts.txt --out file/v.npy": "--out file/v.npy cannot be written",
    "encode ck texts.txt --out texts.txt": "--out is texts.txt",
    "encode ck absent.txt --out v.npy": "absent.txt",
    "encode ck empty.txt --out v.npy": "texts empty.txt: the file is empty",
    "encode file texts.txt --out v.npy": "'file'",
    "encode ck texts.txt --out v.npy --dims 0": "--dims",
    "encode ck texts.txt --out v.npy --save-every 0": "--save-every is 0",
    "encode ck texts.txt --out v.npy --windows 0": "windows is 0",
    "diff a texts.txt --model ck": "'texts.txt' is a file and 'a' is not",
    "diff a b --model ck --method mask": "'ck' is not a trained masked language model",
    "diff a b --model ck --method nonsense": "--method",
    "diff a b --model ck --html folder": "--html folder",
    "encode ck texts.txt --out v.npy --quantize int4": "--quantize: invalid choice: 'int4'",
    "encode ck texts.txt --out v.npy --quantize int8 --calibration folder": "--calibration folder is a folder",
    "encode ck texts.txt --out v.npy --quantize int8 --calibration file": "calibration file cannot be read",
    "encode ck texts.txt --out v.npy --prompt nonesuch": "--prompt",
    "encode ck texts.txt --out v.npy --device mps": "--device is mps",
    "encode ck texts.txt --out new --shard 65/64": "--shard is 65/64",
    "encode ck texts.txt --out new --shard 1/4 --shards 4": "--shard is 1/4 and --shards is 4",
    "encode ck texts.txt --out new --shards 0": "--shards is 0",
    "encode ck texts.txt --out v.npy --shard 1/1": "--out is v.npy, and shards are files in a folder",
    "encode ck texts.txt --out file --shard 1/1": "--out file is a file",
    "mine ck --data texts.txt --out new --shards 9": "there are 9 shards",
    "mine ck --data texts.txt --out folder": "--out folder",
    "mine ck --data texts.txt --out m.parquet --k 1000000": "--k is 1000000",
    "mine ck --data texts.txt --out m.parquet --k 0": "--k is 0",
    "mine ck --data texts.txt --out m.parquet --pool absent.txt": "absent.txt",
    "MINE --out m.txt": "m.txt is not a .parquet or .jsonl file",
    "MINE --teacher-max 0.9": "--teacher-max and --teacher-positive need a teacher",
    "MINE --teacher x": "--teacher is x, but no rule for dropping",
    "MINE --teacher x --teacher-max 2": "--teacher-max is 2.0",
    "MINE --reranker absent-model": "absent-model",
    "MINE --reranker folder": "--reranker folder cannot be read",
    "MINE --reranker three": "has 3 scores for a pair",
    "MINE --reranker three --reranker-margin nan": "--reranker-margin is nan",
    "MINE --scores": "--scores asks for the scores of a reranker",
    "MINE --data scored.jsonl": "has scored pairs",
    "MINE --data s-train.jsonl --out s-train.jsonl": "which is a source",
    "MINE --data p.tsv --columns anchor nonesuch": "'nonesuch'",
    "MINE --pool p.tsv --pool-columns nonesuch": "'nonesuch'",
    "GRAPH --positives 1 1 --ranks 2 3 --margin 0.1": "compares a negative with one",
    "GRAPH --ranks 5 9": "--ranks begins at 5, but the pool has 4 texts",
    "GRAPH --easy 1 --random": "--positives and --easy need the ranks",
    "GRAPH --easy 1": "outside the 50 nearest, but the pool has 4 texts",
    "GRAPH --prompt query": "so --prompt query would not be used",
    "GRAPH --vectors flat.npy": "--vectors flat.npy has an array (4,) of float64",
    "GRAPH --vectors words.npy": "--vectors words.npy has an array (4, 2) of <U1",
    "GRAPH --vectors many.npz": "--vectors many.npz has several arrays",
    "GRAPH --vectors short.npy": "--vectors short.npy has 3 rows, and --data and --pool have 4",
    "GRAPH --vectors nan.npy": "--vectors nan.npy: row 2, counted from 0",
    "GRAPH --data p.tsv": "p.tsv has pairs",
    "teach texts.txt --model ck --out t.npy": "--out t.npy",
    "teach texts.txt --model file --out t.parquet": "file",
    "teach texts.txt --model ck ck --out t.parquet": "--model is ck ck",
    "teach texts.txt --model ck --out t.parquet --limit 0": "limit is 0",
    "teach texts.txt --model ck --out t.parquet --class Nonsense": "'Nonsense'",
    "teach texts.txt --out t.parquet": "--model",
    "OWN --data texts.txt --data.teacher_columns=[t]": "data.teacher_columns",
    "mine --data texts.txt --out m.parquet": "needs a checkpoint or vectors",
    "mine ck --data texts.txt --out m.parquet --vectors file": "the checkpoint ck",
    "mine --data texts.txt --out m.parquet --vectors absent.npy": "--vectors absent.npy",
    "mine --data texts.txt --out m.parquet --vectors file": "--vectors file",
    "mine ck --data texts.txt --out m.parquet --positives 1 9 --ranks 9 10": "--positives",
    "mine ck --data texts.txt --out m.parquet --positives 3 1 --ranks 9 10": "--positives is 3 to 1",
    "mine ck --data texts.txt --out m.parquet --positives 1 2 --random": "--positives",
    "mine ck --data texts.txt --out m.parquet --easy -2": "--easy is -2",
    "mine ck --data texts.txt --out m.parquet --easy 9 --ranks 1 2": "--easy",
    "whiten ck --data texts.txt --out ck": "--out ck is the checkpoint",
    "whiten ck --data texts.txt --out ck/inside": "or in it",
    "whiten ck --data texts.txt --out folder": "--out folder",
    "whiten ck --data texts.txt --out file": "--out file is a file",
    "whiten ck --data texts.txt --out white --k 9999": "k is 9999",
    "whiten ck --data texts.txt --out white --limit 0": "--limit is 0",
    "whiten ck --data texts.txt --out white --method clip": "nothing to clip",
    "whiten ck --data texts.txt --out white --method clip --k 3": "--k is 3, and --method clip",
    "whiten ck --data texts.txt --out white --components 3": "--components is 3, and --method whiten",
    "whiten ck --data texts.txt --out white --method all-but-the-top --components 4": "--components is 4",
    "static ck --out ck": "--out ck is the checkpoint",
    "static ck --out static --dimensions 17": "--dimensions is 17",
    "static ck --out static --dimensions 0": "static.dimensions is 0",
    "export ck --out ck": "--out ck",
    "eval ck --tasks sts-mini-dev --out folder": "--out folder",
    "eval ck --tasks nonsense": "'nonsense'",
    "eval ck --tasks sts-mini-dev --quantize binary,binary": "--quantize has binary twice",
    "eval ck --tasks sts-mini-dev --quantize int8": "quantization.json does not exist",
    "bench-model ck --out folder": "--out folder",
    "bench-model ck --variants int4": "--variants has 'int4'",
    "bench-model ck --variants int8,int8": "--variants has int8 twice",
    "bench-model ck --widths 9999": "--widths has 9999",
    "bench-model ck --widths x": "--widths: 'x' is not of the form 256,64",
    "bench-model ck --layers 9": "--layers has 9",
    "bench-model ck --seconds 0": "seconds is 0",
    "bench-model ck --texts pairs.jsonl": "--texts: pairs.jsonl has no column 'text'",
    "eval compare ck nonesuch": "checkpoint 'nonesuch' cannot be loaded",
    "eval report file": "file",
    "eval report absent": "absent",
    "eval report folder --out file": "file",
    "eval report curve --baseline nonesuch": "curve has no results.json",
    "data show /dev/zero": "data.path is /dev/zero, which is a pipe, a socket or a device",
    "push file me/name --dry-run": "file",
    "push folder me/name --dry-run": "folder",
    "push ck name-with:colon --dry-run": "name-with:colon",
    "push ck me/name --license mit --revision 'a b'": "--revision is 'a b', which cannot be a branch",
    "push ck me/name --dry-run --license mit --revision a..b": "--revision is 'a..b', which cannot be a branch",
    "recipe show nonesuch": "'nonesuch'",
    "recipe copy simcse-unsup folder": "folder",
    "recipe copy simcse-unsup own.yaml": "own.yaml exists",
    "check absent.yaml": "absent.yaml",
    "check simcse-unsup --no-data --objective.temperature=-1": "objective.temperature is -1",
    "check simcse-unsup --no-data --collator.max_length=1": "collator.max_length is 1",
    "check simcse-unsup --no-data --encoder.dropout.hidden=1": "encoder.dropout.hidden is 1",
    "check promcse-unsup --no-data --encoder.adapter.length=0": "encoder.adapter.length is 0",
    "check simcse-unsup --no-data --evaluator=cse.evaluation.HeldOut --evaluator.share=1": "evaluator.share is 1",
    "check simcse-mined --no-data --negatives.k=0": "negatives.k is 0",
    "search simcse-unsup --data texts.txt --dev nonsense --budget 1m": "'nonsense'",
    "search simcse-unsup --data texts.txt --dev sts-mini-dev --budget 1m --run-dir file": "--run-dir file",
    "search --resume absent": "absent",
    "search --data texts.txt --budget -1m": "'-1m' begins with a dash",
    "search --resume absent --data texts.txt": "takes no options",
    "search simcse-unsup --encoder CK": "needs data",
    "search --data pairs.jsonl": "no recipe fits pairs.jsonl",
    "search simcse-sup --encoder CK --data texts.txt": "one text a line",
    "search simcse-unsup --encoder CK --data texts.txt --seeds 0": "search.seeds is 0",
    "search simcse-unsup --encoder CK --data texts.txt --trainer.trackers=[tensorbord]": "'tensorbord'",
    "search simcse-unsup simcse-unsup --encoder CK --data texts.txt": "the name simcse-unsup",
    "augment": "cse augment needs a recipe or texts",
    "augment --data texts.txt --rows 0": "--rows is 0",
    "augment --data texts.txt --seed=4": "--seed=4 is an option of a recipe",
    "train --resume auto": "--resume auto needs a recipe and --run-dir",
    "train simcse-unsupp": "recipe 'simcse-unsupp'",
    "push ck me/name --license mit": "HF_HUB_OFFLINE",
    "train": "needs either a recipe",
    "train simcse-unsup --resume new": "needs either",
    "train --resume absent": "--resume absent",
    "train --resume absent --trainer.max_steps=2": "takes no options",
    "train simcse-unsup --nonsense=4": "--nonsense is unknown",
    "TRAIN --run-dir file": "--run-dir file",
    "MINI --trainer.batch_size=0": "batch_size is 0",
    "MINI --trainer.epochs=-1": "epochs is -1",
    "MINI --trainer.max_steps=1.5": "max_steps",
    "MINI --trainer.device=tpu": "trainer.device",
    "MINI --trainer.precision=fp16": "trainer.precision is fp16",
    "MINI --trainer.optimizer=adamw8bit": "trainer.optimizer is adamw8bit",
    "MINI --processes two": "--processes",
    "MINI --objective.temperature=0": "temperature is 0",
    "MINI --collator.max_length=0": "max_length is 0",
    "MINI --collator.max_length=100000": "max_length is 100000",
    "MINI --data absent.txt": "absent.txt",
    "MINI --data folder/data.xyz": "folder/data.xyz",
    "MINI --seed=-1": "recipe.seed is -1",
    "MINI --seed=12345678901234567890123": "recipe.seed is 12345678901234567890123",
    "MINI --seed=010": "seed is 010",
    "MINI --trainer.batch_size=1:30": "trainer.batch_size is 1:30",
    "MINI --trusted-modules=nix.y": "--trusted-modules is nix.y, and there is no such module",
    "MINI --encoder.adapter=cse.encoder.Lora --encoder.adapter.rank=100000": "rank is 100000",
    "MINI --encoder.adapter=cse.encoder.Lora --encoder.adapter.kind=ia3": "encoder.adapter.kind is ia3",
    "LORA --encoder.adapter.kind=pissa --encoder.weights=bf16": "and PiSSA needs fp32",
    "LORA --encoder.adapter.kind=dora --trainer.initial_weights=mean": "encoder.adapter.kind=dora",
    "FEEDBACK --out folder": "--out folder",
    "FEEDBACK --out pairs.jsonl": "--out pairs.jsonl",
    "SCORE --data absent.jsonl --columns a b --out new.jsonl": "absent.jsonl",
    "feedback score --model encoder:ck --data rated.jsonl --columns a b --out rated.jsonl": "is the file of --data",
    "feedback rate --model encoder:ck --data rated.jsonl --columns a b a --out rated.jsonl": "is the file of --data",
    "ASKED --base-url localhost:11434": "--base-url is 'localhost:11434'",
    "ASKED --base-url ftp://host/v1": "--base-url is 'ftp://host/v1'",
    "ASKED --limit 0": "--limit is 0",
    "ASKED --workers 0": "--workers is 0",
    "ASKED --max-requests 0": "--max-requests is 0",
    "ASKED --temperature nan": "--temperature is nan",
    "ASKED --extra []": "--extra is not a JSON object",
    "ASKED --max-cost 1": "--max-cost needs prices",
    "ASKED --key-env NONESUCH_KEY": "NONESUCH_KEY",
    "FEEDBACK --rater encoder:ck --out new.jsonl": "takes no rater",
    "FEEDBACK --out new.txt": "new.txt is not a .jsonl file",
    "SCORE --data pairs.jsonl --columns a --out new.jsonl": "--columns is a",
    "SCORE --data pairs.jsonl --columns a c --out new.jsonl": "no column 'c'",
    "feedback fill --model encoder:ck --data texts.txt --out new.jsonl": "cannot answer 'fill'",
    "feedback propositions --model encoder:ck --data pairs.jsonl --columns a b --out new.jsonl": "cannot answer 'propo",
    "feedback fill --model local:ck --data texts.txt --out new.jsonl": "--model is 'local:ck'",
    "feedback fill --model openai:x --out new.jsonl": "needs texts",
    "feedback write --model openai:x --data texts.txt --out new.jsonl": "takes no --data",
    "feedback score --model cross-encoder:ck --data pairs.jsonl --columns a b --out new.jsonl": "gives no score",
    "feedback score --model encoder:folder --data pairs.jsonl --columns a b --out new.jsonl": "not the folder",
    "eval ck --tasks sts-mini-dev --data absent": "--data: the folder 'absent'",
    "eval ck --tasks sts --out scored.json": "holds scores of STS12",
    "eval compare ck ck --dimensions 8": "--dimensions 8: this action compares whole vectors only",
    "eval mteb ck --tasks STS12 --out m --dimensions 8": "--dimensions 8: this action scores whole vectors only",
    "eval mteb ck --tasks STS12 --out m --prompt query": "--prompt query: MTEB puts",
    "eval report damaged": "damaged/results.json cannot be read",
    "eval report damaged/results.json": "the folder of runs 'damaged/results.json' is a file",
    "check simcse-unsup --encoder CK --data texts.txt --eval-data absent": "--eval-data: the folder 'absent'",
    "similarity ck texts.txt pairs.jsonl": "no column 'text'",
    "similarity ck texts.txt texts.txt --top-k 0": "--top-k is 0",
    "similarity ck --data texts.txt": "unrecognized arguments: --data",
    "encode ck utf16.txt --out v.npy": "utf16.txt is UTF-16",
    "OWN --data weights.csv --data.weight_column=w": "has the weight 0",
    "OWN --data texts.txt --evaluator.tasks=nonsense": "evaluator.tasks: unknown task 'nonsense'",
    "OWN --data texts.txt --evaluator.tasks=,": "evaluator.tasks ',' names no task",
    "OWN --data texts.txt --evaluator.data=absent": "evaluator.data: the folder 'absent'",
    "OWN --data texts.txt --encoder ./model.gguf": "is a GGUF file",
    "OWN --data texts.txt --encoder ./nothing": "'./nothing' is not a folder",
    "OWN --data texts.txt --encoder no-such-org/no-such-model": "cannot be loaded",
    "OWN --data texts.txt --encoder asset:smolm2": "asset:smolm2 does not exist",
    "OWN --data texts.txt --encoder texts.txt": "is not a folder",
    "OWN --data texts.txt --encoder": "--encoder needs a value",
    "OWN --data": "--data needs a value",
    "OWN --data texts.txt --encoder.layers=26": "encoder.layers is 26, but this backbone has 2",
    "OWN --data texts.txt --encoder.max_length=900": "encoder.max_length is 900, but ",
    "OWN --data texts.txt --encoder.template=hello": "encoder.template is 'hello'",
    "OWN --data texts.txt --encoder ./modern --encoder.dropout.hidden=0.1": "a modernbert backbone has no such dropout",
    "OWN --data texts.txt --encoder ./modern --encoder.adapter=cse.encoder.SoftPrompts": "cannot have soft prompts",
    "OWN --data texts.txt --trainer.batch_size=9": "trainer.batch_size is 9",
    "OWN --data texts.txt --trainer.accumulation=3": "trainer.batch_size is 4",
    "OWN --data texts.txt --trainer.clip=0": "trainer.clip is 0",
    "OWN --data texts.txt --trainer.eval_every=0": "trainer.eval_every is 0",
    "OWN --data texts.txt --trainer.chunk_size=0": "trainer.chunk_size is 0",
    "OWN --data texts.txt --trainer.chunk_size=2 --trainer.chunk_tokens=9": "both say how much of a batch",
    "OWN --data texts.txt --trainer.initial_weights=2": "trainer.initial_weights is 2",
    "OWN --data texts.txt --trainer.workers=-1": "trainer.workers is -1",
    "encode ck texts.txt --out new --shard 0/4": "--shard is 0/4",
    "OWN --data texts.txt --trainer.weight_decay=-1": "trainer.weight_decay is -1",
    "OWN --data texts.txt --trainer.warmup_steps=-1": "trainer.warmup_steps is -1",
    "OWN --data texts.txt --trainer.chunk_tokens=0": "trainer.chunk_tokens is 0",
    "bench-model ck --layers 0": "--layers has 0",
    "ASKED --max-cost nan --price-in 1 --price-out 1": "--max-cost is nan",
    "eval ck --tasks MR,CR --out scored.json": "holds scores of MR",
    "mine --data texts.txt --out m.parquet --vectors folder": "--vectors folder",
    "encode ck loop --out v.npy": "texts loop is a link that leads to itself",
    "OWN --data texts.txt --trainer.batch_size=1": "batch_size is 1: there are no in-batch negatives",
    "OWN --trainr.max_steps=3": "trainr.max_steps",
    "train --resume finished": "its best checkpoint of step 2 is gone",
    "train simcse-unsup --run-dir finished": "holds a run already",
    "similarity LONG one two": "which is too long for the name of a file",
    "eval ck --tasks sts-mini-dev --data LONG": "is too long for the name of a file",
    "mine ck --data texts.txt --reranker ck --out m.parquet": "--reranker ck gives no score: it is of the type Bert",
    "mine ck --data texts.txt --pool EMPTY --out m.parquet": "--pool is empty",
    "whiten ck --data texts.txt --out loop": "--out loop is a link that leads to itself",
    "OWN --run-dir ck --data texts.txt": "--run-dir ck is a model",
    "OWN --run-dir broken.txt --data texts.txt": "broken.txt is a link to nowhere.txt, which does not exist",
    "TRAIN --run-dir /proc/x": "--run-dir /proc/x cannot be written: /proc takes no new file",
    "export ck --out /proc/x": "--out /proc/x cannot be written: /proc takes no new file",
    "OWN --run-dir EMPTY --data texts.txt": "a path is empty",
    "encode ck texts.txt --out broken.txt/v.npy": "broken.txt is a link to nowhere.txt, which does not exist",
    "search --resume nulls": "nulls/search.json is damaged",
    "encode ck EMPTY --out v.npy": "texts is empty",
    "data show EMPTY": "data.path is empty",
    "eval ck --data EMPTY": "--data is empty",
    "check EMPTY": "recipe is empty",
    "data show broken.txt": "a link to nowhere.txt, which does not exist",
    "push ck me/name --dry-run --license mit --results numbers.json": "numbers.json is damaged: ",
    "eval ck --as labels": "--as labels says what --data holds",
    "data show asset:nonesuch": "asset:nonesuch does not exist",
    "data show p.tsv --rows -1": "--rows is -1",
    "data show p.tsv --class Pears": "'Pears'",
    "data show p.tsv --columns anchor nonesuch": "'nonesuch'",
    "data show p.tsv --columns anchor anchor": "data.columns is ['anchor', 'anchor']",
    "data show p.tsv --class Texts --columns anchor positive": "the columns of Texts are",
    "data show p.tsv --class Pairs --score-column anchor": "have no score",
    "data show p.tsv --score-column anchor": "which must be a number",
    "data show p.tsv --columns anchor positive --score-column s --label-column l": "no weights and no labels",
    "data show p.tsv --limit 1": "limit",
    "data stats p.tsv --out folder": "--out folder",
    "data stats p.tsv --against nonesuch": "'nonesuch'",
    "data stats p.tsv --against STS12": "STS12",
    "data split p.tsv --out s.csv": "--out s.csv",
    "data split p.tsv --out file/s.jsonl": "--out file/s-train.jsonl",
    "data split p.tsv --out s.jsonl --dev nan": "split.dev is nan",
    "data split p.tsv --out s.jsonl --dev 0.6 --test 0.4": "split.test is 0.4",
    "data split p.tsv --out s.jsonl --dev 0.01": "leaves no row for dev",
    "data split linked.tsv --out s.jsonl --dev 0.5": "share texts with too many others",
    "data split s-train.jsonl --out s.jsonl": "s-train.jsonl",
    "data split shards --out shards/s.jsonl": "shards/s.jsonl",
    "data dedup p.tsv --out p.tsv": "--out p.tsv",
    "data dedup 's-*.jsonl' --out s-train.jsonl": "which is a source",
    "data dedup p.tsv --out d.jsonl --near 0": "dedup.near is 0",
    "data dedup p.tsv --out d.jsonl --near 1.5": "dedup.near is 1.5",
    "data dedup p.tsv --out d.jsonl --against p.tsv": "no row of 4 is left",
    "data dedup p.tsv texts.txt --out d.jsonl": "Pairs and Texts",
    "data mix p.tsv --out m.jsonl": "1 source is given",
    "data mix p.tsv s-train.jsonl --out m.jsonl --shares 1": "1 shares are given for 2 sources",
    "data mix p.tsv s-train.jsonl --out m.jsonl --shares 1 0": "mix.shares is 0",
    "data mix p.tsv s-train.jsonl --out m.jsonl --rows 1": "mix.rows is 1",
    "data mix p.tsv s-train.jsonl --out m.jsonl --rows 1000": "rows of p.tsv are wanted",
    "data cluster p.tsv --model asset:mini --clusters 1 --out c.jsonl": "cluster.clusters is 1",
    "data cluster p.tsv --model asset:mini --clusters 5 --out c.jsonl": "and there are 4 rows",
    "data cluster p.tsv --model asset:mini --clusters 2 --out p.tsv": "--out p.tsv",
    "data cluster p.tsv texts.txt --model asset:mini --clusters 2 --out c.jsonl": "texts.txt",
    "data curate p.tsv --entries absent.txt --out c.jsonl": "absent.txt",
    "data curate p.tsv --entries empty.txt --out c.jsonl": "empty.txt",
    "data curate p.tsv --entries texts.txt --t 0 --out c.jsonl": "curate.t is 0",
    "merge ck --out mean": "1 checkpoints are given",
    "merge ck ck ck --method slerp --out mean": "slerp merges two",
    "merge ck ck --weights 1 --out mean": "--weights is 1",
    "merge ck ck --weights 0 0 --out mean": "--weights is 0 0",
    "merge ck wide --out mean": "the weights ",
    "OWN --data texts.txt --then": "--then needs a recipe",
    "OWN --data texts.txt --then --seed=1": "--then needs a recipe",
    "OWN --data texts.txt --then simcse-unsup --then": "--then needs a recipe",
    "OWN --data texts.txt --then simcse-unsup --run-dir x": "--run-dir is behind --then",
    "OWN --data texts.txt --then simcse-unsup --encoder=x": "--encoder is behind --then",
    "OWN --data texts.txt --then simcse-unsup --trainer.max_stepz=1": "option trainer.max_stepz is unknown",
    "OWN --data texts.txt --then simcse-unsupp": "recipe 'simcse-unsupp' is unknown",
    "OWN --resume x --then simcse-unsup": "--then and --resume x",
    "OWN --resume x --dry-run": "--dry-run is of one recipe",
    "OWN --data texts.txt --then simcse-unsup --dry-run": "--dry-run is behind --then",
    "train --then simcse-unsup": "--then needs a recipe before it",
    "similarity ck texts.txt one.txt": "texts.txt has 4 rows and one.txt has 1",
    "adapt p.tsv --encoder ck --out new --budget soon": "--budget is 'soon'",
    "adapt p.tsv --encoder ck --out new --questions openai:m": "p.tsv has pairs",
    "adapt p.tsv --encoder ck --out new --questions openai:m --label-column b": "--questions are for texts",
    "adapt p.tsv --encoder ck --out new --base-url http://localhost:1": "--base-url is the address",
    "adapt p.tsv --encoder asset:mini --out new": "is not a sentence encoder yet",
    "data show": "SOURCE",
    "data nonsense p.tsv": "nonsense",
    "nonsense": "nonsense",
}


def _finished_run(folder):
    """The state of a run whose best checkpoint is gone."""
    (folder / "state").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("seed: 1\n")
    (folder / "env.json").write_text('{"recipe": "simcse-unsup"}')
    (folder / "state" / "state.pt").write_bytes(b"tensors")
    progress = {"step": 4, "best": 1.0, "best_step": 2, "finished": True}
    about = {"progress": progress, "made_from": {"recipe": "seed: 1\n"}, "sha256": sha256(b"tensors").hexdigest()}
    write_sealed(folder / "state" / "state.json", about)


def _vectors(folder):
    """A vector for each line of texts.txt, and arrays that are none."""
    graph = np.arange(20.0).reshape(4, 5)
    hole = np.where(np.arange(4)[:, None] == 2, np.nan, graph)
    arrays = {"graph": graph, "flat": graph[:, 0], "words": np.full((4, 2), "a"), "short": graph[1:], "nan": hole}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "many.npz", a=graph, b=graph)


@pytest.fixture(scope="module")
def place(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    Encoder(tiny_bert, pooler="mean").save(folder / "ck")
    Encoder(tiny_bert, pooler="mean", head="mlp", export_head=True).save(folder / "wide")
    (folder / "texts.txt").write_text("the cat sat\na dog ran\nthe sun\nthe moon\n")
    pairs = "anchor\tpositive\nthe cat\ta cat\nthe dog\ta dog\nred sun\tthe sun\nblue moon\tthe moon\n"
    (folder / "p.tsv").write_text(pairs)
    (folder / "linked.tsv").write_text("anchor\tpositive\nx\ta\nx\tb\nx\tc\nx\td\n")
    (folder / "s-train.jsonl").write_text('{"anchor": "a", "positive": "b"}\n{"anchor": "c", "positive": "d"}\n')
    (folder / "scored.jsonl").write_text(
        '{"sentence1": "a", "sentence2": "b", "score": 1}\n{"sentence1": "c", "sentence2": "d", "score": 2}\n'
    )
    _vectors(folder)
    BertForSequenceClassification(AutoConfig.from_pretrained(tiny_bert, num_labels=3)).save_pretrained(folder / "three")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "three")
    save_tiny("modernbert", tiny_bert, folder / "modern")
    (folder / "one.txt").write_text("the cat sat\n")
    (folder / "empty.txt").write_text("")
    (folder / "shards").mkdir()
    (folder / "shards" / "a.txt").write_text("the cat sat\na dog ran\nthe sun\n")
    (folder / "pairs.jsonl").write_text('{"a": "the cat sat", "b": "a dog ran"}\n{"a": "the sun", "b": "the moon"}\n')
    (folder / "rated.jsonl").write_text((folder / "pairs.jsonl").read_text())
    (folder / "rated.manifest.json").write_text('{"made_by": "cse feedback"}')
    (folder / "utf16.txt").write_bytes("the cat\nthe dog\n".encode("utf-16"))
    (folder / "weights.csv").write_text("text,w\nthe cat,0\na dog,0\nthe sun,0\nthe moon,0\n")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "results.json").write_text("{")
    task = {"kind": "sts", "metric": "spearman", "value": 70.0, "n": 0, "unit": "pairs", "measures": {}}
    scores = {"schema": 2, "model": {"name": "ck"}, "tasks": {"STS12": task}, "missing": {}}
    scores |= {"transfer": {"MR": {"accuracy": 80.0, "n": 9}}}
    scores |= {"average": {"requested": "sts", "value": 70.0, "metric": "spearman"}}
    (folder / "scored.json").write_text(json.dumps(scores))
    (folder / "numbers.json").write_text('{"schema": 2, "tasks": {"STS12": 3}, "average": 4}')
    (folder / "curve").mkdir()
    (folder / "curve" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    (folder / "nulls").mkdir()
    (folder / "nulls" / "search.json").write_text("null")
    (folder / "broken.txt").symlink_to("nowhere.txt")
    (folder / "loop").symlink_to("loop")
    _finished_run(folder / "finished")
    (folder / "file").write_text("kept")
    (folder / "own.yaml").write_text("seed: 1\n")
    (folder / "folder").mkdir()
    (folder / "folder" / "data.xyz").write_text("kept")
    return folder


def content(folder):
    return {
        p.relative_to(folder).as_posix(): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("line", BAD, ids=list(BAD))
def test_it_is_answered_in_a_few_lines(line, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-unused")
    monkeypatch.delenv("CSE_DATA", raising=False)
    before = content(place)
    first, *rest = shlex.split(line)
    words = {"CK": str(place / "ck"), "LONG": "x" * 300, "EMPTY": ""}
    try:
        code = cli.main([words.get(word, word) for word in (*BEGIN.get(first, first).split(), *rest)])
    except SystemExit as done:  # argparse
        code = done.code
    assert code == 2
    error = capsys.readouterr().err
    lines = error[error.index("cse: ") :].splitlines()
    assert BAD[line] in lines[0]
    assert any(text.startswith("fix: ") for text in lines)
    assert len(lines) <= 5
    assert content(place) == before


def test_whitening_keeps_as_many_dimensions_as_vary(place, tmp_path, monkeypatch, capsys):
    """By default; four texts vary in at most three directions."""
    monkeypatch.chdir(place)
    assert cli.main(["whiten", "ck", "--data", "texts.txt", "--out", str(tmp_path / "white")]) == 0
    assert "16 -> 3 dimensions" in capsys.readouterr().out


class Full(io.TextIOWrapper):
    """A terminal that shows ASCII only."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="ascii")


def test_a_terminal_without_unicode_gets_replacements(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.main(["similarity", "ck", "the cat 🐈", "the dog"]) == 0
    assert cli.main(["recipe", "list"]) == 0


def test_a_full_disk_is_an_answer(place, monkeypatch, capsys):
    """Also where a library says it; tests/test_fault_injection.py has those of Python."""
    monkeypatch.chdir(place)

    def full(*_, **__):
        raise RuntimeError("No space left on device")

    monkeypatch.setattr("cse.files._fsync", full)
    before = content(place)
    assert cli.main(["whiten", "ck", "--data", "texts.txt", "--k", "2", "--out", "white"]) == 2
    assert "space" in capsys.readouterr().err
    assert content(place) == before


def test_ctrl_c_says_what_is_kept(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cse.mining.command.mine_file", stop)
    assert cli.main(["mine", "ck", "--data", "texts.txt", "--out", "m.parquet"]) == 130
    assert "nothing was written" in "".join(capsys.readouterr())


def test_a_run_without_a_score_writes_nothing(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", str(place / "ck"), "--tasks", "STS12", "--out", "new.json"]) == 1
    assert "new.json is as it was" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_enough_ends_quietly(place):
    """As in `cse similarity ... | head -1`."""
    script = "import sys; from cse import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "similarity", "ck", "texts.txt", "texts.txt", "--top-k", "4"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"cwd": place, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **options) as process:
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 0
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
