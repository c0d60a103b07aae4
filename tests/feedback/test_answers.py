"""What is taken as an answer and what is not, by hand."""

import json

import pytest

from cse.feedback import prompts
from cse.feedback.answers import SCHEMAS, Unusable, parse
from cse.feedback.tasks import mask
from tests.refusals import refuses

PAIR = {"text_a": "A cat sat.", "text_b": "A dog ran."}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 0.25}', 0.25),
        ('{"score": 1}', 1.0),
        ('{"score": 0.5, "reason": "because"}', 0.5),
        ('Well, {x} then: ```json\n{"score": 0.5}\n``` and {more', 0.5),
        ('{"score": 0.5} {"score": 0.5}', 0.5),
        ('I\'m sorry, but here it is anyway: {"score": 0.5}', 0.5),
    ],
)
def test_a_score_is_found(text, score):
    assert parse("score", text, PAIR).score == score


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed"),
        ("0.5", "malformed"),
        ("[0.5]", "malformed"),
        ('{"score": 0.5', "malformed"),
        ('{"score": 0.5, "score": 0.6}', "malformed"),
        ('{"score": 0.5} or {"score": 0.6}', "ambiguous"),
        ('{"rating": 0.5}', "missing_field"),
        ('{"score": "0.5"}', "wrong_type"),
        ('{"score": true}', "wrong_type"),
        ('{"score": null}', "wrong_type"),
        ('{"score": [0.5]}', "wrong_type"),
        ('{"score": 1.01}', "out_of_range"),
        ('{"score": -0.01}', "out_of_range"),
        ('{"score": NaN}', "out_of_range"),
        ('{"score": Infinity}', "out_of_range"),
        ('{"score": 80}', "out_of_range"),
        ('{"score": "\\ud800"}', "wrong_type"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("As an AI language model, I have no opinion.", "refusal"),
        ("{" * 5000, "malformed"),
    ],
)
def test_a_score_is_refused_with_its_reason(text, reason):
    with pytest.raises(Unusable, match=rf"^{reason}\b"):
        parse("score", text, PAIR)


def test_why_it_ended_tells_truncation_and_refusal():
    with pytest.raises(Unusable, match="truncated"):
        parse("score", '{"score": 0.', PAIR, finish="length")
    with pytest.raises(Unusable, match="refusal"):
        parse("score", '{"score": 0.5}', PAIR, finish="refusal")


GIVEN = {"sentence": "A cat sat on the mat."}


def contrast(positive, contradiction):
    return parse("contrast", json.dumps({"positive": positive, "contradiction": contradiction}), GIVEN)


def test_texts_must_be_new_and_texts():
    assert contrast(" On the mat sat a cat. ", "The mat is empty.").positive == "On the mat sat a cat."
    cases = [
        ("a cat sat  on the mat", "The mat is empty.", "same_text"),
        ("The mat is empty.", "the mat is empty", "same_text"),
        ("On it sat a cat.", GIVEN["sentence"], "same_text"),
        ("  ", "The mat is empty.", "empty"),
        (7, "The mat is empty.", "wrong_type"),
        ("Half a character: \ud800", "The mat is empty.", "wrong_type"),
        ("I cannot paraphrase this sentence.", "The mat is empty.", "refusal"),
        ("The sentence cannot be paraphrased.", "The mat is empty.", "refusal"),
    ]
    for positive, contradiction, reason in cases:
        with pytest.raises(Unusable, match=rf"^{reason}\b"):
            contrast(positive, contradiction)
    about_people = contrast("I cannot swim.", "I'm sorry that he left.")  # no refusal
    assert about_people.positive == "I cannot swim."


def test_a_gap_that_stays_is_seen_and_lists_have_texts():
    with pytest.raises(Unusable, match="gap"):
        parse("fill", '{"sentence": "A ___ sat."}', {"masked": "A ___ ___."})
    assert parse("write", '{"sentences": ["One.", " Two. "]}', {}).sentences == ["One.", "Two."]
    for text, reason in [('{"sentences": []}', "empty"), ('{"sentences": ["a", 1]}', "wrong_type")]:
        with pytest.raises(Unusable, match=reason):
            parse("write", text, {})


