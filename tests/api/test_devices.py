"""Scoring, encoding, mining and whitening on a device give what the CPU gives; on a GPU by `make gpu-check`."""

import numpy as np
import pytest
import torch

import cse
from cse import Encoder, TopK, whiten_checkpoint
from cse.inference.whiten import fit_whitening
from tests.mining.conftest import checkpoint, rows
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


on_a_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)


@on_a_gpu
def test_evaluate(checkpoint, tmp_path, device):
    texts = write_texts(tmp_path).read_text().splitlines()
    rows = [f"{i * 7 % 11}\t{a}\t{b}" for i, (a, b) in enumerate(zip(texts[:24], texts[24:], strict=True))]
    (tmp_path / "data" / "STSB").mkdir(parents=True)
    (tmp_path / "data" / "STSB" / "dev.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *rows]) + "\n")
    options = {"data": str(tmp_path / "data"), "check": False, "dimensions": [8], "quantize": ["binary"]}
    found, want = (cse.evaluate(checkpoint, "STSB-dev", device=d, precision="fp32", **options) for d in (device, "cpu"))
    near(found.cosine["STSB-dev"], want.cosine["STSB-dev"])
    for one, other in ((found.by_width[8], want.by_width[8]), (found.by_kind["binary"], want.by_kind["binary"])):
        assert one["STSB-dev"] == pytest.approx(other["STSB-dev"], abs=0.5)


@on_a_gpu
def test_mine(checkpoint, rows, device):
    options = {"k": 3, "miner": TopK(first=2, last=8, absolute_margin=0.0), "precision": "fp32"}
    found, want = (cse.mine(checkpoint, rows[1], device=each, **options) for each in (device, "cpu"))
    assert [row.texts for row in found] == [row.texts for row in want]


def test_whiten(checkpoint, tmp_path, device):
    path = write_texts(tmp_path)
    texts = path.read_text().splitlines()
    whiten_checkpoint(checkpoint, tmp_path / "white", data=str(path), k=4, device=device)
    raw = torch.from_numpy(Encoder.load(checkpoint).encode(texts))
    with torch.no_grad():
        want = torch.nn.functional.normalize(fit_whitening(raw.numpy(), 4)(raw), dim=-1).numpy()
    found = Encoder.load(str(tmp_path / "white")).encode(texts)
    near(found @ found.T, want @ want.T, 1e-3)  # whitening magnifies what is rounded
