"""CoT-MAE, SimLM and query-as-context against their authors' programs (oracles, whole models), and slow loops."""

import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM

from cse import Batch, BottleneckDecoder, Dropout, Encoder, Masked, StepContext, TextViews
from cse.objectives.parts.decoders import embedded
from cse.seeding import torch_rng
from cse.training.learner import Learner
from tests.cases import below, cases, load
from tests.models import save_beside, save_tiny
from tests.objectives.contract import assert_absent_views_do_not_count, build
from tests.objectives.contract import batch_of as contract_batch
from tests.objectives.helpers import Case, agrees, close, collated, refuses, set_up, step
from tests.runs import assert_resumes, make_run

STILL = Dropout(attention=0.0, hidden=0.0)
TEXTS = ["the cat sat on a mat", "a dog ran fast", "red sun blue moon tree house", "moon", "slow cat", "a red house"]


def contract_case(backbone):
    return Case({"decoder_layers": 1}, texts=4)


def encoder_of(about, data, tiny_bert, folder):
    """The encoder of a case, whose folder has the masked-LM head as well; SimLM's names begin with `encoder.`."""
    state = {k.removeprefix("encoder."): v for k, v in below(data, "state/").items()}
    config = BertConfig(
        vocab_size=len(state["cls.predictions.bias"]),
        hidden_size=about["hidden"],
        num_hidden_layers=about.get("encoder_layers", 1),
        num_attention_heads=about["heads"],
        intermediate_size=len(state.get("bert.encoder.layer.0.intermediate.dense.bias", range(8))),
        max_position_embeddings=len(state["bert.embeddings.position_embeddings.weight"]),
        layer_norm_eps=about.get("layer_norm_eps", 1e-12),
    )
    model = BertForMaskedLM(config)
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all("decoder" in name or ".layer.0." in name for name in missing)
    return Encoder(save_beside(tiny_bert, model, folder), pooler="cls", dropout=STILL).train()


def two(first, second):
    """(B, 2, L)."""
    return torch.stack([first, second], 1)


@pytest.mark.parametrize("name", cases("bottleneck", has=("loss", "decoder_loss")))
def test_every_whole_model(tiny_bert, tmp_path, name):
    about, data = load("bottleneck", name)
    encoder = encoder_of(about, data, tiny_bert, tmp_path)
    simlm = "decoder_labels" not in data  # its decoder reads the encoder's text, and it predicts every token
    objective = BottleneckDecoder(
        decoder_layers=about["decoder_layers"],
        decoder_weight=about.get("decoder_weight", 1.0),
        decoder_start="last" if simlm else "new",
        predict="all" if simlm else "masked",
    )
    objective.setup(encoder)
    layers = objective.decoder.model.encoder.layer
    if simlm:
        for key, weight in below(data, "state/decoder.").items():
            assert torch.equal(layers.state_dict()[key], weight), key  # copies
        mask, ids = two(*[data["attention_mask"]] * 2), two(*[data["ids"]] * 2)
        gaps = two(data["encoder_masked"], data["decoder_masked"])
        drawn = two(data["encoder_input_ids"], data["decoder_input_ids"])
        assert torch.equal(torch.where(gaps, ids, drawn), ids)
        batch = Batch(ids, mask, masked_ids=ids.masked_fill(gaps, 4), mlm_labels=ids.masked_fill(~gaps, -100))
        objective.generator = "the oracle's"
        objective.masked_lm = lambda masked, mask, chance: torch.where(gaps, drawn, 0).flatten(0, 1)
        assert torch.equal(objective.targets(batch), two(*[data["labels"]] * 2))
    else:
        objective.decoder.model.encoder.layer.load_state_dict(below(data, "state/c_head."))
        mask = two(data["attention_mask"], data["decoder_attention_mask"])
        masked = two(data["input_ids"], data["decoder_input_ids"])
        batch = Batch(masked, mask, masked_ids=masked, mlm_labels=two(data["labels"], data["decoder_labels"]))
    ctx = StepContext(encoder=encoder, generator=torch_rng("oracle"))
    output = Learner(encoder, objective).train()(batch, ctx)[1]
    agrees(output, about, data, {}, mlm_loss="encoder_loss")
    weighed = objective.decoder_weight * output.metrics["decoder_loss"].item()
    assert weighed == pytest.approx(about["decoder_loss"], rel=1e-5)

    found = {f"bert.{n}": p for n, p in encoder.backbone.named_parameters()}
    found |= {f"{'decoder' if simlm else 'c_head'}.{n}": p for n, p in layers.named_parameters()}
    for ours, theirs in (("dense", "transform.dense"), ("layer_norm", "transform.LayerNorm"), ("bias", "bias")):
        found |= {
            f"cls.predictions.{theirs}{n}": p for n, p in below(dict(objective.head.named_parameters()), ours).items()
        }
    checked = {k.removeprefix("encoder."): grad for k, grad in below(data, "grad/").items()}
    assert checked
    for key, grad in checked.items():
        close(found[key].grad, grad)

    read, target = objective.read(batch, ctx), objective.targets(batch)
    vector = encoder(read[:, 0], mask[:, 0]).embedding.detach().requires_grad_()
    if "cls" in data:
        close(vector, data["cls"])

    def rebuilt(vector):
        return objective.decoder_weight * objective.rebuild(vector, read[:, 1], mask[:, 1], target[:, 1], batch, ctx)[0]

    rebuilt(vector).backward()
    close(vector.grad, data["grad_cls_from_decoder"])
    assert rebuilt(0 * vector).item() == pytest.approx(about["decoder_loss_with_zero_vector"], rel=1e-5)


