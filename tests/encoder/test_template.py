import pytest
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cse import UserError
from cse.encoder.template import added_ids, around, bake, rebake, require_room, template_of
from tests.encoder.helpers import bert, byte_level
from tests.refusals import refuses

TEMPLATE = 'This sentence : "{text}" means in one word: "'
PREFIX, SUFFIX = TEMPLATE.split("{text}")
TEXTS = ["Hello there.", "a", "", " leading and trailing ", "日本 12", 'He said "no".', "word " * 50]


@pytest.fixture(params=["byte level", "byte level with bos", "byte level with eos", "bert"])
def tokenizer(request, tmp_path):
    if request.param == "bert":
        return bert(tmp_path)
    return byte_level(add_bos_token="bos" in request.param, add_eos_token="eos" in request.param)


def alone(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template", [TEMPLATE, "query {text}", "{text} means", "{text}."])
def test_ids_are_the_parts_ids_between_the_tokenizers_own(tokenizer, template):
    before, after = added_ids(tokenizer)
    prefix, suffix = (alone(tokenizer, part) for part in template.split("{text}"))
    baked = bake(tokenizer, template)
    for text in TEXTS:
        assert baked(text)["input_ids"] == before + prefix + alone(tokenizer, text) + suffix + after
    assert added_ids(baked) == (before + prefix, suffix + after)


def word_level(words):
    """A tokenizer that knows these words and drops small Latin letters: [CLS] text [SEP]."""
    rust = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *words])}))
    rust.normalizer = normalizers.Replace(Regex("[a-z]"), "")
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=rust, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def test_added_ids_are_found_without_a_token_for_a_letter():
    tokenizer = word_level(["日本", "語"])
    assert tokenizer("a")["input_ids"] == [1, 2]
    assert added_ids(tokenizer) == ([1], [2])
    assert added_ids(bake(tokenizer, "語 {text}")) == ([1, 4], [2])


def test_a_tokenizer_that_makes_no_token_of_any_text_is_refused():
    with pytest.raises(UserError, match=r"makes no token of any text\nfix: give a model whose tokenizer\.json is"):
        around(lambda text: ([1, 2], [1, 1]), lambda: ["sun", "moon"])


def test_truncation_cuts_the_text_and_keeps_the_template(tokenizer):
    baked = bake(tokenizer, TEMPLATE)
    before, after = added_ids(baked)
    text, room = "word " * 50, 7
    length = len(before) + room + len(after)
    ids = baked(text, truncation=True, max_length=length)["input_ids"]
    assert ids == before + alone(tokenizer, text)[:room] + after
    padded = baked([text, "a"], truncation=True, max_length=length, padding=True)["input_ids"]
    assert padded[0] == ids
    assert len(padded[1]) == length


@pytest.mark.parametrize("model", [None, "BertConfig", "LlamaConfig"])
def test_it_is_saved_and_loads_without_code(tokenizer, tmp_path, model):
    baked = bake(tokenizer, TEMPLATE)
    baked.save_pretrained(tmp_path / "out")
    if model:  # beside a model, AutoTokenizer may choose the class by the model's
        getattr(transformers, model)().save_pretrained(tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    rust = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in TEXTS:
        assert loaded(text)["input_ids"] == baked(text)["input_ids"] == rust.encode(text).ids
    assert template_of(loaded) == template_of(baked) == TEMPLATE
    assert loaded.special_tokens_map == baked.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.model_max_length == tokenizer.model_max_length
    assert loaded.padding_side == "right"


def test_truncation_left_on_from_an_earlier_call_does_not_cut_the_template(tokenizer):
    expected = bake(tokenizer, TEMPLATE)("a")["input_ids"]
    tokenizer(["a b c d", "a"], truncation=True, max_length=4, padding="max_length")
    assert bake(tokenizer, TEMPLATE)("a")["input_ids"] == expected


def test_no_merge_across_a_seam():
    """The one place where ids differ from those of the whole string, as the module says."""
    tokenizer = byte_level()
    assert tokenizer.convert_ids_to_tokens(alone(tokenizer, "x a")) == ["x", "Ġa"]
    assert tokenizer.convert_ids_to_tokens(bake(tokenizer, "x {text}")("a")["input_ids"]) == ["x", "Ġ", "a"]
    quoted = bake(tokenizer, 'x "{text}"')
    assert quoted("a")["input_ids"] == alone(tokenizer, 'x "a"')


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("no field", "0 times"),
        ("", "0 times"),
        ("{text} and {text}", "2 times"),
        ("{text}", "changes nothing"),
        ("x" * 600 + "{text}", "no room for a text"),
    ],
)
def test_bad_templates(template, message):
    for make in (lambda: bake(byte_level(), template), lambda: rebake(bake(byte_level(), TEMPLATE), template)):
        refuses(message, make)


def test_a_template_is_baked_once():
    refuses("has one already", bake, bake(byte_level(), TEMPLATE), "x {text}")


@pytest.mark.parametrize("template", ["query {text}", "{text} means", f"{TEMPLATE} more"])
def test_another_template_takes_the_place_of_the_one_before(tokenizer, template, tmp_path):
    before, after = added_ids(tokenizer)
    prefix, suffix = (alone(tokenizer, part) for part in template.split("{text}"))
    first = bake(tokenizer, TEMPLATE)
    first.save_pretrained(tmp_path / "out")
    for given in (first, type(first).from_pretrained(tmp_path / "out")):
        again = rebake(given, template)
        for text in TEXTS:
            assert again(text)["input_ids"] == before + prefix + alone(tokenizer, text) + suffix + after
        assert template_of(again) == template
        assert added_ids(again) == (before + prefix, suffix + after)
        assert template_of(given) == TEMPLATE  # the one that was given is left as it was
        assert given("a")["input_ids"] == bake(tokenizer, TEMPLATE)("a")["input_ids"]


def test_room_for_a_text_beside_the_template():
    baked = bake(byte_level(), "abc{text}de")
    require_room(baked, 6)
    refuses(r"collator.max_length is 5.*takes 5 of it", require_room, baked, 5, field="collator.max_length")
    require_room(byte_level(), 1)
