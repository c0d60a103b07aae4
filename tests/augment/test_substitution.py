"""Words in the place of others: synonyms from a WordNet, and words that a masked language model reads into a gap."""

import math
import pickle
import random
from collections import Counter
from pathlib import Path

import pytest

from cse import UserError
from cse.augment import MaskedLMSubstitution, SynonymSubstitution, words
from cse.augment.words import WordNet
from tests.conftest import WORDS
from tests.refusals import refuses

SYNSETS = {  # class -> members of each synset
    "noun": [["dog", "domestic_dog", "Canis_familiaris"], ["frump", "dog"], ["quickness", "fast"]],
    "verb": [["chase", "dog", "trail"]],
    "adj": [["quick(p)", "fast"], ["glad"]],
    "adv": [],
}
SENSES = {  # class -> lemma -> number of tagged senses, synsets in order
    "noun": {"dog": (3, [0, 1]), "frump": (0, [1]), "quickness": (1, [2]), "fast": (1, [2])},
    "verb": {"chase": (2, [0]), "dog": (1, [0])},
    "adj": {"quick": (2, [0]), "fast": (5, [0]), "glad": (1, [1])},
    "adv": {},
}


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> Path:
    """A WordNet of six synsets, as the manual page wndb(5WN) says."""
    folder = tmp_path_factory.mktemp("wordnet")
    for name, synsets in SYNSETS.items():
        data, offsets = "  1 a license | with a bar\n", []
        for members in synsets:
            offsets.append(len(data.encode()))
            words = " ".join(f"{word} 0" for word in members)
            data += (
                f'{offsets[-1]:08d} 05 {name[0]} {len(members):02x} {words} 001 @ 00000001 n 0000 | a gloss; "dog"\n'
            )
        (folder / f"data.{name}").write_text(data)
        lines = ["  1 a license"]
        for lemma, (tagged, senses) in SENSES[name].items():
            places = " ".join(f"{offsets[i]:08d}" for i in senses)
            lines.append(f"{lemma} {name[0]} {len(senses)} 2 @ ~ {len(senses)} {tagged} {places}  ")
        (folder / f"index.{name}").write_text("\n".join(lines) + "\n")
    return folder


# Synonyms
def test_synonyms_are_the_other_members_of_the_first_senses(wordnet):
    found = WordNet(wordnet)
    assert found.synonyms("dog", 1) == ("domestic dog", "Canis familiaris")  # a noun 3 times, a verb once
    assert found.synonyms("dog", 5) == ("domestic dog", "Canis familiaris", "frump")
    assert found.synonyms("fast", 1) == ("quick",)  # as an adjective, without its mark
    assert found.synonyms("glad", 3) == ()
    assert found.synonyms("unheard", 1) == ()


def test_a_word_keeps_its_capital_and_its_punctuation(wordnet):
    augmentation = SynonymSubstitution(probability=0.999, folder=str(wordnet))
    results = {augmentation('"Fast" dogs, a glad (dog)!', random.Random(seed)) for seed in range(40)}
    assert results == {f'"Quick" dogs, a glad ({dog})!' for dog in ("domestic dog", "Canis familiaris")}


def test_synonyms_come_as_often_as_said(wordnet):
    augmentation = SynonymSubstitution(probability=0.25, folder=str(wordnet))
    words = augmentation(" ".join(["fast"] * 10_000), random.Random(0)).split()
    assert abs(Counter(words)["quick"] - 2500) < 5 * math.sqrt(10_000 * 0.25 * 0.75)


def test_a_function_word_stays(wordnet, tmp_path):
    for file in wordnet.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("frump", "while"))
    assert WordNet(tmp_path).synonyms("while", 1) == ("dog",)
    augmentation = SynonymSubstitution(probability=0.999, folder=str(tmp_path))
    assert augmentation("while While", random.Random(0)) == "while While"


def test_where_there_is_no_wordnet_the_way_to_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("cse.augment.words.PLACES", "")
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    words._wordnet.cache_clear()
    refuses("apt install wordnet-base", lambda: SynonymSubstitution()("a dog", random.Random(0)))
    refuses(r"folder.*not a WordNet", lambda: SynonymSubstitution(folder=str(tmp_path))("a dog", random.Random(0)))


