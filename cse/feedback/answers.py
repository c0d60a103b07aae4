"""The form that an answer must have, and one word for each reason why it cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cse.data.reading.files import distinct
from cse.data.reading.texts import same_text_key

MARK = "___"
_REFUSAL = re.compile(
    r"^\W*(as an? (ai|language model)\b"
    r"|(i'?m|i am) (very |so |really )?sorry, (but )?(i|as)\b"
    r"|(sorry, )?(but )?i (cannot|can'?t|can not|am unable to|am not able to|won'?t)"
    r" (help|assist|provide|generate|create|write|rewrite|rephrase|paraphrase|fulfil|fulfill|comply|answer|rate|do)\b"
    r"|(it |this sentence |the sentence )?(cannot|can'?t) (be )?(paraphrased?|rewritten|rephrased?)\b)",
    re.IGNORECASE,
)

Text = Annotated[str, Field(min_length=1, strict=True)]


class Unusable(Exception):
    """An answer that cannot be used: `reason` is one word, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Answer(BaseModel):
    """The base of all answers. Fields that were not asked for, such as an explanation, are ignored.

    The validation context is the mapping of the input fields.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    def texts(self) -> list[str]:
        """All texts of the answer."""
        values = [v if isinstance(v, list) else [v] for v in self.__dict__.values()]
        return [text for value in values for text in value if isinstance(text, str)]


class Score(Answer):
    """A similarity in [0, 1]. A number in quotation marks has the wrong type.

    Attributes:
        score: The similarity.
        raw: The similarity before a rater clipped it to the range, such as a negative cosine; None for other models.
    """

    score: Annotated[float, Field(ge=0.0, le=1.0, strict=True, allow_inf_nan=False)]
    raw: float | None = None


class Sentence(Answer):
    """One sentence that differs from the input and has no gap."""

    sentence: Text

    @field_validator("sentence")
    @classmethod
    def _is_new(cls, value: str, info: ValidationInfo) -> str:
        _require_text(value)
        if MARK in value:
            raise PydanticCustomError("gap", "a gap was not filled")
        _require_other(value, *(info.context or {}).values())
        return value


class Contrast(Answer):
    """A positive and a contradiction that differ from the sentence and from each other."""

    positive: Text
    contradiction: Text

    @model_validator(mode="after")
    def _are_new(self, info: ValidationInfo) -> Contrast:
        _require_text(self.positive, self.contradiction)
        given = (info.context or {}).values()
        _require_other(self.positive, *given)
        _require_other(self.contradiction, self.positive, *given)
        return self


class Sentences(Answer):
    """One or more sentences. Repeated sentences are allowed here and removed by `cse.feedback.tasks.write`."""

    sentences: Annotated[list[Text], Field(min_length=1)]

    @field_validator("sentences")
    @classmethod
    def _are_texts(cls, value: list[str]) -> list[str]:
        _require_text(*value)
        return value


class Propositions(Answer):
    """The propositions of two sentences as pieces of their words, and the pairs (i, j) that say the same."""

    a: list[Annotated[list[Text], Field(min_length=1)]]
    b: list[Annotated[list[Text], Field(min_length=1)]]
    equal: list[tuple[int, int]]

    @model_validator(mode="after")
    def _are_there(self, info: ValidationInfo) -> Propositions:
        for side, found in (("text_a", self.a), ("text_b", self.b)):
            text = (info.context or {}).get(side, "")
            missing = next((piece for pieces in found for piece in pieces if piece not in text), None)
            if missing is not None:
                raise PydanticCustomError("not_in_text", "a piece is not in its sentence, word for word")
        if not all(0 <= i < len(self.a) and 0 <= j < len(self.b) for i, j in self.equal):
            raise PydanticCustomError("no_such", "a pair names a proposition that does not exist")
        return self


class Reworded(Sentence):
    """A sentence that says the same with other words: at most half of the long words of the input, in any form."""

    @field_validator("sentence")
    @classmethod
    def _has_other_words(cls, value: str, info: ValidationInfo) -> str:
        given = {word for text in (info.context or {}).values() for word in _long_words(text)}
        if len(given & _long_words(value)) > len(given) / 2:
            raise PydanticCustomError("kept_words", "more than half of the words of the sentence")
        return value


def _new(values: list[str], info: ValidationInfo) -> list[str]:
    """Those texts of a list that are of several words and none of the input; one of them at least."""
    _require_text(*values)
    several = [value for value in values if len(value.split()) > 1]
    if not several:
        raise PydanticCustomError("one_word", "no text of several words")
    given = (info.context or {}).values()
    found = [value for value in several if not any(same(value, other) for other in given)]
    if not found:
        _require_other(several[0], *given)
    return found


NewTexts = Annotated[list[Text], Field(min_length=1), AfterValidator(_new)]


class Queries(Answer):
    """One or more questions that differ from the passage."""

    queries: NewTexts


class Rewrites(Answer):
    """One or more versions of a sentence that differ from it."""

    rewrites: NewTexts


SCHEMAS: Mapping[str, type[Answer]] = {
    "score": Score,
    "rate": Score,
    "contrast": Contrast,
    "fill": Sentence,
    "paraphrase": Sentence,
    "write": Sentences,
    "queries": Queries,
    "rewrites": Rewrites,
    "reword": Reworded,
    "propositions": Propositions,
}


def parse(prompt: str, text: str, fields: Mapping[str, str], *, finish: str = "stop") -> Answer:
    """The answer in the reply of a model; text around the JSON object is ignored.

    Args:
        prompt: The name of the prompt, which determines the form of the answer.
        text: The reply.
        fields: The input, which the answer must not repeat.
        finish: Why the model stopped: `refusal` if it or a filter refused, `length` at the token limit, else `stop`.

    Raises:
        Unusable: The reply cannot be used. The reason is refusal, truncated, malformed, ambiguous, missing_field,
            wrong_type, out_of_range, empty, same_text, not_in_text or gap.
    """
    if finish == "refusal":
        raise Unusable("refusal", text[:200] or "the model or a filter refused to answer")
    found = _objects(text)
    if not found:
        if _REFUSAL.match(text):
            raise Unusable("refusal", text[:200])
        reason = "truncated" if finish == "length" else "malformed"
        raise Unusable(reason, f"no JSON object in {text[:120]!r}")
    if any(other != found[0] for other in found[1:]):
        raise Unusable("ambiguous", f"{len(found)} different JSON objects")
    try:
        return SCHEMAS[prompt].model_validate(found[0], context=fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place, reason = ".".join(map(str, first["loc"])) or "answer", _REASONS.get(first["type"], "wrong_type")
        raise Unusable(reason, f"{place}: {first['msg']}; got {first['input']!r}"[:300]) from error


def same(a: str, b: str) -> bool:
    """Tell whether two texts differ at most in case, white space and punctuation."""
    return same_text_key(a) == same_text_key(b)


_REASONS = {name: name for name in ("same_text", "refusal", "gap", "not_in_text", "kept_words", "one_word")} | {
    "missing": "missing_field",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "no_such": "out_of_range",
    "string_too_short": "empty",
    "too_short": "empty",
}


def _require_text(*values: str) -> None:
    for value in values:
        if _REFUSAL.match(value):
            raise PydanticCustomError("refusal", "a refusal instead of a sentence")


def _require_other(value: str, *others: str) -> None:
    if any(same(value, other) for other in others):
        raise PydanticCustomError("same_text", "the same text as another one")


def _long_words(text: str) -> set[str]:
    """The beginnings of the words of 4 letters or more, which are what forms of a word have in common."""
    return {word[:5] for word in re.findall(r"[^\W\d_]{4,}", text.casefold())}


def _objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in a text, in order."""
    decoder = json.JSONDecoder(object_pairs_hook=distinct)
    found, start = [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found