@pytest.mark.parametrize("name", cases("bottleneck", where=lambda about: "decoder_loss" not in about))
def test_every_decoder_that_reads_from_left_to_right(tiny_bert, tmp_path, name):
    about, data = load("bottleneck", name)
    encoder = encoder_of(about, data, tiny_bert, tmp_path)
    window = None if about["window"] < 0 else about["window"]
    objective = BottleneckDecoder(decoder_layers=about["decoder_layers"], predict="next", window=window)
    objective.setup(encoder)
    for i, layer in enumerate(objective.decoder.layers):
        theirs = below(data, f"decoder/{i}.")
        for ours, key in (
            ("norm1.", "ln_1."), ("self_attn.in_proj_", "attn.c_attn."), ("self_attn.out_proj.", "attn.c_proj."),
            ("norm2.", "ln_2."), ("linear1.", "mlp.c_fc."), ("linear2.", "mlp.c_proj."),
        ):  # fmt: skip
            for kind in ("weight", "bias"):
                weight = theirs[key + kind]
                layer.get_parameter(ours + kind).data = weight.T.contiguous() if weight.dim() == 2 else weight
    objective.decoder.norm.load_state_dict(below(data, "ln_f_"))
    ids, mask = two(*[data["ids"]] * 2), two(*[data["attention_mask"]] * 2)
    batch, ctx = Batch(ids, mask, mlm_labels=torch.full_like(ids, -100)), StepContext(encoder=encoder)
    target, vector = objective.targets(batch)[:, 1], data["cls"].requires_grad_()

    def rebuilt(vector):
        return objective.rebuild(vector, data["ids"], data["attention_mask"], target, batch, ctx)[0]

    agrees(rebuilt(vector), about, data, {"cls": vector})
    assert rebuilt(0 * vector).item() == pytest.approx(about["zero_vector_loss"], rel=1e-5)


def built(folder, **options):
    encoder, objective = set_up(folder, BottleneckDecoder(**{"decoder_layers": 1, **options}), scale=5, pooler="cls")
    return encoder.eval(), objective.eval()


def batch_of(encoder, width, probability=0.4):
    """Rows of `width` texts, masked."""
    rows = [[TEXTS[(i + j) % 6] for j in range(width)] for i in range(6)]
    return collated(encoder, rows, Masked(views=TextViews(max_length=12), probability=probability))


def loss_of(encoder, objective, batch, **ctx):
    return step(encoder, objective, batch, generator=torch_rng("step"), **ctx)


