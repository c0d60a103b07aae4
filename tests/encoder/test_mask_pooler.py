"""The pooler `mask`: what it reads, what it refuses, and that a checkpoint is the same in every loader."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cse import Encoder, Lora, SoftPrompts, export
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.template import added_ids, added_in, mask_position
from cse.inference.export import OnnxEncoder
from cse.publish.card.usage import transformers_code
from tests.encoder.helpers import loads_everywhere
from tests.models import ENCODERS, save_tiny
from tests.refusals import refuses

TEMPLATES = {"behind": "the cat {text} sat {mask} on", "before": "a {mask} dog {text} ran"}
TEXTS = ["the cat sat on a mat", "", "dog", "the red house " * 30, "  a blue tree ran fast"]


def states_at_the_mask(encoder, texts):
    """The last layer at the mask token of each text, found by its id, one text at a time."""
    vectors = []
    for ids in encoder.tokenize(texts):
        (place,) = [i for i, token in enumerate(ids) if token == encoder.tokenizer.mask_token_id]
        with torch.no_grad():
            vectors.append(encoder.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, place])
    return torch.stack(vectors).numpy()


@pytest.mark.parametrize(("kind", "template"), zip(ENCODERS, [*TEMPLATES] * 3, strict=True))
def test_it_is_the_state_at_the_mask_token_in_every_loader(kind, template, tiny, tmp_path):
    encoder = Encoder(tiny(kind), pooler="mask", template=TEMPLATES[template], max_length=20).eval()
    want = loads_everywhere(encoder, tmp_path, TEXTS)
    assert np.abs(states_at_the_mask(encoder, TEXTS) - want).max() < 1e-5
    layout = Layout.read(tmp_path / "saved")
    assert (layout.pooler, [m.kind for m in layout.modules]) == ("mask", ["Transformer", "WordWeights", "Pooling"])
    first, second = (tmp_path / name / "1_WordWeights" / "config.json" for name in ("saved", "again"))
    assert first.read_text() == second.read_text()


@pytest.mark.parametrize("part", ["lora", "soft prompts", "head", "bf16"])
def test_with_other_parts(part, tiny_bert, tmp_path):
    adapter = {"lora": Lora(rank=2), "soft prompts": SoftPrompts(length=3)}.get(part)
    options = {"head": {"head": "mlp", "export_head": True}, "bf16": {"weights": "bf16"}}
    options = options.get(part, {"adapter": adapter})
    encoder = Encoder(tiny_bert, pooler="mask", template=TEMPLATES["behind"], **options).eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name or name.startswith(("post.", "adapter.")):
            torch.nn.init.normal_(parameter)
    loads_everywhere(encoder, tmp_path, TEXTS, 0.05 if part == "bf16" else 1e-5, theirs=part != "soft prompts")


def test_the_code_on_the_card_gives_its_vectors(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, pooler="mask", template=TEMPLATES["behind"]).eval()
    encoder.save(tmp_path / "best")
    names: dict = {}
    exec(transformers_code(Layout.read(tmp_path / "best"), str(tmp_path / "best"), local=True), names)
    texts = [text.strip() for text in TEXTS if text]
    assert np.abs(names["encode"](texts).numpy() - encoder.encode(texts)).max() < 1e-6


def test_onnx(tiny_bert, tmp_path):
    pytest.importorskip("onnxruntime")
    encoder = Encoder(tiny_bert, pooler="mask", template=TEMPLATES["behind"], layers=1).eval()
    export(encoder, tmp_path / "onnx")
    for size in (1, 2, 5):
        got = OnnxEncoder(tmp_path / "onnx").encode(TEXTS, batch_size=size)
        np.testing.assert_allclose(got, encoder.encode(TEXTS), atol=2e-5)


def test_it_trains_as_it_encodes(tiny_bert):
    """Training renumbers the ids of a batch, so nothing may look for the mask's id there."""
    encoder = Encoder(tiny_bert, pooler="mask", template=TEMPLATES["behind"])
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    trained = encoder.train()(ids, mask).embedding
    assert trained.requires_grad
    assert np.abs(trained.detach().numpy() - encoder.eval().encode(TEXTS)).max() < 1e-5


def test_the_mask_of_a_text_is_not_that_of_the_template(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mask", template=TEMPLATES["behind"]).eval()
    (ids,) = encoder.tokenize(["a [MASK] tree"])
    with torch.no_grad():
        states = encoder.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0]
    assert np.abs(encoder.encode(["a [MASK] tree"])[0] - states[-3].numpy()).max() < 1e-5


def test_places(tiny_bert):
    behind, before = (Encoder(tiny_bert, pooler="mask", template=t).tokenizer for t in TEMPLATES.values())
    assert (mask_position(behind), mask_position(before)) == (-3, 2)
    assert added_in(behind, TEMPLATES["before"]) == added_ids(before)
    for tokenizer in (before, Encoder(tiny_bert).tokenizer):
        assert added_in(tokenizer, TEMPLATES["behind"]) == added_ids(behind)


def without_mask_token(tiny_bert, folder):
    save_tiny("bert", tiny_bert, folder)
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if path.is_file():
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "mask_token"}))
    return str(folder)


def test_what_it_needs_is_named(tiny, tiny_bert, tmp_path):
    maskless, behind = without_mask_token(tiny_bert, tmp_path / "maskless"), TEMPLATES["behind"]
    for backbone, template, message in (
        (tiny_bert, None, r"encoder.pooler is mask, but there is no template\nfix: give encoder.template"),
        (tiny_bert, "the {text} sat", r"holds 0 mask tokens\nfix: .* with one {mask} in it"),
        (tiny_bert, "{mask} the {text} sat {mask}", r"holds 2 mask tokens\nfix: .* with one {mask} in it"),
        (tiny("llama"), behind, r"encoder.pooler is mask, and .*llama.*' reads from left to right"),
        (maskless, behind, r"asks for a mask token, which the tokenizer does not have\nfix: use a masked"),
        (maskless, "the {text} sat [MASK] on", r"but the tokenizer has no mask token\nfix: use a masked"),
    ):
        refuses(message, Encoder, backbone, pooler="mask", template=template)


def test_other_weights_of_words_are_refused(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="mask", template=TEMPLATES["behind"]).save(tmp_path / "best")
    path = tmp_path / "best" / "1_WordWeights" / "model.safetensors"
    weights = load_file(path)["emb_layer.weight"]
    weights[7] = 0.5
    save_file({"emb_layer.weight": weights}, path)
    refuses("averaged as no pooler of cse does", Encoder.load, str(tmp_path / "best"))