def test_the_environment_says_where_it_is(wordnet, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet))
    assert SynonymSubstitution(probability=0.999)("fast", random.Random(0)) == "quick"


# Masked LM
@pytest.fixture(scope="module")
def substitution(tiny_bert):
    return MaskedLMSubstitution(model=tiny_bert, probability=0.5, candidates=len(WORDS) - 1)


TEXTS = [" ".join(WORDS[i : i + 6]) for i in range(10)]


def rngs(count=10):
    return [random.Random(i) for i in range(count)]


def test_words_are_replaced_by_other_words_at_the_given_rate(substitution):
    text = " ".join(WORDS)
    changed, found = 0, Counter()
    for result in substitution.batch([text] * 200, rngs(200)):
        pairs = [(a, b) for a, b in zip(WORDS, result.split(), strict=True) if a != b]
        changed += len(pairs)
        found.update(b for _, b in pairs)
    assert abs(changed - 1600) < 5 * math.sqrt(3200 * 0.25)  # of 3200 words half, and never by themselves
    assert set(found) == set(WORDS)  # no [MASK], no [UNK]


def test_the_words_are_drawn_by_their_probabilities(substitution, tiny_bert):
    """Against softmax over the words of the vocabulary but the original, taken from the model directly."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    ids = tokenizer("the [MASK] sat", return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits[0, 2].double()
    others = [word for word in WORDS if word != "cat"]
    chances = (logits[[tokenizer.vocab[word] for word in others]] * 30).softmax(0)
    row = substitution._filler.logits(["the [MASK] sat"])[0][0] * 30  # far from uniform
    drawn = Counter(substitution._fill("cat", row, random.Random(seed)) for seed in range(4000))
    for word, p in zip(others, chances.tolist(), strict=True):
        assert abs(drawn[word] - 4000 * p) < 5 * math.sqrt(4000 * p * (1 - p)) + 1, word
    assert max(chances) > 2 / len(others)


def test_capitals_and_punctuation_stay(substitution):
    for result in substitution.batch(["Dog, (red) mat!"] * 30, rngs(30)):
        first, second, third = result.split()
        assert first[0].isupper()
        assert first.endswith(",")
        assert (second[0], second[-1], third[-1]) == ("(", ")", "!")


def test_a_text_in_a_batch_is_as_alone(substitution):
    together = substitution.batch(TEXTS, rngs())
    assert together != TEXTS
    assert [substitution(text, rng) for text, rng in zip(TEXTS, rngs(), strict=True)] == together
    mixed = substitution.batch([*TEXTS, " ".join(WORDS * 2)], rngs(len(TEXTS) + 1))  # padded to a longer one
    assert mixed[:-1] == together


def test_words_behind_what_the_model_can_read_stay(substitution):
    """40 positions, two of them special: words 39 and on are cut off."""
    text = ["dog"] * 60
    results = substitution.batch([" ".join(text)] * 5, rngs(5))
    assert all(result.split()[38:] == text[38:] for result in results)
    assert all(result.split()[:38] != text[:38] for result in results)


def test_a_text_that_says_the_mask_stays_and_so_does_an_empty_one(substitution):
    assert substitution.batch(["the [MASK] sat on a mat", ""], rngs(2)) == ["the [MASK] sat on a mat", ""]


def test_a_worker_process_loads_its_own(substitution):
    substitution.batch(TEXTS, rngs())
    sent = pickle.dumps(substitution)
    assert len(sent) < 2000
    assert pickle.loads(sent).batch(TEXTS, rngs()) == substitution.batch(TEXTS, rngs())


def test_a_model_without_a_masked_lm_is_refused(tmp_path, tiny_bert):
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"MaskedLMSubstitution\.model .* is not a trained masked language model"):
        MaskedLMSubstitution(model=str(tmp_path))("the cat", random.Random(0))
    refuses("cannot be loaded", lambda: MaskedLMSubstitution(model="no/where")("the cat", random.Random(0)))
