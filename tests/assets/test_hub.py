"""The Hub: what is cached is found without a network, and a failure is one line, without a wait."""

import logging
import socket

import huggingface_hub
import pytest
from huggingface_hub import close_session, constants

from cse import UserError
from cse.assets import hub
from tests.publish.hub_server import HubServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_proxy(monkeypatch):
    """The Hub is asked, without a proxy and without what an earlier test found."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 600.0)  # a server that answers is not silent, however busy
    hub._answers.cache_clear()
    close_session()  # it remembers the proxies
    yield
    hub._answers.cache_clear()
    close_session()


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def no_waits(monkeypatch):
    """A client that waits before it tries again fails the test."""

    def sleep(seconds):
        raise AssertionError(f"it waits {seconds} s to try again")

    monkeypatch.setattr("time.sleep", sleep)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_without_a_network_it_fails_in_two_lines(no_proxy, no_waits, closed_port, cache, monkeypatch, capfd, caplog):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as raised:
        hub.snapshot("nobody/nothing", what="backbone 'nobody/nothing'")
    assert str(raised.value).splitlines()[0] == (
        "backbone 'nobody/nothing' cannot be loaded: it is not in the Hub's cache on this machine, "
        "and the Hub cannot be reached"
    )
    assert str(raised.value).splitlines()[1].startswith("fix: ")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_cached_model_needs_no_network(no_proxy, closed_port, cache, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    files = cache / "models--org--tiny" / "snapshots" / COMMIT
    files.mkdir(parents=True)
    (files / "config.json").write_text("{}")
    refs = cache / "models--org--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    assert hub.snapshot("org/tiny") == files
    assert hub.file("org/tiny", "config.json") == files / "config.json"


@pytest.fixture
def server():
    """A Hub that answers; it can be given a status to answer with."""
    with HubServer() as found:
        yield found


@pytest.fixture
def silent():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_who_answers_is_reachable(no_proxy, server, monkeypatch):
    """Whatever it answers: a page that is missing is an answer, too."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    assert hub.reachable()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.reachable()


def test_who_says_nothing_is_not(no_proxy, silent, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    assert not hub.reachable()


def test_an_answer_is_kept_for_a_minute_from_when_it_came(no_proxy, server, monkeypatch):
    clock = [59.0]
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hub.time, "monotonic", lambda: clock[0])
    asked = []
    for clock[0] in (59.0, 61.0, 118.0, 120.0, 179.0):
        assert hub.reachable()
        asked.append(len(server.requests))
    assert asked == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(("status", "found"), [(200, True), (403, True), (502, False), (407, False)])
def test_a_proxy_is_asked_for_the_hub(no_proxy, server, monkeypatch, status, found):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    server.fail("HEAD", "", status, times=None)
    assert hub.reachable() == found
    assert server.requests


def test_a_proxy_that_does_not_answer_is_no_way(no_proxy, closed_port, silent, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    for proxy in (f"http://127.0.0.1:{closed_port}", silent):
        hub._answers.cache_clear()
        close_session()
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        assert not hub.reachable()


def test_an_error_of_the_hub_is_its_first_line(monkeypatch):
    def gone(*args, **options):
        raise ValueError("\n401 Client Error\nand a page of HTML")

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    with pytest.raises(hub.HubError) as raised:
        hub.snapshot("org/gated", fix="log in")
    assert str(raised.value) == "'org/gated' cannot be loaded: ValueError: 401 Client Error\nfix: log in"
    assert raised.value.reason == "ValueError: 401 Client Error"


def test_loaders_that_fetch_by_themselves_do_not_retry(no_proxy, no_waits, closed_port, cache, monkeypatch, capfd):
    import datasets

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with hub.without_retries(), pytest.raises(ConnectionError):
        datasets.load_dataset("nobody/nothing", split="train")
    assert capfd.readouterr() == ("", "")
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE
