"""Cutoff: exact counts, no padding, only in training, equal in every replay; one rate for each dropout of a model."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from cse import Dropout, Encoder, UserError
from cse.encoder.dropout import Cutoff, dropout_rate, dropouts
from tests.conftest import WORDS
from tests.models import CAUSAL, ENCODERS, save_tiny

N, L, H = 400, 12, 10
MASK = (torch.arange(L) < torch.arange(1, N + 1)[:, None].remainder(L) + 1).long()  # 1 to 12 tokens
ONES = torch.ones(N, L, H)


def test_the_share_of_the_tokens_is_cut_and_no_padding():
    cut = (Cutoff(0.3, 0.0)(ONES, MASK) == 0).all(-1)
    assert torch.equal(cut.sum(1), (MASK.sum(1) * 0.3).floor().long())
    assert not (cut & (MASK == 0)).any()
    counts = (Cutoff(0.25, 0.0)(ONES, torch.ones(N, L)) == 0).all(-1).sum(0)  # 3 of 12, each as often as any other
    assert all(abs(count - N / 4) < 5 * math.sqrt(N * 3 / 16) for count in counts.tolist())


def test_the_share_of_the_dimensions_is_cut_for_all_tokens_of_a_text():
    cut = Cutoff(0.0, 0.35)(ONES, MASK) == 0
    assert torch.equal(cut, cut[:, :1].expand(-1, L, -1))
    assert set(cut[:, 0].sum(1).tolist()) == {3}
    assert len(cut[:, 0].unique(dim=0)) > 80  # of 120 sets


# In an encoder
def quiet(backbone, **cutoff):
    """An encoder that only cutoff makes random."""
    return Encoder(backbone, dropout=Dropout(attention=0.0, hidden=0.0, **cutoff), pooler="mean")


TEXTS = (" ".join(WORDS[:8]), "the cat")


def tokens(encoder, texts=TEXTS):
    rows = encoder.tokenizer(list(texts), padding=True, return_tensors="pt")
    return rows["input_ids"], rows["attention_mask"]


def test_what_enters_the_first_layer_is_cut(tiny_bert):
    encoder = quiet(tiny_bert, token_cutoff=0.5, feature_cutoff=0.25).train()
    seen = []
    hook = encoder.backbone.encoder.layer[0].attention.register_forward_pre_hook(
        lambda m, a, k: seen.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )
    for text, length in zip(TEXTS, (10, 4), strict=True):
        seen.clear()
        encoder.train()(*tokens(encoder, [text]))
        encoder.eval()(*tokens(encoder, [text]))
        cut, whole = (states[0] for states in seen)
        assert int((cut == 0).all(-1).sum()) == length // 2
        assert int((cut == 0).all(0).sum()) == 4  # of 16
        assert not (whole == 0).any()
        assert torch.equal(torch.where(cut == 0, 0.0, whole), cut)  # what is not cut is as it was
    hook.remove()


def test_it_makes_views_where_there_is_no_dropout(tiny_bert):
    encoder = quiet(tiny_bert, feature_cutoff=0.2)
    assert encoder.has_dropout
    assert not quiet(tiny_bert).has_dropout
    encoder.train()
    first, second = (encoder(*tokens(encoder)).embedding for _ in range(2))
    assert not torch.allclose(first, second)
    torch.manual_seed(5)
    first = encoder(*tokens(encoder)).embedding
    torch.manual_seed(5)
    assert torch.equal(encoder(*tokens(encoder)).embedding, first)


def test_encode_and_the_masked_pass_are_not_cut(tiny_bert):
    plain, encoder = quiet(tiny_bert).train(), quiet(tiny_bert, token_cutoff=0.5, feature_cutoff=0.5).train()
    assert (encoder.encode(["the cat sat"]) == plain.encode(["the cat sat"])).all()
    ids, mask = tokens(encoder)
    assert torch.equal(encoder.token_states(ids, mask, mask.bool()), plain.token_states(ids, mask, mask.bool()))


def test_a_causal_backbone_is_cut_too():
    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    model, ids, mask = LlamaModel(config).eval(), torch.arange(1, 7)[None], torch.ones(1, 6)
    plain = model(input_ids=ids).last_hidden_state
    with Cutoff(0.5, 0.0).on(model, mask):
        assert not torch.allclose(model(input_ids=ids).last_hidden_state, plain)
        assert not torch.allclose(model(inputs_embeds=model.embed_tokens(ids)).last_hidden_state, plain)
    assert torch.equal(model(input_ids=ids).last_hidden_state, plain)


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
