"""Training on one GPU, by `make gpu-check`: what the CPU gives, and that a run resumes to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cse import Dropout, Encoder, Trainer, cli
from tests.runs import Dies, assert_resumes, make_run, metrics, triplets_recipe

pytestmark = pytest.mark.gpu


def losses(folder, backbone, **options):
    encoder = Encoder(backbone, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
    run = make_run(
        folder, backbone, triplets=True, encoder=encoder, **{"device": "cuda", "precision": "fp32", **options}
    )
    Trainer(run).fit()
    return [line["loss"] for line in metrics(run.folder)[1:]]


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        *[
            (options, 1e-4)
            for options in ({}, {"chunk_size": 3}, {"chunk_tokens": 26}, {"gradient_checkpointing": True})
        ],
        ({"precision": "tf32"}, 0.02),
        ({"precision": "fp16"}, 0.02),
        ({"precision": "bf16"}, 0.05),
        pytest.param({"optimizer": "adamw8bit"}, 0.02, id="bitsandbytes"),
        pytest.param({"compile": True}, 1e-3, id="compiled"),
    ],
)
def test_losses_are_those_of_the_cpu(tiny_bert, tmp_path, options, tolerance):
    want = losses(tmp_path / "cpu", tiny_bert, device="cpu")
    assert losses(tmp_path / "gpu", tiny_bert, **options) == pytest.approx(want, rel=tolerance)
    if options.get("precision") == "fp16":
        state = torch.load(tmp_path / "gpu" / "run" / "state" / "state.pt", weights_only=True)
        assert state["scaler"]["scale"] > 0


@pytest.mark.parametrize("trainer", [{"save_every": 1}, {"precision": "fp16"}])
def test_a_killed_run_resumes_bit_for_bit(tiny_bert, tmp_path, trainer):
    options = {"device": "cuda", "precision": "fp32", "deterministic": True, **trainer}
    assert_resumes(lambda folder: make_run(folder, tiny_bert, **options), tmp_path, Dies(3))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_exchange_by_nccl(tiny_bert, tmp_path, parallel):
    """As many processes as there are GPUs; on one card, one process with a group of its own."""
    recipe, count = triplets_recipe(tmp_path, tiny_bert), 2 if torch.cuda.device_count() > 1 else 1
    more = ["--trainer.device=cuda", "--trainer.precision=fp32", f"--trainer.parallel={parallel}"]
    words = ["train", recipe, "--run-dir", str(tmp_path / "run"), *more, f"--processes={count}"]
    subprocess.run([sys.executable, "-m", "cse", *words], check=True, cwd=Path(__file__).resolve().parents[2])
    assert cli.main(["train", recipe, "--run-dir", str(tmp_path / "cpu"), "--trainer.device=cpu"]) == 0
    found, want = ([line["loss"] for line in metrics(tmp_path / name)[1:]] for name in ("run", "cpu"))
    assert found == pytest.approx(want, rel=1e-4)
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
