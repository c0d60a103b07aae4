"""Labellers that run here: an encoder, a cross-encoder, a language model; tiny ones, and SmolLM2 when asked (slow)."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cse import cli
from tests.conftest import WORDS

PAIRS = [
    ("the cat sat", "a dog ran fast"),
    ("the cat sat", "the cat sat on"),
    ("red house", "blue moon"),
    ("sun", "tree"),
]


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


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def tiny_encoder(tiny_bert, tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    body = Transformer(tiny_bert)
    SentenceTransformer(modules=[body, Pooling(16, "mean")], device="cpu").save(str(folder))
    return folder


def test_an_encoder_rates_by_cosine(tmp_path, pairs, tiny_encoder, monkeypatch):
    from sentence_transformers import SentenceTransformer

    rater = ["--model", f"encoder:{tiny_encoder}", "--data", pairs]
    assert feedback(tmp_path, "score", *rater, "--model-name", "tiny") == 0
    records = lines(tmp_path / "out.jsonl")
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    for record, (a, b) in zip(records, PAIRS, strict=True):
        u, v = model.encode(a), model.encode(b)
        cosine = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        assert record["raw_score"] == pytest.approx(cosine, abs=1e-4)
        assert record["score"] == max(0.0, record["raw_score"])
        assert record["model"].startswith("tiny@")
        assert record["prompt"] is None
    before = (tmp_path / "out.jsonl").read_bytes()
    monkeypatch.setattr("cse.feedback.raters.EncoderRater.ask", None)  # a second time there is nothing to ask
    assert feedback(tmp_path, "score", *rater, "--model-name", "tiny") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert feedback(tmp_path, "score", "--model", f"encoder:{tiny_encoder}", "--data", pairs, out="other") == 0


def test_a_rater_writes_nothing(tmp_path, pairs, tiny_encoder, capsys):
    model = ["--model", f"encoder:{tiny_encoder}"]
    assert feedback(tmp_path, "contrast", *model, "--data", pairs, "--columns", "sentence1") == 2
    assert "cannot answer 'contrast'" in capsys.readouterr().err


def test_a_cross_encoder_rates_through_a_sigmoid(tmp_path, pairs, tiny_bert, capsys):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    for outputs in (1, 3):
        set_seed(1)
        config = BertConfig.from_pretrained(tiny_bert, num_labels=outputs)
        network = BertForSequenceClassification(config).eval()
        network.save_pretrained(tmp_path / f"cross{outputs}")
        tokenizer.save_pretrained(tmp_path / f"cross{outputs}")
        if outputs == 1:
            with torch.inference_mode():
                inputs = [tokenizer(a, b, return_tensors="pt") for a, b in PAIRS]
                expected = [torch.sigmoid(network(**i).logits).item() for i in inputs]
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{tmp_path / 'cross1'}", "--data", pairs) == 0
    assert [r["score"] for r in lines(tmp_path / "out.jsonl")] == pytest.approx(expected, abs=1e-4)
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{tmp_path / 'cross3'}", "--data", pairs) == 2
    assert "3 outputs" in capsys.readouterr().err


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A random causal model over characters, so that it can write anything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    folder = tmp_path_factory.mktemp("tiny-llama")
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(["<eos>", *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    set_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = LlamaConfig(**sizes, **ends, num_attention_heads=2, max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_language_model_fills_in_the_values(tmp_path, tiny_llama):
    """Whatever it writes is a value of the object that was asked for, or counted as none."""
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(WORDS[i : i + 3]) for i in range(5)))
    (tmp_path / "short.yaml").write_text(json.dumps({
        "name": "contrast", "version": 1, "temperature": 1.5, "max_tokens": 20, "system": "s", "user": "$sentence"
    }))  # fmt: skip
    options = ["--data", str(tmp_path / "texts.txt"), "--prompt", str(tmp_path / "short.yaml"), "--chunk", "2"]
    options += ["--model", f"local:{tiny_llama}"]
    assert feedback(tmp_path, "contrast", *options) == 0
    [answers] = json.loads((tmp_path / "out.manifest.json").read_text())["labellers"]
    assert answers["questions"] == 5
    assert answers["answers"] == answers["answered"] + sum(answers["unusable"].values()) <= 15
    assert set(answers["unusable"]) <= {"truncated", "empty", "same_text", "wrong_type"}
    assert answers["tokens"]["output"] > 0
    before = [(tmp_path / f"out{end}").read_bytes() for end in (".jsonl", ".rejects.jsonl", ".manifest.json")]
    (tmp_path / "cache" / "answers.sqlite").unlink()
    assert feedback(tmp_path, "contrast", *options) == 0
    assert [(tmp_path / f"out{end}").read_bytes() for end in (".jsonl", ".rejects.jsonl", ".manifest.json")] == before


def test_drafts_by_hand():
    from cse.feedback.local import _Draft, _values

    assert _values("contrast") == [("positive", "text"), ("contradiction", "text")]
    assert _values("score") == [("score", "number")]
    assert _values("write") == [("sentences", "list")]
    draft = _Draft()
    draft.close("positive", "text", 'He said \\"no\\"." and so on', tokens=5, cut=False)
    assert draft.open("contradiction") == '{"positive": "He said \\"no\\".", "contradiction": '
    draft.close("contradiction", "text", "No.\nMore", tokens=4, cut=True)
    reply = draft.reply(9, "then")
    assert json.loads(reply.text) == {"positive": 'He said "no".', "contradiction": "No."}
    assert (reply.finish, reply.input_tokens, reply.output_tokens) == ("stop", 9, 9)
    for words, cut, finish in [
        ("endless", True, "length"),
        ("5", True, None),
        (" 0.75}", False, None),
        ("x", False, "stop"),
    ]:
        draft = _Draft()
        draft.close("v", "text" if words == "endless" else "number", words, tokens=1, cut=cut)
        broken = finish is not None
        assert (draft.broken is not None) == broken, words
        if broken:
            assert draft.reply(1, "").finish == finish


@pytest.mark.slow
def test_smollm2_writes_and_an_encoder_rates(tmp_path, real_cache):
    """For real: SmolLM2-135M paraphrases, contradicts and fills gaps; all-MiniLM rates what it wrote."""
    rater = os.environ.get("CSE_TEST_RATER")
    if not rater:
        pytest.skip("set CSE_TEST_RATER to a folder of all-MiniLM-L6-v2")
    (tmp_path / "texts.txt").write_text(
        "A man is playing the guitar on a stage.\n"
        "The storm closed three roads in the north of the country.\n"
        "Children are building a snowman in the garden.\n"
        "The company opened a new factory last year.\n"
        "She bought fresh bread at the market this morning.\n"
        "The old bridge was repaired after the flood.\n"
    )
    model = ["--model", "local:asset:smollm2", "--data", str(tmp_path / "texts.txt"), "--chunk", "6"]
    assert feedback(tmp_path, "contrast", *model, out="contrast") == 0
    triplets = lines(tmp_path / "contrast.jsonl")
    assert len(triplets) >= 4
    more = ["--rates", "0", "0.4", "--rater", f"encoder:{rater}"]
    assert feedback(tmp_path, "fill", *model, *more, out="fill") == 0
    pairs = [pair for pair in lines(tmp_path / "fill.jsonl") if pair["mask_rate"] is not None]
    assert len(pairs) >= 6
    written = [pair["raw_score"] for pair in pairs]
    apart = ["--model", f"encoder:{rater}", "--data", str(tmp_path / "random.tsv")]
    texts = (tmp_path / "texts.txt").read_text().splitlines()
    (tmp_path / "random.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in itertools.pairwise(texts)))
    assert feedback(tmp_path, "score", *apart, "--columns", "0", "1", out="random") == 0
    random = [pair["raw_score"] for pair in lines(tmp_path / "random.jsonl")]
    assert (
        np.mean(written) > np.mean(random) + 0.3
    )  # what it writes of a sentence is nearer to it than another sentence
