"""Tokenizers of two families, and a LoRA that has learned something."""

import torch


def byte_level(**options):
    """A byte-level tokenizer as GPT-2's and Llama 3's: every byte is a token, no special tokens around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet, "Ġa", "Ġs"])}
    rust = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a"), ("Ġ", "s")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=rust, model_max_length=512, **names, **options)


def bert(folder):
    """A WordPiece tokenizer as BERT's: [CLS] text [SEP]."""
    from transformers import BertTokenizerFast

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
