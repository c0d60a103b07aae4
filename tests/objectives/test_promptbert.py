"""PromptBERT against its authors' program (oracles, whole models), slow computations and limits."""

import pytest
import torch
from transformers import AutoModelForMaskedLM

from cse import Batch, Dropout, Encoder, InTemplates, PromptBERT, SoftPrompts, StepContext, TextViews
from cse.training.learner import Learner
from tests.cases import below, cases, load, state
from tests.models import save_beside, save_tiny
from tests.objectives.helpers import agrees, close, collated, refuses, set_up

A, B = "the cat {text} sat {mask} on", "a dog {text} ran {mask} fast"
STILL = {"dropout": Dropout(attention=0.0, hidden=0.0)}
TEXTS = ["moon", "red house", "sun tree blue", "slow mat", "tree", "red house"]


def encoder_of(about, data, weights, tiny_bert, folder):
    """The encoder of a case. Its tokenizer serves for the number of ids beside a text alone."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**{"bos_token_id": 1, "eos_token_id": 2, **about["config"]})
    model = AutoModelForMaskedLM.from_config(config)
    model.base_model.load_state_dict(below(weights, f"{about['config']['model_type']}."))
    own = "mlp.LayerNorm.weight" not in weights
    if not own:
        model.cls.predictions.transform.load_state_dict(below(weights, "mlp."))
    folder, count = save_beside(tiny_bert, model, folder), len(data["template"])
    before, after = about["prefix_length"] - 1, count - about["prefix_length"] - 2  # without [CLS], mask and [SEP]
    template = " ".join(["the"] * before + ["{text}"] + ["cat"] * (after - 1) + ["{mask}"] + ["on"])
    encoder = Encoder(folder, pooler="mask", template=template, head="mlp" if own else "none", **STILL)
    if own:
        encoder.head.linear.load_state_dict(below(weights, "mlp.dense."))
    assert encoder.pool.keywords == {"position": -3}
    return encoder


@pytest.mark.parametrize("name", cases("promptbert"))
def test_every_whole_model(tiny_bert, tmp_path, name):
    about, data = load("promptbert", name)
    encoder = encoder_of(about, data, state("promptbert", name), tiny_bert, tmp_path)
    objective = PromptBERT(
        temperature=about["temperature"],
        hard_negative_weight=about["hard_negative_weight"],
        delta="none" if not about["delta"] else "frozen" if about["delta_freeze"] else "trained",
        head="masked_lm" if about["head"].startswith("transform") else "encoder",
        positions="from_zero",
    )
    objective.setup(encoder)
    ids, mask, ctx = data["input_ids"], data["attention_mask"], StepContext(encoder=encoder)
    batch = Batch(ids, mask)
    encoded, output = Learner(encoder, objective).train()(batch, ctx)
    close(encoded.embedding, data["mask_states"], 1e-5)
    close(encoded.embedding[:, 0], data["embedding_plain"], 1e-5)
    own = {"dense": encoder.head.linear} if objective.head == "encoder" else {}
    own = own or {"dense": objective.transform.dense, "LayerNorm": objective.transform.layer_norm}
    parts = {f"{about['config']['model_type']}.": encoder.backbone} | {f"mlp.{n}.": part for n, part in own.items()}
    found = {prefix + n: weight for prefix, part in parts.items() for n, weight in part.named_parameters()}
    agrees(output, about, data, {n: weight for n, weight in found.items() if f"grad/{n}" in data})
    assert sum(f"grad/{n}" in data for n in found) > len(own) * 2
    if about["delta"]:
        with torch.no_grad():
            vectors = objective.template_vectors(batch, ctx)
        n = mask.sum(-1) - len(data["template"])
        for view in range(ids.shape[1]):
            second = about["two_templates"] and view == 1
            close(vectors[:, view], data["delta2" if second else "delta"][n[:, view]], 1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_template_vectors_by_a_slow_loop(kind, tiny_bert, tmp_path):
    """One text at a time: a pass of the template's ids at the positions that they have around the text."""
    backbone = save_tiny(kind, tiny_bert, tmp_path, masked=True, initializer_range=0.3)
    encoder, objective = set_up(backbone, PromptBERT(), pooler="mask", template=A)
    batch = collated(encoder, TEXTS, InTemplates(views=TextViews(max_length=16), templates=[B]), 16)
    first = 0 if encoder.backbone.config.model_type == "bert" else encoder.backbone.config.pad_token_id + 1
    with torch.no_grad():
        got = objective.template_vectors(batch, StepContext(encoder=encoder))
        for row in range(len(TEXTS)):
            for view in range(2):
                ids = batch.input_ids[row, view][batch.attention_mask[row, view] == 1].tolist()
                n = len(ids) - 7
                kept = [i for i in range(len(ids)) if not 3 <= i < 3 + n]  # [CLS] and two words before, 3 + [SEP] after
                states = encoder.backbone(
                    input_ids=torch.tensor([[ids[i] for i in kept]]),
                    attention_mask=torch.ones(1, len(kept)),  # without one, a jump of positions starts another text
                    position_ids=torch.tensor([kept]) + first,
                ).last_hidden_state
                assert torch.allclose(got[row, view], states[0, kept.index(len(ids) - 3)], atol=1e-6)


def test_refusals(tiny_bert):
    refuses(
        r"objective\.head is masked_lm, and the encoder has a head",
        PromptBERT(head="masked_lm").setup,
        Encoder(tiny_bert, pooler="mask", template=A, head="mlp"),
    )
    prompted = Encoder(tiny_bert, pooler="mask", template=A, adapter=SoftPrompts(length=2))
    refuses("cannot move the positions of the template: its layers see soft prompts", PromptBERT().setup, prompted)
    PromptBERT(delta="none").setup(prompted)
