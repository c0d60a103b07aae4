"""Windows of long texts: against the authors' cuts (oracle), a slow computation by hand, and what must not change."""

import numpy as np
import pytest

from cse.encoder.heads import Normalize
from cse.encoder.model import Encoder
from cse.encoder.texts import Windows, starts
from cse.errors import UserError
from tests.cases import cases, load
from tests.conftest import WORDS

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


def test_a_repeated_window_changes_nothing(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean", max_length=10).eval()
    text = " ".join(WORDS[:8])
    got = encoder.encode([" ".join([text] * n) for n in (1, 2, 5)], windows=8)
    assert np.allclose(got, got[0], atol=1e-6)


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
