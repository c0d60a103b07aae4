import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

DATA = os.environ.get("CSE_DATA")  # before `_offline` hides it


class HashEncoder:
    """Vectors that depend on nothing but the text and a salt, near each other for texts that share words."""

    pooler = "mean"  # as of a plain model

    def __init__(self, salt: str = "", dim: int = 16) -> None:
        self.salt, self.dim, self.calls = salt, dim, []

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(f"{self.salt}{word}".encode()).digest()[:4], "little")
        return np.random.default_rng(seed).normal(size=self.dim)

    def encode(self, texts, *, batch_size=64):
        self.calls.append(list(texts))
        return np.stack([np.sum([self._word(w) for w in t.lower().split()], axis=0) for t in texts]).astype(np.float32)


@pytest.fixture
def hash_encoder():
    return HashEncoder


@pytest.fixture
def write_task(tmp_path):
    """A function that writes rows in our layout and gives the data folder."""

    def write(rows, task="STSB", subset="dev"):
        path = tmp_path / "data" / task / f"{subset}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["score\tsentence1\tsentence2", *("\t".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / "data"

    return write


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test asks the network, and none sees the caller's data."""
    from cse.assets import hub

    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.delenv("CSE_DATA", raising=False)


@pytest.fixture(scope="session")
def real_sts() -> Path:
    """The published STS sets, which the repository does not hold: the caller's CSE_DATA."""
    if not DATA:
        pytest.skip("CSE_DATA names no folder with the STS sets")
    return Path(DATA)
