"""Views in templates of their own: the ids of each view, and what is refused."""

import pytest
import torch

from cse import BothWays, Encoder, Example, InTemplates, Masked, RandomSpans, TextViews, UserError
from cse.commands.augment import views_of
from cse.data.tokens import TokenStore
from tests.models import save_tiny

OWN, SECOND, THIRD = "the cat {text} sat {mask} on", "a dog {text} ran {mask} fast", "red sun {text} moon {mask} tree"
ROWS = [("mat",), ("blue house slow",), ("moon " * 30,)]


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert, pooler="mask", template=OWN)


def batch_of(encoder, collator, rows=ROWS):
    texts = [text for row in rows for text in row]
    collator.setup(TokenStore.build(texts, encoder.tokenizer, collator.max_length), 1)
    return collator([Example(row, row_id=i) for i, row in enumerate(rows)])


def tokens(encoder, batch):
    """The tokens of every view, row by row."""
    words = encoder.tokenizer.convert_ids_to_tokens
    pairs = zip(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), strict=True)
    found = [" ".join(words(ids[mask == 1].tolist())) for ids, mask in pairs]
    return [found[i : i + batch.views] for i in range(0, len(found), batch.views)]


def test_each_view_has_its_template(encoder):
    collator = InTemplates(views=TextViews(max_length=12, views=5), templates=[SECOND, THIRD, None])
    short, _, cut = tokens(encoder, batch_of(encoder, collator))
    first, second, third = (
        f"[CLS] {a} mat {b} [SEP]"
        for a, b in (("the cat", "sat [MASK] on"), ("a dog", "ran [MASK] fast"), ("red sun", "moon [MASK] tree"))
    )
    assert short == [first, second, third, first, first]
    assert cut[1] == "[CLS] a dog " + "moon " * 5 + "ran [MASK] fast [SEP]"


def test_around_masks_or_within(encoder):
    outside = InTemplates(views=Masked(views=TextViews(max_length=12), probability=0.9), templates=[SECOND])
    inside = Masked(views=InTemplates(views=TextViews(max_length=12), templates=[SECOND]), probability=0.9)
    for name, tensor in batch_of(encoder, outside).tensors().items():
        assert (tensor == batch_of(encoder, inside).tensors()[name]).all(), name
    assert outside.provides == inside.provides


def test_views_in_the_encoders_template_differ_by_dropout():
    assert InTemplates(views=TextViews(views=3), templates=[None, SECOND]).needs_dropout(Example(("a",)))
    assert not InTemplates(views=TextViews(), templates=[None, SECOND]).needs_dropout(Example(("a", "b"), 1))


def test_augment_shows_the_texts(encoder):
    collator = InTemplates(views=TextViews(), templates=[SECOND])
    assert views_of(collator, [Example(("mat",))], epoch=0, seed=0) == [["mat", "mat"]]


@pytest.mark.parametrize(
    "template", ["a {text} ran {mask} fast", "a dog {text} ran fast {mask}", "a dog {text} ran on sun"]
)
def test_a_template_of_another_shape_is_refused(encoder, template):
    collator = InTemplates(views=TextViews(max_length=12), templates=[SECOND, template])
    with pytest.raises(
        UserError, match=r"before a text and \d after it, and encoder.template .*\nfix: write templates"
    ):
        batch_of(encoder, collator)


# Templates of any length, where no mask token is involved
LONGER, SHORTER, MOVED = "a red {text} sat on the moon", "{text} ran", "{text} the cat sat"


@pytest.fixture(scope="module")
def causal(tiny_bert, tmp_path_factory):
    return save_tiny("llama", tiny_bert, tmp_path_factory.mktemp("causal"))


def put(template, text):
    """A text in a template, in words."""
    return f"[CLS] {(template or '{text}').replace('{text}', text)} [SEP]"


