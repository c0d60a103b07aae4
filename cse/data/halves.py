"""Parts of a text: its two halves beside the whole."""

from __future__ import annotations

from collections.abc import Sequence

from cse.batch import Example
from cse.data.collators import Ids, TextViews
from cse.errors import UserError


class Halves(TextViews):
    """Three views of a text: the whole, its first half and its second half, as CompCSE composes them.

    A text of n words has a first half of (n + 1) / 2 words, rounded down; a text of one word is its own halves. The
    halves have the text id of the whole, and its prompt.

    Args:
        max_length: Largest number of tokens of a view, template and special tokens included.
        prompts: See `TextViews`.

    Raises:
        UserError: max_length is out of range, or a role is unknown. In training: a row has several texts.

    Deviations:
        The authors of CompCSE cut at the root of a discourse tree, by a trained parser. Rows of three texts (the whole
        and two parts of your own) are read by `TextViews`.
    """

    def __init__(self, *, max_length: int | None = 32, prompts: dict[str, str | None] | None = None) -> None:
        super().__init__(max_length=max_length, views=3, prompts=prompts)

    def needs_dropout(self, example: Example) -> bool:
        """False: the views are different texts."""
        if len(example.texts) > 1:
            raise UserError(
                f"collator Halves cuts rows of one text, and a row has {len(example.texts)}\n"
                "fix: give texts alone, or set collator to cse.data.TextViews for rows of a text and its two parts"
            )
        return False

    def texts(self, examples: Sequence[Example], *, epoch: int = 0, seed: int = 0) -> list[list[str]]:
        """The three texts of every row."""
        return [[e.texts[0], *halves(e.texts[0])] for e in examples]

    def _tokens(self, examples: Sequence[Example], rows: Sequence[tuple[str, ...]], epoch: int) -> Sequence[Ids]:
        return [self.tokens.encode(text) for row in self.texts(examples) for text in row]


def halves(text: str) -> tuple[str, str]:
    """The first and the second half of a text's words, the first one longer by a word if their number is odd."""
    words = text.split()
    cut = (len(words) + 1) // 2
    return " ".join(words[:cut]), " ".join(words[cut:]) or text
