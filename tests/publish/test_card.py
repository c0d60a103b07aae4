"""The model card: what the Hub reads of it, what a reader pastes, and what stays."""

import json
import re
import socket
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from cse import Encoder, SoftPrompts, Texts, objectives
from cse.data.checks import examine
from cse.data.tokens import TokenStore
from cse.publish.card import BEGIN, END, write_card
from cse.publish.card.metadata import ARXIV, citations, of_folder
from cse.publish.stage import stage
from cse.publish.verify import scan
from tests.refusals import refuses
from tests.runs import write_texts

REPO = "me/my-encoder"
EXAMPLES = ["A cat sat on the mat.", "A feline rested on the rug.", "The bank raised its rates."]
TEXTS = ["the cat sat on a mat", "dog", "the red house " * 30]
RECIPE = {
    "seed": 42,
    "data": {"class_path": "cse.data.Texts", "init_args": {"path": "/home/me/corpus.txt", "limit": None}},
    "encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": "bert-base-uncased", "pooler": "cls"}},
    "objective": {"class_path": "cse.objectives.simcse.SimCSE", "init_args": {"temperature": 0.05}},
    "evaluator": {"class_path": "cse.evaluation.STSEvaluator", "init_args": {"tasks": "sts-mini-dev"}},
}
DATA = {
    "data": "corpus.txt",
    "rows": 12599,
    "sha256": "ab" * 32,
    "left_out": {"duplicate": 3},
    "texts": {"all": 12599, "distinct": 12590, "distinct_normalized": 12580, "same_in_row": 0},
    "tokens": {"truncated": 2, "max_length": 64, "mean": 9.5, "median": 9, "p95": 20, "max": 64, "histogram": {}},
    "scripts": {"LATIN": 1.0},
    "languages": {"en": 0.98, "unsure": 0.02},
    "languages_sample": 500,
    "overlap": {"STS12": {"texts": 6000, "shared_texts": 7, "pairs": 3108, "shared_pairs": 1, "examples": ["secret"]}},
}


def task(name, spearman, n):
    about = {"task": name, "kind": "sts", "metric": "spearman", "split": "test", "unit": "pairs", "measures": {}}
    scores = {"value": spearman, "all": {"spearman": spearman, "pearson": 1.0}, "mean": None, "wmean": None}
    data = {"text": "raw", "sha256": "0123456789abcdef", "where": "/home/me/sts"}
    return {**about, **scores, "n": n, "interval": [spearman - 2, spearman + 2], "data": data}


