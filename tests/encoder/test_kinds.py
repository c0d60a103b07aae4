"""What a model is told from its settings; and every recipe on every kind of model, or why it cannot train it."""

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from cse import Callback, Encoder, Lora, SoftPrompts
from cse import recipe as recipes
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.kinds import detect
from cse.recipe.options import read
from cse.training.sources import similarities
from cse.training.start import resume, train
from tests.encoder.helpers import loads_everywhere
from tests.models import CAUSAL, ENCODERS, OF_WIKI, save_embedder, save_tiny
from tests.refusals import refuses
from tests.runs import write_texts

TEXTS = ["the cat sat on a mat", "dog", "the red house " * 4, "a blue tree ran fast"]
EMBEDDERS = {
    "mean-normalize": {"normalize": True},
    "cls-dense": {"pooling": "cls", "dense": 12},
    "prompts": {"prompts": {"query": "the cat ", "document": "a "}},
}
KINDS = [*ENCODERS, *CAUSAL, *EMBEDDERS, "run", "asset:mini"]
RECIPES = sorted(path.stem for path in recipes.folder().glob("*.yaml") if path.name[0] != "_")
NO_CACHE = r"encoder.adapter: a (mpnet|deberta-v2|modernbert) backbone cannot have soft prompts: .*\nfix: use a BERT"
AT_THE_MASK = {"promptbert-unsup", "promptbert-sup", "sncse", "denosent"}
BEHIND_A_VECTOR = {name for name in RECIPES if name.startswith("pretrain-")} - {"pretrain-mini"}
SMALL = ["batch_size=16", "max_steps=2", "eval_every=1", "precision=fp32", "device=cpu"]


class StopsAfterOneStep(Callback):
    """Ctrl-C during the first step."""

    def on_step(self, run, metrics) -> None:
        if run.progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="session")
def model_of(tiny_bert, tmp_path_factory):
    """Call it with a kind: the path of a tiny random model of that kind, made once."""
    made: dict[str, str] = {}

    def make(kind: str) -> str:
        if kind == "asset:mini":
            return kind
        if kind not in made:
            folder = tmp_path_factory.mktemp("kinds") / kind
            if kind == "run":
                texts = write_texts(tmp_path_factory.mktemp("texts"))
                train("simcse-unsup", overrides("simcse-unsup", make("bert"), texts), folder)
                made[kind] = str(folder)
            elif kind in EMBEDDERS:
                made[kind] = save_embedder(make("bert"), folder, **EMBEDDERS[kind])
            else:
                made[kind] = save_tiny(kind, tiny_bert, folder, masked=kind in ENCODERS)
        return made[kind]

    return make


def overrides(name: str, model: str, texts: Path) -> list[str]:
    """The options of a small run of a recipe on a model."""
    words = [f"--trainer.{option}" for option in SMALL] + ["--evaluator=tests.runs.Spread", f"--encoder={model}"]
    words += {
        "micse": ["--objective.first_layer=-2", "--objective.last_layer=-1"],
        "setcse": ["--sampler.labels=4"],
        "pretrain-cotmae": ["--data.words=8"],
        "pretrain-cocondenser": ["--data.words=8"],
    }.get(name, [])
    if name in OF_WIKI:
        return [*words, f"--data.sources.{OF_WIKI[name]}.data.path={texts}"]
    path = recipes.read(recipes.find(name))["data"]["init_args"]["path"]
    return words + ([] if path.startswith("asset:") and path != "asset:wiki" else [f"--data={texts}"])


