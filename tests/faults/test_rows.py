"""Files of rows, runs, results, caches, endpoints and secrets that a stranger made: one error, and none in silence."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from cse import cli

SHOW = ["data", "show", "FILE"]
SCORED = [*SHOW, "--class", "ScoredPairs"]
DATA = {  # the row of the hunt -> the file's name, its content, a command, the error and its fix
    "S22": ("mac.txt", b"a b\rc d\re f\r", SHOW, "mac.txt:1 has a carriage return", "\\r\\n?/\\n/g' mac.txt"),
    "S23": ("mixed.txt", b"a b\nc d\r\ne f\rg h\n", SHOW, "mixed.txt:3 has a carriage return", "end lines by LF"),
    "S23, tsv": ("a.tsv", b"text\tn\na b\rc d\t1\n", SHOW, "a.tsv:2 has a carriage return", "end lines by LF"),
    "S24": ("s.csv", b"text_a,text_b,score\na,b,1_0\nc,d,2\n", SCORED, "s.csv:2 has the score '1_0'", "correct or rem"),
    "S25": ("j.jsonl", b'{"text": "a b", "text": "c d"}\n', SHOW, "j.jsonl:1 is not JSON: it has 'text' twice", "corr"),
    "S26": ("j.jsonl", b'{"text": "a"}\n{"text": NaN}\n', SHOW, "j.jsonl:2 is not JSON: NaN is not a finite", "corr"),
    "S26, 1e999": ("j.jsonl", b'{"text": 1e999}\n', SHOW, "j.jsonl:1 is not JSON: 1e999 is not a finite", "correct"),
    "true for a text": ("j.jsonl", b'{"text": "a"}\n{"text": true}\n', SHOW, "2, column 'text' has a bool", "name"),
    "5,000 digits": ("j.jsonl", b'{"text": ' + b"1" * 5000 + b"}\n", SHOW, "has more than 4,300", "correct that"),
    "score 0,5": ("s.csv", b'text_a,text_b,score\na,b,"0,5"\n', SCORED, "'0,5', which must be a number", "point: 0.5"),
    "score 50%": ("s.csv", b"text_a,text_b,score\na,b,50%\n", SCORED, "'50%', which must be a number\n", "0.5 for 50%"),
    "csv with ;": ("semi.csv", b"anchor;positive\na b;c d\n", SHOW, "has no column 'text'", "separate the cells"),
    "csv with ;, named": (
        "semi.csv",
        b"anchor;positive\na b;c d\n",
        [*SHOW, "--columns", "anchor", "positive"],
        "semi.csv has no column 'anchor'",
        "this file seems to have ';'",
    ),
    "csv with CR": ("mac.csv", b"text\ra b\rc d\r", SHOW, "mac.csv:1 has a carriage return", "end lines by LF"),
    "csv with CR, later": ("mac.csv", b"text\na b\rc d\n", SHOW, "mac.csv:2 has a carriage return", "end lines by LF"),
    "cafe": (
        "nfc.csv",
        "text,caf\u00e9\na,x\nb,y\n".encode(),
        [*SHOW, "--label-column", "cafe\u0301"],
        "has no column",
        "only look the same: $'caf\\xe9'",
    ),
    "empty.txt": (
        "empty.txt",
        b"",
        ["feedback", "score", "--model", "encoder:ck/last", "--out", "f.jsonl", "--data", "FILE"],
        "a .txt file has one text per line, and this one is empty; 2 columns are to be read: 'sentence1' (--columns)",
        "give a .tsv, .csv, .jsonl or .parquet file with these columns\n",
    ),
    "random bytes": ("r.txt", random.Random(3).randbytes(5000), SHOW, "and not a text file", "the name of this one"),
}


@pytest.mark.parametrize("row", DATA)
def test_a_file_of_rows(row, place, refused):
    name, content, line, said, fix = DATA[row]
    (place / name).write_bytes(content)
    before = sorted(place.iterdir())
    error, _, mended = refused(*(name if word == "FILE" else word for word in line)).partition("\nfix: ")
    assert said in f"{error}\n"
    assert fix in mended
    assert sorted(place.iterdir()) == before


def test_the_fix_of_carriage_returns_keeps_blank_lines(place, refused):
    if shutil.which("perl") is None:
        pytest.skip("the fix is a line of perl")
    (place / "a.txt").write_bytes(b"a b\n\nc d\r\ne f\rg h\n")
    _, _, fix = refused("data", "show", "a.txt").partition("end lines by LF: ")
    subprocess.run(["bash", "-c", fix], check=True)
    assert (place / "lf-a.txt").read_bytes() == b"a b\n\nc d\ne f\ng h\n"


@pytest.mark.unix
def test_a_pipe_for_a_file_of_texts(place, refused):
    os.mkfifo("f.txt")
    error = refused("encode", "ck/last", "f.txt", "--out", "o.npy")
    assert "texts is f.txt, which is a pipe, a socket or a device" in error
    assert not (place / "o.npy").exists()


def test_a_quoted_cell_may_have_a_carriage_return(place, capsys):
    """As Excel writes a line break within a cell."""
    from cse.data.datasets import Texts

    (place / "a.csv").write_bytes(b'text\n"a\rb"\n"c\r\nd"\n')
    assert [row.texts for row in Texts("a.csv")] == [("a\rb",), ("c\nd",)]


def test_nan_in_parquet_is_a_missing_cell(place):
    import pyarrow
    from pyarrow import parquet

    from cse.data.datasets import Texts

    table = pyarrow.table({"text": pyarrow.array(np.array([1.5, np.nan, 2.5]))})
    parquet.write_table(table, place / "a.parquet")
    data = Texts("a.parquet")
    assert [row.texts for row in data] == [("1.5",), ("2.5",)]
    assert data.report["blank"] == 1


# Resuming a run whose data, recipe or state changed
def edited(file: str, old: str, new: str):
    def edit() -> None:
        text = Path(file).read_text()
        assert old in text
        Path(file).write_text(text.replace(old, new, 1))

    return edit


def edited_state(**changes):
    def edit() -> None:
        about = json.loads(Path("ck/state/state.json").read_text())
        about["progress"] |= changes
        Path("ck/state/state.json").write_text(json.dumps(about))

    return edit


def without_last_row() -> None:
    Path("texts.txt").write_text("".join(Path("texts.txt").read_text().splitlines(keepends=True)[:-1]))


RECIPE = "ck/recipe.yaml has `{}`, and the run was started with `{}`"
RESUMED = {  # the row of the hunt -> what is done to the run, what is said
    "S19, a row less": (without_last_row, "the rows of the data changed: there are 399 (sha256 "),
    "S19, another row": (edited("texts.txt", "the cat", "the dog"), "the rows of the data changed: there are 400 (sha"),
    "S20, rate": (
        edited("ck/recipe.yaml", "learning_rate: 0.0003", "learning_rate: 0.1"),
        RECIPE.format("learning_rate: 0.1", "learning_rate: 0.0003"),
    ),
    "S20, steps": (edited("ck/recipe.yaml", "_steps: 4", "_steps: 8"), RECIPE.format("max_steps: 8", "max_steps: 4")),
    "S20, seed": (edited("ck/recipe.yaml", "seed: 42", "seed: 43"), RECIPE.format("seed: 43", "seed: 42")),
    "empty recipe.yaml": (lambda: Path("ck/recipe.yaml").write_text(""), "ck/recipe.yaml has no such line, and"),
    "S21": (edited_state(step=99), "ck/state/state.json is damaged"),
    "step: -1": (edited_state(step=-1), "ck/state/state.json is damaged"),
    "a shorter log": (lambda: Path("ck/metrics.jsonl").write_text(""), "metrics.jsonl has 0 bytes, and "),
    "no tensors": (lambda: Path("ck/state/state.pt").unlink(), "state.pt"),
    "no state.json": (lambda: Path("ck/state/state.json").unlink(), "state"),
    "no env.json": (lambda: Path("ck/env.json").unlink(), "env.json is missing or dam"),
    "a name that is a list": (lambda: Path("ck/env.json").write_text('{"recipe": ["a"]}'), "env.json is missing"),
}


@pytest.mark.parametrize("row", RESUMED)
def test_a_run_that_changed_is_not_resumed(row, own_run, refused):
    change, said = RESUMED[row]
    change()
    before = content(own_run)
    error, _, fix = refused("train", "--resume", "ck").partition("\nfix: ")
    assert error.startswith("cse: --resume ck: ")
    assert said in error
    assert "start" in fix
    assert content(own_run) == before


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but locks."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock"}


# The cache
DAMAGE = ["[]", "{}", "", "{", "null", "[" * 100_000, '{"sum": 1}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_json_of_the_cache_is_made_again(damage, place, monkeypatch, caplog):
    """Every JSON file that a training put there, and one with a number changed."""
    from transformers import AutoTokenizer

    from cse.data.checks import examine
    from cse.data.datasets import Texts
    from cse.data.tokens import TokenStore
    from cse.mining.corpus import Corpus

    monkeypatch.setenv("CSE_CACHE", str(place / "cache"))
    tokenizer = AutoTokenizer.from_pretrained("ck/last")

    def work():
        data = Texts("t12.txt")
        report = examine(data, TokenStore.build(data.texts(), tokenizer, 16), {"set": [("the cat", "a dog")]})
        return report, list(Corpus(data).texts)

    first = work()
    files = sorted(Path("cache").rglob("*.json"))
    assert [file.parts[1] for file in files] == ["checks", "corpora", "rows", "tokens"]
    for file in files:
        file.write_text(damage)
    assert work() == first
    assert caplog.text.count("is damaged; building it again") == 4
    for file in files:
        file.write_text(re.sub(r": (\d+),", r": \g<1>9,", file.read_text(), count=1))
    assert work() == first
    assert caplog.text.count("is damaged; building it again") == 8


# Endpoints and secrets
ASK = ["feedback", "score", "--model", "openai:m", "--data", "scored.csv", "--columns", "text_a", "text_b"]
ASK += ["--out", "f.jsonl", "--cache", "answers", "--base-url"]
PUSH = ["push", "ck/last", "me/name", "--dry-run", "--license"]
TOKEN, KEY = "hf_" + "B" * 34, "sk-" + "z" * 24
HELD = {  # the row of the hunt -> a command, what is said
    "port 99999": ([*ASK, "http://127.0.0.1:99999/v1"], "--base-url is 'http://127.0.0.1:99999/v1', which is not an"),
    "port abc": ([*ASK, "http://127.0.0.1:abc/v1"], "--base-url is 'http://127.0.0.1:abc/v1', which is not an address"),
    "a password beside a bad port": ([*ASK, f"http://me:{KEY}@127.0.0.1:abc/v1"], "is 'http://***@127.0.0.1:abc/v1'"),
    "a space in an address": ([*ASK, "http://127.0.0.1/v 1"], "--base-url is 'http://127.0.0.1/v 1', which is not an"),
    "S29": ([*PUSH, "mit", "--message", TOKEN], "--message contains a Hugging Face token"),
    "S30": ([*ASK, "http://127.0.0.1:9/v1", "--extra", json.dumps({"api_key": KEY})], "--extra holds an API key"),
    "S30, by its name": (
        [*ASK, "http://127.0.0.1:9/v1", "--extra", '{"extra_headers": {"Authorization": "mine"}}'],
        "--extra holds a value of 'Authorization', which the manifest would show",
    ),
    "license": ([*PUSH, "mit\nmalicious: true"], "--license is 'mit\\nmalicious: true'\n"),
}


@pytest.mark.parametrize("row", HELD)
def test_what_would_be_sent_is_refused(row, place, refused):
    pytest.importorskip("openai")
    line, said = HELD[row]
    before = sorted(place.iterdir())
    error = refused(*line)
    assert said in error
    assert TOKEN not in error
    assert KEY not in error
    assert sorted({*place.iterdir()} - {place / "answers"}) == before  # which is a cache


HTML = "<img src=x onerror=alert(1)>"


def test_nothing_in_a_report_or_a_card_is_raw_html(own_run):
    """S32, S33: the name of a run, and what its files hold, are text."""
    from cse.publish.card import write_card

    task = {"kind": "sts", "metric": "spearman", "value": 70.0, "n": 9, "unit": "pairs", "measures": {}}
    scores = {"schema": 2, "model": {"name": HTML}, "tasks": {"STS12": task}, "missing": {}}
    scores["average"] = {"requested": HTML, "value": 70.0, "metric": "spearman"}
    (own_run / "ck" / "results.json").write_text(json.dumps(scores))
    (own_run / "ck").rename(own_run / HTML)
    assert cli.main(["eval", "report", ".", "--out", "report"]) == 0
    assert "onerror" in (own_run / "report" / "report.md").read_text()
    assert HTML not in (own_run / "report" / "report.md").read_text()
    run = (own_run / HTML).rename(own_run / "run")
    environment = json.loads((run / "env.json").read_text())
    environment |= {"recipe": f"x\n---\n{HTML}", "git": f"`\n\n{HTML}"}
    (run / "env.json").write_text(json.dumps(environment))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["init_args"]["path"] = f"texts\n\n```\n{HTML}"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_card(run / "last", "me/name", run=run, results=None, license="mit", previous=None)
    card = (run / "last" / "README.md").read_text()
    assert "onerror" in card
    assert HTML not in "".join(card.split("```")[::2])  # a recipe in a block of code is shown as it is
    assert card.count("\n---\n") == 1


def test_an_endpoint_that_is_down_ends_the_job_after_two_tries_of_ten_questions(place, capfd, monkeypatch):
    pytest.importorskip("openai")
    from cse.feedback import remote

    monkeypatch.setattr(remote, "BACKOFF", 0.0)
    asked = []
    monkeypatch.setattr(remote.Endpoint, "_request", counted(asked, remote.Endpoint._request))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        assert cli.main([*ASK, f"http://127.0.0.1:{unused.getsockname()[1]}/v1", "--workers", "1"]) == 1
    said = capfd.readouterr().out
    assert "10 questions in succession had no answer: connection: " in said
    assert "0 of 100 questions of 'score' are answered, which are kept; no file was written" in said
    assert len(asked) == 20
    assert not list(place.glob("f.*"))


def counted(asked, request):
    def count(self, chat):
        asked.append(chat)
        return request(self, chat)

    return count
