"""Differences of texts for people: how strongly each word is colored, and a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cse.inference.diff import Difference, Method, Word

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


def strengths(difference: Difference, method: Method) -> tuple[list[float], list[float]]:
    """How strongly each word of both texts is colored, in [0, 1].

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
