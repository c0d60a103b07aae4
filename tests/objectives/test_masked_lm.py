"""Masked language modeling against transformers' own BertForMaskedLM and RobertaForMaskedLM, and by limits."""

import pytest
import torch

from cse import Dropout, Encoder, Masked, MaskedLM, StepContext, TextViews, Views
from tests.conftest import WORDS
from tests.models import save_tiny
from tests.objectives.helpers import collated

NO_DROPOUT = {"dropout": Dropout(attention=0.0, hidden=0.0)}
EMPTY = Views(*(torch.zeros(4, 0) for _ in range(4)))


def masked_batch(encoder):
    """Texts of unequal length, so that sub-batches and padding take part."""
    texts = [" ".join(WORDS[i : i + 3 + 2 * i]) for i in range(4)]
    return collated(encoder, texts, Masked(views=TextViews(max_length=12), probability=0.5))


def objective_on(encoder):
    objective = MaskedLM()
    objective.setup(encoder)
    return objective


def tiny_roberta(tiny_bert, folder):
    like_roberta_base = {"layer_norm_eps": 1e-5, "bos_token_id": 2, "eos_token_id": 3}
    return save_tiny("roberta", tiny_bert, folder, masked=True, seed=1, max_position_embeddings=40, **like_roberta_base)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_loss_and_gradient_are_those_of_transformers(tiny_bert, tmp_path, family):
    from transformers import AutoModelForMaskedLM

    source = tiny_bert if family == "bert" else tiny_roberta(tiny_bert, tmp_path / "roberta")
    torch.manual_seed(2)
    with torch.no_grad():  # biases of 0 and layer norms of 1 would hide a head that is not loaded
        peer = AutoModelForMaskedLM.from_pretrained(source)
        for weight in peer.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    peer.save_pretrained(tmp_path / "model")
    tokenizer_of(tiny_bert).save_pretrained(tmp_path / "model")
    peer = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()

    encoder = Encoder(str(tmp_path / "model"), **NO_DROPOUT)
    batch = masked_batch(encoder)
    output = objective_on(encoder)(EMPTY, batch, StepContext(encoder=encoder))
    output.loss.backward()
    flat = {"input_ids": batch.masked_ids, "attention_mask": batch.attention_mask, "labels": batch.mlm_labels}
    want = peer(**{k: v.flatten(0, 1) for k, v in flat.items()})
    want.loss.backward()
    assert output.loss.item() == pytest.approx(want.loss.item(), rel=1e-5)
    ours = encoder.backbone.get_input_embeddings().weight.grad
    theirs = peer.get_input_embeddings().weight.grad  # through the input and, tied, the output
    assert theirs.abs().max() > 1e-3
    assert (ours - theirs).abs().max() < 1e-5
    chosen = batch.mlm_labels.flatten(0, 1) != -100
    hits = (want.logits.argmax(-1) == batch.mlm_labels.flatten(0, 1))[chosen]
    assert output.metrics["mlm_accuracy"].item() == pytest.approx(hits.float().mean().item())


def tokenizer_of(source):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source)


def test_the_heads_layer_norm_has_the_backbones_epsilon(tiny_bert, tmp_path):
    """RoBERTa's 1e-5 where BERT has 1e-12: on small states the logits differ, and ours are those of transformers."""
    from transformers import AutoModelForMaskedLM

    source = tiny_roberta(tiny_bert, tmp_path / "roberta")
    assert objective_on(Encoder(tiny_bert)).head.layer_norm.eps == 1e-12
    encoder, peer = Encoder(source), AutoModelForMaskedLM.from_pretrained(source).eval()
    head, states = objective_on(encoder).head, 1e-3 * torch.randn(5, 16)
    with torch.no_grad():
        got = head(states, encoder.backbone.get_input_embeddings().weight)
        assert torch.allclose(got, peer.lm_head(states), rtol=1e-4, atol=1e-6)
        head.layer_norm.eps = 1e-12
        wrong = head(states, encoder.backbone.get_input_embeddings().weight)
    assert (wrong - got).abs().max() > 0.01


def test_an_output_matrix_of_its_own_starts_as_a_copy_and_is_trained(tiny_bert):
    encoder = Encoder(tiny_bert, **NO_DROPOUT)
    embeddings = encoder.backbone.get_input_embeddings().weight.requires_grad_(False)  # as under soft prompts
    batch, tied, own = masked_batch(encoder), objective_on(encoder), MaskedLM(output="own")
    own.setup(encoder)
    losses = [o(EMPTY, batch, StepContext(encoder=encoder)).loss for o in (tied, own)]
    losses[1].backward()
    assert losses[0] == losses[1]
    assert own.decoder.data_ptr() != embeddings.data_ptr()
    assert own.decoder.grad.abs().sum() > 0
    assert "decoder" in own.state_dict()


def test_a_batch_without_a_mask_costs_nothing(tiny_bert):
    encoder = Encoder(tiny_bert, **NO_DROPOUT)
    batch = masked_batch(encoder)
    bare = batch.with_tensors(batch.tensors() | {"mlm_labels": torch.full_like(batch.mlm_labels, -100)})
    output = objective_on(encoder)(EMPTY, bare, StepContext(encoder=encoder))
    output.loss.backward()
    assert output.loss.item() == 0.0
    assert output.metrics["mlm_accuracy"].item() == 0.0


def test_a_backbone_without_a_head_gets_a_fresh_one(tiny_bert, tmp_path):
    Encoder(tiny_bert).save(tmp_path / "model")
    fresh, loaded = objective_on(Encoder(str(tmp_path / "model"))), objective_on(Encoder(tiny_bert))
    assert not torch.allclose(fresh.head.dense.weight, loaded.head.dense.weight)
    assert fresh.head.dense.weight.std().item() == pytest.approx(0.02, rel=0.2)
