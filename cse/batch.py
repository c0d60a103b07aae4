"""The values that flow through the package: Example -> Batch -> EncoderOutput -> Views -> LossOutput.

Shapes are written in these letters everywhere: B anchors in the batch, V views of each, P positives, K hard negatives,
S spans of a view, L tokens, D embedding size, N candidates, W processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TextSpans:
    """Parts of one text.

    Attributes:
        ranges: The character ranges, start and end, that make up each span; several if it is discontinuous.
        groups: A number for each span; spans of a row with the same number say the same.
    """

    ranges: tuple[tuple[tuple[int, int], ...], ...]
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data: the anchor, then its positives, then its hard negatives.

    Attributes:
        texts: Anchor first. If there is a single text, the collator makes the views of it.
        num_positives: Number of texts after the anchor that are positives; the rest are hard negatives.
        score: Graded similarity in [0, 1], for scored pairs.
        label: A class, for label-aware samplers and objectives.
        weight: Weight of the row in an objective, >= 0; a row of weight 2 counts as two. None: 1.
        relevance: Relevance of each positive to the anchor, >= 0; 0 makes it a negative. None: all count alike.
        teacher: Numbers that a teacher gave the row, as many as every other row has: logits, similarities, a vector.
        row_id: Position in the data set, which seeds everything random about the row.
        source: The name of the row's source in a mixture; empty without a mixture.
        spans: The spans of each text, such as the propositions of a sentence. None: no text has any.
    """

    texts: tuple[str, ...]
    num_positives: int = 1
    score: float | None = None
    label: int | None = None
    row_id: int = -1
    weight: float | None = None
    relevance: tuple[float, ...] | None = None
    teacher: tuple[float, ...] | None = None
    source: str = ""
    spans: tuple[TextSpans, ...] | None = None


ROW_FIELDS = ("text_id", "view_mask", "row_id", "score", "label", "weight", "relevance", "teacher")
TOKEN_FIELDS = ("input_ids", "attention_mask", "masked_ids", "mlm_labels", "span_mask", "span_group")
VIEW_FIELDS = (*TOKEN_FIELDS, "text_id", "local_text_id", "view_mask")


