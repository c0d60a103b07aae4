"""The passes of a backbone over rows of token ids, up to the vectors of an encoder, without work that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cse.batch import EncoderOutput
from cse.encoder.adapters import Adapter
from cse.encoder.device import placed, places
from cse.encoder.dropout import Cutoff, Dropout, has_dropout
from cse.encoder.fast import enabled
from cse.encoder.fast.batching import chunk_overhead, length_chunks, token_budget_batches
from cse.encoder.fast.layers import only_first_token
from cse.encoder.fast.shared_prefix import WORTH, SharedPrefix, can_share, shared_length
from cse.encoder.fast.shared_prefix import read as read_prefix
from cse.encoder.fast.shared_prefix import states as shared_states
from cse.encoder.heads import Post
from cse.encoder.kinds import Weights
from cse.encoder.layers import Compiled, States, cut_states, eager_attention
from cse.encoder.poolers import NEEDS_ALL_LAYERS, Pooler, PoolerName, span_means
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = {"cpu": 1024, "cuda": 16384}  # in a batch of `Encoder.encode`
SubBatch = tuple[Tensor, Tensor, Tensor | None, SharedPrefix | None]


class Forward(nn.Module):
    """Rows of token ids to vectors, given the parts, which `Encoder` makes."""

    backbone: PreTrainedModel
    adapter: Adapter | None  # what is trained instead of it
    pooler: PoolerName  # the name of the pooling of hidden states to one vector
    pool: Pooler
    post: Post  # the modules after pooling
    head: nn.Module  # the head that serves training only
    weights: Weights  # the number format of the backbone's weights
    dropout: Dropout  # what is dropped in training
    recomputes: bool  # whether layers are computed again in the backward pass of training
    compiled: Compiled | None  # the layers that training runs compiled; rows are then padded to one of a few lengths
    source: str  # the name of the model
    max_positions: int  # the most tokens that the backbone can position besides soft prompts

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.backbone.config.hidden_size)

    @property
    def depth(self) -> int:
        """N, the number of the backbone's layers."""
        return int(self.backbone.config.num_hidden_layers)

    @property
    def dim(self) -> int:
        """D, the size of an exported vector."""
        return self.post.size(self.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def has_dropout(self) -> bool:
        """Tell whether two passes over the same text differ in training."""
        adapter = self.adapter is not None and self.adapter.has_dropout
        return adapter or self.dropout.embedding > 0 or bool(self._cutoff) or has_dropout(self.backbone)

    @property
    def _cutoff(self) -> Cutoff:
        return Cutoff(self.dropout.token_cutoff, self.dropout.feature_cutoff)

    @property
    def _compiled(self) -> Compiled | None:
        return self.compiled if self.training else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> EncoderOutput:
        """Encode n rows of token ids (n, L) in one pass, in length-sorted sub-batches that waste little padding."""
        return self.output(
            self._in_parts(input_ids, attention_mask, lambda _, *sub_batch: [self.pool_rows(*sub_batch)])[0]
        )

    def layer_embeddings(self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int]) -> list[EncoderOutput]:
        """Encode n rows of token ids (n, L) in one pass, as the encoder cut after each of `layers` would.

        Layer 0 is the output of the embeddings, and layer N (`depth`) gives what `forward` gives. An encoder is cut by
        its argument `layers`; see `cut_states`.

        Raises:
            ValueError: There is no such layer.
        """
        if wrong := [layer for layer in layers if not 0 <= layer <= self.depth]:
            raise ValueError(f"layers has {wrong[0]}, but {self.source} has the layers 0 to {self.depth}")

        def pooled(_: Tensor, ids: Tensor, mask: Tensor, *shared: Any) -> list[Tensor]:
            with self._changed(mask):
                states = self._states(ids, mask, *shared, every=True)
            cut = (self._in_float(cut_states(self.backbone, states, layer)) for layer in layers)
            return [self.pool(seen, mask) for seen in cut]

        return [self.output(one) for one in self._in_parts(input_ids, attention_mask, pooled, every=True)]

    def states(self, input_ids: Tensor, attention_mask: Tensor, *, attentions: bool = False) -> States:
        """Compute the hidden states of all layers of n rows in one pass, through which gradients flow.

        Args:
            input_ids: (n, L).
            attention_mask: (n, L), padded on the right.
            attentions: Whether to give the attentions too. Fused kernels do not compute them, so the pass is slower.

        Raises:
            UserError: Attentions are asked for, and the backbone does not give them, or recomputes its layers.
        """
        if attentions:
            return self._states_and_attentions(input_ids, attention_mask)

        def states(_: Tensor, ids: Tensor, mask: Tensor, *shared: Any) -> list[Tensor]:
            with self._changed(mask, whole=True):
                found = self._in_float(self._states(ids, mask, *shared, every=True))
            padding = input_ids.shape[1] - mask.shape[1]
            return [F.pad(state, (0, 0, 0, padding)) if padding else state for state in found]

        return States(self._in_parts(input_ids, attention_mask, states, every=True))

    def pooled(self, states: States, attention_mask: Tensor) -> EncoderOutput:
        """Encode n rows from their `states`, as `forward` does from their token ids."""
        return self.output(self.pool(states.hidden, attention_mask))

    def output(self, pooled: Tensor) -> EncoderOutput:
        """Make the vectors of pooled rows or spans (n, H): by the exported modules, and then by the training head."""
        embedding = self.post(pooled)
        return EncoderOutput(embedding, self.head(embedding))

    def token_states(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """The last layer's states (m, H) at the m True positions of `where` (n, L), in their order."""
        where = where.cpu()

        def chosen(index: Tensor, ids: Tensor, *rest: Any) -> list[Tensor]:
            last = self.hidden_states(ids, *rest)[-1]
            return [last[places(where[index, : ids.shape[1]], self.backbone.device)]]

        return self._in_parts(input_ids, attention_mask, chosen, where=where)[0]

    def spans(self, input_ids: Tensor, attention_mask: Tensor, span_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool n rows of token ids (n, L) and spans of them in one pass, through which gradients flow.

        Args:
            input_ids: (n, L).
            attention_mask: (n, L), padded on the right.
            span_mask: (n, S, L) True, or 1, at the tokens of each span.

        Returns:
            The pooled rows (n, H), from which `output` makes vectors, and the mean of the last layer over the tokens of
            each span (n, S, H), 0 for a span without tokens.
        """

        def both(index: Tensor, ids: Tensor, mask: Tensor, *shared: Any) -> list[Tensor]:
            with self._changed(mask, whole=True):
                states = self.hidden_states(ids, mask, *shared)
            inside = placed(span_mask[index, :, : mask.shape[1]], mask.device)
            return [self.pool(states, mask), span_means(states[-1], inside * mask[:, None])]

        pooled, means = self._in_parts(input_ids, attention_mask, both)
        return pooled, means

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
        """Yield row numbers and pooled vectors (n, H) of rows of token ids, batch by batch.

        `pad` makes ids and attention mask (n, L) of some rows. A batch has at most `batch_size` rows, and `max_tokens`
        tokens with padding; None: `TOKENS` of the device.
        """
        device, prefix = self.backbone.device, self._prefix(ids)
        for part in self.parts(ids, max_tokens, batch_size):
            tokens, mask = (placed(tensor, device) for tensor in pad([ids[i] for i in part]))
            yield part, self.pool_rows(tokens, mask, prefix=prefix)

    def parts(
        self, ids: Sequence[list[int]], max_tokens: int | None, batch_size: int | None
    ) -> Iterator[NDArray[np.int64]]:
        """The numbers of the rows of each batch; see `batches`."""
        budget = max_tokens or TOKENS.get(self.backbone.device.type, 16384)
        return token_budget_batches([len(i) for i in ids], budget, batch_size)

    def _in_parts(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        compute: Callable[..., list[Tensor]],
        *,
        where: Tensor | None = None,
        every: bool = False,
    ) -> list[Tensor]:
        """Give what `compute` makes of the rows of each sub-batch, each (n, ...), in the order of the n rows.

        With `where` (n, L), it makes something of each True position, which is then in the order of the positions.
        """
        order, parts = [], []
        for index, sub_batch in self._sub_batches(input_ids, attention_mask, every):
            parts.append(compute(index, *sub_batch))
            if where is not None:
                row, column = where[index, : sub_batch[0].shape[1]].nonzero(as_tuple=True)
                index = index[row] * where.shape[1] + column
            order.append(index)
        rows = placed(torch.cat(order).argsort(), self.backbone.device)
        return [torch.cat(one)[rows] for one in zip(*parts, strict=True)]

    def _sub_batches(self, input_ids: Tensor, attention_mask: Tensor, every: bool) -> Iterator[tuple[Tensor, SubBatch]]:
        """Row numbers on the host, and the arguments of `hidden_states`, padded to the longest of these rows only."""
        device, compiled = self.backbone.device, self._compiled
        # What is decided here depends on lengths and tokens, for which the host would wait if they came from a GPU.
        input_ids, attention_mask = input_ids.cpu(), attention_mask.cpu()
        lengths = attention_mask.sum(1).tolist()
        prefix = None
        if self.shares_prefix():
            prefix = self._prefix([r[:n] for r, n in zip(input_ids.tolist(), lengths, strict=True)], every)
        input_ids, words = self._words(input_ids)
        if compiled is not None:
            lengths = [compiled.padded_length(length) for length in lengths]
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
        """The states that the pooler reads, at least the last layer's, at most all, each (n, L, H), of ids (n, L).

        Ids are those of the vocabulary, or rows of `words` (U, E), the embeddings of the batch's distinct tokens. All
        rows may share a prefix that was read already; without one, `positions` (n, L) may differ from the backbone's.
        """
        return self._in_float(self._states(input_ids, attention_mask, words, prefix, positions))

    def _states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None,
        prefix: SharedPrefix | None,
        positions: Tensor | None = None,
        *,
        every: bool = False,
    ) -> Sequence[Tensor]:
        layers, compiled = self._layers(every), self._compiled
        if prefix is not None:
            return shared_states(self.backbone, prefix, input_ids, attention_mask, **layers)
        length = input_ids.shape[1]
        if compiled is not None and (more := compiled.padded_length(length) - length):
            input_ids, attention_mask = F.pad(input_ids, (0, more)), F.pad(attention_mask, (0, more))
            positions = None if positions is None else F.pad(positions, (0, more))
        placed = {} if positions is None else {"position_ids": positions}
        output = self.backbone(**self.model_inputs(input_ids, attention_mask, words), **placed, **layers)
        states: Sequence[Tensor] = output.hidden_states or (output.last_hidden_state,)
        return [state[:, :length] for state in states] if compiled is not None else states

    def _in_float(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        return states if self.weights == "fp32" else [state.float() for state in states]  # heads are in float32

    def _layers(self, every: bool) -> dict[str, bool]:
        return {"output_hidden_states": True} if every or self.pooler in NEEDS_ALL_LAYERS else {}

    def _prefix(self, rows: Sequence[list[int]], every: bool = False) -> SharedPrefix | None:
        """The states of the prefix that all rows of token ids share, if sharing them is exact and saves time."""
        length = shared_length(rows) if self.shares_prefix() else 0
        if length < WORTH:
            return None
        tokens = placed(torch.tensor([rows[0][:length]]), self.backbone.device)
        inputs = self.model_inputs(tokens, torch.ones_like(tokens))
        return read_prefix(self.backbone, length, inputs, **self._layers(every))

    def shares_prefix(self) -> bool:
        """Tell whether rows may share the states of their prefix; under dropout each row draws its own."""
        # A layer that is recomputed takes no cache, and with one a compiled layer has one more input.
        if self.training and (self.has_dropout or self.recomputes or self._compiled is not None):
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

    def pool_rows(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Pool the rows that `hidden_states` takes: (n, H)."""
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
        cutoff = self._cutoff
        cut = cutoff.on(self.backbone, attention_mask) if self.training and cutoff else nullcontext()
        with only_first_token(self.backbone) if first else nullcontext(), cut:
            yield

    def cannot_recompute(self) -> str:
        """Say why layers cannot be computed again in the backward pass; empty if they can."""
        if not self.backbone.supports_gradient_checkpointing:
            return f"a {self.backbone.config.model_type} backbone does not support it"
        if self.adapter is not None and not self.adapter.merges:
            return "a layer that is computed again would not see the soft prompts"
        if self._cutoff:
            return "a first layer that is computed again would see the tokens and features that the cutoff removed"
        return ""

    def recompute(self) -> None:
        """From here on, keep only each layer's input in training, and compute the rest again in the backward pass.

        Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost". Dropout draws the same masks both times, so
        the gradient is the same up to rounding.
        """
        if reason := self.cannot_recompute():
            raise UserError(f"trainer.gradient_checkpointing: {reason}\nfix: remove trainer.gradient_checkpointing")
        model: Any = self.backbone
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.disable_input_require_grads()  # only the reentrant kind needs gradients of the embeddings
        self.recomputes = True

    def cannot_compile(self) -> str:
        """Say why layers cannot be compiled; empty if they can."""
        if self.adapter is not None and not self.adapter.merges:
            return "a compiled layer would not see the soft prompts"
        return "compiled layers take rows of other lengths than the cutoff" if self._cutoff else ""

    def compile_layers(self, backend: str = "inductor") -> Compiled:
        """From here on, training runs compiled layers; the numbers are the same up to rounding and dropout's draws."""
        if reason := self.cannot_compile():
            raise UserError(f"trainer.compile: {reason}\nfix: remove trainer.compile")
        self.compiled = Compiled(self.backbone, longest=self.max_positions, backend=backend)
        return self.compiled

    def graphs(self) -> dict[str, float]:
        """The number of graphs that compiled layers made so far, for the log; {} if layers are not compiled."""
        return {} if self.compiled is None else {"graphs": float(self.compiled.graphs)}
