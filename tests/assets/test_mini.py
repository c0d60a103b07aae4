"""asset:mini is a masked language model, whole, small and of this package's making."""

import csv
from collections import Counter
from pathlib import Path

import torch

import cse.evaluation as harness
from cse.assets import resolve
from cse.encoder.model import Encoder
from cse.objectives.masked_lm import MaskedLMHead


def sentences():
    path = Path(harness.__file__).parent / "data" / "sts-mini-test.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        return [row["sentence1"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def test_it_is_at_most_12_mb_and_says_where_it_comes_from():
    folder = resolve("asset:mini")
    assert (folder / "model.safetensors").stat().st_size <= 12e6
    notice = (folder / "NOTICE").read_text()
    for word in ("sha256", "license", "command", "loss"):
        assert word in notice.lower()


def test_it_fills_masks_far_better_than_chance():
    """Every seventh token of unseen sentences, against guessing the most frequent token each time."""
    encoder = Encoder("asset:mini").eval()
    assert encoder.has_dropout  # which makes views
    head = MaskedLMHead(encoder.hidden_size, encoder.backbone.config.vocab_size)
    head.load_pretrained("asset:mini")
    ids, mask = encoder.pad(encoder.tokenize(sentences()))
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[:, 3::7] = True
    chosen &= (mask == 1) & (ids >= 5)
    masked = ids.masked_fill(chosen, encoder.tokenizer.mask_token_id)
    with torch.no_grad():
        states = encoder.token_states(masked, mask, chosen)
        guesses = head(states, encoder.backbone.get_input_embeddings().weight).argmax(-1)
    right = (guesses == ids[chosen]).float().mean().item()
    commonest = Counter(ids[chosen].tolist()).most_common(1)[0][1] / int(chosen.sum())
    assert int(chosen.sum()) > 300
    assert right > 2 * commonest
