import numpy as np
import pytest
import torch

from cse import Encoder, UserError
from cse.evaluation import encoding
from cse.evaluation.encoding import changing, embedder, to_numpy

TEXTS = [f"{'word ' * (i % 17)}{i}" for i in range(300)]


def test_order_is_kept_whatever_the_slices(hash_encoder):
    np.testing.assert_array_equal(embedder(hash_encoder())(TEXTS), hash_encoder().encode(TEXTS))
    np.testing.assert_array_equal(embedder(hash_encoder(), progress=True)(TEXTS), hash_encoder().encode(TEXTS))


def test_whatever_array_a_model_returns():
    rows = [[1.0, 2.0], [3.0, 4.0]]
    half = [torch.tensor(rows).bfloat16(), np.array(rows, np.float16)]
    for made in (np.array(rows), torch.tensor(rows), [np.array(row) for row in rows], *half):
        np.testing.assert_array_equal(to_numpy(made), rows)


class Filled:
    """An encoder whose vectors have one value, and of which some are lost."""

    def __init__(self, value, lost=0):
        self.value, self.lost = value, lost

    def encode(self, texts, *, batch_size=64):
        return np.full((len(texts) - self.lost, 3), self.value)


def test_a_lost_row_and_nan_are_errors_and_no_texts_have_no_vectors():
    for broken in (Filled(np.nan), Filled(1.0, lost=1)):
        with pytest.raises(UserError, match="returned"):
            embedder(broken)(TEXTS)
    assert embedder(Filled(1.0))([]).shape == (0, 3)


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
    (first, _), (second, _) = two_processes(shared, tiny_bert, True)  # of which one fails, and both stop
    assert "nan or infinity" in first
    assert first == second
