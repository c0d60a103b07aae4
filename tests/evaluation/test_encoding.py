from __future__ import annotations

import numpy as np
import pytest
import torch

from cse.encoder.fast.weights import Linear
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.evaluation import encoding
from cse.evaluation.encoding import changing, embedder, to_numpy

TEXTS = [f"{'word ' * (i % 17)}{i}" for i in range(300)]


def test_order_is_kept_whatever_the_slices(hash_encoder):
    np.testing.assert_array_equal(embedder(hash_encoder())(TEXTS), hash_encoder().encode(TEXTS))
    np.testing.assert_array_equal(embedder(hash_encoder(), progress=True)(TEXTS), hash_encoder().encode(TEXTS))


def test_no_texts(hash_encoder):
    class Empty:
        def encode(self, texts, *, batch_size=64):
            return np.zeros((len(texts), 3))

    assert embedder(Empty())([]).shape == (0, 3)


def test_whatever_array_a_model_returns():
    rows = [[1.0, 2.0], [3.0, 4.0]]
    for made in (
        np.array(rows),
        torch.tensor(rows),
        torch.tensor(rows).bfloat16(),
        [np.array(r) for r in rows],
        np.array(rows, np.float16),
    ):
        np.testing.assert_array_equal(to_numpy(made), rows)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_row_is_an_error_that_says_so(lost):
    class Broken:
        def encode(self, texts, *, batch_size=64):
            return np.full((len(texts) - lost, 3), np.nan)

    with pytest.raises(UserError, match="returned"):
        embedder(Broken())(TEXTS)


class SlowLearner(encoding.Encoder):
    """An encoder of ours with its arithmetic replaced: it tells whether dropout was on, and how many cores it had."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def encode(self, texts, *, batch_size=None, precision="fp32", max_tokens=None, prompt_name=None):
        self.seen.append((self.training, torch.get_num_threads(), precision))
        return np.array([[float(len(t)), 1.0] for t in texts], dtype=np.float32)


def test_our_encoder_runs_on_every_core_and_is_left_as_it_was():
    encoder, cores = SlowLearner(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encoder.train()
        found = embedder(encoder, "fp32")(TEXTS)
        assert found[:, 0].tolist() == [len(t) for t in TEXTS]
        assert encoder.training
        assert torch.get_num_threads() == 2
        assert {(training, precision) for training, _, precision in encoder.seen} == {(False, "fp32")}
        assert all(threads == 1 for _, threads, _ in encoder.seen[1:])
    finally:
        torch.set_num_threads(cores)


def test_slices_share_converted_weights(tiny_bert, monkeypatch):
    encoder = Encoder(tiny_bert)
    texts = [f"red {'house ' * (i % 5)}moon {i}" for i in range(300)]
    expected = encoder.encode(texts, precision="bf16")
    converted = []
    real = Linear._converted
    monkeypatch.setattr(
        Linear, "_converted", lambda layer, dtype: converted.append(real(layer, dtype)) or converted[-1]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = embedder(encoder, "bf16")(texts)
    finally:
        torch.set_num_threads(threads)
    layers = sum(isinstance(m, Linear) for m in encoder.backbone.modules())
    assert layers <= len({id(c) for c in converted}) <= 2 * layers  # two threads may meet at one
    assert np.abs(found - expected).max() < 0.05


def shared(rank, backbone, broken):
    """The vectors that each process gets, and the number of texts that it encoded itself."""
    encoder, count = Encoder(backbone, pooler="mean"), 0
    encode = Encoder.encode

    def counted(self, texts, **options):
        nonlocal count
        count += len(texts)
        found = encode(self, texts, **options)
        return found * np.nan if broken and rank == 1 else found

    Encoder.encode = counted
    try:
        with changing():
            return embedder(encoder, "fp32")(TEXTS), count
    except UserError as error:
        return str(error), count
    finally:
        Encoder.encode = encode


def test_processes_share_the_texts_of_an_encoder_in_training(two_processes, tiny_bert):
    (first, a), (second, b) = two_processes(shared, tiny_bert, False)
    alone = embedder(Encoder(tiny_bert, pooler="mean"), "fp32")(TEXTS)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone, atol=1e-6)
    assert len(TEXTS) <= a + b <= len(TEXTS) + 2  # one text more for each, where it sets up threads
    assert max(a, b) <= 160


def test_a_process_that_fails_stops_all(two_processes, tiny_bert):
    (first, _), (second, _) = two_processes(shared, tiny_bert, True)
    assert "nan or infinity" in first
    assert first == second
