"""The encoder and its poolers: against the authors' whole program and sentence-transformers, and its refusals."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cse import Batch, Dropout, Encoder, Lora, SimCSE, SoftPrompts, StepContext, export
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.poolers import POOLERS, get_pooler
from cse.encoder.template import added_ids, added_in, mask_position
from cse.inference.export import OnnxEncoder
from cse.publish.card.usage import transformers_code
from cse.training.learner import Learner
from tests.cases import below, cases, load, state
from tests.encoder.helpers import learn, loads_everywhere
from tests.models import ENCODERS, save_beside, save_tiny
from tests.objectives.helpers import agrees, close
from tests.refusals import refuses

TEXTS = ["the cat sat on a mat", "", "dog", "the red house " * 30, "  a blue tree ran fast"]


@pytest.mark.parametrize("export_head", [False, True])
@pytest.mark.parametrize("name", cases("simcse", "e2e_"))
def test_every_whole_model(tiny_bert, tmp_path, name, export_head):
    (about, data), weights = load("simcse", name), state("simcse", name)
    kind = about["config"]["model_type"]
    model = AutoModel.from_config(AutoConfig.for_model(**about["config"]), add_pooling_layer=False)
    model.load_state_dict(below(weights, f"{kind}."))
    folder, pooler = save_beside(tiny_bert, model, tmp_path), {"avg": "mean"}.get(about.get("pooler"), "cls")
    encoder = Encoder(
        folder, pooler=pooler, head="mlp", export_head=export_head, dropout=Dropout(attention=0.0, hidden=0.0)
    )
    head = (encoder.post[0] if export_head else encoder.head).linear
    head.load_state_dict(below(weights, "mlp.dense."))
    ids, mask = data["input_ids"], data["attention_mask"]
    objective = SimCSE(temperature=about.get("temp", 0.05), hard_negative_weight=about.get("hard_negative_weight", 0.0))
    _, output = Learner(encoder, objective).train()(Batch(ids, mask), StepContext(encoder=encoder))
    parts = {f"{kind}.": encoder.backbone, "mlp.dense.": head}
    leaves = {f"{prefix}{n}": p for prefix, part in parts.items() for n, p in part.named_parameters()}
    agrees(output, about, data, leaves)
    with torch.no_grad():
        sentence = encoder(ids[:, 0], mask[:, 0])
    close(sentence.embedding, data["sentemb_with_mlp" if export_head else "sentemb_mlp_only_train"], 1e-5)


@pytest.mark.parametrize("options", [{"head": "mlp"}, {"head": "relu_mlp"}, {"head": "mlp", "export_head": True}])
def test_heads_compute_in_float32_under_autocast(tiny_bert, options):
    encoder, pooled = Encoder(tiny_bert, **options), torch.randn(3, 16)
    plain = encoder.output(pooled)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder.output(pooled)
    assert torch.equal(rounded.projected, plain.projected)
    assert torch.equal(rounded.embedding, plain.embedding)


def test_sub_batches_change_nothing(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    with torch.no_grad():
        whole = encoder.pool_rows(ids, mask)
        assert torch.allclose(encoder(ids, mask).embedding, whole, atol=1e-6)
    vectors = encoder.encode(TEXTS, max_tokens=16, batch_size=2)
    assert np.abs(vectors - whole.numpy()).max() < 1e-6
    assert encoder.encode([]).shape == (0, 16)


@pytest.mark.parametrize("pooler", POOLERS)
def test_poolers_ignore_padding(pooler):
    states = [torch.randn(2, 5, 4) for _ in range(3)]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    pooled = get_pooler(pooler)(states, mask)
    alone = get_pooler(pooler)([s[1:, :2] for s in states], mask[1:, :2])
    assert torch.allclose(pooled[1:], alone)


def test_last_reads_the_last_real_token_under_either_padding():
    states = [torch.arange(8.0).view(2, 4, 1)]
    assert get_pooler("last")(states, torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])).flatten().tolist() == [2.0, 7.0]


@pytest.mark.parametrize(
    "options",
    [
        {"pooler": "cls", "head": "mlp"},
        {"pooler": "cls", "head": "mlp", "export_head": True},
        {"pooler": "mean", "max_length": 12},
        {"pooler": "last", "template": "the {text} sat on", "max_length": 20},
        {"pooler": "last", "adapter": Lora(rank=2, targets=["query", "value"])},
    ],
)
def test_a_checkpoint_gives_the_same_vectors_in_sentence_transformers(tiny_bert, tmp_path, options):
    encoder = learn(Encoder(tiny_bert, **options), std=1.0)  # or a merge of LoRA that does nothing would not be seen
    want = loads_everywhere(encoder, tmp_path, TEXTS, 1e-6)
    if "adapter" in options:
        assert np.abs(Encoder(tiny_bert, pooler="last").eval().encode(TEXTS) - want).max() > 1e-3


def test_a_plain_hugging_face_folder_is_read(tiny_bert):
    assert Encoder.load(tiny_bert).pooler == "mean"
    assert Encoder.load(tiny_bert, pooler="first_last_layer1").encode(TEXTS).shape == (5, 16)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda _: Dropout(attention=1.5), "encoder.dropout.attention is 1.5"),
        (lambda _: Dropout(embedding=-0.1), "encoder.dropout.embedding is -0.1"),
        (lambda _: Lora(rank=0), "encoder.adapter.rank is 0"),
        (lambda _: Lora(dropout=1.0), "encoder.adapter.dropout is 1.0"),
        (lambda _: SoftPrompts(length=0), "encoder.adapter.length is 0"),
        (lambda _: SoftPrompts(dropout=1.0), "encoder.adapter.dropout is 1.0"),
        (lambda _: SoftPrompts(projection=-1), "encoder.adapter.projection is -1"),
        (lambda backbone: Encoder(backbone, adapter=SoftPrompts(length=10), max_length=31), "encoder.max_length is 31"),
    ],
)
def test_bad_arguments_are_named(tiny_bert, make, named):
    refuses(named, make, tiny_bert)


TEMPLATES = {"behind": "the cat {text} sat {mask} on", "before": "a {mask} dog {text} ran"}


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
