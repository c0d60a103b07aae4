"""Several teachers as one: their mean, or their vectors side by side."""

import numpy as np
import pytest

from cse import Encoder, Ensemble, FrozenEncoder, StepContext
from cse.encoder.template import added_ids
from tests.objectives.helpers import refuses
from tests.teachers.test_frozen import TEXTS, assert_hidden, batch_of, other_words  # noqa: F401

TEMPLATE = 'the "{text}" is a'


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))


def asked(teacher, tiny_bert):
    """The vectors (4, 2, Dt) of the texts, forwards and backwards."""
    encoder = Encoder(tiny_bert, layers=1)
    teacher.setup(encoder)
    batch, texts = batch_of(encoder, TEXTS, TEXTS[::-1])
    return teacher.embed(batch, StepContext(encoder, texts=texts)).double().numpy()


def unit(rows):
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


def vectors(source, *, center, **options):
    """Those of the texts (4, D), computed by the encoder alone."""
    rows = unit(Encoder(source, **options).eval().encode(TEXTS).astype(np.float64))
    return unit(rows - rows.mean(0)) if center else rows


def test_the_mean_of_teachers_of_one_size(tiny_bert):
    options = [{"pooler": "mean"}, {"pooler": "cls", "template": TEMPLATE}]
    teachers = [FrozenEncoder(source=tiny_bert, precision="fp32", center=True, **one) for one in options]
    got = asked(Ensemble(teachers=teachers, weights=[1.0, 3.0]), tiny_bert)
    first, second = (vectors(tiny_bert, center=True, **one) for one in options)
    np.testing.assert_allclose(got[:, 0], unit(first + 3 * second), atol=1e-4)  # centering magnifies rounding
    np.testing.assert_allclose(got[:, 1], got[::-1, 0], atol=1e-12)


def test_teachers_of_two_sizes_stand_side_by_side_and_cosines_are_the_mean_of_theirs(tiny_bert, other_words):  # noqa: F811
    teachers = [FrozenEncoder(source=source, precision="fp32") for source in (tiny_bert, other_words)]
    ensemble = Ensemble(teachers=teachers, weights=[1.0, 3.0])
    got = asked(ensemble, tiny_bert)
    assert got.shape == (4, 2, 16 + 24)
    assert ensemble.dim == 16 + 24
    one, other = vectors(tiny_bert, center=False, pooler="mean"), vectors(other_words, center=False, pooler="mean")
    np.testing.assert_allclose(got[:, 0] @ got[:, 0].T, (one @ one.T + 3 * other @ other.T) / 4, atol=1e-5)
    assert_hidden(ensemble)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 2, "pooler": "mean", "template": TEMPLATE},
        {"pooler": "mask", "template": "the {text} [MASK] on"},
    ],
    ids=["as the encoder", "a template", "a mask that the encoder lacks"],
)
def test_a_teacher_without_a_source_has_that_of_the_encoder(tiny_bert, options):
    """Cut as the encoder is, unless it says otherwise."""
    got = asked(FrozenEncoder(precision="fp32", **options), tiny_bert)
    want = vectors(tiny_bert, center=False, **{"layers": 1, **options})
    np.testing.assert_allclose(got[:, 0], want, atol=1e-5)


@pytest.mark.parametrize(("saved", "pooler"), [(False, "mean"), (True, "mask")])
def test_a_teacher_without_a_source_in_another_template_than_the_encoder(tiny_bert, tmp_path, saved, pooler):
    """Whether the encoder's template is an argument or in the tokenizer of its checkpoint."""
    masked = " [MASK] on" if pooler == "mask" else ""
    encoder = Encoder(tiny_bert, pooler=pooler, template=f"a red {{text}} ran{masked}")
    if saved:
        encoder.save(tmp_path / "best")
        encoder = Encoder.load(str(tmp_path / "best"))
    batch, texts = batch_of(encoder, TEXTS, TEXTS)
    for template in (None, f"the cat sat on {{text}}{masked}"):
        teacher = FrozenEncoder(precision="fp32", template=template)
        teacher.setup(encoder)
        got = teacher.embed(batch, StepContext(encoder, texts=texts)).double().numpy()
        want = vectors(tiny_bert, center=False, pooler=pooler, template=template or f"a red {{text}} ran{masked}")
        np.testing.assert_allclose(got[:, 0], want, atol=1e-5)
    assert encoder.encode(TEXTS[:1]).shape == (1, 16)
    assert added_ids(encoder.tokenizer)[0] == [2, 9, 15]  # [CLS] a red: the encoder's own is as it was


def test_a_template_of_the_teacher_that_does_not_fit_is_refused(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="mask", template="a {text} [MASK]", max_length=12).save(tmp_path / "best")
    encoder = Encoder.load(str(tmp_path / "best"))
    for template, named in (
        ("the cat", "0 times"),
        ("the {text}", "the template 'the {text}' holds 0 mask tokens"),
        ("{text} [MASK]" + " on" * 12, "max_length is 12, and .* takes 15 of it: no room for a text"),
    ):
        refuses(named, FrozenEncoder(template=template).setup, encoder)


def test_it_does_not_change_with_the_encoder(tiny_bert):
    encoder = Encoder(tiny_bert)
    teacher = FrozenEncoder(precision="fp32")
    teacher.setup(encoder)
    for weight in encoder.parameters():
        weight.data.zero_()
    batch, texts = batch_of(encoder, TEXTS, TEXTS)
    got = teacher.embed(batch, StepContext(encoder, texts=texts)).numpy()
    np.testing.assert_allclose(got[:, 0], vectors(tiny_bert, center=False), atol=1e-5)


def test_refusals(tiny_bert):
    one = FrozenEncoder(source=tiny_bert)
    refuses(r"teachers has 1 entries\nfix: ", Ensemble, teachers=[one])
    refuses(r"weights has 1 entries for 2 teachers\nfix: ", Ensemble, teachers=[one, one], weights=[1.0])
    refuses(r"weights\[1\] is 0", Ensemble, teachers=[one, one], weights=[1.0, 0.0])
