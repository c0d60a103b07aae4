"""Augmentations: what they keep, how often they do what they do, and that all randomness is the generator's."""

import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from math import sqrt

import pytest

from cse import Augmentation, AugmentedViews, Encoder, Example
from cse.augment import (
    CharacterEdit,
    CharacterNoise,
    Crop,
    InOrder,
    MaskedLMSubstitution,
    Negation,
    OneOf,
    Sometimes,
    SpanDeletion,
    SpanReordering,
    SynonymSubstitution,
    WordDeletion,
    WordReordering,
    WordRepetition,
    WordSwap,
    Written,
    render,
)
from cse.augment.words import ALIKE, EDITS, NEIGHBORS
from cse.data.tokens import TokenStore
from tests.conftest import WORDS
from tests.refusals import refuses

NUMBERS = [str(i) for i in range(40)]
TEXT = " ".join(NUMBERS)
SEEDS = range(300)
DOCUMENT = "It rained all day. Was it cold? Not at all! We stayed."

WITHOUT_A_MODEL = [
    WordDeletion(probability=0.3),
    WordReordering(),
    WordReordering(distance=None),
    WordRepetition(),
    WordSwap(),
    SpanDeletion(),
    SpanReordering(),
    Crop(),
    CharacterNoise(probability=0.3),
    CharacterEdit(),
    Sometimes(augmentation=Crop(), probability=0.5),
    OneOf(augmentations=[Crop(), WordReordering()]),
    InOrder(augmentations=[Crop(), WordReordering()]),
]
every = pytest.mark.parametrize("augmentation", WITHOUT_A_MODEL, ids=lambda a: type(a).__name__)


def results(augmentation, text=TEXT, seeds=SEEDS):
    return [augmentation(text, random.Random(seed)) for seed in seeds]


def near(count, trials, probability):
    """Whether a count is within 5 standard deviations of its binomial."""
    return abs(count - trials * probability) < 5 * sqrt(trials * probability * (1 - probability))


class Fixed(random.Random):
    """A generator whose uniform numbers are written down."""

    def __new__(cls, *numbers):  # that of Python 3.10 takes one argument
        return super().__new__(cls)

    def __init__(self, *numbers):
        super().__init__(0)
        self.numbers = iter(numbers)

    def random(self):
        return next(self.numbers)


# Every one
@every
def test_a_text_never_becomes_empty(augmentation):
    for text in ("a", "a b", "one two three"):
        assert all(result.strip() for result in results(augmentation, text, range(50)))
    assert augmentation("", random.Random(0)) == ""


@every
def test_the_generator_alone_decides(augmentation):
    text = DOCUMENT * 3
    first = results(augmentation, text, range(20))
    random.seed(99)
    assert results(augmentation, text, range(20)) == first
    assert len(set(first)) > 1


def test_another_process_draws_the_same():
    """Whatever the seed of its string hashes."""
    program = "import random, json; from tests.augment.test_augment import *\n"
    program += "print(json.dumps([results(a, DOCUMENT, range(5)) for a in WITHOUT_A_MODEL]))"
    here = [results(augmentation, DOCUMENT, range(5)) for augmentation in WITHOUT_A_MODEL]
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == here


# Words
def test_words_fall_out_by_pencil():
    assert WordDeletion(probability=0.3)("a b c d", Fixed(0.29, 0.3, 0.9, 0.0)) == "b c"
    assert WordDeletion(probability=0.999999)("the cat", random.Random(0)) == "the cat"  # of which nothing is left


@pytest.mark.parametrize(
    ("augmentation", "text", "possible"),
    [
        (SpanReordering(), "a b", {"b a"}),
        (SpanReordering(), "a", {"a"}),
        (WordSwap(), "a b c", {"b a c", "c b a", "a c b"}),
        (WordReordering(distance=1), "a b c", {"a b c", "b a c", "a c b"}),
        (WordReordering(distance=None), "a b c", {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}),
        (WordSwap(), "alone", {"alone"}),
        (WordRepetition(), "a", {"a", "a a"}),
        (Negation(rule="prefix"), "It is not  new", {"Not It is not new"}),
    ],
)
def test_a_short_text_becomes_one_of_these(augmentation, text, possible):
    assert set(results(augmentation, text, range(50))) == possible


