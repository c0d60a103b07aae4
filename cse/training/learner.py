"""The one module that Accelerate wraps: encoder and objective."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cse.batch import ROW_FIELDS, Batch, LossOutput, Views
from cse.distributed import gather, world_size
from cse.encoder.model import Encoder
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import batch_uniformity
from cse.objectives.parts.functional import alignment, normalize, paired_cosine


class Encoded(NamedTuple):
    """This process's share of the batch, encoded: (b, V, D') and (b, V, D)."""

    projected: Tensor
    embedding: Tensor


class Learner(nn.Module):
    """Encodes a batch's views in one pass, gathers them from all processes, and asks the objective.

    Args:
        encoder: The encoder.
        objective: The objective; or that of each source of a mixture, by name. Several sources may have the same one.
    """

    def __init__(self, encoder: Encoder, objective: Objective | Mapping[str, Objective]) -> None:
        super().__init__()
        self._of_source = objective if isinstance(objective, Mapping) else {"": objective}
        first, *others = dict.fromkeys(self._of_source.values())  # each once, so that its state is saved once
        self.encoder = encoder
        self.objective = first
        self.others = nn.ModuleList(others)

    def objective_of(self, batch: Batch) -> Objective:
        """The objective of the batch's source."""
        return self._of_source[batch.source]

    def trained_state(self) -> dict[str, Tensor]:
        """All weights and buffers but those weights of the encoder that stand still: they are in the backbone's files.

        Weights without gradient elsewhere are part of it, since they move in other ways: copies follow the encoder.
        """
        frozen = {id(p) for p in self.encoder.parameters() if not p.requires_grad}
        shared = {name for name, p in self.named_parameters(remove_duplicate=False) if id(p) in frozen}
        return {name: value for name, value in self.state_dict().items() if name not in shared}

    def start(self) -> str:
        """A sha256 of the first values of each weight of the encoder that stands still, which `trained_state` lacks."""
        digest = hashlib.sha256()
        for name, weight in self.encoder.named_parameters():
            if not weight.requires_grad:
                digest.update(f"{name} {tuple(weight.shape)}".encode())
                digest.update(weight.detach().flatten()[:1024].cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def forward(
        self, batch: Batch, ctx: StepContext | None = None, encoded: Encoded | None = None
    ) -> tuple[Encoded, LossOutput | None]:
        """Encode, unless `encoded` is given, and compute the loss, if a context is given."""
        encoded = encoded or self.encode(batch)
        return encoded, None if ctx is None else self.loss(batch, encoded, ctx)

    def encode(self, batch: Batch) -> Encoded:
        """All views of the batch in one pass over (b V, L) rows; (b, V, 0) if the objective does not use views."""
        if not self.objective_of(batch).uses_views:
            nothing = torch.zeros(batch.size, batch.views, 0, device=self.encoder.device)
            return Encoded(nothing, nothing)
        output = self.encoder(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1))
        shape = (batch.size, batch.views, -1)
        embedding = output.embedding.view(shape)
        if output.projected is output.embedding:  # one tensor, so that a large batch keeps it once
            return Encoded(embedding, embedding)
        return Encoded(output.projected.view(shape), embedding)

    def loss(self, batch: Batch, encoded: Encoded, ctx: StepContext) -> LossOutput:
        """The objective on the batch of all processes: the same number on each."""
        views = gather_views(encoded, batch.num_positives)
        return self.objective_of(batch)(views, gather_rows(batch), ctx)


def gather_views(encoded: Encoded, num_positives: int) -> Views:
    """Views over all processes, with gradient."""
    embedding = gather(encoded.embedding)
    projected = embedding if encoded.projected is encoded.embedding else gather(encoded.projected)
    return Views.split(projected, embedding, num_positives)


def gather_rows(batch: Batch) -> Batch:
    """The batch with the fields of rows gathered over all processes; the fields of tokens stay local."""
    tensors = batch.tensors()
    own = {name: tensor for name, tensor in tensors.items() if name in ROW_FIELDS}
    if world_size() == 1 or not own:
        return batch
    # As bytes, numbers of every type are one exchange, and each exchange waits for the slowest process.
    pieces = [tensor[..., None].flatten(1).contiguous().view(torch.uint8) for tensor in own.values()]
    every = torch.split(gather(torch.cat(pieces, 1)), [piece.shape[1] for piece in pieces], 1)
    for (name, tensor), piece in zip(own.items(), every, strict=True):
        tensors[name] = piece.contiguous().view(tensor.dtype).view(len(piece), *tensor.shape[1:])
    return batch.with_tensors(tensors)


@torch.no_grad()
def diagnostics(encoded: Encoded, num_positives: int) -> dict[str, Tensor]:
    """Measure how a batch lies on the unit sphere: whether training makes progress, and whether vectors collapsed.

    Returns:
        `pos_cos` and `neg_cos`, the mean cosine of anchors with their own and with other rows' positives; `align` and
        `uniform`, the alignment of positive pairs and the uniformity of anchors. Empty without positive pairs.
    """
    if not num_positives or not encoded.projected.shape[-1]:
        return {}
    views = gather_views(Encoded(encoded.projected.detach().float(), encoded.embedding.detach()), num_positives)
    anchor, positive = views.anchor, views.positive[:, 0]
    size, own = len(anchor), paired_cosine(anchor, positive).sum()
    every = normalize(anchor).sum(0) @ normalize(positive).sum(0)  # the sum of all B x B cosines
    return {
        "pos_cos": own / size,
        "neg_cos": (every - own) / max(1, size * size - size),
        "align": alignment(anchor, positive),
        "uniform": batch_uniformity(anchor, 2.0) if size > 1 else torch.zeros_like(own),
    }
