"""A Hub that says nothing: every command that may ask it answers in a few lines after one question, without retries."""

import logging
import socket
import threading

import pytest
from huggingface_hub import close_session, constants

from cse import Encoder, cli
from cse.assets import hub

NO_MODEL, NO_DATA = "'org/name' cannot be loaded", "org/data cannot be loaded"
TRAIN = "train simcse-unsup --run-dir new --trainer.batch_size=4"
SCORE = "feedback score --data pairs.jsonl --columns a b --out new.jsonl"
LINES = {  # a command line -> what the error names
    "encode org/name texts.txt --out v.npy": NO_MODEL,
    "encode ck org/data --out v.npy": NO_DATA,
    "similarity org/name one two": NO_MODEL,
    "whiten org/name --data texts.txt --out white": NO_MODEL,
    "whiten ck --data org/data --out white": NO_DATA,
    "export org/name --out onnx": NO_MODEL,
    "mine org/name --data texts.txt --out m.parquet": NO_MODEL,
    "mine ck --data org/data --out m.parquet": NO_DATA,
    "mine ck --data texts.txt --teacher org/name --teacher-positive --out m.parquet": NO_MODEL,
    "mine ck --data texts.txt --reranker org/name --out m.parquet": "--reranker org/name cannot be loaded",
    "eval org/name --tasks sts-mini-dev": NO_MODEL,
    "eval compare org/name ck --tasks sts-mini-dev": NO_MODEL,
    "eval ck --data org/data --as nanobeir --out r.json": "org/data:queries cannot be loaded",
    "push ck me/name": "the Hub at http://",
    "data show org/data": NO_DATA,
    f"{SCORE} --model encoder:org/name": "--model org/name cannot be loaded",
    f"{SCORE} --model cross-encoder:org/name": "--model org/name cannot be loaded",
    f"{TRAIN} --encoder org/name --data texts.txt": NO_MODEL,
    f"{TRAIN} --encoder CK --data org/data": NO_DATA,
    f"{TRAIN} --encoder CK --data texts.txt --evaluator.tasks=STSB-dev": "no data for STSB-dev",
    "check simcse-unsup --encoder CK --data org/data": NO_DATA,
    "search simcse-unsup --data texts.txt --encoder org/name --dev sts-mini-dev": NO_MODEL,
    "search simcse-unsup --data org/data --encoder CK --dev sts-mini-dev": NO_DATA,
    "search simcse-unsup --data texts.txt --encoder CK --dev STSB-dev": "no data for STSB-dev",
}


@pytest.fixture(scope="module")
def place(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    Encoder(tiny_bert, pooler="mean").save(folder / "ck")
    (folder / "texts.txt").write_text("the cat sat\na dog ran\nthe sun\nthe moon\n")
    (folder / "pairs.jsonl").write_text('{"a": "the cat sat", "b": "a dog ran"}\n{"a": "the sun", "b": "the moon"}\n')
    return folder


@pytest.fixture
def silent(monkeypatch, tmp_path):
    """A Hub that accepts connections and never answers."""
    import datasets

    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_any")
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.1)
        hub._answers.cache_clear()
        close_session()
        yield server
        hub._answers.cache_clear()
        close_session()


def connections(server):
    """How often the server was asked, until all who ask have given up."""
    for thread in threading.enumerate():
        if thread.name == "ask the Hub":  # on a busy machine it may begin after the command has stopped waiting for it
            thread.join()
    server.setblocking(False)
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("line", LINES, ids=list(LINES))
def test_one_question_and_one_answer(line, place, silent, monkeypatch, capfd, caplog):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    with caplog.at_level(logging.WARNING):
        assert cli.main([str(place / "ck") if word == "CK" else word for word in line.split()]) == 2
    said = capfd.readouterr().err.splitlines()
    first = next(number for number, text in enumerate(said) if text.startswith("cse: "))
    assert LINES[line] in said[first]
    assert "cannot be reached" in said[first] or "does not answer" in said[first]
    assert said[first + 1].startswith("fix: ")
    assert len(said[first:]) <= 4
    assert first == 0
    assert not caplog.records
    assert connections(silent) == 1  # which waits for at most SECONDS_TO_ANSWER
    assert sorted(place.rglob("*")) == before