def test_words_are_reordered_by_pencil():
    """Sorted by i + 4 u: 0 + 3.6, 1 + 0, 2 + 2, 3 + 0.4."""
    assert WordReordering(distance=3)("a b c d", Fixed(0.9, 0.0, 0.5, 0.1)) == "b d a c"


def test_repeated_words_stand_beside_themselves():
    """n is uniform over 0 to max(2, int(0.32 * 40)) = 12, and every word is as likely as any other."""
    counts, which = Counter(), Counter()
    for result in results(WordRepetition(), seeds=range(3000)):
        words = result.split()
        assert list(dict.fromkeys(words)) == NUMBERS
        twice = [a for a, b in pairwise(words) if a == b]
        assert len(words) == 40 + len(twice) == 40 + len(set(twice))
        counts[len(twice)] += 1
        which.update(twice)
    assert sorted(counts) == list(range(13))
    assert all(near(count, 3000, 1 / 13) for count in counts.values())
    assert all(near(which[word], 3000 * 6, 1 / 40) for word in NUMBERS)


def test_a_short_text_may_repeat_two_words_and_no_more_than_it_has():
    assert {len(result.split()) for result in results(WordRepetition(), "a b c")} == {3, 4, 5}


# Spans
@pytest.mark.parametrize(("words", "lost"), [(1, 0), (2, 1), (4, 1), (8, 2), (12, 3), (16, 4), (100, 25)])
def test_a_short_text_loses_its_share_and_never_all(words, lost):
    """25% of it: spans of one word, fewer than five, and at least one."""
    text = " ".join(map(str, range(words)))
    assert {words - len(r.split()) for r in results(SpanDeletion(), text, range(30))} == {lost}


def test_every_placement_of_spans_is_as_likely():
    """One span of 2 in 5 words has 4 places; two words of 4 have 6 sets."""
    one = Counter(results(SpanDeletion(spans=1, rate=0.4), "a b c d e", range(2000)))
    assert set(one) == {"c d e", "a d e", "a b e", "a b c"}
    assert all(near(count, 2000, 1 / 4) for count in one.values())
    two = Counter(results(SpanDeletion(spans=2, rate=0.25), "a b c d", range(3000)))
    assert set(two) == {"a b", "a c", "a d", "b c", "b d", "c d"}
    assert all(near(count, 3000, 1 / 6) for count in two.values())


def test_pairs_of_spans_change_places():
    for result in results(SpanReordering(pairs=5, rate=0.05)):
        words = [int(word) for word in result.split()]
        assert sorted(words) == list(range(40))
        moved = [place for place, word in enumerate(words) if place != word]
        assert len(moved) == 20  # 5 pairs of 2 words each
        assert all(words[words[place]] == place for place in moved)  # an exchange undoes itself


def test_a_crop_is_contiguous_and_its_share_uniform():
    sizes, starts = Counter(), Counter()
    for result in results(Crop(min_share=0.5, max_share=0.9)):
        kept = [int(word) for word in result.split()]
        assert kept == list(range(kept[0], kept[-1] + 1))
        sizes[len(kept)] += 1
        starts[kept[0]] += 1
    assert min(sizes) == 20
    assert max(sizes) == 36
    assert near(sum(n for size, n in sizes.items() if size < 28), len(SEEDS), 0.5 - 0.5 / 16)
    assert starts[0] > 0
    assert max(starts) > 10


