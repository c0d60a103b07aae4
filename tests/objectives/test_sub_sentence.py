"""SubSentence against its authors' program (oracles), limits, and what processes share."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cse import Batch, Encoder, Propositions, SpanViews, StepContext, SubSentence
from cse.data.marked import grouped
from cse.data.tokens import TokenStore
from cse.encoder.heads import Dense, Post
from cse.encoder.poolers import span_means
from cse.training.learner import Learner
from tests.cases import cases, load
from tests.objectives.helpers import agrees, close, set_up

ROWS = [
    {
        "text_a": "the cat sat and a dog ran",
        "text_b": "a dog ran fast on the mat",
        "propositions_a": [[[0, 11]], [[16, 25]]],
        "propositions_b": [[[0, 14]], [[2, 5], [18, 25]]],
        "equal": [[1, 0]],
    },
    {
        "text_a": "red sun on a blue house",
        "text_b": "the sun is red , the house is blue",
        "propositions_a": [[[0, 7]], [[13, 23]], [[4, 7]]],
        "propositions_b": [[[4, 14]], [[21, 34]]],
        "equal": [[0, 0], [1, 1]],
    },
]


def batch_of_case(about, data, groups):
    """The sentences of a case as rows of two views, whose ids are the numbers of its sentences."""
    counts = data["propositions_per_sentence"].tolist()
    rows, length = len(counts) // 2, data["token_states"].shape[1]
    masks = data["proposition_mask"].bool().split(counts)
    span_mask = torch.zeros(rows, 2, max(counts), length, dtype=torch.bool)
    span_group = torch.zeros(rows, 2, max(counts), dtype=torch.int64)
    for row, equal in enumerate(about["positive_pairs"]):
        first, second = counts[row], counts[rows + row]
        numbers = grouped(first, second, equal, groups)
        for view, found in enumerate((numbers[:first], numbers[first:])):
            span_mask[row, view, : len(found)] = masks[view * rows + row]
            span_group[row, view, : len(found)] = torch.tensor(found)
    ids = torch.arange(2 * rows).view(2, rows).T[..., None].expand(-1, -1, length).contiguous()
    return Batch(ids, torch.ones_like(ids), span_mask=span_mask, span_group=span_group)


def head_of_case(data):
    (hidden, width), out = data["w1"].shape, len(data["w2"])
    head = Post(Dense(width, hidden, activation="relu"), Dense(hidden, out, activation="identity"))
    for dense, i in zip(head, (1, 2), strict=True):
        dense.linear.load_state_dict({"weight": data[f"w{i}"], "bias": data[f"b{i}"]})
    return head


@pytest.mark.parametrize("groups", ["union", "program"])
@pytest.mark.parametrize("name", cases("subsentence", has="loss_union"))
def test_every_case(name, groups):
    about, data = load("subsentence", name)
    suffix = {"union": "_union", "program": "_code"}[groups]
    states, head = data["token_states"].requires_grad_(), head_of_case(data)
    encoder = SimpleNamespace(
        spans=lambda ids, mask, spans: (None, span_means(states[ids[:, 0]], spans)),
        output=lambda pooled: SimpleNamespace(projected=head(pooled)),
    )
    batch = batch_of_case(about, data, groups)
    output = SubSentence(temperature=about["temperature"])(None, batch, StepContext(encoder=encoder))
    agrees(output, about, data, {"token_states": states}, loss=f"loss{suffix}", suffix=suffix)
    order = [(row, view) for view in (0, 1) for row in range(batch.size)]  # the case's: first sentences first
    means = span_means(states[batch.input_ids[..., 0]].flatten(0, 1), batch.span_mask.flatten(0, 1))
    vectors, present = head(means).view(*batch.span_group.shape, -1), batch.span_mask.any(-1)
    close(torch.cat([vectors[r, v][present[r, v]] for r, v in order]), data["embedding"])


def built(folder):
    return set_up(folder, SubSentence(), scale=3, pooler="mean", head="relu_mlp", export_head=True)[0]


def batch_of(encoder, rows=ROWS):
    data = Propositions(rows)
    collator = SpanViews(max_length=20)
    collator.setup(TokenStore.build(data.unique_texts(), encoder.tokenizer, 20), 1)
    return collator([data[i] for i in range(len(data))])


def test_the_vectors_are_those_of_encode_spans(tiny_bert, tmp_path):
    """The loss by a slow loop over what the exported model gives for the character ranges."""
    encoder = built(tiny_bert).eval()
    got = SubSentence()(None, batch_of(encoder), StepContext(encoder=encoder)).loss.item()
    texts = [row[f"text_{side}"] for side in "ab" for row in ROWS]
    spans = [row[f"propositions_{side}"] for side in "ab" for row in ROWS]
    encoder.save(tmp_path)
    vectors = Encoder.load(str(tmp_path)).encode_spans(texts, spans)
    labels = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (0, 1), (0, 9), (1, 0), (1, 1)]
    unit = F.normalize(torch.cat([torch.tensor(v) for v in vectors]), dim=-1)
    losses = []
    for i, own in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        total = torch.logsumexp(torch.stack([unit[i] @ unit[j] / 0.1 for j in others]), 0)
        equal = [total - unit[i] @ unit[j] / 0.1 for j in others if labels[j] == own]
        losses += [sum(equal) / len(equal)] if equal else []
    assert got == pytest.approx(float(sum(losses) / len(losses)), rel=1e-4)


def test_the_order_of_propositions_does_not_matter_and_absent_ones_say_nothing(tiny_bert):
    encoder = built(tiny_bert).eval()
    batch = batch_of(encoder)
    want = SubSentence()(None, batch, StepContext(encoder=encoder)).loss.item()
    order = torch.tensor([2, 0, 1])
    moved = batch.with_tensors(
        batch.tensors() | {"span_mask": batch.span_mask[:, :, order], "span_group": batch.span_group[:, :, order]}
    )
    wide = batch.with_tensors(
        batch.tensors()
        | {"span_mask": F.pad(batch.span_mask, (0, 0, 0, 2)), "span_group": F.pad(batch.span_group, (0, 2), value=1)}
    )
    for one in (moved, wide):
        assert SubSentence()(None, one, StepContext(encoder=encoder)).loss.item() == pytest.approx(want, rel=1e-5)


def test_a_batch_without_propositions_has_loss_0(tiny_bert):
    encoder = built(tiny_bert)
    batch = batch_of(encoder)
    none = batch.with_tensors(batch.tensors() | {"span_mask": torch.zeros_like(batch.span_mask)})
    output = Learner(encoder, SubSentence())(none, StepContext(encoder=encoder))[1]
    output.loss.backward()
    assert output.loss.item() == 0


def ragged(rank, folder):
    """The loss and a gradient on one process of two, which have unequal numbers of propositions and tokens."""
    encoder = built(folder)
    batch = batch_of(encoder)
    own = batch.with_tensors({n: t[rank : rank + 1] for n, t in batch.tensors().items()})
    most, length = int(own.span_mask.any(-1).sum(-1).max()), int(own.attention_mask.sum(-1).max())
    cut = {"span_mask": own.span_mask[:, :, :most, :length], "span_group": own.span_group[:, :, :most]}
    cut |= {n: getattr(own, n)[..., :length] for n in ("input_ids", "attention_mask")}
    output = Learner(encoder, SubSentence())(own.with_tensors(own.tensors() | cut), StepContext(encoder=encoder))[1]
    output.loss.backward()
    return output.loss.item(), encoder.post[0].linear.weight.grad


def test_two_processes_with_unequal_numbers_of_propositions(tiny_bert, two_processes):
    encoder = built(tiny_bert)
    output = Learner(encoder, SubSentence())(batch_of(encoder), StepContext(encoder=encoder))[1]
    output.loss.backward()
    (first, one), (second, other) = two_processes(ragged, tiny_bert)
    assert first == pytest.approx(output.loss.item(), rel=1e-5)
    assert second == pytest.approx(first, rel=1e-6)
    close((one + other) / 2, encoder.post[0].linear.weight.grad)  # DDP averages