AVERAGE = {"requested": "sts", "metric": "spearman", "value": 73.142, "all": {"spearman": 73.142}}
RESULTS = {
    "schema": 2,
    "model": {"name": "/home/me/runs/x/best", "sha256": "c" * 64},
    "tasks": {"STS12": task("STS12", 65.494, 3108), "STSB-dev": task("STSB", 80.79, 1500)},
    "average": {**AVERAGE, "interval": [71.0, 75.0]},
    "missing": {},
    "geometry": {"alignment": 0.21, "uniformity": -1.75, "mean_cosine": 0.4, "effective_rank": 100.04, "dim": 576},
    "precision": "bf16",
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a card asked the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    """With everything after the pooler that there can be, and texts in lower case."""
    torch.manual_seed(1)
    made = Encoder(tiny_bert, pooler="first_last_layer1", head="mlp", export_head=True, max_length=20).eval()
    torch.nn.init.normal_(made.post[0].linear.weight)
    made.lower_case = True
    return made


@pytest.fixture
def folder(encoder, tmp_path):
    encoder.save(tmp_path / "best")
    stage(tmp_path / "best", tmp_path / "staged")
    return tmp_path / "staged"


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    packages = {"torch": "2.13.0", "transformers": "5.24.0"}
    (path / "env.json").write_text(
        json.dumps({"recipe": "simcse-unsup", "seed": 42, "cse": "9.9", "packages": packages})
    )
    (path / "data.json").write_text(json.dumps(DATA))
    return path


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    return path


def card(folder, *, run=None, results=None, license="mit", previous=None):
    write_card(folder, REPO, run=run, results=results, license=license, previous=previous)
    return ModelCard.load(folder / "README.md")


def test_the_hub_reads_scores_recipe_and_kind(folder, run, results):
    data = card(folder, run=run, results=results).data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert (data.license, data.base_model, data.language) == ("mit", "bert-base-uncased", "en")
    assert {"sentence-transformers", "objective:SimCSE"} <= set(data.tags)
    assert "custom_code" not in data.tags
    found = {r.dataset_name: r for r in data.eval_results}
    assert {name: r.metric_value for name, r in found.items()} == {"STS12": 0.65494, "STSB-dev": 0.8079}
    one = found["STSB-dev"]
    assert (one.dataset_type, one.dataset_split, one.metric_type) == ("stsb", "test", "spearman_cosine")
    assert one.metric_args == {"aggregation": "all", "pairs": 1500, "interval_95": [0.7879, 0.8279], "seeds": [42]}


def assert_has(text, *parts):
    assert [part for part in parts if part not in text] == []


def test_a_reader_finds_scores_data_and_environment(folder, run, results):
    text = card(folder, run=run, results=results).text
    assert_has(
        text,
        "| STS12 | test | **65.49** | 63.5 to 67.5 | - | - | 3,108 | raw `0123456789ab` |",
        "| average |  | **73.14** | 71.0 to 75.0 |",
        "One run, seed 42.",
        "chosen on sts-mini-dev",
        "| 0.210 | -1.750 | 0.400 | 100.0 of 576 |",
        "| rows | 12,599 |",
        f"| sha256 of the rows | {'ab' * 32} |",
        "| STS12 | 7 of 6,000 texts; 1 of 3,108 pairs |",
        "cse 9.9 · torch 2.13.0 · transformers 5.24.0",
        "with SimCSE (recipe `simcse-unsup` of cse 9.9)",
        "Gao, Tianyu and Yao, Xingcheng and Chen, Danqi",
    )
    assert "secret" not in text
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert shown["data"]["init_args"] == {"path": "LOCAL/corpus.txt", "limit": None}
    assert {**shown, "data": None} == {**RECIPE, "data": None}
    scan(folder)  # no path of the run, the results or the data got into it


def test_what_the_data_check_leaves_in_a_run_is_understood(encoder, folder, run, tmp_path):
    texts = Texts(str(write_texts(tmp_path, 20)))
    known = texts.unique_texts()
    sets = {"pairs": [(known[0].upper() + "!", "new one"), ("new one", "other")], "single": [("unseen",)]}
    report = examine(texts, TokenStore.build(known, encoder.tokenizer, 6), sets)
    (run / "data.json").write_text(json.dumps(report))
    cut = "| cut | 20 texts, to 6 tokens |"  # five words, and two tokens of the tokenizer's own
    sets = ["| pairs | 1 of 3 texts; 0 of 2 pairs |", "| single | 0 of 1 texts |"]
    assert_has(card(folder, run=run).text, cut, *sets, "| rows | 20 |", f"| sha256 of the rows | {texts.hash} |")


def test_without_run_and_results_it_says_so(folder):
    found = card(folder)
    assert found.data.eval_results is None
    assert "Not scored: no results were given" in found.text
    assert found.text.count("Not recorded") == 3
    assert "was not scored, so its quality is unknown" in found.text
    assert "\n\n\n" not in found.text


def test_missing_tasks_leave_no_average(folder, results):
    none = {"requested": "sts", "metric": None, "value": None, "all": {"spearman": None}, "interval": None}
    results.write_text(json.dumps(RESULTS | {"average": none, "missing": {"STS13": "no file"}}))
    text = card(folder, results=results).text
    assert "| average |" not in text
    assert "there is no average: STS13." in text


def test_what_training_changed_is_on_the_card_of_that_checkpoint(folder, run):
    row = {"checkpoint": "best", "part": "dev", "task": "STSB-dev", "before": 86.732, "after": 86.55}
    row |= {"difference": -0.182, "interval": [-0.38, 0.02], "verdict": "no difference shown"}
    other = {**row, "checkpoint": "merged", "task": "average", "part": "general", "interval": None}
    (run / "helped.json").write_text(json.dumps({"rows": [row, other]}))
    text = card(folder, run=run).text
    assert "| STSB-dev (dev) | 86.73 | 86.55 | -0.18 | -0.38 to +0.02 | no difference shown |" in text
    assert "general" not in text.partition("### What training changed")[2].partition("##")[0].partition("| set |")[2]
    write_card(folder, REPO, run=run, results=None, license="mit", previous=None, checkpoint="merged")
    merged = ModelCard.load(folder / "README.md").text
    assert "| average (general) | 86.73 | 86.55 | -0.18 | - | no difference shown |" in merged
    assert "STSB-dev (dev)" not in merged
    (run / "helped.json").write_text("{}")
    assert "What training changed" not in card(folder, run=run).text


def blocks(folder) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("extra", ["dense", "mask"])
def test_what_is_pasted_works(extra, encoder, tiny_bert, tmp_path, monkeypatch, capsys):
    """As a stranger would, with the folder in place of the Hub; test_load_matrix.py runs the code of every kind."""
    mask = {"pooler": "mask", "template": "the {text} sat {mask} on", "max_length": 20}
    made = encoder if extra == "dense" else Encoder(tiny_bert, **mask).eval()
    made.save(tmp_path / "best")
    stage(tmp_path / "best", tmp_path / "me" / "my-encoder")
    folder = tmp_path / "me" / "my-encoder"
    text = card(folder).text
    assert "cut" in text
    assert ("`the {text} sat [MASK] on`" in text) == (extra == "mask")
    assert ("| pooling | the last layer at the mask token" in text) == (extra == "mask")
    monkeypatch.chdir(tmp_path)  # where me/my-encoder is a folder
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: str(tmp_path / repo / file))
    want = made.encode(TEXTS)
    theirs, plain = {}, {}
    exec(blocks(folder)[0], theirs)
    exec(blocks(folder)[1], plain)
    assert np.abs(theirs["model"].encode(TEXTS) - want).max() < 1e-6
    assert np.abs(plain["encode"](TEXTS).numpy() - want).max() < 1e-6
    assert theirs["vectors"].shape == (3, made.dim)
    assert torch.allclose(plain["vectors"].norm(dim=1), torch.ones(3))
    assert capsys.readouterr().out.count("tensor(") == 2


