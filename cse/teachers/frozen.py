"""Teachers that never change: a trained encoder that reads the texts, or the token ids, of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.device import Precision, placed
from cse.encoder.job import cached_vectors
from cse.encoder.kinds import detect
from cse.encoder.model import Encoder
from cse.encoder.poolers import PoolerName, get_pooler
from cse.encoder.template import mask_position, rebake, template_of
from cse.errors import UserError
from cse.interfaces import StepContext, Teacher

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FrozenEncoder(Teacher):
    """A trained encoder of any vocabulary, which reads the text behind each view with its own tokenizer.

    Every text of the run is encoded once, before the first step, and its vector is kept on the disk, under the texts
    and the teacher: a killed run resumes there, and a further run with the same texts encodes nothing. Views that are
    augmented renderings of one text have one vector, that of the text. After the texts are encoded, the encoder is
    dropped from memory, and loaded again for another source of a mixture; no optimizer, checkpoint or DDP wrapper ever
    sees its weights.

    Args:
        source: A checkpoint's folder, `asset:NAME` or a Hub id. None: that of the encoder in training, which
            is read as that encoder reads it unless the other arguments say otherwise.
        pooler: The pooler of a plain Hugging Face model, which does not name one; None is `mean`.
        layers: The number of the first layers that are kept; None: all.
        template: The template of a model that has none; see `Encoder`. For the encoder in training, it takes the place
            of the one that it has.
        prompt_name: The name of the teacher's prompt that is put before every text; None: its default one.
        precision: `fp32`, `bf16`, or `auto`: bf16 if the hardware computes it natively.
        center: Whether the mean of the vectors of all texts of the run is subtracted, before they have length 1 again.

    Raises:
        UserError: In `setup`: the encoder cannot be loaded, or has no prompt of this name.
    """

    requires = frozenset({"text_id"})

    source: str | None = None
    pooler: PoolerName | None = None
    layers: int | None = None
    template: str | None = None
    prompt_name: str | None = None
    precision: Precision = "auto"
    center: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._held: tuple[Encoder, ...] = ()
        self._vectors: dict[str, NDArray[np.float32]] = {}  # of the texts of each source
        self._means: dict[str, NDArray[np.float32]] = {}  # (Dt,) of these vectors

    def setup(self, encoder: Encoder) -> None:
        self._start = (encoder,)  # a tuple hides it from nn.Module
        self._held = (self.loaded(),)
        self._prompt, self.dim = self._held[0].prompt_text(self.prompt_name), self._held[0].dim

    @torch.no_grad()
    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        text_id = batch.require("text_id", f"{type(self).__name__} {self.source or 'of the start'}")  # (B, V)
        if batch.source not in self._vectors:
            (encoder,) = self._held or (self.loaded(),)
            encoder.to(text_id.device)
            about = (encoder, model_hash(encoder), ctx.texts, self.precision, self._prompt)
            vectors = cached_vectors(*about, together=True)  # all processes are at the first batch of this source
            self._vectors[batch.source], self._held = vectors, ()
            if self.center:
                self._means[batch.source] = vectors.mean(0, dtype=np.float64).astype(np.float32)
        # A GPU would have to be waited for to know its ids, so each process finds the vectors of its own rows.
        local = text_id.cpu() if batch.local_text_id is None else batch.local_text_id
        found = torch.from_numpy(self._vectors[batch.source][local.numpy()])
        if self.center:
            found = F.normalize(found - torch.from_numpy(self._means[batch.source]), dim=-1)
        found = placed(found, text_id.device)
        return found if batch.local_text_id is None else ctx.gather(found)

    def loaded(self) -> Encoder:
        """The encoder, loaded again."""
        if self.source is not None and self.layers is None and self.template is None:
            return _load(self.source, self.pooler)
        (start,) = self._start
        if self.source is not None:
            pooler = self.pooler or detect(self.source).layout.pooler or "mean"
            own = Encoder(self.source, pooler=pooler, layers=self.layers, template=self.template)
        else:
            saved = start.template is None and template_of(start.tokenizer) is not None  # in the source's tokenizer
            own = Encoder(
                start.source,
                revision=start.revision,
                pooler=self.pooler or start.pooler,
                layers=self.layers or start.layers,
                template=None if saved else self.template or start.template,
            )
            if saved and self.template is not None:  # every text goes into it, and not into that of the source
                own.tokenizer, own.template = rebake(own.tokenizer, self.template), self.template
                if own.pooler == "mask":
                    own.pool = get_pooler("mask", position=mask_position(own.tokenizer))
        return own.requires_grad_(False).eval()


class FrozenViewEncoder(Teacher):
    """A trained encoder with the vocabulary of the encoder in training, which reads the token ids of the views.

    It judges each view as the student sees it, words that were deleted included, and encodes every batch again. The
    encoder is held outside the module tree: no optimizer, checkpoint or DDP wrapper sees its weights.

    Args:
        source: A checkpoint's folder, `asset:NAME` or a Hub id. It must have the vocabulary of the encoder in training.
        pooler: The pooler of a plain Hugging Face model, which does not name one; None is `mean`.

    Raises:
        UserError: In `setup`: the encoder cannot be loaded, or has another vocabulary.
    """

    source: str
    pooler: PoolerName | None = None

    def setup(self, encoder: Encoder) -> None:
        other = _load(self.source, self.pooler)
        if other.tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
            raise UserError(
                f"teacher {self.source} has another vocabulary than encoder {encoder.source}\n"
                "fix: give a checkpoint that was trained from the same backbone, or a FrozenEncoder, which reads texts"
            )
        self.dim = other.dim
        self._held = (other,)  # a tuple hides it from nn.Module

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder."""
        return self._held[0]

    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        self.encoder.to(ctx.encoder.device)
        return view_vectors(self.encoder, batch, ctx)


@torch.no_grad()
def view_vectors(encoder: Encoder, batch: Batch, ctx: StepContext) -> Tensor:
    """The vectors (B, V, Dt) that an encoder exports of the views of all processes, float32 at least."""
    ids, mask = batch.input_ids, batch.attention_mask  # (b, V, L), this process's
    same = bool((ids == ids[:, :1]).all())  # views that differ by dropout only have one vector here
    width = 1 if same else batch.views
    vectors = encoder(ids[:, :width].flatten(0, 1), mask[:, :width].flatten(0, 1)).embedding
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    vectors = vectors.view(len(ids), width, -1).expand(-1, batch.views, -1)  # (b, V, Dt)
    return ctx.gather(vectors.contiguous())


def _load(source: str, pooler: PoolerName | None) -> Encoder:
    return Encoder.load(source, pooler=pooler).requires_grad_(False).eval()
