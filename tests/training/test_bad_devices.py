"""What a device cannot do is refused in one line, with what would do."""

import pytest
import torch

from cse import Batch, Encoder, Settings, SimCSE, UserError
from cse.encoder import device
from cse.recipe import load
from cse.training import hardware
from cse.training.learner import Learner
from tests.refusals import refuses

T4 = {"cuda": "12.8", "name": "Tesla T4", "capability": (7, 5)}
NONE, HIDDEN = {"cuda": None}, {"cuda": "12.8", "visible": "7"}


def trained(**settings):
    return lambda: hardware.require_machine(Settings(**settings))


def encoded(precision, place):
    return lambda: device.resolved(precision, torch.device(place))


BAD = {
    "no CUDA": (NONE, trained(device="cuda"), r"trainer.device is cuda, and torch .* is built without CUDA"),
    "no CUDA, encoding": (NONE, lambda: device.choose("cuda"), r"--device is cuda, and torch .* without CUDA"),
    "no such number": (HIDDEN, trained(device="cuda"), "and no GPU .* has a number in CUDA_VISIBLE_DEVICES='7'"),
    "a number": (T4, lambda: load("simcse-unsup", ["--trainer.device=cuda:3"]), "cuda:3\nfix: give one of auto, cpu"),
    "bf16": (T4, trained(precision="bf16"), "trainer.precision is bf16, which Tesla T4 .*\nfix: use auto or fp16"),
    "bf16, encoding": (T4, encoded("bf16", "cuda"), "precision is bf16, which Tesla T4 .*\nfix: use fp16 or fp32"),
    "fp16 on the CPU": (NONE, encoded("fp16", "cpu"), "precision is fp16, which needs a CUDA GPU"),
    "no NCCL": (T4, lambda: hardware.require_gpus("cuda"), "is built without NCCL.*\nfix: use one process"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_machine_cannot_do_is_one_line(case, monkeypatch):
    machine, call, said = BAD[case]
    monkeypatch.setitem(device.ACCELERATORS, "cuda", lambda: "name" in machine)
    monkeypatch.setattr(torch.version, "cuda", machine["cuda"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: machine["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: machine["capability"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", machine.get("visible", "0"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(refuses(said, call).splitlines()) == 2


# BERT-base in bf16: a token keeps 12 layers x 768 x 34 bytes, or if recomputed 12 x 768 x 2 and those of one layer.
BASE = {"rows": 512, "of_row": 64, "kept": 12 * 768 * 34, "recomputed": 12 * 768 * 2 + 768 * 34, "cacheable": True}


@pytest.mark.parametrize(
    ("settings", "changed", "fits"),
    [
        # 32,768 tokens take 10.3 GB, half of them 5.1, a quarter 2.6; recomputed, all take 1.5.
        ({}, {}, ["gradient_checkpointing=true", "chunk_tokens=16384", "batch_size=256"]),
        ({}, {"room": 4e9}, ["gradient_checkpointing=true", "chunk_tokens=8192", "batch_size=128"]),
        ({}, {"room": 1e9}, ["chunk_tokens=2048", "batch_size=32"]),
        ({}, {"cacheable": False}, ["gradient_checkpointing=true", "batch_size=256"]),
        ({"gradient_checkpointing": True}, {"room": 1e9}, ["chunk_tokens=16384", "batch_size=256"]),
        ({"chunk_tokens": 16384}, {"room": 4e9}, ["gradient_checkpointing=true", "chunk_tokens=8192"]),
        ({"chunk_size": 256}, {"room": 4e9}, ["gradient_checkpointing=true", "chunk_tokens=8192"]),
        ({"accumulation": 2}, {}, ["gradient_checkpointing=true", "chunk_tokens=16384", "batch_size=512"]),
        ({}, {"room": 20e9}, ["gradient_checkpointing=true", "chunk_tokens=16384", "batch_size=256"]),
        ({}, {"room": -1.0}, []),
    ],
)
def test_what_would_fit_by_pencil(settings, changed, fits):
    found = hardware.fitting(Settings(**settings), **{**BASE, "room": 8e9, **changed})
    assert found == [f"--trainer.{option}" for option in fits]


def test_a_step_without_memory_names_what_would_fit(tiny_bert, monkeypatch):
    learner, ids = Learner(Encoder(tiny_bert), SimCSE()), torch.ones(8, 2, 8, dtype=torch.int64)
    weights = sum(p.numel() for p in learner.parameters())
    room = 128 * 2 * 16 * 34 // 2  # half of what 128 tokens take in 2 layers of 16 numbers
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 16 * weights + room))
    said = r"at step 1, on a GPU .*8 rows of 2 texts of up to 8 .*\nfix: .*chunk_tokens=32 or .*batch_size=2 fits$"
    with pytest.raises(UserError, match=said), hardware.explained(learner, Settings(), Batch(ids, ids), 1, wide=False):
        raise torch.OutOfMemoryError
