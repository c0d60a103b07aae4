"""A text template baked into the tokenizer, so that a prompted encoder loads anywhere without code.

`bake(tokenizer, 'This sentence : "{text}" means in one word: "')` returns a tokenizer that puts prefix and suffix
around every text by its post-processor, which `tokenizer.json` keeps: `AutoTokenizer`, sentence-transformers and the
Rust library all apply it. It works after truncation, so a long text loses its own end and never the template's, and
`max_length` counts the template's ids.

How the ids relate to the text, exactly:

    ids(template with text) == before + ids(prefix) + ids(text) + ids(suffix) + after

where each part is tokenized on its own, without special tokens, and before and after are what the tokenizer adds to a
text by itself ([CLS] and [SEP], <s> and </s>, or nothing). Special tokens written out in the template ([MASK]) become
their ids. Tokenizing the whole string may give other ids, because nothing merges across the seams. If a word has
other ids after a space (GPT-2, Llama, RoBERTa), end the prefix with a character that takes no space after it, such as a
quotation mark: of 'query: {text}' such a tokenizer makes a lone space, then the text as if a line began with it.

`{mask}` stands for the tokenizer's mask token, so that one template serves BERT and RoBERTa: 'This sentence : "{text}"
means {mask}.' is a template of PromptBERT, whose vectors the pooler `mask` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FIELD, MASK = "{text}", "{mask}"
_KEPT_AS = "cse_template"  # the key of the template in tokenizer_config.json


def bake(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    """A copy of the tokenizer that puts every text into the template.

    Raises:
        UserError: The template does not have exactly one `{text}` with something beside it, or leaves no room for a
            text; or the tokenizer has a template already, or lacks the mask token that is asked for.
    """
    if template_of(tokenizer) is not None:
        raise UserError(
            f"encoder.template is {template!r}, but the tokenizer has one already: {template_of(tokenizer)!r}\n"
            "fix: omit encoder.template, or give a backbone without a template"
        )
    return rebake(tokenizer, template)


def rebake(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    """A copy of the tokenizer that puts every text into the template, and into no other one that it may have."""
    template = _with_mask(tokenizer, template)
    _cut(template)
    before, after = added_in(tokenizer, template)
    baked = _plain(tokenizer)
    baked.backend_tokenizer.post_processor = _processor(tokenizer, before, after)
    baked.init_kwargs[_KEPT_AS] = template
    require_room(baked, int(tokenizer.model_max_length))
    return baked


def template_of(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The template that was baked into the tokenizer, also before it was saved; None if there is none."""
    return cast("str | None", tokenizer.init_kwargs.get(_KEPT_AS))


