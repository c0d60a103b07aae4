"""What every objective must satisfy. The tests find objectives by walking the package, and a case in its test file."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

import cse.objectives
from cse import EuCLIP, LossOutput, MaskedLM, Objective, SimCSE, Triplet, UserError, WeightedSum
from cse.objectives.parts.wrapper import Wrapper
from cse.seeding import torch_rng
from cse.teachers.copy import Average
from cse.training.learner import Learner
from tests.objectives.contract import (
    OBJECTIVES,
    ROWS,
    Scaled,
    assert_absent_views_do_not_count,
    assert_nothing_without_weight,
    assert_rows_count,
    batch_of,
    build,
    case_of,
    context,
    defined_in,
    every_objective,
    gradients,
    loaded,
    modules,
    result_of,
    rows_of,
)

FLAGS = [name for name in Objective.__annotations__ if not name.startswith("_")]
WRAPPERS = sorted(name for name, c in OBJECTIVES.items() if issubclass(c, Wrapper))


class Flagged(MaskedLM):
    """An objective none of whose flags is the default."""

    encodes_views, similarity, note, labels = True, "euclidean", "Compare by distance.", 3


@pytest.mark.parametrize("module", modules())
def test_every_file_can_be_imported_and_defines_an_objective(module):
    importlib.import_module(module)
    assert defined_in(module)


def test_no_file_is_missed():
    files = [p for p in Path(cse.objectives.__path__[0]).glob("*.py") if p.stem != "__init__"]
    assert len(modules()) == len(files) > 0


def test_who_writes_no_test_file_or_no_case_is_told_what_to_write(monkeypatch, tiny_bert):
    class Cascade(Scaled):
        """An objective with required arguments."""

    monkeypatch.setitem(OBJECTIVES, "Cascade", Cascade)
    for module, fix in (
        ("cse.objectives.cascade", r"write tests/objectives/test_cascade\.py"),
        ("cse.objectives.masked_lm", r"return Case\(\{'term': \.\.\., 'factor': \.\.\.\}\)"),
    ):
        Cascade.__module__ = module
        with pytest.raises(pytest.fail.Exception, match=fix):
            case_of("Cascade", tiny_bert)
    assert defined_in("cse.objectives.cascade") == []  # a file that cannot be imported fails a test of its own


@every_objective
def test_loss_is_a_finite_scalar_and_its_gradient_reaches_the_encoder(name, tiny_bert):
    encoder, objective = build(name, tiny_bert)
    batch = batch_of(name, encoder)
    output = Learner(encoder, objective)(batch, context(encoder, batch))[1]
    assert output.loss.shape == ()
    assert torch.isfinite(output.loss)
    output.loss.backward()
    assert max(p.grad.abs().max() for p in encoder.parameters() if p.grad is not None) > 1e-6
    unused = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []  # DDP waits for the gradient of every weight
    for key, value in output.metrics.items():
        assert not value.requires_grad, f"{key} is not detached"
        assert value.numel() == 1, key


@every_objective
def test_the_order_of_the_rows_does_not_matter(name, tiny_bert):
    """What an objective draws from the step's generator belongs to the batch, not to a row: there is no exception."""
    encoder, objective = build(name, tiny_bert)
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
    order = torch.randperm(ROWS, generator=torch_rng("order"))
    moved = batch.with_tensors({n: t[order] for n, t in batch.tensors().items()})
    losses = [learner(b, context(encoder, b))[1].loss.item() for b in (batch, moved)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@every_objective
def test_what_is_read_is_required_and_named_where_it_is_missing(name, tiny_bert):
    """With the fields of `requires` alone it works, so `requires` says all."""
    encoder, objective = build(name, tiny_bert)
    learner, tensors = Learner(encoder, objective), batch_of(name, encoder).tensors()
    kept = {n: t for n, t in tensors.items() if n in {"input_ids", "attention_mask", *objective.requires}}
    bare = batch_of(name, encoder).with_tensors(kept)
    assert torch.isfinite(learner(bare, context(encoder, bare))[1].loss)
    for missing in objective.requires:
        rest = bare.with_tensors({n: t for n, t in tensors.items() if n != missing})
        with pytest.raises((ValueError, UserError), match=missing):
            learner(rest, context(encoder, rest))


@every_objective
def test_weights_of_one_are_no_weights_and_others_count(name, tiny_bert):
    """Where `weighs_rows` says so; otherwise weights are ignored, and a run with weights is refused."""
    encoder, objective = build(name, tiny_bert)
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
    ones, none = batch.tensors() | {"weight": torch.ones(ROWS)}, batch.tensors()
    del none["weight"]
    given, equal, without = (
        learner(b, context(encoder, b))[1].loss.item() for b in (batch, *map(batch.with_tensors, (ones, none)))
    )
    assert equal == pytest.approx(without, rel=1e-12)
    assert (abs(given - without) > 1e-6) == objective.weighs_rows


class Nothing(Objective):
    """A loss of 0: what is left of a wrapper around it is the wrapper's own."""

    weighs_rows, contrasts = True, False

    def forward(self, views, batch, ctx):
        return LossOutput(0 * (views.embedding.sum() + views.anchor.sum()))


@every_objective
def test_without_weight_there_is_no_gradient(name, tiny_bert):
    """What ignores the weights, such as a penalty beside a term, is left if all of them are 0."""
    encoder, objective = build(name, tiny_bert)
    if not objective.weighs_rows:
        pytest.skip("it ignores weights")
    assert_nothing_without_weight(encoder, objective, batch_of(name, encoder))


@every_objective
def test_a_row_of_weight_2_is_two_rows_and_one_of_weight_0_none(name, tiny_bert):
    """Where rows do not serve each other as candidates; of a wrapper it is its own part, around a loss of 0."""
    encoder, objective = build(name, tiny_bert, around(name, tiny_bert, Nothing))
    if objective.contrasts or not objective.weighs_rows:
        pytest.skip("it contrasts rows, or ignores weights")
    assert_rows_count(lambda: build(name, tiny_bert, around(name, tiny_bert, Nothing)), batch_of(name, encoder))


@every_objective
def test_views_that_do_not_exist_do_not_count_or_are_refused_by_name(name, tiny_bert):
    case, (encoder, objective) = case_of(name, tiny_bert), build(name, tiny_bert)
    even, uneven = (rows_of(tiny_bert, max(3, case.texts), case.teacher, e, 0, ROWS) for e in (True, False))
    if case.even:
        with pytest.raises(ValueError, match=rf"{name} needs the same number .* \(Batch.view_mask\)"):
            result_of(encoder, objective, uneven)
        return
    if case.texts == 2:
        try:
            result_of(encoder, objective, even)
        except ValueError:
            pytest.skip("it takes rows of two texts")
    assert_absent_views_do_not_count(lambda: build(name, tiny_bert), uneven)


NOT_A_MEAN = {
    "AlignUniform": "uniformity is the logarithm of a sum over pairs of rows, each with the product of its weights",
    "AnglE": "it sums over pairs of rows, each with the product of its weights",
    "BottleneckDecoder": "it is a mean over predicted tokens, of which rows have unequal numbers",
    "CoCondenser": "two of its terms are means over masked tokens, of which rows have unequal numbers",
    "CoSENT": "it sums over pairs of rows, each with the product of its weights",
    "DCLW": "the factor of a positive is relative to the weighted mean over the batch",
    "DenoSent": "one of its terms is a mean over tokens, of which rows have unequal numbers",
    "DCLR": "its noise follows the gradient of the weighted loss",
    "MaskedLM": "it is a mean over masked tokens, of which rows have unequal numbers",
    "MiCSE": "the share of cells is a mean over rows as well, and its square is a factor of another mean",
    "Scaled": "it is around MaskedLM here",
    "SpreadOut": "a square of a mean over pairs of rows, each with the product of its weights",
    "WeightedSum": "one of its terms is MaskedLM here",
}


@every_objective
def test_the_loss_is_the_weighted_mean_of_the_losses_of_rows(name, tiny_bert):
    """With all weight on row i it is l_i, and with weights w it is sum_i w_i l_i / sum_i w_i."""
    encoder, objective = build(name, tiny_bert)
    if name in NOT_A_MEAN or not objective.weighs_rows:
        pytest.skip(NOT_A_MEAN.get(name, "it ignores weights"))
    case, learner = case_of(name, tiny_bert), Learner(encoder, objective)
    batch = rows_of(tiny_bert, case.texts, case.teacher, True, 0, ROWS)  # without hard negatives, some skip a row
    weight = batch.tensors()["weight"].double()

    def loss(weights):
        given = batch.with_tensors(batch.tensors() | {"weight": weights})
        return learner.loss(given, encoded, context(encoder, given)).loss.item()

    with torch.no_grad():
        encoded = learner.encode(batch)
        each = torch.tensor([loss(row) for row in torch.eye(ROWS, dtype=torch.float64)])
        assert loss(weight) == pytest.approx(((weight * each).sum() / weight.sum()).item(), rel=1e-6, abs=1e-9)


@every_objective
def test_labels_count_where_they_are_required_and_nowhere_else(name, tiny_bert):
    encoder, objective = build(name, tiny_bert)
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
    label = batch.tensors()["label"]
    other = batch.with_tensors(batch.tensors() | {"label": torch.where(label == 0, 1, label)})
    losses = [learner(b, context(encoder, b))[1].loss.item() for b in (batch, other)]
    assert (abs(losses[0] - losses[1]) > 1e-6) == ("label" in objective.requires)


def around(name: str, backbone: str, term: type[Objective]) -> Objective | None:
    """An objective whose terms are of this class; None for one that takes no terms."""
    arguments = case_of(name, backbone).arguments
    terms = {k: term() for k, v in arguments.items() if isinstance(v, Objective)}
    for key, value in arguments.items():
        if isinstance(value, list) and value and all(isinstance(each, Objective) for each in value):
            terms[key] = [term() for _ in value]
    return OBJECTIVES[name](**arguments | terms) if terms else None


def assert_flags(wrapper: Objective, term: Objective) -> None:
    """A wrapper of one term, or of several that are alike, has its flags."""
    for flag in FLAGS:
        assert getattr(wrapper, flag) == getattr(term, flag), f"{flag}: call __post_init__ of Wrapper"


@every_objective
def test_a_wrapper_inherits_the_flags_of_its_terms(name, tiny_bert):
    """Built around objectives all of whose flags differ from the defaults."""
    wrapper = around(name, tiny_bert, Flagged)
    assert (wrapper is not None) == (name in WRAPPERS), "an objective around others is a Wrapper"
    if wrapper is None:
        pytest.skip("it wraps no objective")
    assert_flags(wrapper, Flagged())


def test_no_flag_of_the_term_of_that_test_is_the_default():
    term = Flagged()
    assert [flag for flag in FLAGS if getattr(term, flag) == getattr(Objective, flag)] == []


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_term_without_vectors_is_refused_where_vectors_are_read(name, tiny_bert):
    """By the base, so that the author of a wrapper need not think of it."""
    wrapper, encoder = around(name, tiny_bert, MaskedLM), loaded(tiny_bert)
    if OBJECTIVES[name].needs_vectors:
        with pytest.raises(UserError, match=f"term of {name} is MaskedLM, which does not read .*\nfix: add"):
            wrapper.setup(encoder)
    else:
        wrapper.setup(encoder)


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ([SimCSE(), EuCLIP()], "SimCSE: cosine, EuCLIP: euclidean"),
        ([MaskedLM(), Triplet(), Triplet(distance="cosine")], "Triplet: euclidean, Triplet: cosine"),
    ],
)
def test_terms_of_different_similarity_are_refused(terms, named):
    """As the objectives of a mixture are; one that trains no sentence vectors shapes none."""
    with pytest.raises(UserError, match=f"the terms of WeightedSum shape different similarities: {named}\nfix: "):
        WeightedSum(terms=terms, weights=[1.0] * len(terms))
    assert WeightedSum(terms=[MaskedLM(), EuCLIP()], weights=[1.0, 1.0]).similarity == "euclidean"


@every_objective
def test_bfloat16_stays_finite(name, tiny_bert):
    encoder, objective = build(name, tiny_bert)
    learner, batch = Learner(encoder, objective).float(), batch_of(name, encoder)
    with torch.autocast("cpu", torch.bfloat16):
        output = learner(batch, context(encoder, batch))[1]
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert output.loss.dtype == torch.float32
    assert all(np.isfinite(g).all() for g in gradients(learner).values())


@every_objective
def test_state_holds_no_copy_of_the_encoder(name, tiny_bert):
    """Neither the encoder's own weights nor a frozen copy; one that is trained, or follows, is a model of its own."""
    encoder, objective = build(name, tiny_bert)
    own = list(encoder.parameters())
    shared = {p.data_ptr() for p in own}
    following = {p for module in objective.modules() if isinstance(module, Average) for p in module.parameters()}
    trained = {p.data_ptr() for p in objective.parameters() if p.requires_grad or p in following}
    for key, value in objective.state_dict().items():
        assert value.data_ptr() not in shared, key
        if value.data_ptr() not in trained and value.dim() > 1:
            assert not any(value.shape == p.shape and torch.allclose(value, p / 5) for p in own), key
            assert not any(value.shape == p.shape and torch.allclose(value, p) for p in own), key
