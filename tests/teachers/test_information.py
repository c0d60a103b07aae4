"""The information that two texts share: a slow loop over tokens, batches of any size, what is refused and when."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import cse
from cse import distributed
from tests.models import save_tiny
from tests.objectives.helpers import refuses
from tests.runs import make_run
from tests.teachers.test_frozen import TEXTS, batch_of

TEMPLATE = "the {a} ran on {b} fast"


def save_model(tokenizer, folder, kind="llama", *, causal=True, eos="[SEP]", **more):
    """A causal language model whose next word depends on the words before it."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.bos_token, words.eos_token = None if eos is None else "[CLS]", eos
    words.save_pretrained(folder)
    return save_tiny(kind, folder, folder, causal=causal, initializer_range=0.5, **more)


@pytest.fixture(scope="module")
def model(tiny_bert, tmp_path_factory):
    return save_model(tiny_bert, tmp_path_factory.mktemp("causal"))


@pytest.fixture
def taught(model):
    return partial(cse.SharedInformation, source=model, template=TEMPLATE, max_length=8, precision="fp32")


def asked(teacher, tiny_bert, *columns):
    """The scores of a teacher of rows of texts."""
    encoder = cse.Encoder(tiny_bert)
    teacher.setup(encoder)
    batch, texts = batch_of(encoder, *columns)
    return teacher.scores(batch, cse.StepContext(encoder, texts=texts))


def nats(model, before, text):
    """What a text costs after others, token by token, with the softmax of the whole model."""
    total = 0.0
    for i, token in enumerate(text):
        logits = model(torch.tensor([[*before, *text[:i]]])).logits[0, -1]
        total -= torch.log_softmax(logits, 0)[token].item()
    return total


@torch.no_grad()
def expected(source, a, b, *, most=8):
    model, words = AutoModelForCausalLM.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)

    def ids(text):
        return words.convert_tokens_to_ids(text.split())[:most] or [words.eos_token_id]

    def share(of, given):
        """The share of its bits that a text owes to another."""
        start = [words.bos_token_id, *ids("the")]
        return 1 - nats(model, [*start, *ids(given), *ids("ran on")], ids(of)) / nats(model, start, ids(of))

    return (share(a, b) + share(b, a)) / 2


def test_a_slow_loop_over_tokens_agrees(taught, model, tiny_bert):
    other, third = TEXTS[1:] + TEXTS[:1], TEXTS[2:] + TEXTS[:2]
    got = asked(taught(), tiny_bert, TEXTS, other, third)
    want = [[expected(model, a, b) for b in others] for a, *others in zip(TEXTS, other, third, strict=True)]
    assert got.shape == (4, 2)
    assert not got.requires_grad
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_it_is_symmetric_and_does_not_depend_on_the_rows_that_are_computed_at_a_time(taught, tiny_bert):
    got = asked(taught(), tiny_bert, TEXTS, TEXTS[::-1])
    np.testing.assert_allclose(got, got.flip(0), atol=1e-6)
    for rows in (1, 3):
        np.testing.assert_allclose(asked(taught(rows=rows), tiny_bert, TEXTS, TEXTS[::-1]), got, atol=1e-5)


def test_an_empty_text_is_one_end_token(taught, model, tiny_bert):
    teacher = taught()
    teacher.setup(cse.Encoder(tiny_bert))
    batch = cse.Batch(torch.zeros(1, 2, 1), torch.ones(1, 2, 1), text_id=torch.tensor([[1, 0]]))
    got = teacher.scores(batch, cse.StepContext(None, texts=["", "red house"]))
    assert got.item() == pytest.approx(expected(model, "red house", ""), abs=1e-5)