# Characters
def test_a_key_has_the_neighbors_that_it_has_on_a_keyboard():
    assert set(NEIGHBORS["g"]) == set("tyfhvb")
    assert set(NEIGHBORS["q"]) == set("wa")
    assert all(key in NEIGHBORS[other] for key, others in NEIGHBORS.items() for other in others)


@pytest.mark.parametrize(
    ("error", "want"), [("omit", "gt"), ("double", "gott"), ("swap", "gto"), ("neighbor", "gpt")], ids=str
)
def test_each_typing_error_by_pencil(error, want):
    class Typist(Fixed):
        def choice(self, options):
            return error if isinstance(options, tuple) else max(options)  # of o's neighbors i k l p: p

    rng = Typist(0.9, 0.9 if error == "double" else 0.0, 0.0 if error == "double" else 0.9)
    assert CharacterNoise(probability=0.5)("got", rng) == want
    assert CharacterNoise(probability=0.99)("12 3.4 ?!", random.Random(0)) == "12 3.4 ?!"


# Negation
@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("The cat is red.", "The cat is not red."),
        ("Will they go?", "Will not they go?"),
        ("It is what it was", "It is not what it was"),  # the first one alone
        ("He cannot swim, and she can.", "He can swim, and she can."),
        ("They don\u2019t know", "They do know"),
        ("Isn't it cold?", "Is it cold?"),
        ("She won't (or can't) come", "She will (or can't) come"),
        ("This is not new", "This is new"),
        ("Yes, it is, indeed", "Yes, it is not, indeed"),
        ("He has a cat", "Not He has a cat"),  # a main verb
        ("He has eaten", "He has not eaten"),
        ("Dogs run", "Not Dogs run"),
        ("not", "Not not"),
        ("", ""),
    ],
)
def test_negation_by_pencil(text, negated):
    assert Negation()(text, random.Random(0)) == negated


def test_a_negated_view_is_added_to_the_views(tiny_bert):
    """Beside the texts of a row, or the views of one text, which are rendered as without it."""
    examples = [Example(("the cat is red",), row_id=3), Example(("a dog ran",), row_id=5)]
    common = {"augmentations": [WordDeletion(probability=0.5)], "anchor_augmentations": [], "max_length": 12}
    plain, more = AugmentedViews(**common), AugmentedViews(**common, negative_augmentations=[Negation()])
    without, found = (collator.texts(examples, epoch=1, seed=2) for collator in (plain, more))
    assert [row[:2] for row in found] == without
    assert [row[2] for row in found] == ["the cat is not red", "Not a dog ran"]
    pair = [Example(("the cat is red", "a cat"))]
    assert more.texts(pair)[0][2] == "the cat is not red"
    more.setup(TokenStore.build([e.texts[0] for e in examples], Encoder(tiny_bert).tokenizer, 12), 1)
    batch = more(examples)
    assert batch.num_positives == 1
    assert batch.text_id.tolist() == [[0, 0, 0], [1, 1, 1]]
    only = AugmentedViews(augmentations=[], negative_augmentations=[Negation()])
    assert only.needs_dropout(examples[0])  # anchor and positive are the same words


# Composition
class Mark(Augmentation):
    """Appends a letter, and a number that its generator draws."""

    def __init__(self, letter):
        self.letter = letter

    def __call__(self, text, rng):
        return f"{text}{self.letter}{rng.randrange(10**6)}"


def test_sometimes_is_as_often_as_said():
    rarely, always = (Sometimes(augmentation=Mark("a"), probability=p) for p in (0.2, 1.0))
    assert near(sum(result != TEXT for result in results(rarely, seeds=range(2000))), 2000, 0.2)
    assert TEXT not in results(always, seeds=range(20))


def test_one_of_draws_by_weight():
    augmentation = OneOf(augmentations=[Mark("a"), Mark("b")], weights=[1, 3])
    marks = Counter("a" if "a" in result else "b" for result in results(augmentation, "", range(2000)))
    assert near(marks["b"], 2000, 0.75)
    assert sum(marks.values()) == 2000


