"""Spans of texts: which tokens belong to a range of characters, their means, and what a whole text is as one span."""

import numpy as np
import pytest
import torch

from cse.encoder.heads import Dense, Normalize
from cse.encoder.model import Encoder
from cse.encoder.texts import NOWHERE, inside, places, words
from cse.errors import UserError
from tests.models import save_tiny

TEXTS = ["the cat sat on a mat", "the cat", "the cat sat on a red house the moon", "the cat ran"]


def rows(encoder, spans=3):
    """Ids, mask, and some spans of each row, one of them empty."""
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    chosen = torch.zeros(len(ids), spans, ids.shape[1], dtype=torch.bool)
    chosen[:, 0] = mask.bool()
    chosen[:, 1, 1] = chosen[:, 1, 3] = True
    return ids, mask, chosen


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("pooler", ["mean", "cls", "first_last_layer1"])
def test_means_are_those_of_the_states_by_a_slow_loop(tiny_bert, tmp_path, kind, pooler):
    encoder = Encoder(save_tiny(kind, tiny_bert, tmp_path), pooler=pooler).double().eval()
    ids, mask, chosen = rows(encoder)
    pooled, means = encoder.spans(ids, mask, chosen)
    assert torch.allclose(encoder.output(pooled).embedding, encoder(ids, mask).embedding)
    states = encoder.states(ids, mask).hidden[-1]
    for row in range(len(ids)):
        for span in range(3):
            tokens = [states[row, at] for at in range(ids.shape[1]) if chosen[row, span, at] and mask[row, at]]
            want = torch.stack(tokens).mean(0) if tokens else torch.zeros(16, dtype=torch.float64)
            assert torch.allclose(means[row, span], want), (row, span)


def test_the_whole_text_as_one_span_is_mean_pooling(tiny_bert):
    """But for special tokens, which no range holds; here their states are left out of the pooling too."""
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    encoder.append(Dense(16, 8), Normalize())
    vectors = encoder.encode_spans(TEXTS, [[(0, len(text))] for text in TEXTS])
    for text, found in zip(TEXTS, vectors, strict=True):
        ids, mask = encoder.pad(encoder.tokenize([text]))
        mean = encoder.states(ids, mask).hidden[-1][0, 1:-1].mean(0)
        assert np.allclose(found[0], encoder.post(mean[None])[0].detach(), atol=1e-6)


def test_a_vector_depends_on_its_text_alone(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    spans = [[(0, 3), [(0, 3), (8, 11)]], [], [(4, 7)], [(8, 11), (0, 7), (4, 11)]]
    together = encoder.encode_spans(TEXTS, spans)
    assert [found.shape for found in together] == [(2, 16), (0, 16), (1, 16), (3, 16)]
    for options in ({"batch_size": 1}, {"max_tokens": 16}):
        for one, other in zip(together, encoder.encode_spans(TEXTS, spans, **options), strict=True):
            assert np.allclose(one, other, atol=1e-6)
    assert np.allclose(encoder.encode_spans(TEXTS, spans, dimensions=4)[0], together[0][:, :4], atol=1e-6)
    assert encoder.encode_spans([], []) == []


def test_prompts_templates_and_space_before_a_text(tiny_bert):
    """The same words are found wherever they stand."""
    plain = Encoder(tiny_bert, pooler="mean", prompts={"q": "the dog ran "}).eval()
    ids, at = places_of(plain, " the cat sat", "the dog ran ")
    assert at == [NOWHERE] * 4 + [(1, 4), (5, 8), (9, 12), NOWHERE]
    assert len(ids) == len(at)
    framed = Encoder(tiny_bert, pooler="mean", template="a {text} on").eval()
    assert places_of(framed, "  the cat sat")[1] == [NOWHERE] * 2 + [(2, 5), (6, 9), (10, 13)] + [NOWHERE] * 2
    vector = plain.encode_spans(["  cat sat"], [[(2, 5)]], prompt="the ")[0]
    assert np.allclose(vector, plain.encode_spans(["the cat sat"], [[(4, 7)]])[0], atol=1e-6)


def places_of(encoder, text, prompt=""):
    from cse.encoder.texts import tokenize_with_places

    ids, at = tokenize_with_places(encoder.tokenizer, [text], prompt=prompt, max_length=40, lower_case=False)
    return ids[0], at[0]


def test_tokens_within_ranges_and_words():
    text = "Wednesday's news"
    at = places(text, [(0, 0), (0, 9), (9, 10), (10, 11), (11, 16), (0, 0)])
    assert at[4] == (12, 16)  # the space before a word belongs to no token
    assert words(at) == [[1, 2, 3], [4]]
    assert inside(at, [[(0, 11)], [(0, 10)], [(1, 16)], [(0, 9), (12, 16)]]).astype(int).tolist() == [
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
    ]


@pytest.mark.parametrize(
    ("texts", "spans", "message"),
    [
        (["the cat"], [], "spans has 0 lists for 1 texts"),
        (["the cat"], [[(0, 9)]], r"\(0, 9\) for text 0, which has 7 characters"),
        (["the cat"], [[(3, 3)]], r"\(3, 3\)"),
        (["the cat"], [[[]]], r"\[\] for text 0"),
        (["the cat"], [["the"]], "the for text 0"),
        (["the cat"], [[(0, 2)]], "'th' of text 0 holds no whole token"),
        (["a mat", "the cat " * 30], [[(0, 1)], [(0, 3), (232, 235)]], "'the' of text 1 holds no .* first 40 tokens"),
    ],
)
def test_bad_ranges(tiny_bert, texts, spans, message):
    with pytest.raises(UserError, match=message):
        Encoder(tiny_bert, pooler="mean").eval().encode_spans(texts, spans)


def test_a_span_whose_vector_is_0_is_refused(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    norm = encoder.backbone.encoder.layer[-1].output.LayerNorm
    norm.weight.data.zero_()
    norm.bias.data.zero_()
    with pytest.raises(UserError, match="a span of 'cat' has the vector 0"):
        encoder.encode_spans(["", "cat"], [[], [(0, 3)]])
    assert encoder.encode_spans([], []) == []
