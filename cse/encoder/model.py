"""The encoder: backbone, pooler, head. What `encode()` returns is what a checkpoint exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import EncoderOutput
from cse.encoder.backbone import has_dropout, inject_lora, load_backbone, max_positions
from cse.encoder.cutoff import Cutoff
from cse.encoder.fast.batching import chunk_overhead, length_chunks, native_bf16, token_budget_batches
from cse.encoder.fast.first_token import only_first_token
from cse.encoder.fast.shared_prefix import WORTH, SharedPrefix, can_share, shared_length
from cse.encoder.fast.shared_prefix import read as read_prefix
from cse.encoder.fast.shared_prefix import states as shared_states
from cse.encoder.fast.weights import converted_once
from cse.encoder.heads import Dense
from cse.encoder.poolers import NEEDS_ALL_LAYERS, PoolerName, get_pooler
from cse.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["auto", "fp32", "bf16"]
SubBatch = tuple[Tensor, Tensor, Tensor | None, SharedPrefix | None]
DEFAULT_MAX_LENGTH = 512
ENCODE_TOKENS = {"cpu": 1024, "cuda": 16384}  # tokens in a batch of `encode`


class Encoder(nn.Module):
    """Text to vector: backbone (L, H) -> pooler (H) -> exported modules (D) -> training head (D').

    Args:
        backbone: `asset:NAME`, a folder in Hugging Face layout, or a Hub id.
        pooler: How hidden states become one vector; see `cse.encoder.poolers`.
        head: `mlp` adds SimCSE's Linear + tanh after the pooler, newly initialised.
        export_head: Whether the head is part of the model (supervised SimCSE) or serves training only (unsupervised).
        layers: Keep this many of the backbone's first layers.
        template: A text with one `{text}`, put around every text and saved in the tokenizer; see `encoder.template`.
        max_length: Most tokens of a text in `encode`, template and special tokens included. None: what the backbone
            can position, up to 512.
        attention_dropout: Overrides the backbone's.
        hidden_dropout: Overrides the backbone's, where it has one.
        embedding_dropout: Dropout on the token embeddings in training, for backbones that have none of their own.
        token_cutoff: Share of a text's tokens whose embedding is 0 in training; see `encoder.cutoff`.
        feature_cutoff: Share of the dimensions that are 0 in all embeddings of a text in training.
        lora_rank: Train low-rank differences of this rank and freeze the rest; 0 trains everything. Merged on save.
        lora_alpha: Their scale is alpha / rank. None: equal to the rank, so 1.
        lora_dropout: Dropout on what enters them.
        lora_targets: Names of the linear layers that get one.
        revision: Commit, tag or branch of a Hub id.

    Raises:
        UserError: An argument is out of range, or the backbone cannot be had.
    """

    def __init__(
        self,
        backbone: str,
        *,
        pooler: PoolerName = "cls",
        head: Literal["none", "mlp"] = "none",
        export_head: bool = False,
        layers: int | None = None,
        template: str | None = None,
        max_length: int | None = None,
        attention_dropout: float | None = None,
        hidden_dropout: float | None = None,
        embedding_dropout: float = 0.0,
        token_cutoff: float = 0.0,
        feature_cutoff: float = 0.0,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
        revision: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.tokenizer = load_backbone(
            backbone,
            revision=revision,
            layers=layers,
            attention_dropout=attention_dropout,
            hidden_dropout=hidden_dropout,
        )
        if template is not None:
            from cse.encoder.template import bake

            self.tokenizer = bake(self.tokenizer, template)
        self.source, self.template, self.lora_rank = backbone, template, lora_rank
        self.revision = revision
        self.pooler: PoolerName = pooler
        self._pool = get_pooler(pooler)
        self.max_length = self._check_length(max_length)
        self.embedding_dropout = _probability("embedding_dropout", embedding_dropout)
        self._cutoff = Cutoff(token_cutoff, feature_cutoff)
        if lora_rank:
            alpha = float(lora_rank) if lora_alpha is None else lora_alpha
            inject_lora(self.backbone, rank=lora_rank, alpha=alpha, dropout=lora_dropout, targets=list(lora_targets))
        mlp = Dense(self.hidden_size, self.hidden_size) if head == "mlp" else None
        self.post = nn.Sequential(*([mlp] if mlp is not None and export_head else []))
        self.head: nn.Module = mlp if mlp is not None and not export_head else nn.Identity()
        self.lower_case = False

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.backbone.config.hidden_size)

    @property
    def dim(self) -> int:
        """D, the size of an exported vector."""
        sizes = [m.linear.out_features for m in self.post if isinstance(m, Dense)]
        return int(sizes[-1]) if sizes else self.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def max_positions(self) -> int:
        """The most tokens that the backbone can tell apart by position."""
        return max_positions(self.backbone.config)

    @property
    def has_dropout(self) -> bool:
        """Whether two passes over the same text differ in training."""
        return self.embedding_dropout > 0 or bool(self._cutoff) or has_dropout(self.backbone)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> EncoderOutput:
        """Encode n rows of token ids (n, L) in one pass, in length-sorted sub-batches that waste little padding."""
        rows, parts = [], []
        for index, sub_batch in self._sub_batches(input_ids, attention_mask):
            rows.append(index)
            parts.append(self._pooled(*sub_batch))
        pooled = torch.cat(parts)[torch.cat(rows).argsort()]  # (n, H)
        embedding = self.post(pooled)
        return EncoderOutput(embedding, self.head(embedding))

    def token_states(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """The last layer's states (m, H) at the m True positions of `where` (n, L), in their order."""
        states, positions = [], []
        for index, sub_batch in self._sub_batches(input_ids, attention_mask):
            last = self.hidden_states(*sub_batch)[-1]
            chosen = where[index, : last.shape[1]]
            states.append(last[chosen])
            row, column = chosen.nonzero(as_tuple=True)
            positions.append(index[row] * where.shape[1] + column)
        return torch.cat(states)[torch.cat(positions).argsort()]

    def _sub_batches(self, input_ids: Tensor, attention_mask: Tensor) -> Iterator[tuple[Tensor, SubBatch]]:
        """Row numbers and what `hidden_states` takes of them, padded to the longest of them only."""
        lengths = attention_mask.sum(1).tolist()
        prefix = self._prefix([row[:n] for row, n in zip(input_ids.tolist(), lengths, strict=True)])
        input_ids, words = self._words(input_ids)
        for rows in length_chunks(lengths, chunk_overhead(input_ids.device)):
            longest = max(lengths[i] for i in rows)
            index = torch.tensor(rows, device=input_ids.device)
            yield index, (input_ids[index, :longest], attention_mask[index, :longest], words, prefix)

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
    ) -> Sequence[Tensor]:
        """The states that the pooler reads: at least the last layer's, at most all, each (n, L, H).

        Args:
            input_ids: (n, L), of the vocabulary, or rows of `words` where it is given.
            attention_mask: (n, L).
            words: (U, E), the embeddings of the distinct tokens of the whole batch.
            prefix: What all rows begin with, if that was read already.
        """
        if prefix is not None:
            return shared_states(self.backbone, prefix, input_ids, attention_mask, **self._layers())
        output = self.backbone(**self.model_inputs(input_ids, attention_mask, words), **self._layers())
        return output.hidden_states or (output.last_hidden_state,)

    def _layers(self) -> dict[str, bool]:
        return {"output_hidden_states": True} if self.pooler in NEEDS_ALL_LAYERS else {}

    def _prefix(self, rows: Sequence[list[int]]) -> SharedPrefix | None:
        """The states of what all rows of token ids begin with, where sharing them is right and worth it."""
        length = shared_length(rows) if self._shares_prefix() else 0
        if length < WORTH:
            return None
        tokens = torch.tensor([rows[0][:length]], device=self.device)
        return read_prefix(self.backbone, length, self.model_inputs(tokens, torch.ones_like(tokens)), **self._layers())

    def _shares_prefix(self) -> bool:
        """Whether rows may share the states of their common prefix: not under dropout, which is each row's own."""
        return can_share(self.backbone) and not (self.training and self.has_dropout)

    def model_inputs(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> dict[str, Any]:
        """The backbone's arguments for n rows of token ids (n, L). An encoder that runs it otherwise overrides this.

        Args:
            input_ids: (n, L), of the vocabulary, or rows of `words` where it is given.
            attention_mask: (n, L).
            words: (U, E), the embeddings of the distinct tokens of the whole batch.
        """
        dropout = self.embedding_dropout if self.training else 0.0
        if words is None and not dropout:
            return {"input_ids": input_ids, "attention_mask": attention_mask}
        embedded = self.backbone.get_input_embeddings()(input_ids) if words is None else F.embedding(input_ids, words)
        return {"inputs_embeds": F.dropout(embedded, dropout), "attention_mask": attention_mask}

    def _words(self, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """A batch's tokens as rows of a table of its distinct words (U, E), where the embeddings are trained.

        The gradient of the whole matrix is then made once, and not once for each sub-batch.
        """
        embeddings = self.backbone.get_input_embeddings()
        trained = self.training and torch.is_grad_enabled() and embeddings.weight.requires_grad
        if not trained or self._shares_prefix():
            return input_ids, None
        distinct, rows = torch.unique(input_ids, return_inverse=True)
        return rows, embeddings(distinct)

    def _pooled(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
    ) -> Tensor:
        first_only = only_first_token(self.backbone) if self.pooler == "cls" else nullcontext()
        cut = self._cutoff.on(self.backbone, attention_mask) if self.training and self._cutoff else nullcontext()
        with first_only, cut:
            states = self.hidden_states(input_ids, attention_mask, words, prefix)
        return self._pool(states, attention_mask)

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        max_tokens: int | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts, in their order.

        Args:
            texts: n texts; longer ones are cut to `max_length` tokens.
            batch_size: Most texts in a batch; None: no limit but `max_tokens`.
            precision: `fp32`, `bf16`, or `auto`: bf16 where the hardware computes it natively.
            max_tokens: Most tokens in a batch, padding included. None: 1,024 on a CPU, 16,384 on a GPU.

        Returns:
            (n, D) float32.
        """
        import numpy as np

        device = self.device
        ids = self._tokenise(texts)
        budget = max_tokens or ENCODE_TOKENS.get(device.type, 16384)
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        was_training = self.training
        self.eval()
        try:
            with (
                torch.inference_mode(),
                converted_once(),
                torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device)),
            ):
                prefix = self._prefix(ids)
                for rows in token_budget_batches(np.array([len(i) for i in ids], dtype=np.int64), budget):
                    for part in np.array_split(rows, -(-len(rows) // (batch_size or len(rows)))):
                        tokens, mask = self._pad([ids[i] for i in part])
                        vectors = self.post(self._pooled(tokens.to(device), mask.to(device), prefix=prefix))
                        out[part] = vectors.float().cpu().numpy()
        finally:
            self.train(was_training)
        return out

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        clean = [text.strip().lower() if self.lower_case else text.strip() for text in texts]
        if not clean:
            return []
        ids: list[list[int]] = self.tokenizer(clean, truncation=True, max_length=self.max_length)["input_ids"]
        return [row or [self.tokenizer.pad_token_id] for row in ids]  # an empty text still has a vector

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return tokens, mask

    def describe(self) -> str:
        """One line for the run's header."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        parts = [
            f"{self.source} {self.backbone.config.num_hidden_layers} layers",
            f"dim {self.dim}",
            f"pooler {self.pooler}",
        ]
        parts += ["template"] if self.template else []
        parts += [f"LoRA r{self.lora_rank}"] if self.lora_rank else []
        return f"{', '.join(parts)} ({trained / 1e6:.1f} M of {total / 1e6:.1f} M trained)"

    def save(self, folder: str | Path) -> None:
        """Write the model in the sentence-transformers layout, replacing the folder as a whole or not at all."""
        from cse.encoder.layout import write

        write(self, Path(folder))

    @classmethod
    def load(cls, path: str, *, pooler: PoolerName | None = None, max_length: int | None = None) -> Encoder:
        """Read an encoder from a folder or the Hub.

        It may be one of ours, any SentenceTransformer of Transformer + Pooling (+ Dense, Normalize), or a plain
        Hugging Face model.

        Args:
            path: Folder, `asset:NAME` or Hub id.
            pooler: For a plain Hugging Face model, which does not say; None is `mean`, as in sentence-transformers.
            max_length: Overrides the checkpoint's.

        Raises:
            UserError: It is none of these, or its weights are missing or damaged.
        """
        from cse.encoder.layout import read

        return read(path, pooler=pooler, max_length=max_length)

    def _check_length(self, max_length: int | None) -> int:
        limit = self.max_positions
        if max_length is None:
            return min(limit, DEFAULT_MAX_LENGTH)
        if not 1 <= max_length <= limit:
            raise UserError(f"encoder.max_length is {max_length}; {self.source} can position 1 to {limit} tokens")
        return max_length


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16."""
    return precision == "bf16" or (precision == "auto" and native_bf16(device))


def _probability(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UserError(f"encoder.{name} is {value}; it is a probability: give a number from 0 to below 1")
    return value