def part(rank, source, tiny_bert):
    """The scores as a process finds them, which reads its own rows alone."""
    teacher = cse.SharedInformation(source=source, template=TEMPLATE, max_length=8, precision="fp32")
    encoder = cse.Encoder(tiny_bert)
    teacher.setup(encoder)
    batch, texts = batch_of(encoder, TEXTS, TEXTS[::-1])
    own = distributed.local_rows(len(TEXTS) // distributed.world_size())
    read, real = [], teacher.shared
    teacher.shared = lambda pairs, device: read.append(len(pairs)) or real(pairs, device)
    return teacher.scores(batch, cse.StepContext(encoder, texts=texts, local_rows=own)).tolist(), read


def test_two_processes_share_the_rows_and_give_what_one_gives(two_processes, model, tiny_bert):
    want, read = part(0, model, tiny_bert)
    assert read == [4]
    for got, read in two_processes(part, model, tiny_bert):
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert read == [2]


def test_scores_of_other_teachers_are_cosines(tiny_bert):
    class Fixed(cse.Teacher):
        def embed(self, batch, ctx):
            return torch.tensor([[[3.0, 4.0], [0.0, 2.0], [-3.0, -4.0]], [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]])

    np.testing.assert_allclose(Fixed().scores(None, None), [[0.8, -1.0], [0.0, 1.0]], atol=1e-6)
    encoder = cse.Encoder(tiny_bert)
    got = asked(cse.FrozenEncoder(precision="fp32"), tiny_bert, TEXTS, TEXTS[::-1])
    rows = encoder.eval().encode(TEXTS).astype(float)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(got[:, 0], (unit * unit[::-1]).sum(1), atol=1e-5)


# In a run
def test_a_run_learns_from_it(taught, tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, objective=cse.PccTuning(teacher=taught()), max_steps=2, evaluator=False)
    run.source = cse.NearTexts(miner=cse.TopK(last=3), k=2, precision="fp32")
    cse.Trainer(run).fit()
    assert run.progress.finished


@pytest.mark.parametrize("ensemble", [False, True])
def test_who_asks_for_vectors_is_refused_before_anything_is_written(taught, tiny_bert, tmp_path, ensemble):
    objective = cse.FeatureDistillation(teacher=taught())
    if ensemble:
        objective = cse.CosineMSE(teacher=cse.Ensemble(teachers=[cse.FrozenEncoder(source=tiny_bert), taught()]))
    run = make_run(tmp_path, tiny_bert, objective=objective, max_steps=2)
    with pytest.raises(cse.UserError, match=r"gives scores of pairs, and .* asks for vectors\nfix: .*PccTuning"):
        cse.Trainer(run).fit()
    assert not run.folder.exists()


# What is refused
@pytest.mark.parametrize(
    "template", ["{a} alone", "{b} alone", "{b} before {a}", "{a}{b}", "{a} or {a} and {b}", "{a} or {b} and {b}"]
)
def test_templates_that_do_not_fit(taught, template):
    with pytest.raises(cse.UserError, match=r"teacher.template is .*\nfix: give a text with \{a\}"):
        taught(template=template)


def test_numbers_out_of_range(taught, tiny_bert):
    for options, named in (({"max_length": 0}, "teacher.max_length is 0"), ({"rows": 0}, "teacher.rows is 0")):
        with pytest.raises(cse.UserError, match=named):
            taught(**options)
    refuses(
        r"max_length is 20, .* the 4 tokens .* exceed the 42 positions .*\n.* to 19 or less",
        taught(max_length=20).setup,
        cse.Encoder(tiny_bert),
    )
    taught(max_length=19).setup(cse.Encoder(tiny_bert))


def test_models_that_do_not_fit(tiny_bert, tmp_path):
    body = save_model(tiny_bert, tmp_path / "body", causal=False)
    endless = save_model(tiny_bert, tmp_path / "endless", eos=None)
    capped = save_model(
        tiny_bert, tmp_path / "capped", "gemma2", num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.1
    )
    for source, named in (
        (tiny_bert, r"is a bert encoder of 2 layers, and cannot say how probable a text is\nfix: give a causal "),
        (body, r"lacks the weight lm_head.weight, and cannot say how probable a text is\nfix: "),
        (endless, r"has no token at which a text begins or ends\nfix: "),
        (capped, r"caps them after its output layer, which cse does not compute\nfix: "),
        (str(tmp_path / "none"), r"is not a folder\nfix: "),
    ):
        refuses(named, cse.SharedInformation(source=source, max_length=8).setup, cse.Encoder(tiny_bert))
