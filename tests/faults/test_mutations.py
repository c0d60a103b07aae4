"""Each field of a file that a stranger may hand us, of another type, range or size, or absent; and its bytes, damaged.

What reads the file gives a right result, or exactly one `UserError` with its fix.
"""

import copy
import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cse import Encoder, UserError
from cse.files import read_sealed, sha256_file, write_sealed

TEXTS = ["the cat sat", "a dog ran fast on a mat"]
ABSENT = "(absent)"
VALUES = [ABSENT, None, True, False, "", "x", "256", [], {}, [1], {"a": 1}, -1, 0, 1, 3, 10**9, 10**18, 1.5, 1e308]
MORE = [*VALUES, float("nan"), float("-inf"), 10**400, "\n# \0{a}", "/", "~nobody", [[]], [{"a": 1}], {"": None}]
BYTES = {  # what is done to the bytes of a file at a place of it
    "cut": lambda raw, at: raw[:at],
    "a byte less": lambda raw, at: raw[:at] + raw[at + 1 :],
    "a bit flipped": lambda raw, at: raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :],
    "no text": lambda raw, at: raw[:at] + b"\xff" + raw[at + 1 :],
    "a key twice": lambda raw, at: raw.replace(b'{"', b'{"a": 1, "a": [], "', 1),
    "too long": lambda raw, at: re.sub(rb"\b\d+\b", b"9" * 5000, raw, count=1 + at % 9),
    "deep": lambda raw, at: b"[" * 10_000,
    "another": lambda raw, at: [b"", b"null", b"[]", b"{}", b"5", b'"x"', b"[1]", b"\n"][at % 8],
}
FORMS = {
    ".json": (json.loads, json.dumps),
    ".yaml": (yaml.safe_load, lambda content: yaml.safe_dump(content, sort_keys=False)),
    ".jsonl": (
        lambda text: [json.loads(line) for line in text.splitlines()],
        lambda content: "".join(json.dumps(line) + "\n" for line in content),
    ),
}
fuzz = settings(
    phases=[Phase.generate], deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json"]
FILES += ["config_sentence_transformers.json", "1_Pooling/config.json", "2_Dense/config.json"]
OTHERS = {"is_decoder", "layer_norm_eps", "num_attention_heads"}  # fields that vectors may depend on
OTHERS |= {"model", "normalizer", "pre_tokenizer", "post_processor"}


def places(content, *, depth=4):
    """The path of each value of a JSON file down to a depth."""
    found = [()]
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside if depth else ():
        found += [(key, *rest) for rest in places(value, depth=depth - 1)]
    return found


def altered(content, place, value):
    """A copy of the content of a JSON file whose value at a place is another."""
    content = copy.deepcopy(content)
    at = content
    for key in place[:-1]:
        at = at[key]
    if value is ABSENT:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return content


def mutants(file, *, depth=5):
    """Draws the bytes of a file, of which a field or some bytes are others."""
    raw = file.read_bytes()
    damaged = st.builds(
        lambda damage, at: BYTES[damage](raw, at), st.sampled_from(sorted(BYTES)), st.integers(0, len(raw) - 1)
    )
    if file.suffix not in FORMS:
        return damaged
    load, dump = FORMS[file.suffix]
    content = load(raw.decode())
    every = st.sampled_from([place for place in places(content, depth=depth) if place])
    fields = st.builds(lambda place, value: dump(altered(content, place, value)).encode(), every, st.sampled_from(MORE))
    return fields | fields | damaged


def refusal(work, *arguments):
    """What a call raised, a `UserError` of at most five lines with a fix; None if it had a result."""
    try:
        work(*arguments)
    except UserError as error:
        lines = str(error).splitlines()
        assert any(line.startswith("fix: ") for line in lines[1:]), lines
        assert len(lines) <= 5
        return str(error)
    return None


def mutate(file, examples, work):
    """Call `work` after each of some mutations of a file; all other files of its folder stay as they are."""
    before = file.read_bytes()
    others = {path: path.stat() for path in file.parent.rglob("*") if path.is_file() and path != file}

    @settings(fuzz, max_examples=examples)
    @given(raw=mutants(file))
    def check(raw):
        file.write_bytes(raw)
        refusal(work)
        assert file.read_bytes() == raw

    try:
        check()
    finally:
        file.write_bytes(before)
    assert {path: path.stat().st_mtime_ns for path in others} == {path: at.st_mtime_ns for path, at in others.items()}


# A model
@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations") / "whole"
    Encoder(tiny_bert, pooler="mean", head="mlp", export_head=True, max_length=20, prompts={"q": "the "}).save(folder)
    (folder / "checkpoint.sha256").unlink()
    contents = {name: json.loads((folder / name).read_text()) for name in FILES}
    return folder, contents, Encoder.load(str(folder)).encode(TEXTS)


@pytest.mark.parametrize("name", FILES)
def test_a_field_of_a_model(name, whole, tmp_path):
    folder, contents, want = whole
    every = [place for place in places(contents[name]) if place]

    @settings(fuzz, max_examples=40)
    @given(place=st.sampled_from(every), value=st.sampled_from(VALUES))
    def check(place, value):
        def work():
            found = Encoder.load(str(tmp_path / "D")).encode(TEXTS)
            assert np.isfinite(found).all()
            assert place[0] in OTHERS or np.array_equal(found, want), (place, value)

        shutil.copytree(folder, tmp_path / "D", dirs_exist_ok=True)
        (tmp_path / "D" / name).write_text(json.dumps(altered(contents[name], place, value)))
        refusal(work)

    check()


# A run: what `cse eval report`, `cse push` and `cse train --resume` read
RUN = {  # a file -> what reads it, and how often
    "ck/results.json": ("report card", 10),
    "ck/data.json": ("report card", 20),
    "ck/env.json": ("card resume", 15),
    "ck/helped.json": ("card", 20),
    "ck/bench-model.json": ("card", 60),
    "ck/recipe.yaml": ("facts", 15),
    "ck/metrics.jsonl": ("report speed", 20),
    "ck/state/state.json": ("progress", 60),
    "texts.json": ("facts", 60),
    "texts.manifest.json": ("facts", 60),
}


def example(shape):
    """Content of a shape of `cse.files.misfit`, with each key that may be there."""
    if isinstance(shape, tuple):
        return example(next(one for one in shape if one))
    if isinstance(shape, dict):
        return {"a" if key == "*" else key.rstrip("?"): example(inner) for key, inner in shape.items()}
    if isinstance(shape, list):
        return [example(one) for one in shape]
    return {str: "x", int: 3, float: 1.5}[shape]


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A copy of the run ck, with each file that may lie in it."""
    from cse.data import checks
    from cse.evaluation import benchmark, results
    from cse.publish.card.facts import ASKED, MINED

    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(made / "ck", folder / "ck")
    shutil.copy(made / "texts.txt", folder)
    row = {"checkpoint": "last", "task": "x", "part": "dev", "before": 1.5, "after": 2.5, "difference": 1.0}
    rows = [{**row, "interval": [0.5, 1.5], "verdict": "better"}]
    report = example(checks.SHAPE[1]) | json.loads((folder / "ck" / "data.json").read_text())
    report |= {"languages": {"en": 1.0}, "left_out": {"blank": 2}, "overlap": example(checks.SHAPE[1])["overlap"]}
    speed = {"device": "cpu", "threads": 1, "clock": "wall", "texts": {"n": 3, "from": "x"}, "rounds": 3}
    variant = {"name": "full", "scores": {"x": 50.0}, "average": 50.0, "megabytes": 1.5, "megabytes_per_million": 2.5}
    variant |= {"sentences_per_s": 9.0, "times_as_fast": 1.0, "note": ""}
    bench = {"schema": benchmark.SCHEMA, "model": {"name": "x", "sha256": "x"}, "speed": speed, "precision": "fp32"}
    bench |= {"ranges": speed["texts"], "rows": [variant], "metrics": {"x": "spearman"}, "missing": {}}
    contents = {
        "ck/results.json": {"schema": results.SCHEMA} | example(results.SHAPE),
        "ck/data.json": report,
        "ck/helped.json": {"rows": rows},
        "ck/bench-model.json": bench,
        "texts.json": example(MINED),
        "texts.manifest.json": example(ASKED),
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", RUN)
def test_a_file_of_a_run(name, run, tmp_path, monkeypatch):
    from cse.evaluation.reports import collect, reporting
    from cse.publish.card import write_card
    from cse.publish.card.facts import read_facts
    from cse.training import checkpoint, start

    monkeypatch.chdir(run)
    for known in ("fit", "load", "replace", "resolve", "_watchers"):
        monkeypatch.setattr(start, known, lambda *_, **__: (0, 0, 0))
    model = Path(shutil.copytree(run / "ck" / "last", tmp_path / "model"))
    ck, options = run / "ck", {"license": "mit", "previous": None, "checkpoint": "last"}
    options |= {"run": ck, "results": ck / "results.json", "bench": ck / "bench-model.json"}
    readers = {
        "report": lambda: reporting.report(run, tmp_path),
        "card": lambda: write_card(model, "me/x", **options),
        "facts": lambda: read_facts(ck),
        "resume": lambda: start.resume(ck),
        "speed": lambda: collect.speed(collect.collect(run).entries),
        "progress": lambda: checkpoint.load_progress(ck / "state", {"recipe": (ck / "recipe.yaml").read_text()}),
    }
    which, examples = RUN[name]
    for one in which.split():
        assert refusal(readers[one]) is None
        mutate(run / name, examples, readers[one])


def test_a_state_that_is_sealed_again(made, tmp_path):
    """By one who knows cse: its sum fits, and values are of another type, missing, or more."""
    from cse.training.checkpoint import load_progress

    state = Path(shutil.copytree(made / "ck" / "state", tmp_path / "state"))
    about = read_sealed(state / "state.json")
    now = copy.deepcopy(about["made_from"])
    for place in [place for place in places(about) if place]:
        for value in MORE:
            write_sealed(state / "state.json", altered(about, place, value))
            refusal(load_progress, state, now)
    for place, value in [(("progress", "step"), "4"), (("progress", "best"), [1]), (("sha256",), ABSENT)]:
        write_sealed(state / "state.json", altered(about, place, value))
        assert f"{state / 'state.json'} is damaged ({place[-1]} is " in str(refusal(load_progress, state, now))


# Files that a command finds beside its output
def test_a_search_a_summary_and_a_manifest(tmp_path):
    from cse.evaluation.evaluators import mteb_adapter
    from cse.mining import command
    from cse.search.state import State

    State("x", "y", None, "", "1m", 2, [1], []).write(tmp_path)
    contents = {"mteb.json": {"tasks": {"A": {"data": None}}}, "m.json": {"counts": {"negatives": 3, "pool": 4}}}
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    readers = {
        "mteb.json": mteb_adapter._scored,
        "m.json": command._read,
        "search.json": lambda path: State.read(path.parent),
    }
    for name, reader in readers.items():
        assert refusal(reader, tmp_path / name) is None, name
        mutate(tmp_path / name, 60, lambda reader=reader, name=name: reader(tmp_path / name))


# Rows
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.txt.gz", "a.parquet.gz"])
def test_a_file_of_rows(name, tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    from cse.data.reading.files import read_file
    from cse.data.reading.rows import Column

    file = tmp_path / name
    rows = [{"text": text, "n": i} for i, text in enumerate([*TEXTS, 'a "quoted", cell', "caf\u00e9", ""])]
    if ".parquet" in name:
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif name == "a.jsonl":
        file.write_text(FORMS[".jsonl"][1](rows))
    else:
        cells = [["text", "n"], *([row["text"], str(row["n"])] for row in rows)]
        quoted = [[json.dumps(c) if ".csv" in name else c for c in row] for row in cells]
        mark = "," if ".csv" in name else "\t"
        file.write_text(
            "".join(f"{row[0] if '.txt' in name else mark.join(row)}\n" for row in quoted).replace('\\"', '""')
        )
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))

    def read():
        found = list(read_file(file, [Column("data.column", "text")]))
        assert all(cell is None or isinstance(cell, str) for row in found for cell in row.cells)

    assert refusal(read) is None
    mutate(file, 60, read)


# Vectors
@pytest.mark.parametrize("name", ["index.json", "b.npy", "b.npy.sha256", "sealed"])
def test_a_file_of_vectors(name, tmp_path):
    from cse.inference.shards import open_vectors

    want = np.arange(12, dtype=np.float32).reshape(6, 2)
    shards = []
    for letter, rows in (("a", want[:4]), ("b", want[4:])):
        file = tmp_path / f"{letter}.npy"
        np.save(file, rows)
        (tmp_path / f"{file.name}.sha256").write_text(f"{sha256_file(file)}  {file.name}\n")
        shards.append({"file": file.name, "rows": len(rows)})
    index = {"width": 2, "dtype": "float32", "made_from": {"checkpoint": "x"}, "shards": shards}
    write_sealed(tmp_path / "index.json", index)

    def read():
        assert np.array_equal(open_vectors(tmp_path), want)

    read()
    if name != "sealed":
        mutate(tmp_path / name, 60, read)
        return
    for place in places(index):
        for value in MORE if place else ():
            changed = altered(index, place, value)
            write_sealed(tmp_path / "index.json", changed)  # with its sum, as one who knows cse could write it
            refusal(lambda: np.asarray(open_vectors(tmp_path)))


# Weights
def test_the_header_of_weights(whole, tmp_path):
    folder, _, _ = whole
    model = Path(shutil.copytree(folder, tmp_path / "D"))
    raw = (model / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    (tmp_path / "header.json").write_bytes(raw[8 : 8 + size])

    def load():
        header = (tmp_path / "header.json").read_bytes()
        (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
        assert np.isfinite(Encoder.load(str(model)).encode(TEXTS)).all()

    load()

    @settings(fuzz, max_examples=30)
    @given(raw=mutants(tmp_path / "header.json"))
    def check(raw):
        (tmp_path / "header.json").write_bytes(raw)
        refusal(load)

    check()