def why_not(name: str, kind: str) -> str:
    """What is said of a recipe that cannot train a model of this kind; empty if it can."""
    if name.startswith("promcse") and kind in {"mpnet", "deberta-v2", "modernbert"}:
        return NO_CACHE
    if kind in CAUSAL and name in {"clear", "pretrain-mini", "span-contrast"}:
        return "objective MaskedLM needs a bidirectional backbone, .* reads from left to right\nfix: use a BERT-like"
    if kind in CAUSAL and name == "diffcse":
        return rf"by the sentence's vector, which a {kind} backbone does not allow\nfix: use a BERT or RoBERTa backbone"
    if kind in CAUSAL and name in AT_THE_MASK:
        return rf"encoder.pooler is mask, and .*{kind}' reads from left to right: .*\nfix: use a BERT-like encoder"
    if (name == "diffcse" and kind in EMBEDDERS) or (name, kind) == ("diffcse", "run"):
        return r"objective.generator .* is not a trained masked language model: it lacks the weight .*\nfix: give a "
    if kind == "cls-dense" and name.startswith("pretrain-"):
        return "nothing would train encoder.head or a Dense after pooling: objective .* does not use sentence vectors"
    if name in BEHIND_A_VECTOR and kind in {*CAUSAL, "modernbert"}:
        return rf"whose positions a {kind} backbone does not add, .*\nfix: use a BERT or RoBERTa backbone"
    if (name, kind) == ("span-contrast", "cls-dense"):
        return "objective SpanContrast compares vectors with token states, .* of 12 numbers and token states of 16"
    return ""


def vectors(folder: Path):
    """The vectors of a checkpoint in sentence-transformers."""
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=True).encode(TEXTS)


def trains(name: str, kind: str, model_of, folder: Path) -> None:
    """A run of two steps, interrupted after the first, ends in a checkpoint that loads anywhere; or it is refused."""
    options = overrides(name, model_of(kind), write_texts(folder))
    refused = why_not(name, kind)
    if refused:
        refuses(refused, train, name, options, folder / "run")
        assert not (folder / "run").exists()
        return
    begun = train(name, [*options, "--callbacks=[tests.encoder.test_kinds.StopsAfterOneStep]"], folder / "run")
    assert begun.interrupted
    assert begun.progress.step == 1
    done = resume(folder / "run")
    assert (done.progress.step, done.progress.finished) == (2, True)
    assert "for" not in yaml.safe_load((folder / "run" / "recipe.yaml").read_text())
    if not similarities(done):
        saves_a_backbone(done)
        return
    last = Encoder.load(str(folder / "run" / "last"))
    if done.settings.initial_weights != "mean":
        np.testing.assert_allclose(last.encode(TEXTS), done.encoder.encode(TEXTS), atol=1e-5)
    layout = Layout.read(folder / "run" / "last")
    name = "best" if layout.adapter and layout.reference else "last"  # others cannot load an adapter alone
    whole = Encoder.load(str(folder / "run" / name))
    np.testing.assert_allclose(whole.encode(TEXTS), vectors(folder / "run" / name), atol=1e-5)


def saves_a_backbone(done) -> None:
    """The last checkpoint of a run that trains no sentence vectors is a plain model with the weights of the run."""
    found = detect(str(done.folder / "last"))
    assert (found.name, found.causal) == ("encoder", False)
    last, trained = Encoder(str(done.folder / "last")).backbone.state_dict(), done.encoder.backbone.state_dict()
    assert last.keys() == trained.keys()
    assert all(torch.equal(last[name], trained[name]) for name in last)


DIAGONAL = [(name, KINDS[i % len(KINDS)]) for i, name in enumerate(RECIPES)][::11]  # the slow test below has all


