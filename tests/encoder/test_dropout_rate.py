"""One dropout rate for every dropout of a model, on every architecture, and what is left afterwards."""

import pytest
import torch

from cse.encoder.dropout import dropout_rate, dropouts
from cse.encoder.model import Encoder
from cse.errors import UserError
from tests.models import CAUSAL, ENCODERS, save_tiny


@pytest.mark.parametrize("kind", [*ENCODERS, *CAUSAL])
def test_the_rate_is_in_force_within_and_gone_afterwards(kind, tiny_bert, tmp_path):
    encoder = Encoder(save_tiny(kind, tiny_bert, tmp_path / kind), pooler="mean").train()
    ids, mask = torch.tensor([[2, 7, 8, 9, 3]] * 2), torch.ones(2, 5, dtype=torch.int64)
    before = list(dropouts(encoder.backbone))
    with torch.no_grad():
        still = encoder.eval()(ids, mask).embedding
        encoder.train()
        with dropout_rate(encoder.backbone, 0.0):
            assert torch.allclose(encoder(ids, mask).embedding, still, atol=1e-6)
        with dropout_rate(encoder.backbone, 0.5):
            assert {rate for _, _, rate in dropouts(encoder.backbone)} == {0.5}
            first, second = encoder(ids, mask).embedding
            assert not torch.allclose(first, second, atol=1e-4)
    assert list(dropouts(encoder.backbone)) == before


def test_rates_come_back_after_an_error(tiny_bert):
    model = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Dropout(0.3))

    def fail():
        with dropout_rate(model, 0.2):
            assert [module.p for module in model] == [0.2, 0.2]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.p for module in model] == [0.1, 0.3]
    with pytest.raises(UserError, match=r"rate is 1"), dropout_rate(model, 1.0):
        pass
