"""Decoders behind one vector: copies of layers, windows, padding, and backbones that do not fit.

DenoSent's decoder is tested with DenoSent, and the others against their authors' programs with the objectives.
"""

import pytest
import torch

from cse import Dropout, Encoder, Lora, UserError
from cse.objectives.parts.decoders import CausalDecoder, CrossDecoder, FirstDecoder
from tests.models import save_tiny
from tests.objectives.helpers import refuses

KINDS = {
    "cross": lambda encoder: CrossDecoder(encoder, layers=2, heads=1, feed_forward=16, dropout=0.1),
    "first": lambda encoder: FirstDecoder(encoder, layers=2),
    "causal": lambda encoder: CausalDecoder(encoder, layers=2, window=2),
}
every_decoder = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_copies_of_the_last_layers_continue_the_encoder(tiny_bert, tmp_path, kind):
    """Given the states before them, they give the encoder's own; LoRA's difference is part of them."""
    folder = save_tiny(kind, tiny_bert, tmp_path, num_hidden_layers=3)
    encoder = Encoder(folder, adapter=Lora(rank=2, targets=["query"]), dropout=Dropout(attention=0.0, hidden=0.0))
    with torch.no_grad():
        for name, weight in encoder.backbone.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    decoder = FirstDecoder(encoder, layers=2, start="last").eval()
    ids, mask = encoder.pad([[2, 5, 6, 7, 3], [2, 8, 3]])
    with torch.no_grad():
        hidden = encoder.eval().states(ids, mask).hidden
        got = decoder(hidden[1], mask, hidden[1][:, 0])
    assert torch.allclose(got[mask == 1], hidden[-1][mask == 1], atol=1e-5)
    plain = FirstDecoder(encoder, layers=2).eval()
    assert not torch.allclose(plain(hidden[1], mask, hidden[1][:, 0])[mask == 1], hidden[-1][mask == 1], atol=1e-2)


@every_decoder
def test_padding_changes_nothing(tiny_bert, kind):
    decoder = KINDS[kind](Encoder(tiny_bert)).eval()
    states, vector = torch.randn(2, 5, 16), torch.randn(2, 16)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    other = torch.where(mask[..., None] == 1, states, torch.randn(2, 5, 16))
    got, want = decoder(states, mask, vector), decoder(other, mask, vector)
    assert torch.allclose(got[mask == 1], want[mask == 1], atol=1e-6)


def test_the_window_by_pencil(tiny_bert):
    sees = CausalDecoder(Encoder(tiny_bert), layers=1, window=2).sees(5).int().tolist()
    assert sees == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 0, 1, 1]]
    whole = CausalDecoder(Encoder(tiny_bert), layers=1).sees(4)
    assert torch.equal(whole, torch.ones(4, 4).tril().bool())


@every_decoder
def test_backbones_without_positions_in_their_embeddings_are_refused(tiny_bert, tmp_path, kind):
    for model in ("modernbert", "deberta-v2", "llama"):
        more = {"position_biased_input": False} if model == "deberta-v2" else {}
        encoder = Encoder(save_tiny(model, tiny_bert, tmp_path / model, **more), pooler="last")
        with pytest.raises(UserError, match=f"whose positions a {model} backbone does not add"):
            KINDS[kind](encoder)


def test_more_layers_than_there_are_to_copy(tiny_bert):
    refuses(r"decoder_layers is 3, and .* has 2 to copy", FirstDecoder, Encoder(tiny_bert), layers=3, start="last")