def test_in_order_is_one_after_another():
    one, rng = InOrder(augmentations=[Mark("a"), Mark("b")]), random.Random(5)
    assert one("x", random.Random(5)) == Mark("b")(Mark("a")("x", rng), rng)


@every
def test_many_at_once_are_as_one_by_one(augmentation):
    texts = [f"{DOCUMENT} {i}" for i in range(20)]
    together = render([augmentation, Mark("z")], texts, [random.Random(i) for i in range(20)])
    rngs = [random.Random(i) for i in range(20)]
    assert together == [Mark("z")(augmentation(t, r), r) for t, r in zip(texts, rngs, strict=True)]


# Ranges
@pytest.mark.parametrize(
    ("build", "named"),
    [
        *[(lambda p=p: WordDeletion(probability=p), "WordDeletion.probability") for p in (0.0, 1.0, -1.0)],
        (lambda: WordReordering(distance=0), "WordReordering.distance is 0"),
        (lambda: WordRepetition(rate=1.0), "WordRepetition.rate is 1.0"),
        (lambda: SpanDeletion(spans=0), "SpanDeletion.spans is 0"),
        (lambda: SpanDeletion(spans=4, rate=0.25), "SpanDeletion.spans is 4 and rate is 0.25"),
        (lambda: SpanReordering(pairs=6, rate=0.1), "SpanReordering.pairs is 6 and rate is 0.1"),
        (lambda: Crop(min_share=0.8, max_share=0.5), "Crop.min_share is 0.8"),
        (lambda: Crop(min_share=0.0), "Crop.min_share is 0.0"),
        (lambda: CharacterNoise(probability=2.0), "CharacterNoise.probability is 2.0"),
        (lambda: SynonymSubstitution(probability=1.5), "SynonymSubstitution.probability is 1.5"),
        (lambda: SynonymSubstitution(senses=0), "SynonymSubstitution.senses is 0"),
        (lambda: MaskedLMSubstitution(probability=0.0), "MaskedLMSubstitution.probability is 0.0"),
        (lambda: MaskedLMSubstitution(candidates=0), "MaskedLMSubstitution.candidates is 0"),
        (lambda: Sometimes(augmentation=Crop(), probability=1.1), "Sometimes.probability is 1.1"),
        (lambda: OneOf(augmentations=[]), "OneOf.augmentations is empty"),
        (lambda: OneOf(augmentations=[Crop()], weights=[0.0]), "OneOf.weights"),
        (lambda: OneOf(augmentations=[Crop()], weights=[1.0, 1.0]), "OneOf.weights"),
        (lambda: InOrder(augmentations=[]), "InOrder.augmentations is empty"),
        (lambda: CharacterEdit(edits=[]), r"CharacterEdit.edits is \[\]"),
        (lambda: CharacterEdit(edits=["typo"]), r"CharacterEdit.edits is \['typo'\]"),
        (lambda: Written(path="absent.jsonl"), "Written.path is absent.jsonl, which is not a file"),
    ],
)
def test_ranges_are_checked(build, named):
    refuses(named.replace(".", r"\."), build)


# Views
def view_ids(collator, tokens, seed, epoch, row, neighbors=0):
    text = " ".join(WORDS)
    collator.setup(tokens, seed)
    batch = collator([Example((text,), row_id=row), *[Example((text,), row_id=99)] * neighbors], epoch)
    views = zip(batch.input_ids[0], batch.attention_mask[0], strict=True)
    return tuple(tuple(i[m == 1].tolist()) for i, m in views), batch