def test_a_model_compared_by_distance_says_so(folder, run, results, encoder, monkeypatch, capsys):
    note = "It was trained by Euclidean distance."
    (run / "env.json").write_text(json.dumps({"recipe": "angle", "seed": 42, "note": note}))
    usual = card(folder, run=run, results=results).text
    assert "Euclidean" not in usual.replace(note, "")
    assert f"## Limits\n\n- {note}\n- Texts" in usual
    about = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about | {"similarity_fn_name": "euclidean"}))
    found = card(folder, run=run, results=results)
    assert "the Euclidean distance of two vectors says" in found.text
    assert "compare by Euclidean distance |" in found.text
    assert "Spearman correlation × 100 of the Euclidean distance" in found.text
    assert {result.metric_type for result in found.data.eval_results} == {"spearman_euclidean"}
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: str(Path(repo) / file))
    defined = {}
    exec(blocks(folder)[1].replace(REPO, str(folder)), defined)
    vectors = encoder.encode(EXAMPLES)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    assert capsys.readouterr().out.startswith("tensor([[-")
    assert np.abs(torch.cdist(defined["vectors"], defined["vectors"]).numpy() - distances).max() < 1e-4


def test_soft_prompts_say_what_they_need(tiny_bert, tmp_path):
    Encoder(tiny_bert, adapter=SoftPrompts(length=3)).save(tmp_path / "best")
    stage(tmp_path / "best", tmp_path / "staged")
    found = card(tmp_path / "staged")
    assert "custom_code" in found.data.tags
    assert f'SentenceTransformer("{REPO}", trust_remote_code=True)' in found.text
    assert "prefix_module.py" in found.text
    assert len(blocks(tmp_path / "staged")) == 1


OURS = f"{BEGIN}\n## Thanks\n\n\n\nTo {{{{ everyone }}}} & <b>all</b>: {BEGIN[:5]}\n{END}"


