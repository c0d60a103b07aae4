"""Static vectors as a backbone without layers: the state of a token is its vector, whatever stands around it.

    model.safetensors   embedding.weight (V, H), one row for each token; or what model2vec writes, see `read_table`
    tokenizer.json      the tokenizer, whose special tokens are not put around texts

This is a StaticEmbedding of sentence-transformers, which takes the mean over tokens. So the pooler is `mean`, and all
that an encoder does after its backbone works here too.

Deviations:
    White space around a text is removed, as for every encoder; StaticEmbedding gives it to the tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from cse.encoder.checkpoint.layout import MODEL2VEC, STATIC_NAME, TABLE
from cse.encoder.checkpoint.sums import copy_notices

EMPTY = "\ufdd0"  # a text without tokens, or padding; Unicode has no such character, and no file holds it


class StaticConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]  # transformers has no types here
    """The sizes of a table of vectors, in the words of transformers."""

    model_type = STATIC_NAME


class StaticModel(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """A table of vectors (V, H), with a row of zeros for `EMPTY`, in the interface of a transformer.

    `empty` is the id of `EMPTY`, which no token of a text has, and `words` the content of tokenizer.json.
    """

    config_class = StaticConfig

    def __init__(self, table: Tensor, *, empty: int, words: str, folder: Path) -> None:
        rows, width = table.shape
        super().__init__(StaticConfig(hidden_size=width, vocab_size=rows, num_hidden_layers=0))
        table = F.pad(table.float(), (0, 0, 0, max(0, empty + 1 - rows)))
        table[empty] = 0
        self.embedding = nn.Embedding(len(table), width)
        self.embedding.weight = nn.Parameter(table)
        self.rows, self.words, self.name_or_path = rows, words, str(folder)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """(n, L) -> states (n, L, H)."""
        states = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states,) if output_hidden_states else None)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table."""
        return self.embedding

    def write(self, out: Path) -> None:
        """Write the table and the tokenizer as they were read, and the notices."""
        from safetensors.torch import save_file

        save_file({TABLE: self.embedding.weight.detach()[: self.rows].cpu().contiguous()}, out / "model.safetensors")
        (out / "tokenizer.json").write_text(self.words, encoding="utf-8")
        copy_notices(Path(self.name_or_path), out)


def load_static(folder: Path) -> tuple[StaticModel, PreTrainedTokenizerFast]:
    """The table of vectors in a folder, and its tokenizer."""
    words = (folder / "tokenizer.json").read_text(encoding="utf-8")
    rust = Tokenizer.from_str(words)
    known = max(rust.get_vocab().values())
    rust.no_padding()
    rust.no_truncation()
    rust.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=rust, pad_token=EMPTY, clean_up_tokenization_spaces=False)
    table = read_table(folder)
    if not table.any():
        raise ValueError("its static vectors are all 0")
    if not known < len(table) or tokenizer.pad_token_id <= known:
        raise ValueError(f"its tokenizer has ids up to {known}, and its table has {len(table)} rows")
    return StaticModel(table, empty=tokenizer.pad_token_id, words=words, folder=folder), tokenizer


def read_table(folder: Path) -> Tensor:
    """(V, H) the vectors of a folder. Those of model2vec may be shared by tokens, and be weighted for each."""
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    if TABLE in state:
        return state[TABLE].float()
    table = state[MODEL2VEC].float()
    if "mapping" in state:
        table = table[state["mapping"].long()]
    return table * state["weights"].float()[:, None] if "weights" in state else table
