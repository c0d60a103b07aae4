"""What every objective must satisfy where there is little to compare: a finite loss and gradient, or an error.

Vectors of zeros, such as a ReLU head makes, have no direction; their gradient must not come from a division by a floor.
"""

import re

import numpy as np
import pytest
import torch

from cse import UserError
from cse.encoder.heads import Dense
from cse.training.learner import Encoded, Learner
from tests.objectives.contract import batch_of, build, case_of, context, every_objective, gradients

CASES = ("batch of 2", "dimension 1", "equal vectors", "equal scores", "zeros")
OF_VECTORS = ("bfloat16", "opposite vectors", "a zero")  # texts cannot bring these about
TEXTS = ("input_ids", "attention_mask", "masked_ids", "mlm_labels", "span_mask", "span_group")
SCORES = ("score", "label", "relevance", "teacher")


def appended(case: str) -> list[torch.nn.Module]:
    """What the encoder exports its vectors through."""
    if case == "dimension 1":
        return [Dense(16, 1, activation="identity")]
    return [Dense.of(np.zeros((16, 16)), np.zeros(16))] if case == "zeros" else []


def rows_in(case: str, batch):
    """The batch of a case; its texts stay different by their ids, so that they are candidates of each other."""
    tensors = batch.tensors()
    if case.startswith("batch of"):
        tensors = {n: t[: int(case[-1])] for n, t in tensors.items()}
    if case == "equal vectors":
        tensors |= {n: tensors[n][:1, :1].expand_as(tensors[n]) for n in TEXTS}
    if case == "equal scores":
        tensors |= {n: tensors[n][:1].expand_as(tensors[n]) for n in SCORES}
    return batch.with_tensors(tensors)


def vectors_in(case: str, vectors: torch.Tensor) -> torch.Tensor:
    """(B, V, D) the vectors of a case."""
    vectors = vectors.detach().clone()
    if case == "a zero":
        vectors[0, 0] = vectors[1, -1] = 0
    if case == "opposite vectors":
        vectors[:, 1] = -vectors[:, 0]
    return (vectors.bfloat16() if case == "bfloat16" else vectors).requires_grad_()


@pytest.mark.parametrize("case", CASES + OF_VECTORS)
@every_objective
def test_loss_and_gradient_are_finite_or_the_case_is_refused(name, case, tiny_bert):
    """A refusal is declared in the objective's test file: `Case(refuses={"batch of 2": "what the error says"})`."""
    refused = case_of(name, tiny_bert).refuses.get(case)
    if refused is None:
        assert_finite(name, case, tiny_bert)
        return
    with pytest.raises((ValueError, UserError), match=re.escape(refused)):
        assert_finite(name, case, tiny_bert)


def assert_finite(name: str, case: str, backbone: str) -> None:
    encoder, objective = (module.float() for module in build(name, backbone, appended=appended(case)))
    if case in OF_VECTORS and not objective.uses_views:
        pytest.skip("it encodes the views itself")
    batch, learner = rows_in(case, batch_of(name, encoder)), Learner(encoder, objective)
    encoded = learner.encode(batch)
    if case in OF_VECTORS:
        encoded = Encoded(*[vectors_in(case, encoded.embedding)] * 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "bfloat16"):
        loss = learner(batch, context(encoder, batch), encoded)[1].loss
    loss.backward()
    found = [*gradients(learner).values(), *(x.grad.double().numpy() for x in encoded if x.is_leaf and x.shape[-1])]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in found)
    assert max(np.abs(gradient).max() for gradient in found) < 1e6
