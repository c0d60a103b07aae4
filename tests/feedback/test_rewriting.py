"""Questions, rewrites and chains of paraphrases: what becomes of answers, and that recipes draw from the files."""

import json

import pytest

from cse import Pairs, TextViews, cli
from cse import recipe as recipes
from cse.feedback import prompts, tasks
from cse.feedback.answers import Unusable, parse
from tests.feedback.helpers import lines, rows, write_records
from tests.feedback.server import Server


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
