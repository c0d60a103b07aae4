"""Makes asset:mini: `prepare` writes a vocabulary and a random BERT from corpora, and `export` the trained model.

python -m eval.pretrain_mini prepare CORPUS.txt.gz ... --out WORK
cse train pretrain-mini --data.path=WORK/corpus.txt --encoder.backbone=WORK/backbone
python -m eval.pretrain_mini export RUN --out cse/assets/mini
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cse.files import atomic_dir, write_text

VOCABULARY, HIDDEN, LAYERS, POSITIONS = 10_000, 256, 4, 256  # 5.9 M weights: 11.7 MB in fp16
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def prepare(corpora: list[Path], out: Path) -> None:
    """Write `out`/corpus.txt, without repeated sentences, and `out`/backbone, a random BERT with a new vocabulary."""
    sentences = list(dict.fromkeys(line for path in corpora for line in _lines(path)))
    write_text(out / "corpus.txt", "\n".join(sentences) + "\n")
    with atomic_dir(out / "backbone") as folder:
        _tokenizer(sentences).save_pretrained(folder)
        _model().save_pretrained(folder)


def export(run: Path, out: Path) -> None:
    """Write the masked language model of a run in fp16."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig.from_pretrained(run / "last")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1  # as in BERT; SimCSE makes its views with it
    with atomic_dir(out) as folder:
        BertForMaskedLM.from_pretrained(run / "last", config=config).half().save_pretrained(folder)
        shutil.copy(run / "last" / "tokenizer.json", folder)
        shutil.copy(run / "last" / "tokenizer_config.json", folder)


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from (line.strip() for line in file if line.strip())


def _tokenizer(sentences: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), limit_alphabet=200
    )
    tokenizer.train_from_iterator(sentences, trainer)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **SPECIAL)


def _model() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(42)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // 64,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
    )
    return BertForMaskedLM(config)


def main() -> None:
    """Run one of the two commands in the docstring of the module."""
    parser = argparse.ArgumentParser(prog="python -m eval.pretrain_mini")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, inputs, nargs in (("prepare", "corpora", "+"), ("export", "run", None)):
        command = commands.add_parser(name)
        command.add_argument(inputs, type=Path, nargs=nargs)
        command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.corpora, arguments.out)
    else:
        export(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