@dataclass(frozen=True, slots=True)
class Batch:
    """The tensors that a collator makes. View 0 is the anchor, views 1..P the positives, the rest hard negatives.

    An objective sees the row fields (`ROW_FIELDS`) gathered over all processes, as it sees the embeddings. The token
    fields (`TOKEN_FIELDS`) are those of this process, at `StepContext.local_rows` of the gathered batch. They stay on
    the host, where lengths and masked places are read without waiting for a GPU; the encoder copies what it reads.

    Attributes:
        input_ids: (B, V, L) token ids, right-padded.
        attention_mask: (B, V, L), 1 on tokens and 0 on padding.
        num_positives: P.
        text_id: (B, V) identity of the text behind each view: two views with one id are never each other's negative.
        local_text_id: (B, V) `text_id` of this process's rows, on the host; `to` keeps it.
        view_mask: (B, V) False where a row has no such view (unequal numbers of hard negatives). None: all present.
        row_id: (B,) positions in the data set.
        score: (B,) graded similarity in [0, 1].
        label: (B,) classes.
        weight: (B,) weight of each row, >= 0. None: all rows count equally.
        relevance: (B, P) relevance of each positive, >= 0.
        teacher: (B, C) numbers that a teacher gave each row, any finite ones.
        masked_ids: (B, V, L) ids after masking, for masked-LM terms.
        mlm_labels: (B, V, L) original ids where masked and -100 elsewhere.
        span_mask: (B, V, S, L) True at the tokens of each span of a view; a span without tokens does not exist.
        span_group: (B, V, S) >= 0; spans of a row with one number say the same. S may differ by process.
        source: The name of the source of all rows in a mixture; empty without a mixture.
    """

    input_ids: Tensor
    attention_mask: Tensor
    num_positives: int = 1
    text_id: Tensor | None = None
    local_text_id: Tensor | None = None
    view_mask: Tensor | None = None
    row_id: Tensor | None = None
    score: Tensor | None = None
    label: Tensor | None = None
    weight: Tensor | None = None
    relevance: Tensor | None = None
    teacher: Tensor | None = None
    masked_ids: Tensor | None = None
    mlm_labels: Tensor | None = None
    span_mask: Tensor | None = None
    span_group: Tensor | None = None
    source: str = ""

    @property
    def size(self) -> int:
        """B."""
        return int(self.input_ids.shape[0])

    @property
    def views(self) -> int:
        """V."""
        return int(self.input_ids.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is present, by field name."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"num_positives", "source"}}
        return {name: value for name, value in found.items() if value is not None}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Batch:
        """The same batch over other tensors, named as `tensors()` names them."""
        return Batch(num_positives=self.num_positives, source=self.source, **tensors)

    def pin_memory(self) -> Batch:
        """The same batch with row fields that `to` copies without waiting; on a GPU, torch's DataLoader calls it."""
        return self.with_tensors({n: t.pin_memory() if n in ROW_FIELDS else t for n, t in self.tensors().items()})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its row fields on a device; its token fields stay where they are."""
        moved = {n: t.to(device, non_blocking=True) for n, t in self.tensors().items() if n in ROW_FIELDS}
        kept = {} if self.text_id is None else {"local_text_id": self.text_id}
        return self.with_tensors(kept | self.tensors() | moved)

    def with_views(self, views: Sequence[int]) -> Batch:
        """The same rows with these of their views, in this order; `num_positives` stays."""
        import torch

        def cut(tensor: Tensor) -> Tensor:  # an index would be copied to the device of the row fields, which waits
            return torch.stack([tensor[:, view] for view in views], 1)

        return self.with_tensors({n: cut(t) if n in VIEW_FIELDS else t for n, t in self.tensors().items()})

    def widened(self, views: int) -> Batch:
        """The same rows with `views` views each and a `view_mask`; the added views repeat the anchor.

        Processes gather their views, so all processes must have the same number.
        """
        import torch

        extra, tensors = views - self.views, self.tensors()
        present = tensors.get("view_mask", torch.ones_like(self.input_ids[..., 0], dtype=torch.bool))
        tensors["view_mask"] = torch.cat([present, torch.zeros_like(present[:, :1]).expand(-1, extra)], 1)
        for name in VIEW_FIELDS:
            if name in tensors and name != "view_mask":
                value = tensors[name]
                tensors[name] = torch.cat([value, value[:, :1].expand(-1, extra, *value.shape[2:])], 1)
        return self.with_tensors(tensors).without_absent()

    def without_absent(self) -> Batch:
        """The same batch without masked-LM labels and spans in views that do not exist (`view_mask`)."""
        if self.view_mask is None:
            return self
        tensors = self.tensors()
        if "mlm_labels" in tensors:
            tensors["mlm_labels"] = tensors["mlm_labels"].masked_fill(~self.view_mask[..., None], -100)
        if "span_mask" in tensors:
            tensors["span_mask"] = tensors["span_mask"] & self.view_mask[..., None, None]
        return self.with_tensors(tensors)

    def require(self, name: str, objective: str) -> Tensor:
        """The named tensor, or a ValueError that names the field and the objective that needs it."""
        value = self.tensors().get(name)
        if value is None:
            raise ValueError(f"{objective} needs Batch.{name}, which this collator and data do not provide")
        return value

    def require_even(self, objective: str) -> None:
        """Refuse rows with unequal numbers of texts, by a ValueError."""
        if self.view_mask is not None:
            raise ValueError(
                f"{objective} needs the same number of texts in every row; some lack a hard negative (Batch.view_mask)"
            )

    def require_score(self, objective: str) -> Tensor:
        """The graded similarities (B,), checked to lie in [0, 1] where they `can_read`."""
        score = self.require("score", objective)
        if can_read(score) and not bool(((score >= 0) & (score <= 1)).all()):
            raise ValueError(
                f"{objective} needs scores in [0, 1]; Batch.score ranges from {score.min():g} to {score.max():g}"
            )
        return score


def can_read(tensor: Tensor) -> bool:
    """Tell whether a check may read values: on a GPU not in a step of training, where the host would wait for them.

    The rehearsal of the first batch, which takes no gradient, checks them there as well.
    """
    import torch

    return tensor.device.type != "cuda" or not torch.is_grad_enabled()


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """The vectors of n rows of token ids.

    Attributes:
        embedding: (n, D) what `encode()` returns and a checkpoint exports.
        projected: (n, D') what objectives compare: the embedding after the training head, or itself without one.
    """

    embedding: Tensor
    projected: Tensor


@dataclass(frozen=True, slots=True)
class Views:
    """A batch's projected embeddings by role, over all processes.

    Attributes:
        anchor: (B, D').
        positive: (B, P, D').
        negative: (B, K, D').
        embedding: (B, V, D) the exported embeddings of the same rows.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    embedding: Tensor

    @classmethod
    def split(cls, projected: Tensor, embedding: Tensor, num_positives: int) -> Views:
        """Cut (B, V, D') into roles."""
        p = num_positives
        return cls(projected[:, 0], projected[:, 1 : 1 + p], projected[:, 1 + p :], embedding)

    @property
    def projected(self) -> Tensor:
        """(B, V, D'), as `split` takes it."""
        import torch

        return torch.cat([self.anchor[:, None], self.positive, self.negative], 1)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Views:
        """The views with what a function makes of the projected embeddings of each role."""
        return Views(change(self.anchor), change(self.positive), change(self.negative), self.embedding)

    def require_pair(self, objective: str) -> Tensor:
        """The second text of each row (B, D'); a ValueError if the rows are not pairs."""
        if self.positive.shape[1] != 1 or self.negative.shape[1]:
            count = 1 + self.positive.shape[1] + self.negative.shape[1]
            raise ValueError(f"{objective} compares the two texts of a row; this batch has {count}")
        return self.positive[:, 0]

    def require_aligned(self, objective: str) -> Tensor:
        """The anchor and the positives of each row (B, 1 + P, D'); a ValueError for no positive, or a single row."""
        import torch

        if not self.positive.shape[1]:
            raise ValueError(f"{objective} needs two views of a row or more; set collator.views to 2 or more")
        if len(self.anchor) < 2:
            raise ValueError(f"batch_size is 1: {objective} compares rows; use 2 or more")
        return torch.cat([self.anchor[:, None], self.positive], 1)


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A scalar to minimize, and detached scalars to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
