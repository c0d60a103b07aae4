"""`cse feedback score` against a server that misbehaves: what is survived, counted, set aside, and never paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from cse import cli
from cse.feedback import remote
from tests.feedback.helpers import lines
from tests.feedback.server import Server

pytest.importorskip("openai")
ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(remote, "BACKOFF", 0.01)


@pytest.fixture
def impatient(monkeypatch):
    """Call it with a part of a question: the first request that has it waits for 0.1 s, and all others for long."""
    import openai
    from openai.resources.chat.completions import Completions

    create = Completions.create

    def of(part):
        left = [openai.Timeout(600, read=0.1)]

        def creates(self, **options):
            if part in str(options["messages"]) and left:
                options["timeout"] = left.pop()
            return create(self, **options)

        monkeypatch.setattr(Completions, "create", creates)

    return of


def score_of(i: int) -> float:
    return i % 101 / 100


def write_pairs(folder: Path, words) -> Path:
    """A row for each word; the word is a text's first, so that a plan can name it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.tsv"
    rows = [f"{word} id=q{i}z\ts={score_of(i):g}" for i, word in enumerate(words)]
    path.write_text("sentence1\tsentence2\n" + "\n".join(rows) + "\n")
    return path


def command(folder: Path, url: str, *more: str) -> list[str]:
    files = ["--data", str(folder / "pairs.tsv"), "--out", str(folder / "out.jsonl"), "--cache", str(folder / "cache")]
    return ["feedback", "score", "--model", "openai:m", *files, "--base-url", url, "--key-env", "MY_KEY", *more]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "out.manifest.json").read_text())


def outputs(folder: Path) -> list[bytes]:
    return [(folder / f"out{end}").read_bytes() for end in (".jsonl", ".rejects.jsonl", ".manifest.json")]


def test_every_way_of_going_wrong_is_survived_and_counted(tmp_path, monkeypatch, impatient):
    monkeypatch.setattr(remote, "RETRIES", 3)
    plans = {
        # failed requests, retried by themselves
        "limited": ["status:429:0.05", "status:429"],
        "broken": ["status:500", "status:503"],
        "slow": ["hang"],
        "cut": ["cut", "cut"],
        "half": ["half"],
        "html": ["html"],
        "hollow": ["empty"],
        "inside": ["error"],
        # answers that cannot be used, asked for again
        "noise": ["say:no idea"],
        "typed": ['say:{"score": "0.5"}'],
        "wide": ['say:{"score": 7}', 'say:{"score": -1}'],
        "short": ["length"],
        "prose": ["prose"],
        "twice": ["twice"],
        "uncounted": ["nousage"],
        # answers that never become usable
        "sorry": ["say:I'm sorry, but I cannot help with that."] * 3,
        "filter": ["filter"] * 3,
        "declined": ["declined", "declined", "declined"],
        "blocked": ["blocked"] * 3,
        "range": ['say:{"score": 1.5}'] * 3,
        # no answer at all
        "dead": ["status:500"] * 9,
        "wrong": ["status:400"],
    }
    words = [*plans, "fine", "fine"]
    write_pairs(tmp_path, words)
    with (tmp_path / "pairs.tsv").open("a") as file:
        file.write(f"limited id=q0z\ts={score_of(0):g}\n\ts=0.5\n")  # a repetition and a hole
    with Server(plans) as server:
        impatient("slow id=")
        assert cli.main(command(tmp_path, server.url, "--workers", "4")) == 0
    refused = dict.fromkeys(["sorry", "filter", "declined", "blocked"], "refusal")
    lost = refused | {"range": "out_of_range", "dead": "http_500", "wrong": "http_400"}
    records, rejects = lines(tmp_path / "out.jsonl"), lines(tmp_path / "out.rejects.jsonl")
    good = [(word, i) for i, word in enumerate(words) if word not in lost]
    assert [r["text_a"] for r in records] == [f"{word} id=q{i}z" for word, i in good]  # in the order of the rows
    assert [r["score"] for r in records] == [score_of(i) for _, i in good]
    assert {k: records[0][k] for k in ("model", "time", "raw_score")} == {
        "model": "m", "time": "1970-01-01T00:00:00Z", "raw_score": 0.0}  # fmt: skip
    assert records[0]["prompt"].startswith("score v1 ")
    assert {r["texts"][0].split()[0]: r["reason"] for r in rejects if r["row"] <= len(words)} == lost
    assert [(r["row"], r["reason"]) for r in rejects[-2:]] == [(25, "duplicate"), (26, "blank")]
    assert next(r for r in rejects if r["reason"] == "out_of_range")["attempts"] == ["out_of_range"] * 3
    counted = manifest(tmp_path)
    [answers] = counted["labelers"]
    failed = {"http_500": 1 + 4, "http_503": 1, "http_429": 2, "timeout": 1, "connection": 2, "http_400": 1}
    assert answers["failed_requests"] == failed | {"broken_body": 4}  # half, html, hollow, inside
    unusable = {"malformed": 1, "wrong_type": 1, "out_of_range": 2 + 3, "truncated": 1, "refusal": 4 * 3}
    assert answers["unusable"] == unusable
    assert answers["unanswered"] == 2
    assert answers["answers"] == len(good) + sum(unusable.values())
    assert counted["counts"] == {
        "rows": len(good),
        "set_aside": {"blank": 1, "duplicate": 1, "http_400": 1, "http_500": 1, "out_of_range": 1, "refusal": 4},
    }
    assert sum(counted["score_histogram"].values()) == len(good)
    assert answers["tokens"]["estimated"] is True
    assert (answers["questions"], answers["answered"]) == (len(words), len(good))