def test_what_the_user_wrote_stays(folder, run, results):
    first = card(folder).content
    edited = re.sub(f"{BEGIN}.*{END}", lambda _: OURS, first, flags=re.DOTALL).replace("# my-encoder", "# Changed")
    second = card(folder, run=run, results=results, previous=edited).content
    assert OURS in second
    assert "# Changed" not in second
    assert "One run, seed 42." in second
    assert card(folder, previous="---\nlicense: mit\n---\n# Mine\n").content == first  # a card of another make
    third = card(folder, previous=second).content
    assert third.count(OURS) == 1
    assert third.replace(OURS, "") == re.sub(f"{BEGIN}.*{END}", "", first, flags=re.DOTALL)


def test_half_a_marker_is_an_error(folder):
    for previous in (f"{BEGIN}\ntext", f"text\n{END}", f"{END}\ntext\n{BEGIN}"):
        refuses(r"yours: (begin|end)", card, folder, previous=previous)
    assert not (folder / "README.md").exists()


def test_licenses(folder, run):
    refuses(r"--license is not given, .*bert-base-uncased", card, folder, run=run, license=None)
    assert card(folder, license="CC-BY-4.0").data.license == "cc-by-4.0"
    (folder / "NOTICE").write_text("A model.\nLicense     Apache License 2.0; see it\n")
    assert card(folder, license=None).data.license == "apache-2.0"
    assert card(folder, license="mit").data.license == "mit"
    (folder / "NOTICE").write_text("A model.\nLicense     CC BY-NC 4.0\n")
    assert card(folder, license=None).data.license == "cc-by-nc-4.0"
    refuses(r"the backbone is under cc-by-nc-4\.0, .*\n.*give --license cc-by-nc-4\.0", card, folder, license="mit")


def test_licenses_in_words(tmp_path):
    for file, content, license in (
        ("LICENSE", "All rights are mine, which permits nothing", None),
        ("LICENSE", "MIT License\n\nCopyright", "mit"),
        ("LICENSE.txt", "   Apache License\n      Version 2.0, January 2004", "apache-2.0"),
        ("NOTICE", "x\nLicense     mit\n", "mit"),
        ("NOTICE", "x\nLicence     apache-2.0\n", "apache-2.0"),
    ):
        (tmp_path / file).write_text(content)
        assert of_folder(tmp_path) == license
        (tmp_path / file).unlink()


def test_a_backbones_license_travels_with_it(tiny_bert, tmp_path):
    copytree(tiny_bert, tmp_path / "backbone")
    (tmp_path / "backbone" / "LICENSE").write_text("MIT License\n")
    Encoder(str(tmp_path / "backbone")).save(tmp_path / "best")
    stage(tmp_path / "best", tmp_path / "staged")
    assert (tmp_path / "staged" / "LICENSE").read_text() == "MIT License\n"
    assert card(tmp_path / "staged", license=None).data.license == "mit"


