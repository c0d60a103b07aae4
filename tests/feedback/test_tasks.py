"""What becomes of answers, with a labeler that answers by rule; and that recipes read what comes out."""

import json
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from cse import Pairs, Propositions, ScoredPairs, Texts, TextViews, Triplets, cli
from cse import recipe as recipes
from cse.feedback import command, output, prompts, tasks
from cse.feedback.answers import Unusable, parse
from cse.feedback.tasks import propositions, ranges
from tests.feedback.helpers import lines, rows, write_records
from tests.feedback.server import Server
from tests.mining.conftest import save_reranker  # noqa: F401
from tests.models import save_embedder


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


ANSWERS = {
    "the cat sat and ran": {"a": [["the cat sat"], ["the cat", "ran"]], "b": [["it ran"]], "equal": [[1, 0]]},
    "a dog ran": {"a": [["a dog slept"]], "b": [["the sun"]], "equal": [[0, 0]]},
    "red sun": {"a": [["red sun"]], "b": [["blue moon"]], "equal": []},
    "slow dog": {"a": [["slow dog"]], "b": [["dog"]], "equal": [[0, 3]]},
    "a mat": {"a": [["a mat"]], "b": [["on the mat"]], "equal": [[0, 0]]},
}
SECOND = ["it ran", "the sun", "blue moon", "the dog", "on the mat"]


def test_every_task_is_declared():
    assert list(get_args(command.TaskName)) == list(tasks.TASKS)


def test_the_answers_become_rows(tmp_path, job):
    asked = rows(*zip(ANSWERS, SECOND, strict=True))
    writer = job(lambda name, fields: ANSWERS[fields["text_a"]])
    result = propositions(asked, prompts.load(), writer)
    reasons = [(reject["row"], reject["reason"]) for reject in result.rejects]
    assert reasons == [(2, "not_in_text"), (3, "nothing_equal"), (4, "out_of_range")]
    data = Propositions(write_records(tmp_path / "rows.jsonl", result, [writer]))
    assert [example.texts for example in data] == [("the cat sat and ran", "it ran"), ("a mat", "on the mat")]
    assert data[0].spans[0].ranges == (((0, 11),), ((0, 7), (16, 19)))
    assert data[0].spans[0].groups[1] == data[0].spans[1].groups[0]


def test_pieces_are_found_in_their_order():
    assert ranges("the cat and the dog", ["the", "dog"]) == [[0, 3], [16, 19]]
    assert ranges("the cat and the dog", ["cat", "the"]) == [[4, 7], [12, 15]]
    assert ranges("a cat ran", ["ran", "a cat"]) == [[0, 5], [6, 9]]


def test_the_examples_of_the_prompt_are_usable():
    for _, answer in prompts.load()["propositions"].turns:
        assert json.loads(answer)["equal"]


def test_questions_are_columns_of_which_a_recipe_draws(tmp_path, job):
    """Repeated ones count once; one that two passages share fits neither; missing ones are null."""
    answers = {
        "p one": ["what is one", "What is one?", "where is one", "shared by both", "who is one"],
        "p two": ["shared by both", "what is two"],
        "p three": ["shared by both"],
    }
    writer = job(lambda name, f: {name: answers[f["passage"]]})
    result = tasks.queries(rows(*answers), prompts.load(), writer, count=3)
    found = [[record[f"query_{i}"] for i in (1, 2, 3)] for record in result.records]
    assert found == [["what is one", "where is one", None], ["what is two", None, None]]
    assert [(r["row"], r["reason"]) for r in result.rejects] == [(3, "repeated")]
    data = Pairs(write_records(tmp_path / "queries.jsonl", result, [writer]))
    assert data.understood == "anchor = text, positives = query_1, query_2, query_3; not used: model, prompt, time"
    assert (data.num_positives, data[1].texts) == (3, ("p two", "what is two", " ", " "))
    drawn = {text for epoch in range(9) for _, text in TextViews(sample=1).texts(data, epoch=epoch)}
    assert drawn == {"what is one", "where is one", "what is two"}


def test_rewrites_of_one_word_or_of_the_sentence_itself_are_left_out(job):
    said = {"a b c": ["a, B c!", "word", "c b a", "b c a"], "d e f": ["D e f", "d e f."], "g h": ["word"]}
    result = tasks.rewrites(rows(*said), prompts.load(), job(lambda n, f: {n: said[f["sentence"]]}), count=2)
    assert [(r["text"], r["rewrite_1"], r["rewrite_2"]) for r in result.records] == [("a b c", "c b a", "b c a")]
    assert [(r["row"], r["reason"]) for r in result.rejects] == [(2, "same_text"), (3, "one_word")]


