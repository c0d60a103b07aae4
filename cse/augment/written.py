"""Augmentation by renderings that were written before: paraphrases, synonyms of phrases, translations."""

from __future__ import annotations

import json
import random
from functools import cached_property
from pathlib import Path
from typing import Any

from cse.errors import UserError
from cse.interfaces import Augmentation

LINE = '{"text": "a phrase", "renderings": ["another"]}'


class Written(Augmentation):
    """Replaces a text by one of its renderings in a file; a text that the file does not have stays as it is.

    The renderings may come from any model, such as the paraphrases and synonyms of phrases that PEARL draws from
    (arXiv:2401.10407, section 3.2). The file has a JSON object on each line, with a text and a list of its renderings:

        {"text": "heart attack", "renderings": ["cardiac arrest", "myocardial infarction"]}

    Texts are compared without the white space around them. The file is read at first use, in every worker process that
    prepares batches, and is then in memory.

    Args:
        path: The .jsonl file.
        text: The name of the text.
        renderings: The name of the list.

    Raises:
        UserError: The file does not exist. At first use: a line is not such an object.
    """

    def __init__(self, *, path: str, text: str = "text", renderings: str = "renderings") -> None:
        if not Path(path).expanduser().is_file():
            raise UserError(f"Written.path is {path}, which is not a file\nfix: give a .jsonl file")
        self.path, self.text, self.renderings = path, text, renderings

    def __call__(self, text: str, rng: random.Random) -> str:
        """One of the renderings of the text, or the text."""
        found = self._known.get(text.strip())
        return rng.choice(found) if found else text

    @cached_property
    def _known(self) -> dict[str, list[str]]:
        """The renderings of each text."""
        known: dict[str, list[str]] = {}
        with Path(self.path).expanduser().open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    text, found = row[self.text], row[self.renderings]
                    if not isinstance(text, str) or not all(isinstance(one, str) for one in found):
                        raise TypeError("a text is not a string")
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"Written.path: {self.path}:{number} has no text {self.text!r} with a list of texts "
                        f"{self.renderings!r} ({error})\n"
                        f"fix: write lines such as {LINE}, or name the columns"
                    ) from error
                known.setdefault(text.strip(), []).extend(one for one in found if one.strip())
        return known

    def __getstate__(self) -> dict[str, Any]:
        """The state without the renderings, since a worker process reads its own."""
        return {name: value for name, value in vars(self).items() if name != "_known"}
