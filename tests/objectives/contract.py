"""The objectives that the contract tests walk over: a case of each, its rows, its loss and gradients."""

import copy
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

import cse
import cse.objectives
from cse import distributed
from cse.data.tokens import TokenStore
from cse.objectives.parts import blocks
from cse.objectives.parts.wrapper import Wrapper
from cse.seeding import seed_dropout, torch_rng
from cse.training import gradcache
from cse.training.learner import Encoded, Learner
from tests.conftest import WORDS
from tests.objectives.helpers import Case
from tests.objectives.test_authors_programs import CASES

ROWS = 12
TEXTS = [" ".join(WORDS[(i * 5 + j * (i + 3)) % len(WORDS)] for j in range(3 + i % 4)) for i in range(ROWS * 4)]


class Scaled(Wrapper):
    """A wrapper with required arguments: a case of its own, around an objective whose flags are not the defaults."""

    needs_vectors = False

    term: cse.Objective
    factor: float

    def forward(self, views, batch, ctx):
        output = self.term(views, batch, ctx)
        return cse.LossOutput(self.factor * output.loss, output.metrics)


def contract_case(backbone: str) -> Case:
    return Case({"term": cse.MaskedLM(), "factor": 2.0})


def modules() -> list[str]:
    """The files of methods: those of the package itself, not of its `parts`."""
    return [m.name for m in pkgutil.iter_modules(cse.objectives.__path__, "cse.objectives.") if not m.ispkg]


def defined_in(module: str) -> list[type[cse.Objective]]:
    """The objectives of a file; none if it cannot be imported, which fails a test of its own."""
    try:
        members = vars(importlib.import_module(module)).values()
    except Exception:
        return []
    own = (
        c for c in members if getattr(c, "__module__", None) == module
    )  # first: Python 3.10 takes list[int] for a class
    found = [c for c in own if inspect.isclass(c) and issubclass(c, cse.Objective)]
    return [c for c in found if not inspect.isabstract(c)]


OBJECTIVES = {c.__name__: c for module in modules() for c in defined_in(module)} | {"Scaled": Scaled}
every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))


def case_of(name: str, backbone: str) -> Case:
    """What the objective's own test file, or that of the authors' programs, says about it; or the defaults."""
    module = OBJECTIVES[name].__module__
    home = module if module == __name__ else f"tests.objectives.test_{module.rpartition('.')[2]}"
    if importlib.util.find_spec(home) is None and name not in CASES:
        pytest.fail(
            f"{name} has no test file\nfix: write {home.replace('.', '/')}.py with tests of the loss against an "
            "independent computation",
            pytrace=False,
        )
    declared = None if name in CASES else getattr(importlib.import_module(home), "contract_case", None)
    case = CASES.get(name, Case()) if declared is None else declared(backbone)
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
def loaded(backbone: str) -> cse.Encoder:
    """An encoder without dropout, whose sentences are not all alike; it stays as it is."""
    encoder = cse.Encoder(backbone, pooler="mean", dropout=cse.Dropout(attention=0.0, hidden=0.0))
    for weight in encoder.parameters():
        weight.data *= 5
    return encoder


def build(
    name: str, backbone: str, objective: cse.Objective | None = None, *, appended: Sequence[torch.nn.Module] = ()
) -> tuple[cse.Encoder, cse.Objective]:
    """A copy of the loaded encoder with modules behind it, and the objective of this name, or another, in float64."""
    seed_dropout("contract", name)
    objective = OBJECTIVES[name](**case_of(name, backbone).arguments) if objective is None else objective
    whole = loaded(backbone)
    encoder = copy.deepcopy(whole, {id(whole.tokenizer): whole.tokenizer})
    if appended:
        encoder.append(*appended)
    objective.setup(encoder)
    return encoder.double().train(), objective.double().train()


def batch_of(name: str, encoder: cse.Encoder, part: slice = slice(None)) -> cse.Batch:
    """Rows with every optional field that the shipped collators and data can give, twice the same text among them."""
    case = case_of(name, encoder.source)
    return rows_of(encoder.source, case.texts, case.teacher, case.even, *part.indices(ROWS)[:2])


@functools.cache
def rows_of(backbone: str, width: int, taught: int, even: bool, start: int, stop: int) -> cse.Batch:
    """Rows `start` to `stop` of `width` texts, but for every third unless `even`, and `taught` numbers of a teacher."""
    texts = TEXTS[: ROWS * width]
    texts[width * (ROWS - 1)] = texts[0]  # the first and the last row have one anchor text
    rows = [tuple(texts[i : i + width]) for i in range(0, len(texts), width)]
    examples = [
        cse.Example(
            row[: max(2, width - 1)] if i % 3 == 1 and not even else row,
            score=(i % 5) / 4,
            label=i % 3,
            row_id=i,
            weight=(1 + i % 4) / 2,
            relevance=((1 + i % 5) / 4,),
            teacher=tuple(((3 * i + 5 * j) % 7 - 3) / 4 for j in range(taught)),
        )
        for i, row in enumerate(rows)
    ]
    masked = cse.Masked(views=cse.TextViews(max_length=12), probability=0.4)
    collator = cse.RandomSpans(views=masked, smallest=(1, 2), largest=(1, 3), per_size=2)
    collator.setup(TokenStore.build(TEXTS, loaded(backbone).tokenizer, 12), 1)
    batch = collator(examples[start:stop])
    return replace(batch, span_group=(torch.arange(4) % 3).expand(batch.span_mask.shape[:3]).contiguous())


