"""Vectors in the cache: a killed job resumes, and ends with the same vectors."""

import numpy as np
import pytest

from cse.encoder import job as cached
from cse.encoder.model import Encoder
from tests.conftest import WORDS


class Killed(BaseException):
    """As a signal, it is caught by nobody."""


def test_a_killed_job_resumes_with_the_same_vectors(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    monkeypatch.setattr(cached, "CHUNK", 4)
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
        cached.cached_vectors(encoder, "model", texts, "fp32")
    assert not list(tmp_path.rglob("*.npy"))
    found = cached.cached_vectors(encoder, "model", texts, "fp32")
    assert asked == [4, 4, 2, 2]  # the last of them twice, and nothing else
    by_hand = np.concatenate([real(encoder.read(texts[i : i + 4])) for i in (0, 4, 8)]).astype(np.float64)
    by_hand /= np.sqrt((by_hand**2).sum(1, keepdims=True))
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    assert np.array_equal(cached.cached_vectors(encoder, "model", texts, "fp32"), found)
    assert len(asked) == 4
