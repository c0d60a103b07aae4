"""The decoder behind one vector, with layers like the backbone's, against the programs of CoT-MAE and SimLM (oracles).

DenoSent's layers are tested with DenoSent.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from cse.encoder.dropout import Dropout
from cse.encoder.lora import Lora
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.objectives.bottleneck_decoder import BottleneckDecoder
from cse.objectives.masked_lm import MaskedLMHead
from tests.conftest import ORACLES
from tests.models import save_tiny
from tests.objectives.helpers import close, load, oracle_cases, settings

CASES = [n for n in oracle_cases("bottleneck") if "decoder_loss" in settings(ORACLES, "bottleneck")[n]]


def part(state, *prefixes):
    """The weights below a prefix, under the names that follow it."""
    return {k.removeprefix(p): v for p in prefixes for k, v in state.items() if k.startswith(p)}


@pytest.mark.parametrize("name", CASES)
def test_layers_like_the_backbones(oracles, tiny_bert, tmp_path, name):
    about, data = load(oracles, "bottleneck", name)
    state = part(data, "state/")
    state = {k.removeprefix("encoder."): v for k, v in state.items()}  # SimLM's names
    config = BertConfig(
        vocab_size=about["vocabulary"],
        hidden_size=about["hidden"],
        num_hidden_layers=about["encoder_layers"],
        num_attention_heads=about["heads"],
        intermediate_size=len(state["bert.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=about["positions"],
        layer_norm_eps=about.get("layer_norm_eps", 1e-12),
    )
    model = BertForMaskedLM(config)
    model.bert.load_state_dict(part(state, "bert."))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), pooler="cls", dropout=Dropout(attention=0.0, hidden=0.0)).train()
    decoder = BottleneckDecoder(encoder, layers=about["decoder_layers"], memory="first_position")
    decoder.model.encoder.layer.load_state_dict(part(state, "c_head.", "decoder."))
    head = MaskedLMHead(about["hidden"], about["vocabulary"])
    head.dense.load_state_dict(part(state, "cls.predictions.transform.dense."))
    head.layer_norm.load_state_dict(part(state, "cls.predictions.transform.LayerNorm."))
    head.bias.data = state["cls.predictions.bias"]

    masked = "decoder_labels" in data  # CoT-MAE has a text of its own for the decoder, and SimLM the encoder's
    mask = data["decoder_attention_mask" if masked else "attention_mask"]
    labels = data["decoder_labels" if masked else "labels"]
    own = data["input_ids" if masked else "encoder_input_ids"]
    vector = encoder(own, data["attention_mask"]).embedding
    vector.retain_grad()
    embedded = encoder.states(data["decoder_input_ids"], mask).hidden[0]

    def loss(vector):
        logits = head(decoder(embedded, mask, vector), encoder.backbone.get_input_embeddings().weight)
        weight = about.get("decoder_weight", 1.0)
        return weight * torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)

    found = loss(vector)
    found.backward()
    assert found.item() == pytest.approx(about["decoder_loss"], rel=1e-5)
    close(vector.grad, data["grad_cls_from_decoder"])
    if "cls" in data:
        close(vector, data["cls"])
    assert loss(0 * vector).item() == pytest.approx(about["decoder_loss_with_zero_vector"], rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_copies_of_the_last_layers_continue_the_encoder(tiny_bert, tmp_path, kind):
    """Given the states before them, they give the encoder's own; LoRA's difference is part of them."""
    folder = save_tiny(kind, tiny_bert, tmp_path, num_hidden_layers=3)
    encoder = Encoder(folder, adapter=Lora(rank=2, targets=["query"]), dropout=Dropout(attention=0.0, hidden=0.0))
    with torch.no_grad():
        for name, weight in encoder.backbone.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    decoder = BottleneckDecoder(encoder, layers=2, memory="first_position", start="last").eval()
    ids, mask = encoder.pad([[2, 5, 6, 7, 3], [2, 8, 3]])
    with torch.no_grad():
        hidden = encoder.eval().states(ids, mask).hidden
        got = decoder(hidden[1], mask, hidden[1][:, 0])
    assert torch.allclose(got[mask == 1], hidden[-1][mask == 1], atol=1e-5)
    plain = BottleneckDecoder(encoder, layers=2, memory="first_position").eval()
    assert not torch.allclose(plain(hidden[1], mask, hidden[1][:, 0])[mask == 1], hidden[-1][mask == 1], atol=1e-2)


@pytest.mark.parametrize("memory", ["cross", "first_position"])
def test_padding_changes_nothing(tiny_bert, memory):
    decoder = BottleneckDecoder(Encoder(tiny_bert), layers=2, memory=memory).eval()
    embedded, vector = torch.randn(2, 5, 16), torch.randn(2, 16)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    other = torch.where(mask[..., None] == 1, embedded, torch.randn(2, 5, 16))
    got, want = decoder(embedded, mask, vector), decoder(other, mask, vector)
    assert torch.allclose(got[mask == 1], want[mask == 1], atol=1e-6)


def test_backbones_without_positions_in_their_embeddings_are_refused(tiny_bert, tmp_path):
    for kind in ("modernbert", "deberta-v2", "llama"):
        more = {"position_biased_input": False} if kind == "deberta-v2" else {}
        encoder = Encoder(save_tiny(kind, tiny_bert, tmp_path / kind, **more), pooler="last")
        with pytest.raises(UserError, match=f"whose positions a {kind} backbone does not add"):
            BottleneckDecoder(encoder, layers=1, memory="cross")
    with pytest.raises(UserError, match=r"decoder_layers is 3, and .* has 2 to copy"):
        BottleneckDecoder(Encoder(tiny_bert), layers=3, memory="first_position", start="last")
