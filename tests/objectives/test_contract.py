"""What every objective must satisfy. The tests find objectives by walking the package, and a case in its test file."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

import cse.objectives
from cse import distributed
from cse.batch import Batch, Example, LossOutput
from cse.data.collators import TextViews
from cse.data.masked import Masked
from cse.data.spans import RandomSpans
from cse.data.tokens import TokenStore
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import Objective, StepContext
from cse.objectives import blocks
from cse.objectives.masked_lm import MaskedLM
from cse.seeding import seed_dropout, torch_rng
from cse.teachers.copy import Average
from cse.training import gradcache
from cse.training.learner import Learner
from tests.conftest import WORDS
from tests.objectives.helpers import Case

ROWS = 12
TEXTS = [" ".join(WORDS[(i * 5 + j * (i + 3)) % len(WORDS)] for j in range(3 + i % 4)) for i in range(ROWS * 4)]

# What several methods use.
SHARED = {"blocks", "candidates", "decoders", "functional", "layouts", "spans", "taught", "whitening"}
FLAGS = ("requires", "cacheable", "contrasts", "uses_views", "encodes_views", "weighs_rows")


class Flagged(MaskedLM):
    """An objective none of whose flags is the default."""

    encodes_views = True


class Scaled(Objective):
    """A wrapper with required arguments: a case of its own, around an objective whose flags are not the defaults."""

    def __init__(self, *, term: Objective, factor: float) -> None:
        super().__init__()
        self.term, self.factor = term, factor
        self.inherit_flags(term)

    def setup(self, encoder):
        self.term.setup(encoder)

    def forward(self, views, batch, ctx):
        output = self.term(views, batch, ctx)
        return LossOutput(self.factor * output.loss, output.metrics)


def contract_case(backbone: str) -> Case:
    return Case({"term": MaskedLM(), "factor": 2.0})


def modules() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(cse.objectives.__path__, "cse.objectives.") if not m.ispkg]
    return [name for name in names if name.rpartition(".")[2] not in SHARED]


def defined_in(module: str) -> list[type[Objective]]:
    """The objectives of a file; none if it cannot be imported, which fails a test of its own."""
    try:
        members = vars(importlib.import_module(module)).values()
    except Exception:
        return []
    found = [c for c in members if inspect.isclass(c) and issubclass(c, Objective) and c.__module__ == module]
    return [c for c in found if not inspect.isabstract(c)]


OBJECTIVES = {c.__name__: c for module in modules() for c in defined_in(module)} | {"Scaled": Scaled}
every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))


def case_of(name: str, backbone: str) -> Case:
    """What the objective's own test file says about it, or the defaults."""
    module = OBJECTIVES[name].__module__
    home = module if module == __name__ else f"tests.objectives.test_{module.rpartition('.')[2]}"
    if importlib.util.find_spec(home) is None:
        pytest.fail(
            f"{name} has no test file\nfix: write {home.replace('.', '/')}.py with tests of the loss against an "
            "independent computation",
            pytrace=False,
        )
    declared = getattr(importlib.import_module(home), "contract_case", None)
    case = Case() if declared is None else declared(backbone)
    needed = [
        p.name
        for p in inspect.signature(OBJECTIVES[name]).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    ]
    missing = [argument for argument in needed if argument not in case.arguments]
    if missing:
        pytest.fail(
            f"{name} needs arguments that the contract tests do not know: {', '.join(missing)}\n"
            f"fix: in {home.replace('.', '/')}.py write\n"
            "    from tests.objectives.helpers import Case\n\n"
            "    def contract_case(backbone):  # the folder of a tiny BERT\n"
            f"        return Case({{{', '.join(f'{argument!r}: ...' for argument in missing)}}})",
            pytrace=False,
        )
    return case


