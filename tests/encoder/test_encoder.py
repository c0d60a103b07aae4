"""The encoder: against the authors' whole program, against sentence-transformers, and its refusals."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from cse import Batch, Dropout, Encoder, Lora, SimCSE, SoftPrompts, StepContext
from cse.encoder.poolers import POOLERS, get_pooler
from cse.training.learner import Learner
from tests.cases import below, cases, load, state
from tests.encoder.helpers import learn, loads_everywhere
from tests.models import save_beside
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