def test_rows_of_an_earlier_job_are_not_replaced_by_none(tmp_path, capsys):
    write_pairs(tmp_path, ["fine", "good"])
    useless = {"odd": ["say:no idea"] * 3, "null": ["say:no idea"] * 3}
    with Server(useless) as server:
        assert cli.main(command(tmp_path, server.url)) == 0
        before = outputs(tmp_path)
        write_pairs(tmp_path, [*useless])
        capsys.readouterr()
        assert cli.main(command(tmp_path, server.url)) == 1
        said = capsys.readouterr().out
        assert "2 malformed" in said
        assert f"nothing was written; {tmp_path / 'out.jsonl'} is as it was" in said
        assert outputs(tmp_path) == before
        for name in ("out.jsonl", "out.rejects.jsonl", "out.manifest.json"):
            (tmp_path / name).unlink()
        assert cli.main(command(tmp_path, server.url)) == 1  # where there was none, the reasons are written
    assert [len(lines(tmp_path / name)) for name in ("out.jsonl", "out.rejects.jsonl")] == [0, 2]
    assert manifest(tmp_path)["counts"]["rows"] == 0


def test_retry_after_as_a_date_and_a_wait_that_is_too_long(tmp_path, capsys):
    from cse.assets.hub import retry_after

    assert 2400 < retry_after({"retry-after": formatdate(time.time() + 3600, usegmt=True)}) <= 3600
    assert [retry_after({"retry-after": value}) for value in ("2", "-1", "soon")] == [2.0, 0.0, None]
    write_pairs(tmp_path, ["limited"])
    with Server({"limited": ["status:429:86400"]}) as server:
        assert cli.main(command(tmp_path, server.url)) == 3
    assert "86,400 s" in capsys.readouterr().out


def test_nothing_is_asked_twice_and_the_order_of_answers_does_not_matter(tmp_path):
    for folder, workers, slow in (("a", "1", []), ("b", "8", ["last:20"])):
        write_pairs(tmp_path / folder, ["first", *["fine"] * 19])
        with Server({"first": slow}) as server:
            run = command(tmp_path / folder, server.url, "--workers", workers)
            assert cli.main(run) == 0
            before = outputs(tmp_path / folder)
            assert cli.main(run) == 0
            assert len(server.requests) == 20
            assert outputs(tmp_path / folder) == before
            assert cli.main([*run, "--limit", "7"]) == 0  # another job about the same texts
            assert len(server.requests) == 20
            assert cli.main([*run, "--temperature", "0.5", "--limit", "3"]) == 0  # another question
            assert len(server.requests) == 23
    first, second = ((tmp_path / f / "out.jsonl").read_bytes() for f in "ab")
    assert first == second


def test_a_cap_stops_cleanly_and_the_job_goes_on(tmp_path, capsys):
    write_pairs(tmp_path, ["fine"] * 12)
    with Server() as server:
        run = command(
            tmp_path, server.url, "--workers", "3", "--max-requests", "5", "--price-in", "1", "--price-out", "10"
        )
        assert cli.main(run) == 3
        assert len(server.requests) == 5
        said = capsys.readouterr().out
        assert "cap of 5 requests" in said
        assert "5 of 12" in said
        assert "the same command" in said
        assert not (tmp_path / "out.jsonl").exists()
        assert [cli.main(run), cli.main(run), cli.main(run)] == [3, 0, 0]
        assert server.asked() == {f"id=q{i}z": 1 for i in range(12)}
    assert [r["score"] for r in lines(tmp_path / "out.jsonl")] == [score_of(i) for i in range(12)]
    [answers] = manifest(tmp_path)["labelers"]
    assert answers["answers"] == 12
    assert answers["tokens"] == {"input": 1200, "output": 120, "estimated": False}  # 100 and 10 an answer
    assert answers["cost_usd"] == pytest.approx(0.0024)