def added_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after every text: special tokens, and those of a template."""

    def read(text: str) -> tuple[list[int], list[int]]:
        found = tokenizer(text, return_special_tokens_mask=True)
        return found["input_ids"], found["special_tokens_mask"]

    return around(read, tokenizer.get_vocab)


def around(
    read: Callable[[str], tuple[list[int], list[int]]], vocabulary: Callable[[], Iterable[str]]
) -> tuple[list[int], list[int]]:
    """The ids before and after those of a text.

    `read` makes of a text its ids and, for each of them, 1 if the tokenizer adds it to every text, else 0. The tokens
    of the vocabulary are tried as texts if `a` has no token, as in a vocabulary of Chinese words.
    """
    for text in _probes(vocabulary):
        ids, added = read(text)
        own = [i for i, special in enumerate(added) if not special]
        if not ids:  # nothing is added, as to the texts of static vectors
            return [], []
        if own:
            return ids[: own[0]], ids[own[-1] + 1 :]
    raise UserError(
        "the tokenizer makes no token of any text\nfix: give a model whose tokenizer.json is complete, or save it again"
    )


def _probes(vocabulary: Callable[[], Iterable[str]]) -> Iterator[str]:
    yield "a"
    yield from vocabulary()


def added_in(tokenizer: PreTrainedTokenizerFast, template: str) -> tuple[list[int], list[int]]:
    """`added_ids`, if the tokenizer had this template instead of its own, or of none."""
    before, after = added_ids(tokenizer)
    own = template_of(tokenizer)
    if own is not None:
        prefix, suffix = (_ids(tokenizer, part) for part in _cut(own))
        before, after = before[: len(before) - len(prefix)], after[len(suffix) :]
    prefix, suffix = (_ids(tokenizer, part) for part in _cut(_with_mask(tokenizer, template)))
    return [*before, *prefix], [*suffix, *after]


def mask_position(tokenizer: PreTrainedTokenizerFast) -> int:
    """The place of the template's mask token among the ids of a text: from the end, so negative, if it is behind it.

    A mask token that a text itself holds is not looked at.
    """
    if tokenizer.mask_token_id is None:
        raise UserError(
            "encoder.pooler is mask, but the tokenizer has no mask token\n"
            "fix: use a masked language model, such as asset:mini, or another pooler"
        )
    before, after = added_ids(tokenizer)
    found = [i for i, token in enumerate(before) if token == tokenizer.mask_token_id]
    found += [i - len(after) for i, token in enumerate(after) if token == tokenizer.mask_token_id]
    if len(found) != 1:
        template = template_of(tokenizer)
        what = f"the template {template!r} holds {len(found)} mask tokens" if template else "there is no template"
        raise UserError(
            f"encoder.pooler is mask, but {what}\n"
            f"fix: give encoder.template with one {MASK} in it: 'This sentence : \"{FIELD}\" means {MASK}.'"
        )
    return found[0]


def require_room(tokenizer: PreTrainedTokenizerFast, max_length: int, field: str = "max_length") -> None:
    """Check that at least one id of a text fits beside the ids that the tokenizer adds to it."""
    added = sum(map(len, added_ids(tokenizer)))
    if added >= max_length:
        template = template_of(tokenizer)
        what = f"the template {template!r} takes" if template else "special tokens take"
        raise UserError(
            f"{field} is {max_length}, and {what} {added} of it: no room for a text\n"
            f"fix: set {field} to {added + 16} or more"
        )


def _with_mask(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """The template with the tokenizer's own mask token."""
    if MASK not in template:
        return template
    if tokenizer.mask_token is None:
        raise UserError(
            f"the template {template!r} asks for a mask token, which the tokenizer does not have\n"
            f"fix: use a masked language model, such as asset:mini, or a template without {MASK}"
        )
    return template.replace(MASK, str(tokenizer.mask_token))


def _cut(template: str) -> tuple[str, str]:
    """The parts of the template before and after the text."""
    count = template.count(FIELD)
    if count != 1:
        raise UserError(f"encoder.template is {template!r}, with {count} times {FIELD}\nfix: write {FIELD} once in it")
    prefix, suffix = template.split(FIELD)
    if not (prefix or suffix):
        raise UserError(f"encoder.template is {FIELD} alone, which changes nothing\nfix: remove the option")
    return prefix, suffix


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _processor(tokenizer: PreTrainedTokenizerFast, before: list[int], after: list[int]) -> Any:
    """A post-processor with one "special token" a side, which stands for all the ids of that side.

    It replaces the tokenizer's own. What else that did, shifting the offsets of words, no encoder needs.
    """
    from tokenizers.processors import TemplateProcessing

    sides = {"[before]": before, "[after]": after}
    specials = [
        {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)} for name, ids in sides.items() if ids
    ]
    single = [name for name in ("[before]", "$A", "[after]") if sides.get(name, True)]
    return TemplateProcessing(single=" ".join(single), pair=None, special_tokens=specials)


def _plain(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy under the class that takes tokenizer.json as it is; BERT's own puts [CLS] and [SEP] back on loading."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        name_or_path=tokenizer.name_or_path,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
    )
