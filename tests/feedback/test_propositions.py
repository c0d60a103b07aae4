"""The task `propositions`, with a labeler that answers by rule; its file trains the sub-sentence encoder."""

import json

from cse.data.marked import Propositions
from cse.feedback import prompts
from cse.feedback.tasks import propositions, ranges
from tests.feedback.helpers import rows, write_records

ANSWERS = {
    "the cat sat and ran": {"a": [["the cat sat"], ["the cat", "ran"]], "b": [["it ran"]], "equal": [[1, 0]]},
    "a dog ran": {"a": [["a dog slept"]], "b": [["the sun"]], "equal": [[0, 0]]},
    "red sun": {"a": [["red sun"]], "b": [["blue moon"]], "equal": []},
    "slow dog": {"a": [["slow dog"]], "b": [["dog"]], "equal": [[0, 3]]},
    "a mat": {"a": [["a mat"]], "b": [["on the mat"]], "equal": [[0, 0]]},
}
SECOND = ["it ran", "the sun", "blue moon", "the dog", "on the mat"]


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
