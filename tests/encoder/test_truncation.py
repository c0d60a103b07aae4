"""Vectors of fewer dimensions: by slicing and scaling by hand, in sentence-transformers, and after a round trip."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from cse import Encoder
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.heads import Dense, Normalize, Truncate
from cse.encoder.vectors import check_widths, halves
from cse.inference.whiten import whiten
from tests.encoder.helpers import loads_everywhere
from tests.models import save_embedder
from tests.refusals import refuses

TEXTS = ["the cat sat on a mat", "a dog ran fast", "red moon", ""]
KINDS = ["plain", "dense", "normalize", "dense-normalize"]


@pytest.fixture
def encoder(tiny_bert):
    """A function that gives an encoder with these modules after pooling."""

    def build(kind: str) -> Encoder:
        made = Encoder(tiny_bert, pooler="mean", head="mlp" if "dense" in kind else "none", export_head=True)
        for weight in made.post.parameters():
            nn.init.normal_(weight)
        if "normalize" in kind:
            made.append(Normalize())
        return made.eval()

    return build


def by_hand(whole: np.ndarray, width: int, kind: str) -> np.ndarray:
    cut = np.array([row[:width] for row in whole], dtype=np.float64)
    return cut / np.sqrt((cut**2).sum(1))[:, None] if kind.endswith("normalize") else cut


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 5, 16])
def test_it_is_slicing_and_scaling(encoder, kind, width):
    made = encoder(kind)
    want = by_hand(made.encode(TEXTS), width, kind)
    np.testing.assert_allclose(made.encode(TEXTS, dimensions=width), want, atol=1e-6)
    ids, mask = made.pad(made.tokenize(TEXTS))
    made.truncate(width)
    assert made.dim == width
    np.testing.assert_allclose(made.encode(TEXTS), want, atol=1e-6)
    np.testing.assert_allclose(made(ids, mask).embedding.detach().numpy(), want, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_has_the_width_here_and_in_sentence_transformers(encoder, kind, tmp_path):
    made = encoder(kind)
    want = by_hand(made.encode(TEXTS), 6, kind)
    made.truncate(6)
    np.testing.assert_allclose(loads_everywhere(made, tmp_path, TEXTS, 1e-6), want, atol=1e-6)
    layout = Layout.read(tmp_path / "saved")
    assert (made.dim, layout.dim, layout.truncate_dim) == (6, 6, 6)
    for name in ("modules.json", "config_sentence_transformers.json"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "saved" / name).read_text()
    again = Encoder.load(str(tmp_path / "again"))
    again.truncate(3)
    shorter = loads_everywhere(again, tmp_path / "shorter", TEXTS, 1e-6)
    np.testing.assert_allclose(shorter, by_hand(want, 3, kind), atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_width_that_sentence_transformers_wrote_is_kept(tiny_bert, tmp_path, normalize):
    """It cuts after Normalize and does not scale again; the vectors here are the same."""
    folder = save_embedder(tiny_bert, tmp_path / "st", normalize=normalize, truncate_dim=7)
    want = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    made = Encoder.load(folder)
    assert (made.dim, want.shape) == (7, (4, 7))
    np.testing.assert_allclose(loads_everywhere(made, tmp_path, TEXTS, 1e-6), want, atol=1e-6)


def test_a_width_above_the_whole_one_cuts_nothing(tiny_bert, tmp_path):
    folder = save_embedder(tiny_bert, tmp_path / "st", truncate_dim=99)
    assert Encoder.load(folder).dim == Layout.read(tmp_path / "st").dim == 16


def test_what_follows_a_cut(tiny_bert, tmp_path):
    """A head or whitening behind cut vectors: a Dense takes the place of the cut, which must be the last."""
    folder = save_embedder(tiny_bert, tmp_path / "st", truncate_dim=7)
    made = Encoder(folder, head="mlp", export_head=True).eval()
    assert [type(module) for module in made.post] == [Dense, Dense]
    pooled = Encoder.load(folder).encode(TEXTS)
    head = made.post[-1]
    np.testing.assert_allclose(made.encode(TEXTS), head(torch.from_numpy(pooled)).detach().numpy(), atol=1e-6)
    white = whiten(Encoder.load(folder), [*TEXTS, "the house", "a tree", "sun", "blue", "slow", "mat on"], 4)
    loads_everywhere(white, tmp_path, TEXTS, 1e-6)
    assert not any(isinstance(module, Truncate) for module in white.post)


def test_bad_widths(encoder):
    made = encoder("plain")
    for cut in (lambda: made.encode(TEXTS, dimensions=17), lambda: made.truncate(17)):
        refuses(r"dimensions has 17.*\nfix: give integers from 1 to 16", cut)


@pytest.mark.parametrize(
    ("dim", "want"), [(256, [256, 128, 64, 32]), (576, [576, 288, 144, 72]), (5, [5, 2, 1]), (1, [1])]
)
def test_halves_by_pencil(dim, want):
    assert halves(dim) == want


@pytest.mark.parametrize(
    ("dimensions", "said"),
    [
        ([], "names no width"),
        ([0], "has 0, which is not a width"),
        ([True], "has True, which"),
        ([2.5], "has 2.5, which"),
        ([17], "has 17, but the vectors have 16 dimensions"),
        ([4, 4], "has 4 twice"),
    ],
)
def test_bad_widths_are_named(dimensions, said):
    refuses(said, check_widths, dimensions, 16, option="objective.dimensions")
    check_widths([16, 1], 16, option="objective.dimensions")