def test_feedback_and_mined_negatives_are_on_the_card(folder, run, tmp_path):
    labeler = {"model": "gpt-x", "questions": 10, "answers": 12, "cost_usd": 0.5}
    manifest = {"made_by": "cse feedback", "task": "score", "prompts": {"score": {"version": 3}}}
    manifest |= {"counts": {"rows": 9, "set_aside": {"refused": 1}}, "labelers": [labeler]}
    manifest |= {"score_histogram": {"0.0-0.1": 4, "0.1-0.2": 0, "0.9-1.0": 5}}
    (tmp_path / "pairs.manifest.json").write_text(json.dumps(manifest))
    mined = {"miner": {"class": "TopK"}, "k": 2, "checkpoint": {"name": "/home/me/runs/best"}}
    (tmp_path / "pairs.json").write_text(json.dumps(mined))
    recipe = RECIPE | {"data": {"class_path": "x", "init_args": {"path": str(tmp_path / "pairs.jsonl")}}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert_has(
        card(folder, run=run).text,
        "Feedback from a language model was used",
        "| prompts | score 3 |",
        "| set aside | 1 refused |",
        "| scores | 0.0-0.1: 4, 0.9-1.0: 5 |",
        "| model `gpt-x` | 12 answers to 10 questions, 0.5 USD |",
        "| hard negatives | mined with `LOCAL/best` by TopK, 2 per row |",
    )
    scan(folder)


def test_every_source_of_a_mixture_is_on_the_card(folder, run):
    graded = {"class_path": "cse.data.ScoredPairs", "init_args": {"path": "asset:feedback-mini"}}
    sources = {
        "nli": {"data": {"class_path": "cse.data.Triplets", "init_args": {"path": "/home/me/nli.csv"}}, "weight": 2.0},
        "graded": {"data": graded, "weight": 1.0, "objective": {"class_path": "cse.objectives.cosent.CoSENT"}},
    }
    mixture = {"class_path": "cse.data.Mixture", "init_args": {"sources": sources, "schedule": "round_robin"}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"data": mixture}, sort_keys=False))
    nli = DATA | {"rows": 400, "sha256": "cd" * 32}
    counts = {"data": "nli + graded", "rows": 1260, "sha256": "ef" * 32, "left_out": {}}
    recorded = {**counts, "sources": {"nli": nli, "graded": DATA | {"rows": 860}}}
    (run / "data.json").write_text(json.dumps(recorded))
    made = card(folder, run=run)
    assert_has(
        str(made),
        "on `LOCAL/nli.csv` (nli), `asset:feedback-mini` (graded) with SimCSE and CoSENT",
        "| rows | 1,260 |",
        f"| sha256 of the rows | {'ef' * 32} |",
        "| schedule | round robin |",
        f"| source nli | `LOCAL/nli.csv`, 400 rows, weight 2, sha256 of the rows {'cd' * 32}, left out",
        "| source graded | `asset:feedback-mini`, 860 rows, weight 1",
        "| license | not recorded (nli); part of cse, written and graded",
        "| nli: STS12 | 7 of 6,000 texts; 1 of 3,108 pairs |",
        "| graded: made by | part of cse",
        "objective:SimCSE",
        "objective:CoSENT",
        "2104.08821",
        "kexue.fm/archives/8847",
    )
    assert made.data.language == "en"


def test_every_objective_of_a_paper_is_cited():
    cited = 0
    for module in iter_modules(objectives.__path__, "cse.objectives."):
        loaded = import_module(module.name)
        papers = ARXIV.findall(loaded.__doc__)
        classes = [c for c in vars(loaded).values() if isinstance(c, type) and c.__module__ == module.name]
        if not classes:
            continue
        found = citations({"objective": {"class_path": f"{module.name}.{classes[-1].__name__}"}})
        assert len(found) == (1 if papers or "kexue.fm" in loaded.__doc__ else 0), module.name
        for entry in found:
            assert entry.count("{") == entry.count("}")
            assert not papers or f"{{{papers[0]}," in entry or f"abs/{papers[0]}" in entry
            cited += "author" in entry
    assert cited >= 6


def test_terms_and_encoders_are_cited_too():
    names = ("simcse.SimCSE", "masked_lm.MaskedLM", "simcse.SimCSE")
    terms = {"terms": [{"class_path": f"cse.objectives.{name}"} for name in names]}
    prompts = {"adapter": {"class_path": "cse.encoder.SoftPrompts"}}
    objective = {"class_path": "cse.objectives.weighted_sum.WeightedSum", "init_args": terms}
    found = citations({"objective": objective, "encoder": {"class_path": "cse.encoder.Encoder", "init_args": prompts}})
    assert [re.search(r"abs/([\d.]+)", entry)[1] for entry in found] == ["2104.08821", "1810.04805", "2203.06875"]
    assert citations({"objective": {"class_path": "not.installed.Loss"}}) == []


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "cannot be read"), ("{", "cannot be read"), ('{"schema": 9}', "is not a results file of schema 2")],
)
def test_results_that_are_none(folder, results, content, named):
    results.unlink() if content is None else results.write_text(content)
    refuses(named, card, folder, results=results)


def test_a_run_that_is_none(folder, run):
    (run / "env.json").write_text("{")
    refuses(r"env\.json cannot be read", card, folder, run=run)
    (run / "recipe.yaml").unlink()
    refuses("is not a run", card, folder, run=run)