@functools.cache
def loaded(backbone: str) -> Encoder:
    """An encoder without dropout, whose sentences are not all alike; it stays as it is."""
    encoder = Encoder(backbone, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
    for weight in encoder.parameters():
        weight.data *= 5
    return encoder


def build(name: str, backbone: str) -> tuple[Encoder, Objective]:
    """A copy of the loaded encoder, and the objective, in float64."""
    seed_dropout("contract", name)
    objective = OBJECTIVES[name](**case_of(name, backbone).arguments)
    whole = loaded(backbone)
    encoder = copy.deepcopy(whole, {id(whole.tokenizer): whole.tokenizer})
    objective.setup(encoder)
    return encoder.double().train(), objective.double().train()


def batch_of(name: str, encoder: Encoder, part: slice = slice(None)) -> Batch:
    """Rows with every optional field that the shipped collators and data can give, twice the same text among them."""
    case = case_of(name, encoder.source)
    return rows_of(encoder.source, case.texts, case.teacher, *part.indices(ROWS)[:2])


@functools.cache
def rows_of(backbone: str, width: int, taught: int, start: int, stop: int) -> Batch:
    """Rows `start` to `stop`, each with `width` texts and with `taught` numbers of a teacher."""
    texts = TEXTS[: ROWS * width]
    texts[width * (ROWS - 1)] = texts[0]  # the first and the last row have one anchor text
    rows = [tuple(texts[i : i + width]) for i in range(0, len(texts), width)]
    examples = [
        Example(
            row,
            score=(i % 5) / 4,
            label=i % 3,
            row_id=i,
            weight=(1 + i % 4) / 2,
            relevance=((1 + i % 5) / 4,),
            teacher=tuple(((3 * i + 5 * j) % 7 - 3) / 4 for j in range(taught)),
        )
        for i, row in enumerate(rows)
    ]
    masked = Masked(views=TextViews(max_length=12), probability=0.4)
    collator = RandomSpans(views=masked, smallest=(1, 2), largest=(1, 3), per_size=2)
    collator.setup(TokenStore.build(TEXTS, loaded(backbone).tokenizer, 12), 1)
    batch = collator(examples[start:stop])
    return replace(batch, span_group=(torch.arange(4) % 3).expand(batch.span_mask.shape[:3]).contiguous())


def context(encoder: Encoder, batch: Batch) -> StepContext:
    rows = distributed.local_rows(batch.size)
    return StepContext(
        encoder=encoder,
        step=3,
        max_steps=10,
        generator=torch_rng("contract"),
        local_rows=rows,
        texts=list(dict.fromkeys(TEXTS)),
    )


def gradients(learner: torch.nn.Module) -> dict[str, np.ndarray]:
    return {n: p.grad.double().numpy() for n, p in learner.named_parameters() if p.grad is not None}


def assert_equal(got: dict, want: dict) -> None:
    """Gradients agree to 1e-6, and are large enough for that to mean something."""
    assert got.keys() == want.keys()
    assert max(np.abs(g).max() for g in want.values()) > 1e-3
    assert max(np.abs(got[n] - want[n]).max() for n in want) < 1e-6


@pytest.mark.parametrize("module", modules())
def test_every_file_can_be_imported_and_defines_an_objective(module):
    importlib.import_module(module)
    assert defined_in(module)


def test_no_file_is_missed():
    files = [p for p in Path(cse.objectives.__path__[0]).rglob("*.py") if p.stem not in {"__init__", *SHARED}]
    assert len(modules()) == len(files) > 0


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
def test_cached_gradients_are_the_direct_ones(name, tiny_bert):
    encoder, objective = build(name, tiny_bert)
    if not objective.cacheable:
        assert objective.cacheable is False
        pytest.skip("the loss depends on more than the views")
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
    learner(batch, context(encoder, batch))[1].loss.backward()
    want = gradients(learner)
    learner.zero_grad()
    gradcache.backward(
        Accelerator(cpu=True), learner, batch, context(encoder, batch), chunk_size=5, seed=lambda i: None
    )
    assert_equal(gradients(learner), want)


WHOLE = {
    "AnglE": "it compares all ordered pairs of scored pairs",
    "ClipKD": "a teacher's matrix is compared with that of the batch, in both directions",
    "CoSENT": "it compares all ordered pairs of scored pairs",
    "ConGraT": "a similarity counts by its rank in its row and in its column",
    "DCLR": "noise ascends on the loss of all rows, and a complement judges all pairs",
    "RankCSE": "the matrix is compared with its transpose, and with those of teachers",
}


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, and no room for a whole matrix."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 500)
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 500)


@every_objective
def test_blocks_of_rows_are_the_whole_matrix(name, tiny_bert, monkeypatch):
    """Also under gradient caching by tokens. What needs the whole matrix is listed with the reason, and refuses."""
    encoder, objective = build(name, tiny_bert)
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
    output = learner(batch, context(encoder, batch))[1]
    output.loss.backward()
    want, metrics = gradients(learner), {n: float(m) for n, m in output.metrics.items()}
    learner.zero_grad()
    small_blocks(monkeypatch)
    if name in WHOLE:
        with pytest.raises(ValueError, match="needs the whole matrix"):
            learner(batch, context(encoder, batch))
        return
    if objective.cacheable:
        options = {"chunk_tokens": 40, "seed": lambda i: None}
        again = gradcache.backward(Accelerator(cpu=True), learner, batch, context(encoder, batch), **options)[1]
    else:
        again = learner(batch, context(encoder, batch))[1]
        again.loss.backward()
    assert again.loss.item() == pytest.approx(output.loss.item(), rel=1e-10)
    assert {n: float(m) for n, m in again.metrics.items()} == pytest.approx(metrics, rel=1e-6)
    got = gradients(learner)
    assert got.keys() == want.keys()
    assert max(np.abs(got[n] - want[n]).max() for n in want) < 1e-10


@every_objective
def test_a_missing_field_is_named(name, tiny_bert):
    encoder, objective = build(name, tiny_bert)
    batch = batch_of(name, encoder)
    for missing in objective.requires:
        rest = batch.with_tensors({n: t for n, t in batch.tensors().items() if n != missing})
        with pytest.raises((ValueError, UserError), match=missing):
            Learner(encoder, objective)(rest, context(encoder, rest))


