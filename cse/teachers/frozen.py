"""A teacher that never changes."""

from __future__ import annotations

import torch
from torch import Tensor

from cse.batch import Batch
from cse.encoder.model import Encoder
from cse.encoder.poolers import PoolerName
from cse.errors import UserError, require_at_least
from cse.interfaces import StepContext, Teacher


class FrozenEncoder(Teacher):
    """A trained encoder that stands still and reads the token ids of the batch.

    The encoder is held outside the module tree: no optimizer, checkpoint or DDP wrapper sees its weights.

    Args:
        source: A checkpoint's folder, `asset:NAME` or a Hub id. It must have the vocabulary of the encoder in training.
        pooler: The pooler of a plain Hugging Face model, which does not name one; None is `mean`.
        cache_size: Keep the vectors of this many distinct texts, those that come first, and do not encode them again.
            Useful if texts come back (several epochs, few positives). A kept vector may differ in its last bits from
            one computed in another batch, so that a resumed run is no longer bit-identical. 0 keeps none.

    Raises:
        UserError: `cache_size` is negative. In `setup`: the encoder cannot be loaded, or has another vocabulary.
    """

    def __init__(self, *, source: str, pooler: PoolerName | None = None, cache_size: int = 0) -> None:
        super().__init__()
        require_at_least(0, "teacher", cache_size=cache_size)
        self.source, self.pooler, self.cache_size = source, pooler, cache_size
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def setup(self, encoder: Encoder) -> None:
        """Load the encoder."""
        other = Encoder.load(self.source, pooler=self.pooler).requires_grad_(False).eval()
        if other.tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
            raise UserError(
                f"teacher {self.source} has another vocabulary than encoder {encoder.source}\n"
                "fix: give a checkpoint that was trained from the same backbone"
            )
        self._held = (other,)  # a tuple hides it from nn.Module

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder."""
        return self._held[0]

    @torch.no_grad()
    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        """The exported vectors (B, V, Dt) of the views of all processes, float32."""
        ids, mask = batch.input_ids, batch.attention_mask  # (b, V, L), this process's
        same = bool((ids == ids[:, :1]).all())  # views that differ by dropout only have one vector here
        width = 1 if same else batch.views
        vectors = self._vectors(ids[:, :width].flatten(0, 1), mask[:, :width].flatten(0, 1))
        vectors = vectors.view(len(ids), width, -1).expand(-1, batch.views, -1)  # (b, V, Dt)
        return ctx.gather(vectors.contiguous())

    def _vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, Dt) for token ids and mask (n, L)."""
        self.encoder.to(ids.device)
        vectors: Tensor
        if not self.cache_size:
            vectors = self.encoder(ids, mask).embedding.float()
            return vectors
        lengths = mask.sum(1).tolist()
        keys = [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)]
        new = {key: i for i, key in enumerate(keys) if key not in self._kept}
        rows = torch.tensor(list(new.values()), device=ids.device, dtype=torch.int64)
        fresh = dict(zip(new, self.encoder(ids[rows], mask[rows]).embedding.float(), strict=True)) if new else {}
        vectors = torch.stack([fresh[key] if key in fresh else self._kept[key].to(ids.device) for key in keys])
        for key, vector in fresh.items():
            if len(self._kept) < self.cache_size:
                self._kept[key] = vector.cpu().clone()  # a clone, since a view would keep the whole batch alive
        return vectors