# Prompts
def test_every_prompt_loads_and_shows_examples_as_turns_before_the_question():
    loaded = prompts.load()
    assert set(loaded) == set(prompts.FIELDS) == set(SCHEMAS)
    for name in ("contrast", "fill", "paraphrase", "write"):
        chat = loaded[name].messages(dict.fromkeys(prompts.FIELDS[name], "XYZ"), "out of range")
        assert [m["role"] for m in chat] == ["system", *["user", "assistant"] * len(loaded[name].examples), "user"]
        assert len(chat) > 2
        assert "XYZ" in chat[-1]["content"]
        assert "(out of range)" in chat[-1]["content"]
        texts = parse(name, chat[2]["content"], {}).texts()
        assert loaded[name].copied(["Something else.", texts[-1]])
        assert not loaded[name].copied(["Something else."])


def test_a_text_with_dollars_and_braces_stays_as_it_is():
    fields = {"text_a": "It costs $5 {now}", "text_b": "$text_a"}
    asked = prompts.load()["score"].messages(fields)[1]["content"]
    assert "Sentence A: It costs $5 {now}\n" in asked
    assert "Sentence B: $text_a\n" in asked


def own_prompt(folder, **changes):
    content = {"name": "score", "version": 7, "temperature": 0.5, "max_tokens": 9, "system": "s",
               "user": "$text_a or $text_b for $$5"} | changes  # fmt: skip
    path = folder / "own.yaml"
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def test_a_prompt_of_the_users_own_replaces_ours(tmp_path):
    ours, own = prompts.load(), prompts.load([own_prompt(tmp_path)])
    assert (own["score"].version, own["score"].max_tokens, own["score"].temperature) == (7, 9, 0.5)
    assert own["score"].messages({"text_a": "x", "text_b": "y"})[1]["content"] == "x or y for $5"
    assert own["rate"] == ours["rate"]
    shown = [{"input": {"text_a": "a", "text_b": "b"}, "answer": {"score": 1}}]
    with_example = prompts.load([own_prompt(tmp_path, examples=shown)])["score"]
    assert with_example.messages({"text_a": "x", "text_b": "y"})[1:3] == [
        {"role": "user", "content": "a or b for $5"}, {"role": "assistant", "content": '{"score": 1}'}]  # fmt: skip
    assert with_example.sha256 != own["score"].sha256
    assert own["score"].sha256 != ours["score"].sha256
    assert prompts.load([own_prompt(tmp_path)], temperature=0.1)["score"].temperature == 0.1


FIELDS = {"text_a": "x", "text_b": "y"}
NO_PROMPTS = [
    {"user": "$text_a"},
    {"user": "$text_a $text_b $more"},
    {"user": "$text_a $text_b $"},
    {"name": "rank"},
    {"version": "1"},
    {"version": None},
    {"max_tokens": 0},
    {"temperature": 3},
    {"more": 1},
    {"examples": 1},
    {"examples": [{"input": FIELDS}]},
    {"examples": [{"input": {"text_a": "x"}, "answer": {"score": 1}}]},
    {"examples": [{"input": FIELDS, "answer": {"score": 2}}]},
]


@pytest.mark.parametrize("changes", NO_PROMPTS)
def test_a_file_that_is_no_prompt_is_named(tmp_path, changes):
    refuses(r"own\.yaml|temperature", prompts.load, [own_prompt(tmp_path, **changes)])


# Masking
def test_masks_by_counting():
    """ceil(rate x words) words go; gaps side by side are one or not, by half, as the words around them tell."""
    words = [f"w{i}" for i in range(10)]
    merged = 0
    for row in range(200):
        masked = mask(" ".join(words), 0.35, seed=1, row=row).split()
        kept = [w for w in masked if w != "___"]
        assert kept == [w for w in words if w in kept]  # in order
        assert len(kept) == 6  # 10 - ceil(3.5)
        assert 1 <= masked.count("___") <= 4
        merged += masked.count("___") < 4
    # P(some of 4 gaps are side by side) = 1 - C(7,4)/C(10,4) = 5/6, merged half the time: 83 of 200, sd 7
    assert 55 < merged < 111
    assert mask("a b c", 0.3, seed=1, row=0) == mask("a b c", 0.3, seed=1, row=0)
    assert len({mask(" ".join(words), 0.3, seed=s, row=0) for s in range(20)}) > 5
    assert mask(" ".join(words), 0.3, seed=1, row=2).count("w") == 7  # 0.3 x 10 is 3, not 4 by rounding
