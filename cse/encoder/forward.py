"""The passes of a backbone over rows of token ids, up to pooled vectors, without work that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cse.encoder.adapters import Adapter
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.device import placed, places
from cse.encoder.dropout import Cutoff, Dropout, has_dropout
from cse.encoder.fast import enabled
from cse.encoder.fast.batching import chunk_overhead, length_chunks, token_budget_batches
from cse.encoder.fast.layers import only_first_token
from cse.encoder.fast.shared_prefix import WORTH, SharedPrefix, can_share, shared_length
from cse.encoder.fast.shared_prefix import read as read_prefix
from cse.encoder.fast.shared_prefix import states as shared_states
from cse.encoder.kinds import Weights
from cse.encoder.layers import Compiled, States, cut_states, eager_attention
from cse.encoder.poolers import NEEDS_ALL_LAYERS, Pooler, PoolerName, span_means
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = {"cpu": 1024, "cuda": 16384}  # in a batch of `Encoder.encode`
SubBatch = tuple[Tensor, Tensor, Tensor | None, SharedPrefix | None]


@dataclass(frozen=True, slots=True)
class Passes:
    """How an encoder runs its backbone at one moment; the encoder makes one whenever it encodes.

    Attributes:
        backbone: The transformer.
        adapter: What is trained instead of it.
        pooler: The name of the pooling of hidden states to one vector.
        pool: The pooler itself.
        weights: The number format of the backbone's weights.
        dropout: What is dropped from the embedded text, in training.
        training: Whether anything is dropped.
        recomputes: Whether layers are computed again in the backward pass of training.
        compiled: The compiled layers, in training, if the run compiles them; rows are padded to one of a few lengths.
        every_layer: Whether the states of all layers are kept, even if the pooler does not read them.
    """

    backbone: PreTrainedModel
    adapter: Adapter | None
    pooler: PoolerName
    pool: Pooler
    weights: Weights
    dropout: Dropout
    training: bool
    recomputes: bool
    compiled: Compiled | None = None
    every_layer: bool = False

    @property
    def cutoff(self) -> Cutoff:
        """What is cut from the embedded text, in training."""
        return Cutoff(self.dropout.token_cutoff, self.dropout.feature_cutoff)

    @property
    def has_dropout(self) -> bool:
        """Whether two passes over the same text differ in training."""
        adapter = self.adapter is not None and self.adapter.has_dropout
        return adapter or self.dropout.embedding > 0 or bool(self.cutoff) or has_dropout(self.backbone)

    def rows(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled vectors (n, H) of rows of token ids (n, L), in length-sorted sub-batches that waste little padding."""
        return self._in_parts(input_ids, attention_mask, lambda _, *sub_batch: [self.pooled(*sub_batch)])[0]

    def rows_by_layer(self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Pooled vectors (n, H) of rows of token ids (n, L) after each of `layers`, in one pass; see `cut_states`."""
        every, pool = replace(self, every_layer=True), self.pool

        def pooled(_: Tensor, ids: Tensor, mask: Tensor, *shared: Any) -> list[Tensor]:
            with every._changed(mask):
                states = every._states(ids, mask, *shared)
            cut = (self._in_float(cut_states(self.backbone, states, layer)) for layer in layers)
            return [pool(seen, mask) for seen in cut]

        return every._in_parts(input_ids, attention_mask, pooled)

    def states(self, input_ids: Tensor, attention_mask: Tensor, *, attentions: bool) -> States:
        """All layers' states of rows of token ids (n, L), in one pass; with attentions, which is slower, if asked for.

        Raises:
            UserError: The backbone cannot give its attentions.
        """
        if attentions:
            return self._states_and_attentions(input_ids, attention_mask)
        every = replace(self, every_layer=True)

        def states(_: Tensor, ids: Tensor, mask: Tensor, *shared: Any) -> list[Tensor]:
            with every._changed(mask, whole=True):
                found = every.hidden_states(ids, mask, *shared)
            padding = input_ids.shape[1] - mask.shape[1]
            return [F.pad(state, (0, 0, 0, padding)) if padding else state for state in found]

        return States(every._in_parts(input_ids, attention_mask, states))

    def _states_and_attentions(self, input_ids: Tensor, attention_mask: Tensor) -> States:
        if self.recomputes:
            raise UserError(
                "trainer.gradient_checkpointing: the objective reads attentions, which layers that are computed again "
                "in the backward pass do not give\nfix: remove trainer.gradient_checkpointing"
            )
        options = {"output_hidden_states": True, "output_attentions": True}
        input_ids, attention_mask = (placed(t, self.backbone.device) for t in (input_ids, attention_mask))
        with self._changed(attention_mask, whole=True), eager_attention(self.backbone):
            output = self.backbone(**self.model_inputs(input_ids, attention_mask), **options)
        weights = output.get("attentions") or ()
        if len(weights) != self.backbone.config.num_hidden_layers or any(one is None for one in weights):
            raise UserError(
                f"encoder.backbone: the objective reads attentions, which a {self.backbone.config.model_type} backbone "
                "does not give\nfix: use a BERT, RoBERTa or Llama-like backbone"
            )
        length = input_ids.shape[1]
        return States(self._in_float(output.hidden_states), self._in_float([one[..., -length:] for one in weights]))

    def batches(
        self,
        ids: Sequence[list[int]],
        pad: Callable[[list[list[int]]], tuple[Tensor, Tensor]],
        max_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Row numbers and pooled vectors (n, H) of rows of token ids, batch by batch.

        Args:
            ids: The rows.
            pad: Makes ids and attention mask (n, L) of some of them.
            max_tokens: Most tokens in a batch, padding included; None: `TOKENS` of the device.
            batch_size: Most rows in a batch; None: limited by `max_tokens` only.
        """
        device, prefix = self.backbone.device, self.prefix(ids)
        for part in self.parts(ids, max_tokens, batch_size):
            tokens, mask = (placed(tensor, device) for tensor in pad([ids[i] for i in part]))
            yield part, self.pooled(tokens, mask, prefix=prefix)

    def parts(
        self, ids: Sequence[list[int]], max_tokens: int | None, batch_size: int | None
    ) -> Iterator[NDArray[np.int64]]:
        """The numbers of the rows of each batch; see `batches`."""
        budget = max_tokens or TOKENS.get(self.backbone.device.type, 16384)
        for rows in token_budget_batches(np.array([len(i) for i in ids], dtype=np.int64), budget):
            yield from np.array_split(rows, -(-len(rows) // (batch_size or len(rows))))

    def token_states(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """The last layer's states (m, H) at the m True positions of `where` (n, L), in their order."""
        states, positions, device = [], [], self.backbone.device
        where = where.cpu()
        for index, sub_batch in self._sub_batches(input_ids, attention_mask):
            last = self.hidden_states(*sub_batch)[-1]
            chosen = where[index, : last.shape[1]]
            states.append(last[places(chosen, device)])
            row, column = chosen.nonzero(as_tuple=True)
            positions.append(index[row] * where.shape[1] + column)
        return torch.cat(states)[placed(torch.cat(positions).argsort(), device)]

    def spans(self, input_ids: Tensor, attention_mask: Tensor, span_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled vectors (n, H) of rows (n, L), and means of the last layer over spans (n, S, L): (n, S, H)."""

        def both(index: Tensor, ids: Tensor, mask: Tensor, *shared: Any) -> list[Tensor]:
            with self._changed(mask, whole=True):
                states = self.hidden_states(ids, mask, *shared)
            inside = placed(span_mask[index, :, : mask.shape[1]], mask.device)
            return [self.pool(states, mask), span_means(states[-1], inside * mask[:, None])]

        pooled, means = self._in_parts(input_ids, attention_mask, both)
        return pooled, means

    def _in_parts(
        self, input_ids: Tensor, attention_mask: Tensor, compute: Callable[..., list[Tensor]]
    ) -> list[Tensor]:
        """What `compute` makes of the rows of each sub-batch, each (n, ...), in the order of the n rows."""
        rows, parts = [], []
        for index, sub_batch in self._sub_batches(input_ids, attention_mask):
            rows.append(index)
            parts.append(compute(index, *sub_batch))
        order = placed(torch.cat(rows).argsort(), self.backbone.device)
        return [torch.cat(one)[order] for one in zip(*parts, strict=True)]

    def _sub_batches(self, input_ids: Tensor, attention_mask: Tensor) -> Iterator[tuple[Tensor, SubBatch]]:
        """Row numbers on the host, and the arguments of `hidden_states`, padded to the longest of these rows only."""
        device = self.backbone.device
        # What is decided here depends on lengths and tokens, for which the host would wait if they came from a GPU.
        input_ids, attention_mask = input_ids.cpu(), attention_mask.cpu()
        lengths = attention_mask.sum(1).tolist()
        shared = self.shares_prefix()
        prefix = self.prefix([r[:n] for r, n in zip(input_ids.tolist(), lengths, strict=True)]) if shared else None
        input_ids, words = self._words(input_ids)
        if self.compiled is not None:
            lengths = [self.compiled.padded_length(length) for length in lengths]
        for rows in length_chunks(lengths, chunk_overhead(device)):
            longest, index = max(lengths[i] for i in rows), torch.tensor(rows)
            ids, mask = (placed(tensor[index, :longest], device) for tensor in (input_ids, attention_mask))
            yield index, (ids, mask, words, prefix)

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
        positions: Tensor | None = None,
    ) -> Sequence[Tensor]:
        """The states that the pooler reads, at least the last layer's, at most all, each (n, L, H).

        Args:
            input_ids: (n, L), ids of the vocabulary, or rows of `words` if that is given.
            attention_mask: (n, L).
            words: (U, E), the embeddings of the distinct tokens of the whole batch.
            prefix: The prefix that all rows share, if it was read already.
            positions: (n, L), the position of each token, if it is not the backbone's own; without a prefix.
        """
        return self._in_float(self._states(input_ids, attention_mask, words, prefix, positions))

    def _states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None,
        prefix: SharedPrefix | None,
        positions: Tensor | None = None,
    ) -> Sequence[Tensor]:
        if prefix is not None:
            return shared_states(self.backbone, prefix, input_ids, attention_mask, **self._layers())
        length = input_ids.shape[1]
        if self.compiled is not None and (more := self.compiled.padded_length(length) - length):
            input_ids, attention_mask = F.pad(input_ids, (0, more)), F.pad(attention_mask, (0, more))
            positions = None if positions is None else F.pad(positions, (0, more))
        placed = {} if positions is None else {"position_ids": positions}
        output = self.backbone(**self.model_inputs(input_ids, attention_mask, words), **placed, **self._layers())
        states: Sequence[Tensor] = output.hidden_states or (output.last_hidden_state,)
        return [state[:, :length] for state in states] if self.compiled is not None else states

    def _in_float(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        return states if self.weights == "fp32" else [state.float() for state in states]  # heads are in float32

    def _layers(self) -> dict[str, bool]:
        return {"output_hidden_states": True} if self.every_layer or self.pooler in NEEDS_ALL_LAYERS else {}

    def prefix(self, rows: Sequence[list[int]]) -> SharedPrefix | None:
        """The states of the prefix that all rows of token ids share, if sharing them is exact and saves time."""
        length = shared_length(rows) if self.shares_prefix() else 0
        if length < WORTH:
            return None
        tokens = placed(torch.tensor([rows[0][:length]]), self.backbone.device)
        return read_prefix(self.backbone, length, self.model_inputs(tokens, torch.ones_like(tokens)), **self._layers())

    def shares_prefix(self) -> bool:
        """Whether rows may share the states of their prefix: not under dropout, which every row draws for itself."""
        # A layer that is recomputed takes no cache, and with one a compiled layer has one more input.
        if self.training and (self.has_dropout or self.recomputes or self.compiled is not None):
            return False
        return can_share(self.backbone)

    def model_inputs(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> dict[str, Any]:
        """The backbone's arguments for n rows of token ids (n, L), as in `hidden_states`."""
        dropout = self.dropout.embedding if self.training else 0.0
        if words is None and not dropout:
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        else:
            table = self.backbone.get_input_embeddings()
            embedded = table(input_ids) if words is None else F.embedding(input_ids, words)
            inputs = {"inputs_embeds": F.dropout(embedded, dropout), "attention_mask": attention_mask}
        return inputs | (self.adapter.inputs(self.backbone, attention_mask) if self.adapter is not None else {})

    def _words(self, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """A batch's tokens as rows of a table of its distinct words (U, E), if the embeddings are trained.

        The gradient of the whole matrix is then computed once, and not once per sub-batch.
        """
        embeddings = self.backbone.get_input_embeddings()
        trained = self.training and torch.is_grad_enabled() and embeddings.weight.requires_grad
        if not (enabled() and trained) or self.shares_prefix():
            return input_ids, None
        distinct, rows = torch.unique(input_ids, return_inverse=True)
        return rows, embeddings(placed(distinct, self.backbone.device))

    def pooled(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Pooled vectors (n, H) of the rows that `hidden_states` takes."""
        with self._changed(attention_mask):
            states = self.hidden_states(input_ids, attention_mask, words, prefix, positions)
        return self.pool(states, attention_mask)

    @contextmanager
    def _changed(self, attention_mask: Tensor, *, whole: bool = False) -> Iterator[None]:
        """Within, training cuts off what it cuts off, and what the pooler does not read is left out unless `whole`."""
        # The hook of `only_first_token` is gone when the backward pass computes the layer again, and would make one
        # compiled layer unlike the others.
        alike = self.training and (self.recomputes or self.compiled is not None)
        first = self.pooler == "cls" and not whole and not alike
        first_only = only_first_token(self.backbone) if first else nullcontext()
        cut = self.cutoff.on(self.backbone, attention_mask) if self.training and self.cutoff else nullcontext()
        with first_only, cut:
            yield

    def cannot_recompute(self) -> str:
        """Why layers cannot be computed again in the backward pass; empty if they can."""
        if not self.backbone.supports_gradient_checkpointing:
            return f"a {self.backbone.config.model_type} backbone does not support it"
        if isinstance(self.adapter, SoftPrompts):
            return "a layer that is computed again would not see the soft prompts"
        if self.cutoff:
            return "a first layer that is computed again would see the tokens and features that the cutoff removed"
        return ""

    def cannot_compile(self) -> str:
        """Why layers cannot be compiled; empty if they can."""
        if isinstance(self.adapter, SoftPrompts):
            return "a compiled layer would not see the soft prompts"
        if self.cutoff:
            return "compiled layers take rows of other lengths than the cutoff"
        return ""


def recompute_layers(backbone: PreTrainedModel) -> None:
    """From here on, keep only each layer's input in training, and compute the rest again in the backward pass."""
    model: Any = backbone
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.disable_input_require_grads()  # only the reentrant kind needs gradients of the embeddings