def test_a_chain_by_pencil(tmp_path, job):
    """The second question is about the first answer, and only of rows that have one."""
    plain = {"small dogs bark": "little hounds yelp", "cats sleep": "", "birds sing well": "fowls chirp nicely"}
    other = {"little hounds yelp": "tiny puppies make noise", "fowls chirp nicely": "birds sing well"}

    def answers(name, f):
        return {"sentence": (plain if name == "paraphrase" else other)[f["sentence"]]}

    writer = job(answers)
    result = tasks.chain(rows(*plain), prompts.load(), writer)
    assert [(r["text"], r["paraphrase"], r["rewording"]) for r in result.records] == [
        ("small dogs bark", "little hounds yelp", "tiny puppies make noise")
    ]
    assert [(r["row"], r["reason"]) for r in result.rejects] == [(2, "empty"), (3, "same_text")]
    assert result.rejects[1]["texts"] == ["birds sing well", "fowls chirp nicely", "birds sing well"]
    result.records *= 2
    result.records[1] = {**result.records[0], "text": "another"}
    data = Pairs(write_records(tmp_path / "chain.jsonl", result, [writer]))
    assert (data.num_positives, data[0].texts[1:]) == (2, ("little hounds yelp", "tiny puppies make noise"))


@pytest.mark.parametrize(
    ("given", "answer", "reason"),
    [
        ("The museum opened its doors", "Its doors the museum opened again", "kept_words"),
        ("The museum opened its doors", "The opening of museums and their doors", "kept_words"),  # in other forms
        ("The museum opened its doors", "The museum was founded", None),  # one of three long words
        ("It is so", "So it is not a lie", None),  # no long word
    ],
)
def test_how_many_words_a_rewording_may_keep(given, answer, reason):
    said = json.dumps({"sentence": answer})
    if reason is None:
        assert parse("reword", said, {"sentence": given}).sentence == answer
    else:
        with pytest.raises(Unusable, match=reason):
            parse("reword", said, {"sentence": given})


def test_the_command_resumes_and_says_how_to_train(tmp_path, capsys, monkeypatch):
    """A cap ends it after two passages; the same command asks about the others alone. One bad answer is asked again."""
    passages = [f"passage id={word} s=0.5" for word in ("aa", "bb", "cc")]
    (tmp_path / "passages.txt").write_text("\n".join(passages))

    def answer(handler, question):
        word = question.rpartition("id=")[2][:2]
        return json.dumps({"queries": [f"what is {word}", f"where is {word}"]})

    monkeypatch.setattr("tests.feedback.server._Handler.right", answer)
    with Server({"passage": ["say:nonsense"]}) as server:
        base = ["feedback", "queries", "--model", "openai:m", "--base-url", server.url, "--workers", "1"]
        base += ["--data", str(tmp_path / "passages.txt"), "--out", str(tmp_path / "q.jsonl"), "--count", "2"]
        base += ["--cache", str(tmp_path / "answers")]
        assert cli.main([*base, "--max-requests", "3"]) == 3
        assert not (tmp_path / "q.jsonl").exists()
        assert cli.main(base) == 0
        assert server.asked() == {"id=aa": 2, "id=bb": 1, "id=cc": 1}
    found = [(record["text"], record["query_2"]) for record in lines(tmp_path / "q.jsonl")]
    assert found == [(p, f"where is {w}") for p, w in zip(passages, ("aa", "bb", "cc"), strict=True)]
    assert f"cse train pretrain-query-as-context --data {tmp_path / 'q.jsonl'}" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "q.manifest.json").read_text())
    assert (manifest["options"], manifest["labelers"][0]["unusable"]) == ({"count": 2}, {"malformed": 1})


