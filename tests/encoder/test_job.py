"""Long jobs: blocks are read ahead, in order, and a killed job of the cache resumes with the same vectors."""

import threading
from contextvars import ContextVar

import numpy as np
import pytest

from cse import Encoder
from cse.encoder import job
from cse.encoder.job import ahead
from tests.conftest import WORDS


def test_one_result_is_made_while_one_is_used():
    begun, ended = [], [threading.Event() for _ in range(5)]

    def work(item):
        begun.append(item)
        ended[item].set()
        return item * item

    with ahead(work, range(5)) as results:
        for i, result in enumerate(results):
            assert result == i * i
            assert ended[min(i + 1, 4)].wait(60), "the next result is not made meanwhile"
            assert begun == list(range(min(i + 2, 5)))
    assert begun == list(range(5))


@pytest.mark.parametrize("where", ["items", "work"])
def test_what_is_raised_ahead_is_raised_in_its_turn(where):
    def negative(item):
        if item == 3:
            raise KeyError("third")
        return -item

    seen = []

    def use():
        items, work = (map(negative, (1, 2, 3)), int) if where == "items" else ((1, 2, 3), negative)
        with ahead(work, items) as results:
            for result in results:
                seen.append(result)

    with pytest.raises(KeyError, match="third"):
        use()
    assert seen == [-1, -2]


def test_the_thread_ends_with_the_block_whatever_ends_it():
    before, release = threading.active_count(), threading.Event()

    def work(item):
        if item:
            release.wait(60)
        return item

    def use():
        with ahead(work, range(9)) as results:
            next(results)
            release.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert threading.active_count() == before
    with ahead(work, []) as results:
        assert list(results) == []
    assert threading.active_count() == before


def test_the_thread_sees_what_the_caller_set():
    setting = ContextVar("setting", default="nobody's")
    setting.set("the caller's")
    with ahead(lambda _: setting.get(), range(2)) as results:
        assert list(results) == ["the caller's", "the caller's"]


class Killed(BaseException):
    """As a signal, it is caught by nobody."""


def test_a_killed_job_resumes_with_the_same_vectors_and_a_changed_file_is_made_again(
    tiny_bert, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    monkeypatch.setattr(job, "CHUNK", 4)
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    texts = [f"{WORDS[i]} {WORDS[i + 1]}" for i in range(10)]
    real, asked = encoder.encode_read, []

    def encode(read, **options):
        asked.append(read.texts)
        if len(asked) == 3:
            raise Killed
        return real(read, **options)

    monkeypatch.setattr(encoder, "encode_read", encode)
    with pytest.raises(Killed):
        job.cached_vectors(encoder, "model", texts, "fp32")
    assert not list(tmp_path.rglob("*.npy"))
    found = job.cached_vectors(encoder, "model", texts, "fp32")
    assert asked == [4, 4, 2, 2]  # the last of them twice, and nothing else
    by_hand = np.concatenate([real(encoder.read(texts[i : i + 4])) for i in (0, 4, 8)]).astype(np.float64)
    by_hand /= np.sqrt((by_hand**2).sum(1, keepdims=True))
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    assert np.array_equal(job.cached_vectors(encoder, "model", texts, "fp32"), found)
    assert len(asked) == 4
    (file,) = tmp_path.rglob("*.npy")
    damaged = bytearray(file.read_bytes())
    damaged[-2] ^= 1
    file.unlink()
    file.write_bytes(damaged)
    again = job.cached_vectors(encoder, "model", texts, "fp32")
    assert f"{file} has changed since it was written: it is made again" in capsys.readouterr().out
    assert len(asked) == 7
    assert np.array_equal(again, found)