@every_objective
def test_what_is_read_is_required(name, tiny_bert):
    """With the fields of `requires` alone it works, so `requires` says all."""
    encoder, objective = build(name, tiny_bert)
    batch = batch_of(name, encoder)
    kept = {"input_ids", "attention_mask", *objective.requires}
    bare = batch.with_tensors({n: t for n, t in batch.tensors().items() if n in kept})
    assert torch.isfinite(Learner(encoder, objective)(bare, context(encoder, bare))[1].loss)


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
    "WeightedSum": "one of its terms is MaskedLM here",
}


@every_objective
def test_the_loss_is_the_weighted_mean_of_the_losses_of_rows(name, tiny_bert):
    """With all weight on row i it is l_i, and with weights w it is sum_i w_i l_i / sum_i w_i."""
    encoder, objective = build(name, tiny_bert)
    if name in NOT_A_MEAN or not objective.weighs_rows:
        pytest.skip(NOT_A_MEAN.get(name, "it ignores weights"))
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
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


def assert_flags(wrapper: Objective, term: Objective) -> None:
    """A wrapper of one term, or of several that are alike, has its flags."""
    for flag in FLAGS:
        assert getattr(wrapper, flag) == getattr(term, flag), f"{flag}: call inherit_flags(*terms) in __init__"


@every_objective
def test_a_wrapper_inherits_the_flags_of_its_terms(name, tiny_bert):
    """Built around objectives all of whose flags differ from the defaults."""
    arguments = case_of(name, tiny_bert).arguments
    around = {k: Flagged() for k, v in arguments.items() if isinstance(v, Objective)}
    for key, value in arguments.items():
        if isinstance(value, list) and value and all(isinstance(term, Objective) for term in value):
            around[key] = [Flagged() for _ in value]
    if not around:
        pytest.skip("it wraps no objective")
    assert_flags(OBJECTIVES[name](**arguments | around), Flagged())


@pytest.mark.parametrize("flag", FLAGS)
def test_a_wrapper_that_forgets_a_flag_is_found(flag):
    wrapper = Scaled(term=Flagged(), factor=2.0)
    assert {f: getattr(wrapper, f) for f in FLAGS} == {
        "requires": {"masked_ids", "mlm_labels"},
        "cacheable": False,
        "contrasts": False,
        "uses_views": False,
        "encodes_views": True,
        "weighs_rows": True,
    }
    setattr(wrapper, flag, getattr(Objective, flag))
    with pytest.raises(AssertionError, match=flag):
        assert_flags(wrapper, Flagged())


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


def loss_and_gradients(rank: int, backbone: str, name: str, small: bool = False) -> tuple[float, dict]:
    """An objective's loss on the rows of all processes, and every weight's gradient; `small`: in blocks of rows."""
    encoder, objective = build(name, backbone)
    each = ROWS // distributed.world_size()
    batch = batch_of(name, encoder, slice(rank * each, (rank + 1) * each))
    learner = Learner(encoder, objective)
    model = learner if distributed.world_size() == 1 else DistributedDataParallel(learner, broadcast_buffers=False)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            small_blocks(patch)
        if small and objective.cacheable:
            options = {"chunk_tokens": 40, "seed": lambda i: None}
            loss = gradcache.backward(Accelerator(cpu=True), model, batch, context(encoder, batch), **options)[1].loss
        else:
            loss = model(batch, context(encoder, batch))[1].loss
            loss.backward()
    return loss.item(), gradients(learner)


@every_objective
def test_two_processes_are_one(name, two_processes, tiny_bert):
    want, gradient = loss_and_gradients(0, tiny_bert, name)
    for loss, found in two_processes(loss_and_gradients, tiny_bert, name):
        assert loss == pytest.approx(want, rel=1e-6)
        assert_equal(found, gradient)


@pytest.mark.parametrize("name", ["SimCSE", "DCLW", "EuCLIP", "GTE", "InfoLOOB", "Momentum"])
def test_two_processes_share_the_blocks_of_rows(name, two_processes, tiny_bert):
    """Anchors, all views, a weight of the objective's own, both texts of a row, a second matrix, and a queue."""
    want, gradient = loss_and_gradients(0, tiny_bert, name)
    for loss, found in two_processes(loss_and_gradients, tiny_bert, name, True):
        assert loss == pytest.approx(want, rel=1e-10)
        assert_equal(found, gradient)


@pytest.mark.slow
@every_objective
def test_four_processes_are_one_whole_and_in_blocks(name, four_processes, two_processes, tiny_bert):
    """The blocks are those of cached gradients, where the objective allows it."""
    want, gradient = loss_and_gradients(0, tiny_bert, name)
    for processes in (two_processes, four_processes):
        for small in (False, True)[: 1 if name in WHOLE else 2]:
            for loss, found in processes(loss_and_gradients, tiny_bert, name, small):
                assert loss == pytest.approx(want, rel=1e-6)
                assert_equal(found, gradient)