@pytest.mark.parametrize("column", ["label", "topic"])
def test_labels_of_rows_stay_with_their_rewrites(tmp_path, capsys, monkeypatch, column):
    """LM-CPPF: of a file with labels, texts and rewrites of one label are positives of each other."""
    sentences = {"hens id=aa s=0.5": "farm", "cows id=bb s=0.5": "farm", "stars id=cc s=0.5": "space"}
    table = [f"sentence\t{column}", *(f"{text}\t{label}" for text, label in sentences.items()), "late id=dd s=0.5\t"]
    (tmp_path / "rows.tsv").write_text("\n".join(table))

    def answer(handler, question):
        word = question.rpartition("id=")[2][:2]
        return json.dumps({"rewrites": [f"one more {word}", f"another {word}"]})

    monkeypatch.setattr("tests.feedback.server._Handler.right", answer)
    with Server({}) as server:
        line = ["feedback", "rewrites", "--model", "openai:m", "--base-url", server.url, "--cache", str(tmp_path / "c")]
        line += ["--data", str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "r.jsonl"), "--count", "2"]
        assert cli.main(line if column == "label" else [*line, "--label-column", column]) == 0
    assert f"of the column {column} are kept" in capsys.readouterr().out
    (reject,) = lines(tmp_path / "r.rejects.jsonl")
    assert (reject["row"], reject["reason"], reject["detail"]) == (4, "blank", "the label is missing")
    assert json.loads((tmp_path / "r.manifest.json").read_text())["data"]["label_column"] == column
    config = recipes.load(
        "supcon", ["--data=cse.data.Pairs", f"--data.path={tmp_path / 'r.jsonl'}", "--data.label_column=label"]
    ).config.data
    data = Pairs(**vars(config.init_args))
    assert [(e.texts[0], data.label_names[e.label]) for e in data] == list(sentences.items())
    assert data[2].texts[1:] == ("one more cc", "another cc")
    plain = Pairs(str(tmp_path / "r.jsonl"))  # what the recipe laclip reads
    assert plain.understood.startswith("anchor = text, positives = rewrite_1, rewrite_2; not used: label")


def test_a_count_that_a_task_does_not_take(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("a b c\nd e f")
    line = ["feedback", "chain", "--model", "openai:m", "--data", str(tmp_path / "t.txt"), "--out"]
    assert cli.main([*line, str(tmp_path / "c.jsonl"), "--count", "3"]) == 2
    assert "--count is 3, but chain asks for one answer" in capsys.readouterr().err
    line[1] = "contrast"
    assert cli.main([*line, str(tmp_path / "c.jsonl"), "--label-column", "label"]) == 2
    assert "--label-column is label, but contrast keeps no labels" in capsys.readouterr().err


PAIRS = [("the cat sat", "a dog ran fast"), ("the cat sat", "the cat sat on"), ("red house", "blue moon")]


@pytest.fixture(autouse=True)
def _one_time(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")


@pytest.fixture
def pairs(tmp_path) -> str:
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    return str(path)


def feedback(folder: Path, task: str, *more: str, out: str = "out") -> int:
    return cli.main(["feedback", task, "--out", str(folder / f"{out}.jsonl"), "--cache", str(folder / "cache"), *more])


@pytest.fixture(scope="session")
def tiny_encoder(tiny_bert, tmp_path_factory):
    return Path(save_embedder(tiny_bert, tmp_path_factory.mktemp("encoder")))


def test_an_encoder_rates_by_cosine(tmp_path, pairs, tiny_encoder, monkeypatch):
    from sentence_transformers import SentenceTransformer

    rater = ["--model", f"encoder:{tiny_encoder}", "--data", pairs]
    assert feedback(tmp_path, "score", *rater) == 0
    records = lines(tmp_path / "out.jsonl")
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    for record, (a, b) in zip(records, PAIRS, strict=True):
        u, v = model.encode(a), model.encode(b)
        cosine = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        assert record["raw_score"] == pytest.approx(cosine, abs=1e-4)
        assert record["score"] == max(0.0, record["raw_score"])
        assert record["model"].startswith(f"{tiny_encoder.name}@")
        assert record["prompt"] is None
    before = (tmp_path / "out.jsonl").read_bytes()
    monkeypatch.setattr("cse.feedback.raters.Rater.ask", None)  # a second time there is nothing to ask
    assert feedback(tmp_path, "score", *rater) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert feedback(tmp_path, "score", "--model", f"encoder:{tiny_encoder}", "--data", pairs, out="other") == 0


def test_an_encoder_that_gives_a_vector_of_0_rates_nothing(tmp_path, pairs, tiny_encoder, monkeypatch, capsys):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, texts, **_: np.zeros((len(texts), 16)))
    assert feedback(tmp_path, "score", "--model", f"encoder:{tiny_encoder}", "--data", pairs) == 2
    assert f"--model {tiny_encoder}: {PAIRS[0][0]!r} has the vector 0" in capsys.readouterr().err


def test_a_cross_encoder_rates_through_a_sigmoid(tmp_path, pairs, save_reranker, capsys):  # noqa: F811
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    one, three = save_reranker(), save_reranker(3)
    network, tokenizer = BertForSequenceClassification.from_pretrained(one).eval(), AutoTokenizer.from_pretrained(one)
    with torch.inference_mode():
        expected = [torch.sigmoid(network(**tokenizer(*pair, return_tensors="pt")).logits).item() for pair in PAIRS]
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{one}", "--data", pairs) == 0
    assert [r["score"] for r in lines(tmp_path / "out.jsonl")] == pytest.approx(expected, abs=1e-4)
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{three}", "--data", pairs) == 2
    assert "3 outputs" in capsys.readouterr().err