def test_an_account_without_money_ends_the_job_and_another_port_is_another_endpoint(tmp_path, capsys):
    write_pairs(tmp_path, ["fine"] * 5)
    with Server({"fine": ["well"] * 3 + ["quota"]}) as server:
        assert cli.main(command(tmp_path, server.url, "--workers", "1")) == 3
        assert len(server.requests) == 4
    assert "the quota of the account is used up" in capsys.readouterr().out
    with Server() as server:  # whose answers are its own
        assert cli.main(command(tmp_path, server.url)) == 0
        assert len(server.requests) == 5


def test_a_key_of_one_provider_is_not_sent_to_another(tmp_path, monkeypatch):
    write_pairs(tmp_path, ["fine"])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    with Server() as server:
        assert cli.main([x for x in command(tmp_path, server.url) if x not in ("--key-env", "MY_KEY")]) == 0
        assert "sk-of-openai" not in "".join(server.keys)


def test_a_file_of_somebody_else_is_kept(tmp_path, capsys):
    write_pairs(tmp_path, ["fine"])
    (tmp_path / "out.jsonl").write_text("{}\n")
    with Server() as server:
        assert cli.main(command(tmp_path, server.url)) == 2
        assert server.requests == []
    assert "exists and was not written by" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "{}\n"


def start(folder: Path, url: str, *more: str) -> subprocess.Popen:
    code = [sys.executable, "-m", "cse", *command(folder, url, *more)]
    return subprocess.Popen(code, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def interrupted(folder: Path, how: signal.Signals, at: int, *more: str) -> tuple[Server, int, str]:
    """Start a job and send it a signal at its `at`-th request; that one stays unanswered if the process dies."""
    process = None

    def strike(number):
        if number == at:
            os.kill(process.pid, how)
            time.sleep(0.3)

    server = Server({"odd": ["say:no idea"], "slow": ["status:500"]}, before=strike)
    with server:
        process = start(folder, server.url, *more)
        said, _ = process.communicate(timeout=600)
    return server, process.returncode, said


def go_on(folder: Path, server: Server) -> int:
    """The same command against the same address."""
    again = Server(port=server.http.server_port)
    again.requests = server.requests
    with again:
        return cli.main(command(folder, server.url, "--workers", "1"))


@pytest.mark.unix
def test_a_killed_job_goes_on_and_nothing_that_was_answered_is_asked_again(tmp_path):
    words = ["fine", "odd", "fine", "slow", *["fine"] * 8]
    write_pairs(tmp_path, words)
    server, code, _ = interrupted(tmp_path, signal.SIGKILL, 9, "--workers", "1")
    assert code == -signal.SIGKILL
    assert not (tmp_path / "out.jsonl").exists()
    assert len(server.requests) == 9
    assert go_on(tmp_path, server) == 0
    # odd needs two answers, slow was failed once, and the ninth request was killed before its answer
    unanswered = server.requests[8]["messages"][-1]["content"]
    twice = {"id=q1z": 2, "id=q3z": 2, **{q: 2 for q in server.asked() if q in unanswered}}
    assert len(twice) == 3
    assert server.asked() == {f"id=q{i}z": twice.get(f"id=q{i}z", 1) for i in range(len(words))}
    killed = outputs(tmp_path)
    (tmp_path / "out.jsonl").rename(tmp_path / "before.jsonl")
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    with Server({"odd": ["say:no idea"], "slow": ["status:500"]}, port=server.http.server_port):
        assert cli.main(command(tmp_path, server.url, "--workers", "1")) == 0  # never interrupted
    assert outputs(tmp_path) == killed


@pytest.mark.unix
def test_ctrl_c_stops_cleanly(tmp_path):
    write_pairs(tmp_path, ["fine"] * 40)
    server, code, said = interrupted(tmp_path, signal.SIGINT, 4, "--workers", "1")
    assert code == 130
    assert "Ctrl-C" in said
    assert "Traceback" not in said
    assert len(server.requests) < 40
    assert go_on(tmp_path, server) == 0
    assert server.asked() == {f"id=q{i}z": 1 for i in range(40)}


def test_what_is_sent(tmp_path):
    write_pairs(tmp_path, ["fine"])
    with Server() as server:
        assert cli.main(command(tmp_path, server.url, "--extra", '{"top_p": 0.9, "max_tokens": null}')) == 0
        [body] = server.requests
    schema = body.pop("response_format")["json_schema"]["schema"]
    assert schema["properties"]["score"]["maximum"] == 1.0
    assert schema["required"] == list(schema["properties"]) == ["score"]
    assert [m["role"] for m in body.pop("messages")] == ["system", "user"]
    assert body == {"model": "m", "temperature": 0.0, "top_p": 0.9}
