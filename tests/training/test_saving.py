"""A run that trains no sentence vectors saves a plain masked language model, which transformers and cse both load."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM

import cse
from cse import Encoder, Lora, Masked, SoftPrompts, TextViews, Trainer, UserError, cli, recipe
from cse.encoder.adapters.lora import merged_state
from cse.encoder.kinds import detect
from tests.models import save_tiny
from tests.runs import MASKED, assert_resumes, make_run, write_recipe, write_texts


def pretraining(folder: Path, backbone: str, *, objective=None, views=1, **more):
    """A run of masked language modeling, or of another objective on masked views."""
    collator = Masked(views=TextViews(max_length=12, views=views), probability=0.4)
    encoder = more.pop("encoder", None) or Encoder(backbone)
    parts = {"objective": objective or cse.MaskedLM(), "encoder": encoder, "collator": collator, "evaluator": False}
    return make_run(folder, backbone, **parts, **{"max_steps": 4, "learning_rate": 0.01, **more})


def fitted(folder: Path, backbone: str, **more):
    run = pretraining(folder, backbone, **more)
    Trainer(run).fit()
    return run


def masked_lm_of(folder: Path):
    """The model as transformers loads it, from which nothing is missing and of which nothing is left over."""
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]
    return model.eval()


def own_logits(run, ids, mask):
    """The logits (n, L, vocabulary) by the parts of the run: its backbone, and the head of its objective."""
    backbone = run.encoder.eval().backbone
    states = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    return run.head(states, backbone.get_input_embeddings().weight)


FAMILIES = ("bert", "roberta", "mpnet", "distilbert")
OTHER_NAMES = {"distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_transformers_loads_the_head_as_it_was_trained(family, tiny_bert, tmp_path):
    source = save_tiny(family, tiny_bert, tmp_path / "model", masked=True, seed=1, **OTHER_NAMES.get(family, {}))
    before = masked_lm_of(Path(source))
    with torch.enable_grad():
        run = fitted(tmp_path / "a", source)
    ids, mask = run.encoder.pad(run.encoder.tokenize(["the cat sat", "a dog ran on the mat"]))
    want = own_logits(run, ids, mask)
    for name in ("best", "last"):
        got = masked_lm_of(run.folder / name)(input_ids=ids, attention_mask=mask).logits
        assert (got - want)[mask == 1].abs().max() < 1e-5
    assert (before(input_ids=ids, attention_mask=mask).logits - want)[mask == 1].abs().max() > 0.01  # it was trained
    assert detect(str(run.folder / "best")).name == "encoder"


@pytest.mark.parametrize("objective", [cse.BottleneckDecoder(decoder_layers=1), cse.CoCondenser(decoder_layers=1)])
def test_methods_that_adapt_a_backbone_save_their_head(objective, tiny_bert, tmp_path):
    run = fitted(tmp_path, tiny_bert, objective=objective, views=2)
    saved, head = masked_lm_of(run.folder / "best").cls.predictions, objective.head
    trained = [head.dense.weight, head.dense.bias, head.layer_norm.weight, head.layer_norm.bias, head.bias]
    stored = [saved.transform.dense.weight, saved.transform.dense.bias]
    stored += [saved.transform.LayerNorm.weight, saved.transform.LayerNorm.bias, saved.bias]
    before = masked_lm_of(Path(tiny_bert)).cls.predictions
    assert all(torch.equal(a, b) for a, b in zip(trained, stored, strict=True))
    assert (before.transform.dense.weight - saved.transform.dense.weight).abs().max() > 1e-3
    names = load_file(run.folder / "best" / "model.safetensors")
    assert not [name for name in names if "decoder" in name]


def test_lora_is_merged_and_16_bits_are_rounded(tiny_bert, tmp_path):
    run = fitted(tmp_path, tiny_bert, encoder=Encoder(tiny_bert, adapter=Lora(rank=2)), save_precision="bf16")
    assert not (run.folder / "last" / "adapter").exists()
    model = masked_lm_of(run.folder / "last")
    assert model.dtype == torch.bfloat16
    merged = merged_state(run.encoder.backbone)
    stored = model.bert.state_dict()
    assert stored.keys() == merged.keys()
    assert all(torch.equal(stored[name], merged[name].to(torch.bfloat16)) for name in stored)
    assert torch.equal(model.cls.predictions.bias, run.head.bias.to(torch.bfloat16))
    assert "cls.predictions.decoder.weight" not in load_file(run.folder / "last" / "model.safetensors")  # it is tied


def test_a_killed_run_saves_the_same_model(tiny_bert, tmp_path):
    assert_resumes(lambda folder: pretraining(folder, tiny_bert), tmp_path)


def test_the_average_with_the_initial_weights_has_the_head_too(tiny_bert, tmp_path):
    source = save_tiny("bert", tiny_bert, tmp_path / "model", masked=True)
    parts = {"objective": {"class_path": "cse.objectives.masked_lm.MaskedLM"}, "collator": MASKED, "evaluator": None}
    trainer = {"max_steps": 2, "initial_weights": 0.5}
    data = {"path": str(write_texts(tmp_path))}
    path = write_recipe(tmp_path, "Texts", data, {"backbone": source}, trainer=trainer, **parts)
    assert cli.main(["train", path, "--run-dir", str(tmp_path / "run")]) == 0
    models = [load_file(folder / "model.safetensors") for folder in (Path(source), tmp_path / "run" / "last")]
    merged = load_file(tmp_path / "run" / "merged" / "model.safetensors")
    for name in ("cls.predictions.transform.dense.weight", "bert.embeddings.word_embeddings.weight"):
        assert torch.allclose(merged[name], (models[0][name] + models[1][name]) / 2, atol=1e-7)
        assert not torch.equal(models[0][name], models[1][name])


def test_a_head_that_the_architecture_does_not_have_is_left_out(tiny_bert, tmp_path):
    """ModernBERT's has no biases; with another activation BERT's is another function; one has its own output matrix."""
    modern = save_tiny("modernbert", tiny_bert, tmp_path / "modern", masked=True)
    silu = save_tiny("bert", tiny_bert, tmp_path / "silu", masked=True, hidden_act="silu")
    cases = [(modern, cse.MaskedLM()), (silu, cse.MaskedLM()), (tiny_bert, cse.MaskedLM(output="own"))]
    for i, (source, objective) in enumerate(cases):
        run = fitted(tmp_path / str(i), source, objective=objective)
        assert json.loads((run.folder / "best" / "config.json").read_text())["architectures"][0].endswith("Model")
        pooler = {} if source == modern else {"add_pooling_layer": False}
        model, info = AutoModel.from_pretrained(run.folder / "best", output_loading_info=True, **pooler)
        assert not info["missing_keys"]
        assert torch.equal(model.get_input_embeddings().weight, run.encoder.backbone.get_input_embeddings().weight)


def test_what_trains_sentence_vectors_or_soft_prompts_saves_a_checkpoint(tiny_bert, tmp_path):
    both = cse.WeightedSum(terms=[cse.SimCSE(), cse.MaskedLM()], weights=[1.0, 0.1])
    run = fitted(tmp_path / "both", tiny_bert, objective=both, views=2)
    assert (run.head, detect(str(run.folder / "best")).name) == (None, "sentence-transformers")
    prompts = Encoder(tiny_bert, adapter=SoftPrompts(length=2))
    run = fitted(tmp_path / "prompts", tiny_bert, encoder=prompts)
    assert (run.folder / "best" / "prompts.safetensors").is_file()


def test_the_next_recipe_has_the_settings_of_a_backbone(tiny_bert, tmp_path, capsys):
    """The published ones of SimCSE, not the low rate for models that are sentence encoders already."""
    texts = write_texts(tmp_path)
    options = ["--trainer.batch_size=8", "--trainer.max_steps=1", "--trainer.device=cpu", "--evaluator=null"]
    first = ["pretrain-cotmae", *options, f"--encoder={tiny_bert}", f"--data={texts}", "--data.words=8"]
    command = ["train", *first, "--run-dir", str(tmp_path / "run"), "--resume", "auto"]
    command += ["--then", "simcse-unsup", *options, f"--data={texts}"]
    assert cli.main(command) == 0
    resolved = yaml.safe_load((tmp_path / "run" / "2-simcse-unsup" / "recipe.yaml").read_text())
    assert (resolved["trainer"]["learning_rate"], resolved["encoder"]["init_args"]["head"]) == (3e-5, "mlp")
    assert resolved["encoder"]["init_args"]["pooler"] == "cls"
    said = capsys.readouterr().out
    assert "bert encoder of 2 layers: cls pooling, mlp head in training only" in said
    assert f"cse train simcse-unsup --encoder {tmp_path / 'run' / '1-pretrain-cotmae'}/best" in said
    again = recipe.load("simcse-unsup", [f"--encoder={tmp_path / 'run' / '1-pretrain-cotmae'}"]).config
    assert again.trainer.learning_rate == 3e-5


def test_it_is_scored_by_the_mean_and_pushed_by_nobody(tiny_bert, tmp_path, capsys):
    run = fitted(tmp_path, tiny_bert)
    assert cli.main(["eval", str(run.folder / "best"), "--tasks", "sts-mini-dev"]) == 0
    assert "a backbone without modules.json, scored with the pooler mean" in capsys.readouterr().out
    assert cli.main(["push", str(run.folder / "best"), "you/name", "--dry-run"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is not a checkpoint: it has no modules.json" in said
    assert "train sentence vectors on this backbone first" in said


def test_an_adapter_does_not_resume_on_another_start_model(tiny_bert, tmp_path):
    """The state has the adapter alone, which would be put on whatever lies in the backbone's folder now."""
    model = save_tiny("bert", tiny_bert, tmp_path / "model")
    lora = {"class_path": "cse.encoder.Lora", "init_args": {"targets": ["query"]}}
    path = write_recipe(
        tmp_path, "Texts", {"path": str(write_texts(tmp_path))}, {"backbone": model, "pooler": "mean", "adapter": lora}
    )
    assert cli.main(["train", path, "--run-dir", str(tmp_path / "run"), "--trusted-modules=tests"]) == 0
    assert cse.resume(tmp_path / "run", trusted_modules=["tests"]).finished
    save_tiny("bert", tiny_bert, tmp_path / "model", seed=1)
    with pytest.raises(UserError, match="the model that the run began with has other weights now\nfix: put back"):
        cse.resume(tmp_path / "run", trusted_modules=["tests"])
