"""coCondenser's contrast against its authors' program (oracles); the two predictions by loops and in limits."""

import pytest
import torch

from cse import CoCondenser, Encoder, Masked, MaskedLM, TextViews
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of, collated, refuses, set_up, step

TEXTS = ["the cat sat on a mat", "a dog ran fast", "red sun blue moon tree house", "moon", "slow cat", "a red house"]


def contract_case(backbone):
    return Case({"decoder_layers": 1}, texts=2)


@pytest.mark.parametrize("name", cases("cocondenser"))
def test_the_contrast_of_the_authors(name):
    about, data = load("cocondenser", name)
    x = data["x"].requires_grad_()
    objective = CoCondenser(temperature=about["temperature"])
    loss = about["weight"] * objective.contrastive(x.view(-1, 2, x.shape[-1]), batch_of(len(x) // 2, 2)).loss
    agrees(loss, about, data, {"x": x})


def built(folder, **options):
    encoder, objective = set_up(folder, CoCondenser(**{"decoder_layers": 1, **options}), scale=5, pooler="cls")
    return encoder.eval(), objective.eval()


def masked_batch(encoder, views=2):
    return collated(encoder, TEXTS, Masked(views=TextViews(max_length=12, views=views), probability=0.4))


def test_both_predictions_by_a_slow_loop(tiny_bert):
    encoder, objective = built(tiny_bert)
    batch, plain = masked_batch(encoder), MaskedLM()
    plain.setup(encoder)
    output, words = step(encoder, objective, batch), encoder.backbone.get_input_embeddings().weight
    total = count = 0
    with torch.no_grad():
        for masked, labels, mask in zip(
            *(t.flatten(0, 1) for t in (batch.masked_ids, batch.mlm_labels, batch.attention_mask)), strict=True
        ):
            ids = masked[mask == 1][None]
            hidden = encoder.states(ids, torch.ones_like(ids)).hidden
            read = torch.cat([hidden[2][:, :1], hidden[1][:, 1:]], 1)
            states = objective.decoder.model(inputs_embeds=read, attention_mask=torch.ones_like(ids))[0][0]
            for place in (labels != -100).nonzero()[:, 0].tolist():
                total -= objective.head(states[place], words).log_softmax(-1)[labels[place]].item()
                count += 1
        assert output.metrics["head_loss"].item() == pytest.approx(total / count, rel=1e-5)
        want = step(encoder, plain, batch).loss.item()
    assert output.metrics["mlm_loss"].item() == pytest.approx(want, rel=1e-6)
    terms = sum(output.metrics[name] for name in ("mlm_loss", "head_loss", "contrastive"))
    assert output.loss.item() == pytest.approx(terms.item(), rel=1e-6)


def test_without_the_contrast_rows_of_one_view_do(tiny_bert):
    encoder, objective = built(tiny_bert, contrast_weight=0.0)
    assert not objective.contrasts
    assert set(step(encoder, objective, masked_batch(encoder, views=1)).metrics) == {
        "mlm_loss", "mlm_accuracy", "head_loss", "head_accuracy"}  # fmt: skip
    refuses(r"collator\.views", step, encoder, built(tiny_bert)[1], masked_batch(encoder, views=1))


def test_a_layer_that_is_not_there(tiny_bert):
    refuses(r"objective.skip_from is 2, and .* has 2 layers", CoCondenser(skip_from=2).setup, Encoder(tiny_bert))
