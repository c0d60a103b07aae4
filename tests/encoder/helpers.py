"""Tokenizers of two families, a LoRA that has learned something, and what every loader makes of a checkpoint."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from cse import Encoder


def byte_level(**options):
    """A byte-level tokenizer as GPT-2's and Llama 3's: every byte is a token, no special tokens around a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet, "Ġa", "Ġs"])}
    rust = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a"), ("Ġ", "s")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=rust, model_max_length=512, **names, **options)


def bert(folder):
    """A WordPiece tokenizer as BERT's: [CLS] text [SEP]."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *':".', "means"]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return BertTokenizerFast.from_pretrained(folder, model_max_length=512)


def learn(encoder, std: float = 0.3):
    """Give the LoRA weights B, which begin at 0, random values; returns the encoder."""
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    return encoder


def loads_everywhere(encoder, folder, texts, tolerance=1e-5, *, theirs=True, **options):
    """Vectors of an encoder that its checkpoint `saved` gives, too: loaded, saved `again`, in sentence-transformers."""
    want = encoder.eval().encode(texts)
    encoder.save(folder / "saved", **options)
    loaded = Encoder.load(str(folder / "saved"))
    assert (loaded.pooler, loaded.max_length, loaded.dim) == (encoder.pooler, encoder.max_length, encoder.dim)
    loaded.save(folder / "again")
    models = [loaded, Encoder.load(str(folder / "again"))]
    if theirs:
        places = [str(folder / name) for name in ("saved", "again")]
        models += [SentenceTransformer(place, device="cpu", trust_remote_code=True) for place in places]
    for model in models:
        np.testing.assert_allclose(model.encode(texts), want, rtol=0, atol=tolerance)
    return want