@pytest.mark.parametrize(("name", "kind"), DIAGONAL)
def test_a_recipe_on_a_kind(name, kind, model_of, tmp_path):
    trains(name, kind, model_of, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_on_every_kind(name, kind, model_of, tmp_path):
    trains(name, kind, model_of, tmp_path)


# What a model is
@pytest.mark.parametrize("kind", [*ENCODERS, *CAUSAL])
def test_an_architecture_is_told_by_its_settings(kind, model_of):
    found = detect(model_of(kind))
    assert found.name == ("causal" if kind in CAUSAL else "encoder")
    assert (found.architecture, found.layers, found.causal) == (kind, 2, kind in CAUSAL)
    shifted = {"roberta": 1, "xlm-roberta": 1, "mpnet": 2}  # positions that are not for tokens: pad id + 1
    assert found.max_length == 42 - shifted.get(kind, 0)


def test_a_checkpoint_and_a_run_are_of_sentence_transformers(model_of):
    assert detect(model_of("mean-normalize")).name == "sentence-transformers"
    run = detect(model_of("run"))
    assert (run.name, run.folder) == ("sentence-transformers", Path(model_of("run")) / "best")
    assert detect("asset:mini").name == "encoder"


def test_a_decoder_of_a_bidirectional_architecture_is_causal(tiny_bert, tmp_path):
    assert detect(save_tiny("bert", tiny_bert, tmp_path / "decoder", is_decoder=True)).name == "causal"


NAMES = {
    "llama": ["k_proj", "o_proj", "q_proj", "v_proj"],
    "bert": ["attention.output.dense", "key", "query", "value"],  # `dense` alone is in the feed-forward layers too
    "mpnet": ["k", "o", "q", "v"],
    "modernbert": ["Wqkv", "attn.Wo"],
}


@pytest.mark.parametrize("kind", NAMES)
def test_lora_finds_the_layers_of_the_attention(kind, model_of, tmp_path):
    encoder = Encoder(model_of(kind), adapter=Lora(rank=2))
    config = encoder.backbone.peft_config["default"]
    assert sorted(config.target_modules) == NAMES[kind]
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(NAMES[kind]) * 2  # A and B of each, in two layers
    assert all("att" in name for name in trained)
    encoder.save(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert saved["target_modules"] == NAMES[kind]


# What is taken from a sentence-transformers model
@pytest.mark.parametrize("kind", EMBEDDERS)
def test_a_model_of_sentence_transformers_is_saved_as_it_was(kind, model_of, tmp_path):
    original = model_of(kind)
    encoder = Encoder(original).eval()
    np.testing.assert_allclose(loads_everywhere(encoder, tmp_path, TEXTS, 1e-6), vectors(original), atol=1e-6)
    before, after = detect(original).layout, detect(str(tmp_path / "again")).layout
    assert [m.kind for m in after.modules] == [m.kind for m in before.modules]
    assert (after.pooler, after.prompts, after.max_length) == (before.pooler, before.prompts, 24)
    assert after.similarity == before.similarity
    assert after.dim == (12 if kind == "cls-dense" else 16)
    if kind == "cls-dense":
        assert encoder.post[0].linear.weight.shape == (12, 16)
        assert encoder.post[0].linear.weight.requires_grad
    given = Encoder(original, pooler="cls")  # takes precedence
    assert (given.pooler, encoder.pooler) == ("cls", before.pooler)


def test_its_texts_are_lower_cased_in_training_too(model_of, tmp_path):
    folder = tmp_path / "lower"
    save_embedder(model_of("bert"), folder)
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_seq_length": 24, "do_lower_case": True}))
    encoder = Encoder(str(folder)).eval()
    assert encoder.tokenizer("The CAT")["input_ids"] == encoder.tokenizer("the cat")["input_ids"]
    loads_everywhere(encoder, tmp_path, ["The CAT", *TEXTS], 1e-6)
    assert detect(str(tmp_path / "again")).layout.lower_case


def test_soft_prompts_of_a_checkpoint_are_not_lost_in_silence(model_of, tmp_path):
    encoder = Encoder(model_of("bert"), adapter=SoftPrompts(length=2))
    encoder.save(tmp_path / "reference")
    encoder.save(tmp_path / "whole", whole=True)
    refuses("holds soft prompts alone\nfix: give its backbone", Encoder, str(tmp_path / "reference"))
    refuses("holds soft prompts, which would be lost", Encoder, str(tmp_path / "whole"))


# A tokenizer without a pad token
@pytest.mark.parametrize(
    ("left", "used"), [({"eos_token": "sun"}, "sun"), ({}, "[UNK]"), ({"unk_token": None}, "[PAD]")]
)
def test_a_missing_pad_token_is_mended(left, used, tiny_bert, tmp_path):
    folder = Path(save_tiny("llama", tiny_bert, tmp_path / "model"))
    path = folder / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}
    path.write_text(json.dumps({k: v for k, v in {**config, **left}.items() if v is not None}))
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    encoder = Encoder(str(folder), pooler="last").eval()
    assert encoder.tokenizer.pad_token == used
    assert f"padding {used}" in encoder.describe()
    loads_everywhere(encoder, tmp_path, TEXTS)


# What the command says
def test_settings_of_an_encoder_are_the_published_ones(tiny_bert):
    """SimCSE, Gao et al., EMNLP 2021, appendix A: BERT-base, unsupervised 3e-5 and 64, supervised 5e-5 and 3 epochs."""
    unsup = recipes.load("simcse-unsup", [f"--encoder={tiny_bert}"]).config
    options = unsup.encoder.init_args
    assert (unsup.trainer.learning_rate, unsup.trainer.batch_size, unsup.trainer.epochs) == (3e-5, 64, 1)
    assert (options.pooler, options.head, options.export_head, options.adapter) == ("cls", "mlp", False, None)
    assert (unsup.collator.class_path, unsup.collator.init_args.max_length) == ("cse.data.TextViews", 32)
    sup = recipes.load("simcse-sup", [f"--encoder={tiny_bert}"]).config
    assert (sup.trainer.learning_rate, sup.trainer.epochs) == (5e-5, 3)
    assert sup.encoder.init_args.export_head is True


def test_nothing_of_the_demo_reaches_another_model(model_of, tmp_path):
    texts = write_texts(tmp_path)
    for name, kind in itertools.product(RECIPES, ["bert", "llama", "prompts"]):
        own = name in AT_THE_MASK  # whose template and pooler are the method
        data = [] if name in OF_WIKI else [f"--data={texts}"]
        config = recipes.load(name, [f"--encoder={model_of(kind)}", *data]).config
        encoder, pretrains = config.encoder.init_args, name.startswith("pretrain-")
        assert encoder.layers is None
        assert config.trainer.max_steps is None, f"{name}, {kind}"
        assert (encoder.template is not None) == (own or (kind == "llama" and not pretrains))
        assert vars(config.data.init_args).get("max_words") is None
        assert encoder.pooler is None or own or pretrains or kind != "prompts"


PARENT = """
trainer: {batch_size: 8, max_steps: 9}
encoder: {class_path: cse.encoder.Encoder, init_args: {backbone: "asset:mini"}}
for:
  "asset:mini": {trainer: {batch_size: 16}}
  encoder: {trainer: {batch_size: 32, epochs: 2}, encoder: {init_args: {pooler: last}}}
"""
CHILD = """
extends: parent.yaml
data: {class_path: cse.data.Texts, init_args: {path: x.txt}}
collator: {class_path: cse.data.TextViews, init_args: {max_length: 100}}
objective: {class_path: cse.objectives.simcse.SimCSE}
encoder: {init_args: {pooler: mean}}  # takes precedence over the parent's section
for: {encoder: {trainer: {epochs: 3}}}
"""


def test_the_sections_of_a_recipe_by_pencil(tiny_bert, tmp_path):
    (tmp_path / "parent.yaml").write_text(PARENT)
    (tmp_path / "child.yaml").write_text(CHILD)
    own = recipes.load(str(tmp_path / "child.yaml")).config
    assert (own.trainer.batch_size, own.trainer.max_steps, own.encoder.init_args.pooler) == (16, 9, "mean")
    other = recipes.load(str(tmp_path / "child.yaml"), [f"--encoder={tiny_bert}", "--trainer.max_steps=5"]).config
    assert (other.trainer.batch_size, other.trainer.epochs, other.trainer.max_steps) == (32, 3, 5)
    assert other.encoder.init_args.pooler == "mean"
    assert other.collator.init_args.max_length == 40  # the most that this model can position


def test_short_options_leave_classes_alone(tiny_bert):
    given = ["--data=cse.data.Pairs", "--encoder={class_path: a.B}", "--data", "my.file.txt"]
    want = [("data", "cse.data.Pairs"), ("encoder", "{class_path: a.B}"), ("data.path", "my.file.txt")]
    assert read(given).values == want