@pytest.mark.parametrize("own", [None, "the cat {text} sat"])
def test_templates_longer_and_shorter_than_the_encoders(causal, own):
    encoder, views = Encoder(causal, pooler="mean", template=own), TextViews(max_length=9, views=6)
    alone = batch_of(encoder, views)
    batch = batch_of(encoder, InTemplates(views=views, templates=[LONGER, SHORTER, None, MOVED]))
    room = 9 - len(put(own, "").split())  # for a text beside the encoder's template: the long text is cut to it
    texts = ["mat", "blue house slow", " ".join(["moon"] * room)]
    want = [[put(template, text) for template in (own, LONGER, SHORTER, own, MOVED, own)] for text in texts]
    assert tokens(encoder, batch) == want
    lengths = torch.tensor([[len(view.split()) for view in row] for row in want])  # (B, V)
    assert batch.input_ids.shape == (3, 6, lengths.max())
    assert torch.equal(batch.attention_mask, (torch.arange(lengths.max()) < lengths[..., None]).long())
    assert (batch.input_ids[batch.attention_mask == 0] == encoder.tokenizer.pad_token_id).all()
    assert batch.num_positives == 5
    for name in alone.tensors().keys() - {"input_ids", "attention_mask"}:
        assert torch.equal(batch.tensors()[name], alone.tensors()[name]), name


def test_pairs_and_hard_negatives_in_templates_of_any_length(causal):
    """Rows of unequal numbers of texts: a view that is not there repeats the anchor, in the template of its place."""
    rows = [("mat", "dog", "sun"), ("blue house", "tree")]
    encoder = Encoder(causal, pooler="mean")
    batch = batch_of(encoder, InTemplates(views=TextViews(max_length=9), templates=[LONGER, SHORTER]), rows)
    assert tokens(encoder, batch) == [
        [put(None, "mat"), put(LONGER, "dog"), put(SHORTER, "sun")],
        [put(None, "blue house"), put(LONGER, "tree"), put(SHORTER, "blue house")],
    ]
    assert batch.view_mask.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("pooler", ["last", "mean"])
def test_vectors_are_those_of_an_encoder_that_has_the_template(causal, pooler):
    own, templates = "the cat {text} sat", [LONGER, None, SHORTER]
    encoder = Encoder(causal, pooler=pooler, template=own).eval()
    batch = batch_of(encoder, InTemplates(views=TextViews(max_length=9, views=4), templates=templates))
    with torch.no_grad():
        got = encoder(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)).embedding.view(3, 4, -1)
    room = 9 - len(put(own, "").split())
    for view, template in enumerate([own, LONGER, own, SHORTER]):
        length = len(put(template, "").split()) + room  # so that the long text is cut at the same place
        other = Encoder(causal, pooler=pooler, template=template, max_length=length)
        want = torch.tensor(other.eval().encode([text for (text,) in ROWS]))
        torch.testing.assert_close(got[:, view], want, atol=1e-5, rtol=0)


def test_masks_and_spans_need_templates_of_one_length(encoder, tiny_bert):
    plain = Encoder(tiny_bert, pooler="mean", template="the cat {text} sat")
    within, spans = {"templates": [None, LONGER]}, {"smallest": [1], "largest": [2]}
    masked = Masked(views=TextViews(max_length=12, views=3))
    with pytest.raises(UserError, match=r"not as long as .*, and the views have masked_ids, .*\nfix: write"):
        batch_of(plain, InTemplates(views=masked, **within))
    with pytest.raises(UserError, match="the views have masked_ids and span_mask"):
        batch_of(plain, InTemplates(views=RandomSpans(views=masked, **spans), **within))
    inner = InTemplates(views=TextViews(max_length=12), templates=[LONGER])
    for around in (Masked(views=inner), Masked(views=BothWays(views=inner)), RandomSpans(views=inner, **spans)):
        with pytest.raises(UserError, match=rf"collator {type(around).__name__} is around InTemplates.*\nfix: write"):
            batch_of(plain, around)
    even = InTemplates(views=TextViews(max_length=12), templates=["a dog {text} ran"])
    assert batch_of(plain, Masked(views=even)).masked_ids is not None
    with pytest.raises(UserError, match="or has the mask token elsewhere"):  # it has none, and the encoder's has one
        batch_of(encoder, InTemplates(views=TextViews(max_length=12), templates=[LONGER]))
    with pytest.raises(UserError, match="or has the mask token elsewhere"):  # and the other way round
        batch_of(plain, InTemplates(views=TextViews(max_length=12), templates=["the cat {text} sat {mask}"]))
