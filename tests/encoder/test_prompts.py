"""Prompts by role: what is trained is what is saved, and what is applied after loading."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from cse import AugmentedViews, Encoder, Example, Masked, RefreshNegatives, TextViews, TopK, Trainer, export
from cse.cli import main
from cse.data.tokens import TokenStore
from cse.encoder.checkpoint.layout import Layout
from cse.evaluation import STSEvaluator
from cse.evaluation.evaluators.sts_rows import Pairs
from cse.evaluation.loading import load_model
from cse.inference.export import OnnxEncoder
from cse.publish.card.usage import sentence_transformers_code, transformers_code
from tests.refusals import refuses
from tests.runs import make_run

PROMPTS = {"query": "sun house ", "document": "moon : "}
ROLES = {"anchor": "query", "positive": "document", "negative": "document"}
TEXTS = ["the cat sat", "dog ran fast on a mat", "", "red " * 60]


@pytest.fixture
def prompted(tiny_bert):
    return Encoder(tiny_bert, pooler="mean", prompts=PROMPTS, max_length=16)


def assert_as_sentence_transformers(folder) -> None:
    """Every prompt by name, the default one, and none: the same vectors here and there."""
    ours, theirs = Encoder.load(str(folder)), SentenceTransformer(str(folder), device="cpu")
    assert {name: text for name, text in theirs.prompts.items() if text} == {n: t for n, t in ours.prompts.items() if t}
    for choice in [{}, {"prompt": ""}, {"prompt": "dog "}, *({"prompt_name": name} for name in ours.prompts)]:
        want = theirs.encode(TEXTS, **choice)
        np.testing.assert_allclose(ours.encode(TEXTS, **choice), want, atol=1e-6, err_msg=str(choice))


def test_prompts_trained_are_prompts_saved_are_prompts_applied(tiny_bert, tmp_path):
    """Each link against an independent truth: the tokenizer itself, the file, sentence-transformers."""
    encoder = Encoder(tiny_bert, pooler="mean", prompts=PROMPTS, default_prompt_name="query")
    collator = TextViews(max_length=12, prompts=ROLES)
    run = make_run(tmp_path, tiny_bert, triplets=True, encoder=encoder, collator=collator)
    seen, render = [], run.collator.__class__.__call__

    class Watched(TextViews):
        def __call__(self, examples, epoch=0):
            batch = render(self, examples, epoch)
            seen.append((examples, batch))
            return batch

    run.collator.__class__ = Watched
    Trainer(run).fit()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert len(seen) >= 6
    for examples, batch in seen:
        for row, example in enumerate(examples):
            for view, (text, name) in enumerate(zip(example.texts, ROLES.values(), strict=True)):
                want = tokenizer(PROMPTS[name] + text, truncation=True, max_length=12)["input_ids"]
                got = batch.input_ids[row, view][batch.attention_mask[row, view].bool()].tolist()
                assert got == want
    for name in ("best", "last"):
        about = json.loads((run.folder / name / "config_sentence_transformers.json").read_text())
        assert (about["prompts"], about["default_prompt_name"]) == (PROMPTS, "query")
        assert_as_sentence_transformers(run.folder / name)


@pytest.mark.parametrize(("default", "template"), [("document", None), (None, "a tree {text} on")])
def test_vectors_are_those_of_sentence_transformers(tiny_bert, tmp_path, default, template):
    encoder = Encoder(tiny_bert, pooler="mean", prompts=PROMPTS, default_prompt_name=default, template=template)
    encoder.save(tmp_path / "model")
    assert_as_sentence_transformers(tmp_path / "model")


# A model that has prompts already
def test_a_backbones_prompts_are_kept_and_null_removes_them(prompted, tmp_path):
    prompted.default_prompt_name = "query"
    prompted.save(tmp_path / "given")
    given = str(tmp_path / "given")
    kept, removed = Encoder(given, pooler="mean"), Encoder(given, pooler="mean", prompts=None)
    assert (kept.prompts, kept.default_prompt_name) == (PROMPTS, "query")
    assert (removed.prompts, removed.default_prompt_name) == ({}, None)
    assert Encoder(given, default_prompt_name="document").default_prompt_name == "document"
    assert Encoder(given, prompts={"s2s": "the "}).prompts == {"s2s": "the "}
    np.testing.assert_array_equal(kept.encode(TEXTS[:3]), prompted.encode(TEXTS[:3]))
    np.testing.assert_array_equal(removed.encode(TEXTS[:3]), prompted.encode(TEXTS[:3], prompt=""))


# In training
def store(encoder, texts, names, max_length=12):
    prompts = encoder.prompts_by_role(names)
    return TokenStore.build(texts, encoder.tokenizer, max_length, prompts)


def words(encoder, ids):
    return encoder.tokenizer.decode([i for i in ids if i > 3])


def test_ids_are_those_of_the_prompted_text_and_cutting_keeps_the_prompt(prompted):
    tokens = store(prompted, [*TEXTS, TEXTS[0]], ROLES)
    assert len(tokens) == len(TEXTS)
    for text in TEXTS:
        for role, name in ROLES.items():
            want = prompted.tokenizer((PROMPTS[name] + text).strip(), truncation=True, max_length=12)["input_ids"]
            assert tokens.ids(tokens.text_id(text), role).tolist() == tokens.encode(text, role) == want
    assert words(prompted, tokens.ids(3, "anchor")) == "sun house" + " red" * 8  # 12 = [CLS] 2 + 8 [SEP]
    assert tokens.truncated == 2  # the long text behind each of the two prompts
    assert sorted(tokens.lengths().elements()) == sorted(
        len(tokens.ids(i, role)) for role in ("anchor", "negative") for i in range(4)
    )


def test_a_text_with_a_prompt_is_another_text_in_the_cache(prompted):
    bare, behind = store(prompted, TEXTS, {}), store(prompted, TEXTS, {"anchor": "query"})
    again = store(prompted, TEXTS, {})
    assert behind.ids(0, "positive").tolist() == bare.ids(0).tolist() == again.ids(0).tolist()
    assert behind.ids(0, "anchor").tolist() != bare.ids(0).tolist()


def views(encoder, collator, *examples):
    """The words of each view of each row, and the batch."""
    tokens = store(encoder, [text for e in examples for text in e.texts], collator.prompts, collator.max_length)
    collator.setup(tokens, 0)
    batch = collator([replace(example, row_id=i) for i, example in enumerate(examples)])
    return [[words(encoder, row.tolist()) for row in rows] for rows in batch.input_ids], batch


SOME = {"anchor": "query", "negative": None}
VIEWS = [  # roles, default, texts of a row, what its views are
    ({"anchor": "query"}, None, ("cat",), ["sun house cat"] * 2),  # views of one text have the anchor's
    (ROLES, None, ("cat", "cat", "dog"), ["sun house cat", "sun house cat", "moon dog"]),
    (SOME, "document", ("cat", "dog", "sun"), ["sun house cat", "moon dog", "sun"]),  # null means none
    ({}, "document", ("cat", "dog", "sun"), ["moon cat", "moon dog", "moon sun"]),
]


@pytest.mark.parametrize(("roles", "default", "texts", "want"), VIEWS)
def test_each_view_has_the_prompt_of_its_role(prompted, roles, default, texts, want):
    prompted.default_prompt_name = default
    assert views(prompted, TextViews(max_length=12, prompts=roles), Example(texts))[0] == [want]


def test_the_same_text_in_two_roles_is_one_text_to_the_mask_of_false_negatives(prompted):
    rows = Example(("cat", "dog")), Example(("sun", "cat"))
    text_id = views(prompted, TextViews(max_length=12, prompts=ROLES), *rows)[1].text_id
    assert text_id[0, 0] == text_id[1, 1]
    assert len(set(text_id.flatten().tolist())) == 3


def test_augmentations_change_the_text_and_not_its_prompt(prompted):
    class Shout:
        def __call__(self, text, rng):
            return text + " fast"

    collator = AugmentedViews(augmentations=[Shout()], anchor_augmentations=[], max_length=12, prompts=ROLES)
    found, _ = views(prompted, collator, Example(("cat", "dog")), Example(("red",)))
    assert found == [["sun house cat", "moon dog fast"], ["sun house red", "sun house red fast"]]


def test_masking_leaves_the_prompt_alone(prompted):
    collator = Masked(views=TextViews(max_length=12, prompts=ROLES), probability=0.99)
    assert collator.prompts == ROLES
    _, batch = views(prompted, collator, Example(("cat dog sun", "red blue")), Example(("on a", "mat tree")))
    chosen = batch.mlm_labels != -100
    assert not chosen[:, 0, :3].any()  # [CLS] sun house
    assert not chosen[:, 1, :3].any()  # [CLS] moon [UNK]
    texts = batch.attention_mask.bool()
    texts[:, :, :3] = False
    last = batch.attention_mask.sum(-1, keepdim=True) - 1
    texts.scatter_(-1, last, torch.zeros_like(last, dtype=torch.bool))
    assert (chosen == texts).float().mean() > 0.9


# Bad input
NOT_A_PROMPT = "which is not a prompt of the encoder; it has "
BAD_ENCODERS = {  # prompts, default_prompt_name, the message
    "a name that is empty": ({"": "x "}, None, "encoder.prompts has the name ''"),
    "a name of spaces": ({"  ": "x "}, None, "encoder.prompts has the name '  '"),
    "a number": ({"query": 3}, None, "encoder.prompts.query is 3, which is not a string"),
    "null": ({"query": None}, None, "encoder.prompts.query is None, which is not a string"),
    "one text instead of names": ("query: ", None, "encoder.prompts is 'query: '"),
    "a default that is not a name": (PROMPTS, "passage", f"'passage', {NOT_A_PROMPT}query"),
    "a default without prompts": (None, "query", "is 'query', but the encoder has no prompts"),
    "a prompt that fills max_length": ({"query": "sun " * 14}, None, "takes 16 of it: no room for a text"),
}
BAD_RUNS = {  # whether rows are triplets, the prompts of the roles, that of the evaluator, the message
    "unknown name": (True, {"anchor": "question"}, None, "prompts.anchor is 'question', which is not a prompt"),
    "empty name": (True, {"anchor": ""}, None, "collator.prompts.anchor is ''"),
    "unknown role": (True, {"query": "query"}, None, "collator.prompts names the role 'query'"),
    "positive without column": (False, {"positive": "document"}, None, "have the role anchor only"),
    "negative without column": (False, {"negative": "document"}, None, "collator.prompts.negative is 'document'"),
    "unknown name in scoring": (True, {}, "question", "evaluator.prompt is 'question'"),
    "no room in training": (True, {"anchor": "long"}, None, "collator.max_length is 12, and the prompt 'sun sun"),
}


@pytest.mark.parametrize("case", [*BAD_ENCODERS, *BAD_RUNS])
def test_bad_prompts_are_refused_before_a_run_writes(tiny_bert, tmp_path, case):
    def start():
        if case in BAD_ENCODERS:
            Encoder(tiny_bert, prompts=BAD_ENCODERS[case][0], default_prompt_name=BAD_ENCODERS[case][1], max_length=16)
        triplets, names, scored, _ = BAD_RUNS[case]
        encoder = Encoder(tiny_bert, prompts=PROMPTS | {"long": "sun " * 10})
        collator = TextViews(max_length=12, prompts=names)
        run = make_run(tmp_path, tiny_bert, triplets=triplets, encoder=encoder, collator=collator)
        run.evaluator.prompt = scored
        Trainer(run)

    assert {**BAD_ENCODERS, **BAD_RUNS}[case][-1] in refuses("", start)
    assert not (tmp_path / "run").exists()


def test_a_pooling_that_leaves_the_prompt_out_is_refused_by_name(prompted, tmp_path):
    prompted.save(tmp_path / "model")
    config = tmp_path / "model" / "1_Pooling" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"include_prompt": False}))
    refuses("leaves the prompt out", Encoder.load, str(tmp_path / "model"))
    assert load_model(str(tmp_path / "model")).loader == "sentence-transformers"


def test_placeholders_of_sentence_transformers_are_no_prompts(prompted):
    prompted.prompts = {"query": "", "document": ""}
    refuses("has no prompts", prompted.prompts_by_role, {"anchor": "query"})
    prompted.prompts = {"query": "ask: ", "document": ""}  # as E5 and others have it
    found = prompted.prompts_by_role(ROLES)
    assert found == {"anchor": "ask: ", "positive": "", "negative": ""}


# In scoring and in the commands
def test_dev_scores_are_those_of_prompted_texts():
    prompted = Encoder("asset:mini", pooler="mean", prompts={"query": "question : "})

    class Foreign:
        """Sees the texts, with the prompt written into them."""

        def __init__(self, prompt):
            self.prompt = prompt

        def encode(self, texts, *, batch_size=64):
            return prompted.encode([self.prompt + text for text in texts], prompt="")

    def score(encoder, prompt=None):
        evaluator = STSEvaluator("sts-mini-dev", precision="fp32", prompt=prompt)
        ((task, data),) = evaluator._found.items()  # of which 100 pairs are enough
        few = {name: Pairs(p.first[:100], p.second[:100], p.gold[:100]) for name, p in data.subsets.items()}
        evaluator._found = {task: replace(data, subsets=few)}
        return evaluator(encoder)["dev"]

    bare, query = score(Foreign("")), score(Foreign("question : "))
    assert score(prompted) == pytest.approx(bare, abs=1e-3)
    assert score(prompted, "query") == pytest.approx(query, abs=1e-3)
    prompted.default_prompt_name = "query"
    assert score(prompted) == pytest.approx(query, abs=1e-3)
    assert abs(query - bare) > 0.01


def test_results_name_the_prompt(prompted, tmp_path, capsys):
    run = tmp_path / "run"
    prompted.default_prompt_name = "document"
    prompted.save(run / "best")
    (run / "metrics.jsonl").write_text("")
    assert main(["eval", str(run / "best"), "--tasks", "sts-mini-dev"]) == 0
    assert main(["eval", str(run / "best"), "--tasks", "sts-mini-dev", "--prompt", "query"]) == 0
    assert "prompt before every text (query): 'sun house '" in capsys.readouterr().out
    files = {"results-sts-mini-dev.json": "document", "results-sts-mini-dev-prompt-query.json": "query"}
    for file, name in files.items():
        model = json.loads((run / file).read_text())["model"]
        assert (model["prompt_name"], model["prompt"]) == (name, PROMPTS[name])


def test_encode_and_similarity_put_the_prompt_before_the_text(prompted, tmp_path, capsys):
    folder = str(tmp_path / "model")
    prompted.save(folder)
    model = SentenceTransformer(folder, device="cpu")
    (tmp_path / "t.txt").write_text("the cat\nred house\n")
    out = tmp_path / "out.npy"
    options = ["--out", str(out), "--precision", "fp32", "--prompt", "document"]
    assert main(["encode", folder, str(tmp_path / "t.txt"), *options]) == 0
    want = model.encode(["the cat", "red house"], prompt_name="document")
    np.testing.assert_allclose(np.load(out), want, atol=1e-6)
    assert "prompt" in capsys.readouterr().out
    options = ["--precision", "fp32", "--prompt", "query", "--prompt-b", "document"]
    assert main(["similarity", folder, "the cat", "red house", *options]) == 0
    a, b = model.encode(["the cat"], prompt_name="query"), model.encode(["red house"], prompt_name="document")
    assert float(capsys.readouterr().out) == pytest.approx(float(model.similarity(a, b)), abs=1e-4)


def test_mining_puts_its_own_prompt_before_anchors_and_before_the_pool(tmp_path):
    """The negatives are the nearest texts of the pool, by vectors of sentence-transformers."""
    import pyarrow.parquet

    folder = str(tmp_path / "model")
    Encoder("asset:mini", pooler="mean", prompts={"query": "question : ", "document": "answer : "}).save(folder)
    rows = ["a cat\ta kitten", "red house\tblue house", "the sun\tthe moon", "a dog runs\ta dog walks", "rain\tsnow"]
    (tmp_path / "pairs.tsv").write_text("\n".join(["anchor\tpositive", *rows]) + "\n")
    options = ["--data", str(tmp_path / "pairs.tsv"), "--columns", "anchor", "positive", "--ranks", "1", "10"]
    options += ["--precision", "fp32", "--prompt", "query", "--pool-prompt", "document", "--out"]
    assert main(["mine", folder, *options, str(tmp_path / "mined.parquet")]) == 0
    found = pyarrow.parquet.read_table(tmp_path / "mined.parquet").to_pydict()
    model = SentenceTransformer(folder, device="cpu")
    queries = model.encode(found["anchor"], prompt_name="query", normalize_embeddings=True)
    pool = model.encode(found["positive"], prompt_name="document", normalize_embeddings=True)
    cosine = queries @ pool.T - 2 * np.eye(len(rows))
    assert found["negative_1"] == [found["positive"][i] for i in cosine.argmax(1)]
    about = json.loads((tmp_path / "mined.json").read_text())["checkpoint"]
    assert (about["prompt"], about["pool_prompt"]) == ("question : ", "answer : ")


def test_negatives_of_the_encoder_in_training_are_mined_with_the_prompts_of_the_roles(tmp_path):
    encoder = Encoder("asset:mini", pooler="mean", prompts={"query": "question : ", "document": "answer : "})
    rows = [Example(("a cat", "a kitten")), Example(("red house", "blue house")), Example(("the sun", "the moon"))]
    source = RefreshNegatives(miner=TopK(first=1, last=3), k=1, precision="fp32")
    source.prompts = encoder.prompts_by_role(ROLES)
    source.setup(rows, 1)
    queries = encoder.encode([e.texts[0] for e in rows], prompt="question : ")
    pool = encoder.encode([e.texts[1] for e in rows], prompt="answer : ")
    cosine = queries @ pool.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(pool, axis=1)
    want = (cosine - 3 * np.eye(3)).argmax(1)
    got = source.rows(0, encoder)[0]
    assert [got[i].texts[2] for i in range(3)] == [rows[i].texts[1] for i in want]


def test_an_export_states_the_prompts_and_applies_them(prompted, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    prompted.default_prompt_name = "query"
    prompted.save(tmp_path / "model")
    about = export(Encoder.load(str(tmp_path / "model")), tmp_path / "onnx")
    assert (about["prompts"], about["default_prompt_name"]) == (PROMPTS, "query")
    exported, model = OnnxEncoder(tmp_path / "onnx"), SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for choice in ({}, {"prompt_name": "document"}, {"prompt": "dog "}):
        np.testing.assert_allclose(exported.encode(TEXTS, **choice), model.encode(TEXTS, **choice), atol=1e-5)
    assert load_model(str(tmp_path / "onnx"), prompt="document").prompt == PROMPTS["document"]
    refuses("it has query, document", exported.encode, TEXTS, prompt_name="passage")


@pytest.mark.parametrize("default", [None, "query"])
def test_the_code_of_a_card_names_and_applies_the_prompts(prompted, tmp_path, default):
    prompted.default_prompt_name = default
    folder = tmp_path / "model"
    prompted.save(folder)
    layout, ours = Layout.read(folder), Encoder.load(str(folder))
    shown = sentence_transformers_code(layout, str(folder))
    assert ('prompt_name="query"' in shown) == (default is None)
    assert '# the prompt "document" puts "moon : " before every text' in shown
    names = {}
    exec(transformers_code(layout, str(folder), local=True), names)
    for choice in ({}, {"prompt": PROMPTS["document"]}):
        np.testing.assert_allclose(names["encode"](TEXTS[:2], **choice), ours.encode(TEXTS[:2], **choice), atol=1e-6)
    names = {}
    exec(shown, names)
    examples = ["A cat sat on the mat.", "A feline rested on the rug.", "The bank raised its rates."]
    np.testing.assert_allclose(names["vectors"], ours.encode(examples, prompt_name="query"), atol=1e-6)