@pytest.mark.parametrize("options", [{}, {"predict": "all"}, {"predict": "next", "window": 2}])
def test_the_loss_by_a_slow_loop_over_tokens_in_both_directions(tiny_bert, options):
    """Four views are two rows of two, each text alone without padding; a token of a row of weight 2 counts twice."""
    encoder, objective = built(tiny_bert, decoder_weight=0.5, **options)
    batch = batch_of(encoder, 4)
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5, 1.0])
    words, special = encoder.backbone.get_input_embeddings().weight, {0, 1, 2, 3, 4}
    sums = {"a": [0.0, 0.0], "b": [0.0, 0.0]}
    with torch.no_grad():
        for row in range(6):
            for first in (0, 2):
                vector = None
                for view, name in ((first, "a"), (first + 1, "b")):
                    length = int(batch.attention_mask[row, view].sum())
                    ids = batch.input_ids[row, view, :length]
                    masked, labels = (t[row, view, :length] for t in (batch.masked_ids, batch.mlm_labels))
                    if name == "a":
                        states = encoder.states(masked[None], torch.ones_like(masked[None])).hidden[-1][0]
                        vector = states[:1]
                    else:
                        ones = torch.ones_like(masked[None])
                        states = objective.decoder(embedded(encoder, masked[None]), ones, vector)[0]
                    for place in range(length):
                        if objective.predict == "next" and name == "b":
                            token = int(ids[place + 1]) if place + 1 < length else -100
                        elif objective.predict == "all":
                            token = -100 if int(ids[place]) in special else int(ids[place])
                        else:
                            token = int(labels[place])
                        if token != -100:
                            surprise = -objective.head(states[place], words).log_softmax(-1)[token].item()
                            sums[name][0] += weight[row].item() * surprise
                            sums[name][1] += weight[row].item()
        weighted = batch.with_tensors(batch.tensors() | {"weight": weight})
        output = loss_of(encoder, objective, weighted)
    a, b = (total / count for total, count in sums.values())
    assert output.metrics["mlm_loss"].item() == pytest.approx(a, rel=1e-5)
    assert output.metrics["decoder_loss"].item() == pytest.approx(b, rel=1e-5)
    assert output.loss.item() == pytest.approx(a + 0.5 * b, rel=1e-5)


@pytest.mark.parametrize("predict", ["all", "next"])
def test_views_that_do_not_exist_are_not_predicted(tiny_bert, predict):
    def fresh():
        return build("BottleneckDecoder", tiny_bert, BottleneckDecoder(decoder_layers=1, predict=predict))

    assert_absent_views_do_not_count(fresh, contract_batch("BottleneckDecoder", fresh()[0]))


def test_a_run_with_a_generator_resumes_and_saves_neither_it_nor_the_decoder(tiny_bert, tmp_path):
    def build(folder):
        views = TextViews(max_length=12, views=2)
        collator = Masked(views=views, probability=[0.3, 0.5], mask_only=True, nested=True)
        objective = BottleneckDecoder(decoder_layers=1, decoder_start="last", predict="all", generator=tiny_bert)
        parts = {"encoder": Encoder(tiny_bert), "objective": objective, "collator": collator}
        return make_run(folder, tiny_bert, max_steps=4, **parts)

    assert_resumes(build, tmp_path)
    folder = tmp_path / "whole" / "run"
    with safe_open(folder / "last" / "model.safetensors", "pt") as file:
        parts = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
    assert parts == {"bert", "cls"}
    saved = torch.load(folder / "state" / "state.pt", weights_only=True)["learner"]
    assert {k.split(".")[1] for k in saved if k.startswith("objective.")} == {"decoder", "head"}


def test_refusals(tiny_bert, tmp_path):
    encoder, objective = built(tiny_bert)
    refuses("in twos, and rows have 3", loss_of, encoder, objective, batch_of(encoder, 3))
    other = save_tiny("roberta", tiny_bert, tmp_path / "plain")
    refuses(
        r"objective.generator .* is not a trained masked language model",
        BottleneckDecoder(generator=other).setup,
        encoder,
    )
