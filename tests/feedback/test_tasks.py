"""What becomes of answers, with a labeler that answers by rule; and that recipes read what comes out."""

import json
from collections import Counter

import pytest

from cse import recipe as recipes
from cse.data.datasets import ScoredPairs, Texts, Triplets
from cse.feedback import command, output, prompts, tasks
from tests.feedback.helpers import rows, write_records


def test_scores_train_claif(tmp_path, job):
    pairs = rows(("a b", "a c"), ("d e", "d f"), ("g h", "g i"))
    rater = job(lambda name, f: {"score": {"a b": 0.25, "d e": 2, "g h": 1}[f["text_a"]]}, chunk=2)
    result = tasks.score(pairs, prompts.load(), rater)
    path = write_records(tmp_path / "scores.jsonl", result, [rater])
    assert [(r["text_a"], r["text_b"], r["score"]) for r in result.records] == [("a b", "a c", 0.25), ("g h", "g i", 1)]
    assert [(r["row"], r["reason"], r["answer"]) for r in result.rejects] == [(2, "out_of_range", '{"score": 2}')]
    data = data_of("claif", path)
    assert isinstance(data, ScoredPairs)
    assert [(e.texts, e.score) for e in data] == [(("a b", "a c"), 0.25), (("g h", "g i"), 1.0)]


def data_of(name, path):
    """The data set of a recipe that is given the file and nothing else."""
    config = recipes.load(name, [f"--data.init_args.path={path}"]).config.data
    kinds = {kind.__name__: kind for kind in (ScoredPairs, Triplets, Texts)}
    return kinds[config.class_path.rpartition(".")[2]](**vars(config.init_args))


def test_contrasts_train_syncse_and_rated_ones_clhaif(tmp_path, job):
    sentences = rows("a b", "c d", "e f", "g h")

    def words(name, f):
        return {"positive": f"{f['sentence']} too", "contradiction": f"not {f['sentence']}"}

    writer = job(words)
    result = tasks.contrast(sentences, prompts.load(), writer)
    path = write_records(tmp_path / "contrast.jsonl", result, [writer])
    assert [e.texts for e in data_of("syncse", path)] == [
        ("a b", "a b too", "not a b"), ("c d", "c d too", "not c d"), ("e f", "e f too", "not e f"),
        ("g h", "g h too", "not g h")]  # fmt: skip

    def ratings(name, f):
        scores = {"a b too": 0.9, "not a b": 0.1, "c d too": 0.2, "not c d": 0.8, "e f too": 0.5, "not e f": 0.1,
                  "g h too": 0.6, "not g h": 0.6}  # fmt: skip
        return {"score": scores[f["text_b"]]}

    loaded = command.load(path, ["premise", "entailment", "contradiction"], limit=None)
    rater = job(ratings, chunk=3)
    rated = tasks.rate(loaded.rows, prompts.load(), rater)
    kept = [(r["entailment"], r["contradiction"], r["score"], r["score_negative"], r["swapped"]) for r in rated.records]
    assert kept == [("a b too", "not a b", 0.9, 0.1, False), ("not c d", "c d too", 0.8, 0.2, True)]
    # 0.5 is too little for a positive; 0.6 and 0.6 are equal
    assert [(r["row"], r["reason"]) for r in rated.rejects] == [(3, "filtered"), (4, "filtered")]
    data = data_of("clhaif", write_records(tmp_path / "rated.jsonl", rated, [rater]))
    assert [(e.texts[1], e.score) for e in data] == [("a b too", 0.9), ("not c d", 0.8)]


def test_what_is_written_to_several_sentences_or_copied_is_set_aside(job):
    loaded = prompts.load()
    example = json.loads(loaded["contrast"].turns[0][1])

    def words(name, f):
        if f["sentence"] == "c":
            return example
        return {"positive": f"{f['sentence']} too", "contradiction": "no" if f["sentence"] in "ab" else "not d"}

    result = tasks.contrast(rows("a", "b", "c", "d"), loaded, job(words))
    assert [r["premise"] for r in result.records] == ["d"]
    assert {r["row"]: r["reason"] for r in result.rejects} == {1: "repeated", 2: "repeated", 3: "copied"}


