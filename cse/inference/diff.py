"""The words that make two texts differ: DiffAlign, DiffDel, DiffMask (Vamvas and Sennrich, 2023, arXiv:2305.13303).

A word is a run of tokens without a gap between them, so words end at white space, and its score is the mean of its
tokens'. Only tokens of words take part: partners of a token are not looked for among special tokens or padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.encoder.device import choose, inference
from cse.encoder.language_models import load_masked_lm
from cse.encoder.model import Encoder
from cse.encoder.texts import Range, places, tokenize_with_places, words
from cse.errors import UserError
from cse.files import name_of

if TYPE_CHECKING:
    from cse.encoder.device import Device, Precision

Method = Literal["align", "delete", "mask"]
PAGE = """\
<!doctype html>
<meta charset="utf-8">
<title>Differences</title>
<style>
body {{ font: 16px/1.6 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color-scheme: light dark }}
div {{ margin: 0 0 1.2em; padding-left: .8em; border-left: 3px solid #8886 }}
p {{ margin: 0 }}
span {{ border-radius: .2em }}
</style>
<p>Words that differ from the other text are colored; the number of each is its score by method {method}.</p>
<br>
{pairs}
"""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, from character `start` to before `end`, and how much it differs from the other text."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Two texts and their words."""

    a: str
    b: str
    words_a: tuple[Word, ...]
    words_b: tuple[Word, ...]


def diff(
    a: str | Sequence[str],
    b: str | Sequence[str],
    *,
    model: Encoder | str | PathLike[str] = "asset:mini",
    method: Method = "align",
    device: Device = "auto",
    precision: Precision = "fp32",
) -> list[Difference]:
    """The words that make two texts differ: how much each word of a text differs from the other text.

        align    token i of a: 1 - max_j cos(h_i, h'_j)                        over the word tokens j of b
        delete   token i of a: (cos(s - h_i, s') - cos(s, s') + 1) / 2         s: sum of token states
        mask     token i of a: 1 - max(0, (l_0 - l_1) / max(l_0, l_1))         l: loss of i, masked, without and with b

    h are states of the last layer. The scores of `delete` lie near 0.5. In `mask`, a masked language model reads a
    alone, and behind b; its head is that of the encoder's checkpoint. Texts are read without prompts.

    Args:
        a: A text, or a list of texts; on the command line, a file of texts as for `cse encode`.
        b: The text to compare with, or as many texts.
        model: The encoder: a folder, `asset:NAME`, Hub id or run, or an encoder in memory.
        method: `align` costs one pass over both texts, and so does `delete`; `mask` costs two for every token.
        device: See `cse.encoder.device`; an encoder in memory stays where it is.
        precision: See `Encoder.encode`.

    Returns:
        For each pair, its words and their scores: `cse.diff("one text", "another")[0].words_a`.

    Raises:
        UserError: The model cannot be loaded, the numbers of texts differ, an argument is out of range, a text is too
            long, or `mask` is asked of a checkpoint without a masked-LM head.

    Deviations:
        Partners of the authors' `align` run over special tokens and padding too. Their `delete` can leave out n-grams;
        here it leaves out single tokens, their default.

    Source: ZurichNLP/recognizing-semantic-differences, diff_align.py:15-44, diff_del.py:35-112, diff_mask.py:78-150.
    """
    if method not in get_args(Method):
        raise UserError(f"method is {method!r}\nfix: give one of {', '.join(get_args(Method))}")
    first, second = ([text] if isinstance(text, str) else list(text) for text in (a, b))
    if len(first) != len(second):
        raise UserError(f"a has {len(first)} texts and b has {len(second)}\nfix: give one text of b for each of a")
    encoder = model if isinstance(model, Encoder) else Encoder.load(name_of(model)).to(choose(device))
    if method == "mask" and not encoder.depth:
        raise UserError(
            f"{encoder.source} holds static vectors, and method mask needs layers\nfix: choose align or delete"
        )
    pairs = list(zip(first, second, strict=True))
    if method == "mask":
        return _by_masked_lm(*load_masked_lm(encoder.source, option="--model"), pairs)
    found = []
    with inference(encoder, precision, encoder.device):
        for pair in pairs:
            read = [_read(encoder, text) for text in pair]
            at = [words(where) for _, where in read]
            ids, mask = (tensor.to(encoder.device) for tensor in encoder.pad([ids for ids, _ in read]))
            states = encoder.states(ids, mask).hidden[-1].float().cpu()  # (2, L, H)
            both = (states[0], states[1], at[0], at[1])
            scores = align(*both) if method == "align" else delete(*both)
            sides = zip(pair, read, at, scores, strict=True)
            found.append(Difference(*pair, *(_words(text, where, own, each) for text, (_, where), own, each in sides)))
    return found


def align(
    states_a: Tensor, states_b: Tensor, words_a: Sequence[Sequence[int]], words_b: Sequence[Sequence[int]]
) -> tuple[list[float], list[float]]:
    """DiffAlign of the words of two texts, given states (L, H) and the positions of the tokens of each word."""
    own, other = (
        F.normalize(states[[i for word in found for i in word]], dim=-1)
        for states, found in ((states_a, words_a), (states_b, words_b))
    )
    cosine = own @ other.T  # (word tokens of a, word tokens of b)
    near = [c.amax(1) if c.shape[1] else torch.zeros(len(c)) for c in (cosine, cosine.T)]
    return _means(1 - near[0], words_a), _means(1 - near[1], words_b)


def delete(
    states_a: Tensor, states_b: Tensor, words_a: Sequence[Sequence[int]], words_b: Sequence[Sequence[int]]
) -> tuple[list[float], list[float]]:
    """DiffDel of the words of two texts; the arguments are those of `align`."""
    own, other = (
        states[[i for word in found for i in word]] for states, found in ((states_a, words_a), (states_b, words_b))
    )
    sums = own.sum(0), other.sum(0)
    before = F.cosine_similarity(*sums, dim=0)
    scores = (
        (F.cosine_similarity(whole - states, partner[None], dim=1) - before + 1) / 2  # (T,)
        for states, whole, partner in ((own, *sums), (other, *sums[::-1]))
    )
    return _means(next(scores), words_a), _means(next(scores), words_b)


def _means(scores: Tensor, found: Sequence[Sequence[int]]) -> list[float]:
    """The mean of the scores of each word's tokens, which follow each other in the order of the words."""
    each = iter(scores.tolist())
    return [sum(next(each) for _ in word) / len(word) for word in found]


def _read(encoder: Encoder, text: str) -> tuple[list[int], list[Range]]:
    """The ids of a text, and the place of each."""
    lower = encoder.lower_case
    (ids,), (at,) = tokenize_with_places(encoder.tokenizer, [text], prompt="", max_length=None, lower_case=lower)
    if len(ids) > encoder.max_length:
        raise UserError(
            f"{text[:60]!r}... has more than the {encoder.max_length} tokens that {encoder.source} reads\n"
            "fix: compare shorter parts, such as paragraphs"
        )
    return ids, at


def _words(text: str, at: Sequence[Range], found: Sequence[Sequence[int]], scores: Sequence[float]) -> tuple[Word, ...]:
    spans = [(at[word[0]][0], at[word[-1]][1]) for word in found]
    return tuple(Word(text[s:e], s, e, score) for (s, e), score in zip(spans, scores, strict=True))


# -- DiffMask ------------------------------------------------------------------------------------------------------
def _by_masked_lm(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    longest = int(model.config.max_position_embeddings)
    found = []
    for a, b in pairs:
        if len(tokenizer(a, b, verbose=False)["input_ids"]) > longest:
            raise UserError(
                f"{a[:60]!r}... and its pair have together more than the {longest} tokens that the model reads\n"
                "fix: compare shorter parts, or choose method align"
            )
        found.append(Difference(a, b, _masked(model, tokenizer, a, b), _masked(model, tokenizer, b, a)))
    return found


@torch.inference_mode()
def _masked(model: Any, tokenizer: Any, text: str, other: str) -> tuple[Word, ...]:
    """The words of a text with their DiffMask scores, given the other one."""
    alone = tokenizer(text, return_offsets_mapping=True)
    behind = tokenizer(other, text, return_offsets_mapping=True)
    at = places(text, alone["offset_mapping"])
    tokens = [i for i, (start, end) in enumerate(at) if start < end]
    second = [i for i, side in enumerate(behind.sequence_ids()) if side == 1]
    own = [i for i in second if behind["offset_mapping"][i][0] < behind["offset_mapping"][i][1]]
    before, after = (_losses(model, tokenizer, read, where) for read, where in ((alone, tokens), (behind, own)))
    scores = 1 - ((before - after) / torch.maximum(before, after).clamp_min(1e-12)).clamp_min(0)
    grouped = words(at)
    return _words(text, at, grouped, _means(scores, grouped))


def _losses(model: Any, tokenizer: Any, read: Any, where: Sequence[int]) -> Tensor:
    """The loss of each token (T,) at the positions `where` of a text, when it alone is masked."""
    losses = [torch.zeros(0)]
    for start in range(0, len(where), 32):
        part = torch.tensor(where[start : start + 32])
        inputs = {
            name: torch.tensor([read[name]]).expand(len(part), -1).clone()
            for name in ("input_ids", "attention_mask", "token_type_ids")
            if name in read
        }
        target = inputs["input_ids"][0, part]
        inputs["input_ids"][torch.arange(len(part)), part] = tokenizer.mask_token_id
        logits = model(**inputs).logits[torch.arange(len(part)), part]  # (T, vocabulary)
        losses.append(F.cross_entropy(logits.float(), target, reduction="none"))
    return torch.cat(losses)


def strengths(difference: Difference, method: Method) -> tuple[list[float], list[float]]:
    """Compute how strongly each word of both texts is colored, in [0, 1].

    The scores of `align` and `mask` are strengths. Those of `delete` lie near 0.5: from the lowest of the pair to the
    highest.
    """
    sides = [[word.score for word in words] for words in (difference.words_a, difference.words_b)]
    if method == "delete":
        every = [score for side in sides for score in side]
        low, high = min(every, default=0.0), max(every, default=0.0)
        sides = [[(score - low) / (high - low or 1.0) for score in side] for side in sides]
    first, second = ([min(1.0, max(0.0, score)) for score in side] for side in sides)
    return first, second


def to_html(differences: Sequence[Difference], method: Method) -> str:
    """A page of the pairs, one text above the other, with colored words."""
    pairs = []
    for difference in differences:
        sides = zip((difference.a, difference.b), (difference.words_a, difference.words_b), strict=True)
        strong = strengths(difference, method)
        lines = [f"<p>{_colored(text, words, strong[i])}</p>" for i, (text, words) in enumerate(sides)]
        pairs.append(f"<div>\n{chr(10).join(lines)}\n</div>")
    return PAGE.format(method=method, pairs="\n".join(pairs))


def _colored(text: str, words: Sequence[Word], strong: Sequence[float]) -> str:
    parts, end = [], 0
    for word, strength in zip(words, strong, strict=True):
        style = f"background: rgb(220 40 40 / {0.75 * strength:.2f})"
        parts.append(escape(text[end : word.start]))
        parts.append(f'<span style="{style}" title="{word.score:.3f}">{escape(word.text)}</span>')
        end = word.end
    return "".join([*parts, escape(text[end:])])
