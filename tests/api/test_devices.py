"""Scoring, encoding, mining and whitening on a device: what the CPU gives by hand. On a GPU by `make gpu-check`."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import cse
from cse.encoder.model import Encoder
from cse.inference.whiten import fit_whitening, whiten_checkpoint
from cse.mining.miners import TopK
from tests.mining.conftest import checkpoint, rows
from tests.mining.helpers import slow
from tests.runs import write_texts

__all__ = ["checkpoint", "rows"]  # the fixtures


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """A device; a GPU must have been used at the end."""
    if request.param == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.max_memory_allocated()
    yield request.param
    if request.param == "cuda":
        assert torch.cuda.max_memory_allocated() > before


def near(found, want, tolerance=1e-5):
    """Products on a GPU are summed in another order."""
    assert np.abs(np.asarray(found, dtype=np.float64) - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encode(checkpoint, tmp_path, device, precision):
    path = write_texts(tmp_path)
    texts = path.read_text().splitlines()
    cse.encode(checkpoint, path, tmp_path / "v.npy", device=device, precision=precision)
    near(np.load(tmp_path / "v.npy"), Encoder.load(checkpoint).encode(texts), 1e-5 if precision == "fp32" else 0.1)


def test_evaluate(checkpoint, tmp_path, device):
    texts = write_texts(tmp_path).read_text().splitlines()
    first, second, gold = texts[:24], texts[24:], [i * 7 % 11 for i in range(24)]
    folder = tmp_path / "data" / "STSB"
    folder.mkdir(parents=True)
    lines = ["score\tsentence1\tsentence2", *(f"{g}\t{a}\t{b}" for a, b, g in zip(first, second, gold, strict=True))]
    (folder / "dev.tsv").write_text("\n".join(lines) + "\n")
    options = {"data": str(folder.parent), "check": False, "dimensions": [8], "quantize": ["binary"]}
    scored = cse.evaluate(checkpoint, "STSB-dev", device=device, precision="fp32", **options)
    vectors = Encoder.load(checkpoint).encode(texts)
    by_hand = {}
    for width in (16, 8):
        a, b = vectors[:24, :width], vectors[24:, :width]
        by_hand[width] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    near(scored.cosine["STSB-dev"], by_hand[16])
    rho = {width: 100 * spearmanr(cosine, gold).statistic for width, cosine in by_hand.items()}
    assert scored.scores["STSB-dev"] == pytest.approx(rho[16], abs=0.5)
    assert scored.by_width[8]["STSB-dev"] == pytest.approx(rho[8], abs=0.5)
    signs = np.where(vectors > 0, 1, -1)
    equal = (signs[:24] == signs[24:]).sum(1)  # the bits that two binary vectors share
    assert scored.by_kind["binary"]["STSB-dev"] == pytest.approx(100 * spearmanr(equal, gold).statistic, abs=0.5)


def test_mine(checkpoint, rows, tmp_path, device):
    pairs = rows[1]
    miner = TopK(first=2, last=8, absolute_margin=0.0)
    mined = cse.mine(checkpoint, pairs, k=3, miner=miner, device=device, precision="fp32")
    want, _ = slow(checkpoint, pairs, 2, 8, 0.0, 3)
    assert [list(row.texts[2:]) for row in mined] == want


def test_whiten(checkpoint, tmp_path, device):
    path = write_texts(tmp_path)
    texts = path.read_text().splitlines()
    whiten_checkpoint(checkpoint, tmp_path / "white", data=str(path), k=4, device=device)
    raw = torch.from_numpy(Encoder.load(checkpoint).encode(texts))
    with torch.no_grad():
        want = torch.nn.functional.normalize(fit_whitening(raw.numpy(), 4)(raw), dim=-1).numpy()
    found = Encoder.load(str(tmp_path / "white")).encode(texts)
    near(found @ found.T, want @ want.T, 1e-3)  # whitening magnifies what is rounded