def test_fill_by_pencil(tmp_path, job):
    """Two sentences, a paraphrase and a filled version of each; scores smoothed, random pairs not."""
    sentences = rows("one two three four", "five six seven eight", "nine ten eleven twelve")

    def answers(name, f):
        if name == "paraphrase":
            return {"sentence": f"{f['sentence']} again"}
        if name == "fill":
            return {"sentence": f["masked"].replace("___", "x")}
        return {"score": 1.0 if f["text_b"].endswith("again") else 0.5}

    writer = job(answers)
    options = {"rates": [0.0, 0.5], "smoothing": 0.1, "random_pairs": 1, "per_score": 2, "seed": 3}
    result = tasks.fill(sentences, prompts.load(), writer, writer, **options)
    first = [r for r in result.records if r["text_a"] == "one two three four"]
    assert [r["score"] for r in first] == pytest.approx([0.9, 0.5, 0.0])  # 0.8 x 1 + 0.1, 0.8 x 0.5 + 0.1
    assert [r["raw_score"] for r in first] == [1.0, 0.5, None]
    assert [r["mask_rate"] for r in first] == [0.0, 0.5, None]
    assert first[0]["text_b"] == "one two three four again"
    assert sum(word in first[1]["text_b"].split() for word in first[0]["text_a"].split()) == 2
    assert first[2]["text_b"] in {row.texts[0] for row in sentences[1:]}
    assert len(result.records) == 9
    again = tasks.fill(sentences, prompts.load(), job(answers, chunk=4), job(answers, chunk=7), **options)
    assert again.records == result.records
    assert len(data_of("claif", write_records(tmp_path / "fill.jsonl", result, [writer]))) == 9


def test_fill_sets_aside_copies_and_more_than_enough(job):
    sentence = rows("one two three four", "five six seven eight")

    def answers(name, f):
        if name == "score":
            return {"score": 0.5}
        text = f.get("sentence") or f["masked"].replace("___", "x")
        return {"sentence": "one  Two three four." if "one" in text and name == "paraphrase" else f"{text} y"}

    options = {"rates": [0.0, 0.25, 0.5, 0.75], "smoothing": 0.0, "random_pairs": 0, "per_score": 1, "seed": 3}
    both = job(answers)
    result = tasks.fill(sentence, prompts.load(), both, both, **options)
    assert len(result.records) == 2  # one each, the scores being equal
    reasons = Counter((r["row"], r["reason"]) for r in result.rejects)
    assert reasons[1, "same_text"] == 1
    assert sum(reasons.values()) == 6  # 8 versions: nothing is lost
    assert [r["row"] for r in result.rejects] == sorted(r["row"] for r in result.rejects)


def test_write_combines_and_sets_repetitions_aside(tmp_path, job):
    def answers(name, f):
        return {"sentences": ["The same for all.", f"On {f['topic']} in {f['genre']}, {f['draw']}."]}

    writer = job(answers)
    about = (["t1", "t2"], ["g1", "g2", "g3"], prompts.load(), writer)
    result = tasks.write(*about, requests=8, count=2, seed=1)
    texts = [r["text"] for r in result.records]
    assert len(texts) == len(set(texts)) == 1 + 8
    assert len({(r["topic"], r["genre"]) for r in result.records[1:7]}) == 6  # all before any again
    assert sum(text.endswith("2.") for text in texts) == 2
    assert [r["reason"] for r in result.rejects] == ["duplicate"] * 7
    path = write_records(tmp_path / "texts.jsonl", result, [writer])
    assert [e.texts[0] for e in Texts(path)] == texts


def test_histogram_by_hand():
    counts = output.histogram([0.0, 0.05, 0.1, 0.3, 0.99, 1.0])
    assert [counts[f"{i / 10:.1f}-{(i + 1) / 10:.1f}"] for i in range(10)] == [2, 1, 0, 1, 0, 0, 0, 0, 0, 2]