def test_views_depend_on_seed_epoch_row_and_view_alone(tiny_bert):
    tokens = TokenStore.build([" ".join(WORDS)], Encoder(tiny_bert).tokenizer, 32)
    collator = AugmentedViews(augmentations=[WordDeletion(probability=0.5)], max_length=32)
    first, batch = view_ids(collator, tokens, 1, 0, 5)
    assert first[0] != first[1]
    assert batch.text_id.tolist() == [[0, 0]]  # one text, however it is rendered
    assert view_ids(collator, tokens, 1, 0, 5, neighbors=3)[0] == first
    others = [(2, 0, 5), (1, 1, 5), (1, 0, 6)]
    assert len({first, *(view_ids(collator, tokens, *address)[0] for address in others)}) == 4


def test_the_anchor_may_stay_as_it_is(tiny_bert):
    tokens = TokenStore.build([" ".join(WORDS)], Encoder(tiny_bert).tokenizer, 64)
    deletion, whole = WordDeletion(probability=0.5), tuple(tokens.ids(0).tolist())
    both = view_ids(AugmentedViews(augmentations=[deletion], max_length=64, views=3), tokens, 1, 0, 5)[0]
    collator = AugmentedViews(augmentations=[deletion], anchor_augmentations=[], max_length=64, views=3)
    anchor, *others = view_ids(collator, tokens, 1, 0, 5)[0]
    assert anchor == whole != both[0]
    assert tuple(others) == both[1:]  # a view does not depend on what is done to another
    assert not collator.needs_dropout(Example(("a",)))
    assert AugmentedViews(augmentations=[]).needs_dropout(Example(("a",)))


# Phrases (PEARL)
@pytest.mark.parametrize(
    ("edit", "possible"),
    [
        ("swap", {"acb", "bac"}),
        ("omit", {"ab", "ac", "bc"}),
        ("neighbor", {f"{k}bc" for k in "qwsz"} | {f"a{k}c" for k in "vghn"} | {f"ab{k}" for k in "xdfv"}),
        ("look_alike", {"a6c", "aGc", "abe"}),
    ],
)
def test_the_edits_of_a_word_by_pencil(edit, possible):
    assert set(results(CharacterEdit(edits=[edit]), "abc")) == possible


def test_an_edit_changes_one_letter_of_every_text():
    for edit, change in (("insert", 1), ("substitute", 0)):
        for result in results(CharacterEdit(edits=[edit]), "New York 1990"):
            assert len(result) == len("New York 1990") + change
            assert result != "New York 1990"
    assert all(len(set(results(CharacterEdit(edits=[edit]), "phrase"))) > 1 for edit in EDITS if edit != "look_alike")
    assert set(results(CharacterEdit(edits=["omit", "swap"]), "a")) == {"a"}  # nothing would be left
    assert set(results(CharacterEdit(), "!?")) == {"!?"}
    assert set(results(CharacterEdit(edits=["neighbor"]), "Å")) == {"Å"}
    assert all(len(set(group)) == len(group) for group in ALIKE)


def test_renderings_from_a_file(tmp_path):
    path = tmp_path / "written.jsonl"
    path.write_text(
        '{"text": " heart attack", "renderings": ["cardiac arrest", "infarction", " "]}\n'
        '{"text": "x", "renderings": []}\n'
    )
    augmentation = Written(path=str(path))
    assert set(results(augmentation, "heart attack ")) == {"cardiac arrest", "infarction"}
    assert set(results(augmentation, "x")) == {"x"}
    assert set(results(augmentation, "unknown")) == {"unknown"}
    assert "_known" not in augmentation.__getstate__()
    path.write_text('{"phrase": "a", "aug": ["b"]}\n')
    assert set(results(Written(path=str(path), text="phrase", renderings="aug"), "a")) == {"b"}


@pytest.mark.parametrize(
    "line", ["a b", "[]", '{"text": "a"}', '{"text": 3, "renderings": ["b"]}', '{"text": "a", "renderings": [1]}']
)
def test_a_file_that_is_not_one_of_renderings(line, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a", "renderings": ["b"]}\n' + line + "\n")
    refuses(r"Written.path: .*bad.jsonl:2 has no text 'text'", lambda: Written(path=str(path))("a", random.Random(1)))
