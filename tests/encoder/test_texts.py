"""Long texts in windows, against the authors' cuts and by hand; and spans of texts: their tokens, and their means."""

import numpy as np
import pytest
import torch

from cse import Encoder, UserError
from cse.encoder.heads import Dense, Normalize
from cse.encoder.texts import NOWHERE, Windows, inside, places, starts, tokenize_with_places, words
from tests.cases import cases, load
from tests.conftest import WORDS
from tests.models import save_tiny
from tests.refusals import refuses

LONG = " ".join(WORDS[(3 * i) % 16] for i in range(25))
TEXTS = ["the cat sat", LONG, "", " ".join(WORDS[:8]), " ".join(WORDS[:9]), LONG[:60]]


@pytest.mark.parametrize("name", cases("windows", has="starts"))
def test_every_case(name):
    about, data = load("windows", name)
    data = {key: array.numpy() for key, array in data.items()}
    size, step, table = about["size"], about["step"], data["table"]
    rows = [ids[mask == 1].tolist() for ids, mask in zip(data["ids"], data["mask"], strict=True)]
    known = [(number, start) for number, begun in enumerate(about["starts"]) for start in begun]
    lengths = data["window_mask"].sum(1).astype(int)
    for (number, start), ids, length in zip(known, data["windows"], lengths, strict=True):
        assert ids[:length].tolist() == rows[number][start : start + size]
    # Ours are the program's windows, without a last one whose tokens were all in the one before.
    found = Windows.cut(rows, step, added=([], []), prompt=[], max_length=size)
    news = [i for i, (number, s) in enumerate(known) if not s or s + size - step < len(rows[number])]
    assert [starts(len(row), size, step) for row in rows] == [
        [s for i, (number, s) in enumerate(known) if number == row and i in news] for row in range(len(rows))
    ]
    assert found.rows == [data["windows"][i][: lengths[i]].tolist() for i in news]
    assert found.weight.tolist() == [float(lengths[i]) for i in news]
    # The mean by tokens, of all of the program's windows.
    every = Windows([], np.array([number for number, _ in known]), lengths.astype(np.float32), len(rows))
    vectors = np.stack([table[ids[:n]].mean(0) for ids, n in zip(data["windows"], lengths, strict=True)])
    got = every.mean(vectors, scaled=False)
    assert np.abs(got - data["pooled_by_length"]).max() <= 1e-5
    plain = Windows([], every.text, np.ones_like(every.weight), len(rows)).mean(vectors, scaled=False)
    assert np.abs(plain - data["pooled"]).max() <= 1e-5


@pytest.mark.parametrize("prompt", ["", "the red "])
@pytest.mark.parametrize("unit", [False, True])
def test_each_window_is_a_text_of_its_own(tiny_bert, prompt, unit):
    """The mean, by words, of the vectors of the words of each window, which `encode` reads behind the same prompt."""
    encoder = Encoder(tiny_bert, pooler="cls", max_length=10).eval()
    if unit:
        encoder.append(Normalize())
    room = 8 - len(prompt.split())
    for step in (room, room - 1, (room + 1) // 2):
        got = encoder.encode(TEXTS, windows=step, prompt=prompt)
        for text, vector in zip(TEXTS, got, strict=True):
            words, begun = text.split(), [0]
            while begun[-1] + room < len(words):
                begun.append(begun[-1] + step)
            parts = [words[start : start + room] for start in begun]
            vectors = encoder.encode([" ".join(part) for part in parts], prompt=prompt)
            weights = [max(1, len(part)) for part in parts]
            want = np.average(vectors, axis=0, weights=weights)
            want = want / np.linalg.norm(want) if unit else want
            assert np.allclose(vector, want, atol=1e-5), text


def test_a_text_that_fits_is_unchanged(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean", max_length=10).eval()
    fits = [text for text in TEXTS if len(text.split()) <= 8]
    assert np.array_equal(encoder.encode(fits, windows=4), encoder.encode(fits))
    both = encoder.encode([*fits, LONG], windows=4)
    assert np.allclose(both[:-1], encoder.encode(fits), atol=1e-6)
    assert np.abs(both[-1] - encoder.encode([LONG])[0]).max() > 1e-3


def test_templates_and_dimensions(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="last", template='the {text} "moon"', max_length=10).eval()
    encoder.append(Normalize())
    got = encoder.encode([LONG], windows=6)
    assert np.linalg.norm(got[0]) == pytest.approx(1, abs=1e-5)
    short = encoder.encode([LONG], windows=6, dimensions=4)
    assert short.shape == (1, 4)
    assert np.linalg.norm(short[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("step", [0, -1, 3, 9])
def test_a_step_out_of_range(tiny_bert, step):
    with pytest.raises(UserError, match=rf"windows is {step}, and a window holds 8 tokens .*\nfix: .* from 4, .* to 8"):
        Encoder(tiny_bert, max_length=10).encode(["the cat"], windows=step)


# Spans
SPANNED = ["the cat sat on a mat", "the cat", "the cat sat on a red house the moon", "the cat ran"]


def rows(encoder, spans=3):
    """Ids, mask, and some spans of each row, one of them empty."""
    ids, mask = encoder.pad(encoder.tokenize(SPANNED))
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
    vectors = encoder.encode_spans(SPANNED, [[(0, len(text))] for text in SPANNED])
    for text, found in zip(SPANNED, vectors, strict=True):
        ids, mask = encoder.pad(encoder.tokenize([text]))
        mean = encoder.states(ids, mask).hidden[-1][0, 1:-1].mean(0)
        assert np.allclose(found[0], encoder.post(mean[None])[0].detach(), atol=1e-6)


def test_a_vector_depends_on_its_text_alone(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    spans = [[(0, 3), [(0, 3), (8, 11)]], [], [(4, 7)], [(8, 11), (0, 7), (4, 11)]]
    together = encoder.encode_spans(SPANNED, spans)
    assert [found.shape for found in together] == [(2, 16), (0, 16), (1, 16), (3, 16)]
    for options in ({"batch_size": 1}, {"max_tokens": 16}):
        for one, other in zip(together, encoder.encode_spans(SPANNED, spans, **options), strict=True):
            assert np.allclose(one, other, atol=1e-6)
    assert np.allclose(encoder.encode_spans(SPANNED, spans, dimensions=4)[0], together[0][:, :4], atol=1e-6)
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
    refuses(message, lambda: Encoder(tiny_bert, pooler="mean").eval().encode_spans(texts, spans))


def test_a_span_whose_vector_is_0_is_refused(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    norm = encoder.backbone.encoder.layer[-1].output.LayerNorm
    norm.weight.data.zero_()
    norm.bias.data.zero_()
    refuses("a span of 'cat' has the vector 0", encoder.encode_spans, ["", "cat"], [[], [(0, 3)]])
    assert encoder.encode_spans([], []) == []