def context(encoder: cse.Encoder, batch: cse.Batch) -> cse.StepContext:
    rows = distributed.local_rows(batch.size)
    return cse.StepContext(
        encoder=encoder,
        step=3,
        max_steps=10,
        generator=torch_rng("contract"),
        local_rows=rows,
        texts=list(dict.fromkeys(TEXTS)),
    )


def gradients(learner: torch.nn.Module) -> dict[str, np.ndarray]:
    return {n: p.grad.double().numpy() for n, p in learner.named_parameters() if p.grad is not None}


def result_of(encoder: cse.Encoder, objective: cse.Objective, batch: cse.Batch) -> tuple[float, dict]:
    """The loss of a batch, and every weight's gradient."""
    learner = Learner(encoder, objective)
    loss = learner(batch, context(encoder, batch))[1].loss
    loss.backward()
    return loss.item(), gradients(learner)


def assert_nothing_without_weight(encoder: cse.Encoder, objective: cse.Objective, batch: cse.Batch) -> None:
    """Where all weights are 0, loss and gradient are."""
    loss, gradient = result_of(encoder, objective, batch.with_tensors(batch.tensors() | {"weight": torch.zeros(ROWS)}))
    assert loss == 0
    assert not any(g.any() for g in gradient.values())


def assert_rows_count(fresh: Callable[[], tuple[cse.Encoder, cse.Objective]], batch: cse.Batch) -> None:
    """The loss and its gradient with weights are those of as many copies of each row, without weights."""
    counts = torch.tensor([2, 1, 1, 0, 3, 1, 0, 1, 1, 1, 2, 0])
    rows = torch.arange(ROWS).repeat_interleave(counts)
    copied = batch.with_tensors({n: t[rows] for n, t in batch.tensors().items() if n != "weight"})
    weighted = batch.with_tensors(batch.tensors() | {"weight": counts.float()})
    (loss, gradient), (want, of_copies) = (result_of(*fresh(), each) for each in (weighted, copied))
    assert loss == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert gradient.keys() == of_copies.keys()
    assert max(np.abs(gradient[n] - of_copies[n]).max() for n in gradient) < 1e-9


def assert_absent_views_do_not_count(fresh: Callable[[], tuple[cse.Encoder, cse.Objective]], batch: cse.Batch) -> None:
    """Their vectors have no gradient, and with other texts in their places nothing changes."""
    encoder, objective = fresh()
    learner, absent, tensors = Learner(encoder, objective), ~batch.view_mask, batch.tensors()
    if objective.uses_views:
        encoded = Encoded(*(x.detach().requires_grad_() for x in learner.encode(batch)))
        learner.loss(batch, encoded, context(encoder, batch)).loss.backward()
        assert not any(x.grad[absent].any() for x in encoded if x.grad is not None)
    assert absent.any()
    for field in ("input_ids", "attention_mask", "masked_ids", "text_id"):  # those of the anchors of other rows
        moved = tensors[field][:, :1].roll(5, 0).expand_as(tensors[field])
        tensors[field] = torch.where(absent.view(ROWS, -1, *[1] * (moved.dim() - 2)), moved, tensors[field])
    (loss, gradient), (want, before) = (result_of(*fresh(), b) for b in (batch.with_tensors(tensors), batch))
    assert loss == pytest.approx(want, rel=1e-12)
    assert max(np.abs(gradient[n] - before[n]).max() for n in before) < 1e-12


def assert_equal(got: dict, want: dict) -> None:
    """Gradients agree to 1e-6, and are large enough for that to mean something."""
    assert got.keys() == want.keys()
    assert max(np.abs(g).max() for g in want.values()) > 1e-3
    assert max(np.abs(got[n] - want[n]).max() for n in want) < 1e-6


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, and no room for a whole matrix."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 500)
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 500)


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
            loss = parts_of(model, batch, context(encoder, batch)).loss
        else:
            loss = model(batch, context(encoder, batch))[1].loss
            loss.backward()
    return loss.item(), gradients(learner)


def parts_of(model: torch.nn.Module, batch: cse.Batch, ctx: cse.StepContext) -> cse.LossOutput:
    """The output after a backward pass with cached gradients, by tokens; a plain one where the objective refuses it."""
    if getattr(model, "module", model).objective.cacheable:
        return gradcache.backward(Accelerator(cpu=True), model, batch, ctx, chunk_tokens=40, seed=lambda i: None)[1]
    output = model(batch, ctx)[1]
    output.loss.backward()
    return output
