"""SpanContrast against an independent loop (oracles), InfoNCE where they agree, and what a span may see."""

from types import SimpleNamespace

import pytest
import torch

from cse import Batch, Dropout, Encoder, EncoderOutput, RandomSpans, SpanContrast, StepContext, TextViews
from cse.encoder.heads import Dense
from cse.objectives.parts.functional import contrast, cosine_matrix
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, collated, refuses, step

TEXTS = ["the cat sat on a mat", "a dog ran fast", "red sun blue moon tree house", "slow dog"]


def contract_case(backbone):
    return Case(refuses={"dimension 1": "vectors of 1 numbers and token states of 16"})


def loss_of(objective, doc, spans, present, **fields):
    """The loss of vectors of texts (n, D) and spans (n, S, D), as if an encoder had made them."""
    mask = present[:, None, :, None]
    ids = torch.zeros(len(doc), 1, 1, dtype=torch.int64)
    encoder = SimpleNamespace(spans=lambda *_: (doc, spans), output=lambda pooled: EncoderOutput(pooled, pooled))
    return objective(None, Batch(ids, ids + 1, span_mask=mask, **fields), StepContext(encoder=encoder))


@pytest.mark.parametrize("name", cases("costa"))
def test_every_case(name):
    about, data = load("costa", name)
    doc, spans = data["doc"].requires_grad_(), data["spans"].requires_grad_()
    objective = SpanContrast(
        temperature=about["temperature"],
        denominator=about["denominator"],
        texts_as_negatives=about["other_documents_as_negatives"],
    )
    agrees(loss_of(objective, doc, spans, data["present"]), about, data, {"doc": doc, "spans": spans})


def test_the_order_and_the_absence_of_spans():
    doc, spans = torch.randn(4, 6), torch.randn(4, 3, 6)
    present = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]).bool()
    want = loss_of(SpanContrast(), doc, spans, present).loss.item()
    spans[~present] = 1e6  # what stands at the place of an absent span does not matter
    order = [2, 0, 1]
    assert loss_of(SpanContrast(), doc, spans[:, order], present[:, order]).loss.item() == pytest.approx(want, rel=1e-6)
    none = present.clone()
    none[1] = False
    output = loss_of(SpanContrast(), doc, spans, none)
    assert output.metrics["skipped"] == 1
    assert torch.isfinite(output.loss)


def test_copies_of_a_text_are_not_candidates_of_each_other():
    """As if each were in the batch without the other, whose row is skipped where it is an anchor."""
    doc, spans, present = torch.randn(3, 6), torch.randn(3, 2, 6), torch.ones(3, 2, dtype=torch.bool)
    text_id, weight = torch.tensor([[7], [8], [7]]), torch.tensor([1.0, 0.0, 0.0])
    objective = SpanContrast(texts_as_negatives=True)
    got = loss_of(objective, doc, spans, present, text_id=text_id, weight=weight).loss
    want = loss_of(objective, doc[:2], spans[:2], present[:2], weight=weight[:2]).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


def test_a_text_and_its_spans_come_from_one_pass(tiny_bert):
    """The span of all tokens of a text is the mean pooling of it, and has cosine 1 with it."""
    encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    batch = Batch(ids[:, None], mask[:, None], span_mask=mask[:, None, None].bool())
    got = SpanContrast()(None, batch, StepContext(encoder=encoder)).loss
    vectors = encoder(ids, mask).embedding
    want = contrast(cosine_matrix(vectors, vectors) / 0.1, torch.eye(len(TEXTS))).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_the_head_is_on_the_text_alone(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="cls", head="mlp", dropout=Dropout(attention=0.0, hidden=0.0))
    collator = RandomSpans(views=TextViews(max_length=12, views=1), smallest=(1,), largest=(2,), per_size=2)
    batch = collated(encoder, TEXTS, collator)
    output = step(encoder, SpanContrast(), batch)
    pooled, spans = encoder.spans(batch.input_ids[:, 0], batch.attention_mask[:, 0], batch.span_mask[:, 0])
    want = loss_of(SpanContrast(), encoder.head(pooled), spans, torch.ones(4, 2).bool(), text_id=batch.text_id).loss
    assert output.loss.item() == pytest.approx(want.item(), rel=1e-5)
    output.loss.backward()
    assert encoder.head.linear.weight.grad.abs().max() > 0


def test_refusals(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.append(Dense(16, 8))
    refuses("vectors of 8 numbers and token states of 16", SpanContrast().setup, encoder)
