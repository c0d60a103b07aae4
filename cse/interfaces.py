"""The seams: what a method may be made of. Everything else in the package is written against these."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import nn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cse.batch import Batch, Example, LossOutput, StepContext, Views
    from cse.data.tokens import TokenStore
    from cse.encoder.model import Encoder
    from cse.mining.miners import Allowed, Mined, Queries
    from cse.training.trainer import Run


class Objective(nn.Module, ABC):
    """A training loss: a function of embeddings and a batch. It never tokenises, logs, steps or gathers by hand.

    Attributes:
        requires: Names of the optional Batch fields that `forward` reads.
        cacheable: Whether the loss depends on the encoder through `views` only, so that gradients can be cached.
        contrasts: Whether the other rows of a batch serve as negatives.
        uses_views: Whether `forward` reads `views`; if not, the batch's views are not encoded, and `views` is empty.
        weighs_rows: Whether the loss is a mean over rows that honours `Batch.weight`.
    """

    requires: frozenset[str] = frozenset()
    cacheable: ClassVar[bool] = True
    contrasts: ClassVar[bool] = True
    uses_views: ClassVar[bool] = True
    weighs_rows: ClassVar[bool] = False

    def setup(self, encoder: Encoder) -> None:
        """Build what depends on the encoder (heads, teachers). Called once, before the optimizer exists."""

    @abstractmethod
    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The loss of a batch gathered over all processes, the same on each of them."""

    def after_step(self, ctx: StepContext) -> None:
        """Called after each optimizer step (moving averages, queues)."""


class Collator(ABC):
    """Makes a Batch of Examples. What is random about a view depends on (run seed, epoch, row id) alone.

    Attributes:
        max_length: Most tokens of a text in training, template and special tokens included.
        provides: Names of the optional Batch fields that it fills.
    """

    max_length: int
    provides: frozenset[str] = frozenset()

    @abstractmethod
    def setup(self, tokens: TokenStore, seed: int) -> None:
        """Receive the tokenised texts and the run's seed. Called once, before the first batch."""

    @abstractmethod
    def needs_dropout(self, example: Example) -> bool:
        """Whether views of rows such as this one are the same tokens, so that only dropout tells them apart.

        Raises:
            UserError: Rows such as this one do not fit the collator.
        """

    @abstractmethod
    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch of the given epoch."""


class Sampler(ABC):
    """Chooses which rows share a batch, epoch by epoch, so that a run can go on at any step on any number of processes.

    A batch is what an objective sees at once: a step's rows, or each of its accumulated parts. What is random depends
    on (run seed, epoch) alone.
    """

    @abstractmethod
    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """(n, size) row numbers of an epoch's n >= 1 batches, no row twice.

        Raises:
            UserError: The data does not make one batch of this kind.
        """


class Augmentation(ABC):
    """A changed rendering of a text; all randomness from `rng`."""

    @abstractmethod
    def __call__(self, text: str, rng: random.Random) -> str:
        """The changed text."""


class Teacher(nn.Module, ABC):
    """A second opinion on similarity. Never trained by gradient, never exported."""

    def setup(self, encoder: Encoder) -> None:
        """Build what depends on the encoder."""

    def update(self, encoder: Encoder) -> None:
        """Follow the encoder after a step, where the teacher moves."""

    @abstractmethod
    def similarity(self, batch: Batch, ctx: StepContext) -> Tensor:
        """(B, N) similarity of anchors and candidates, without gradient."""


class Miner(ABC):
    """Chooses hard negatives from a pool. All vectors have unit length, so that products are cosines."""

    @abstractmethod
    def setup(self, pool: NDArray[np.float32]) -> None:
        """Receive the pool (N, D), which may lie on disk. Called before the first queries of a search."""

    @abstractmethod
    def __call__(self, queries: Queries, k: int, allowed: Allowed | None = None) -> Mined:
        """Up to k rows of the pool for each of M anchors, the hardest first, never one that its query bans.

        `allowed` says of candidates (M, C), rows of the pool, which may be negatives: (M, C).
        """


class Callback(ABC):  # noqa: B024 - a watcher may watch anything, and nothing
    """Watches a run. Each method does nothing unless overridden, and none may change training."""

    def on_start(self, run: Run) -> None:  # noqa: B027
        """Before the first step, with everything built."""

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:  # noqa: B027
        """After each optimizer step."""

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:  # noqa: B027
        """After each evaluation."""

    def on_end(self, run: Run) -> None:  # noqa: B027
        """After the last step, or on the way out of an interrupted run."""

    def state(self) -> dict[str, Any]:
        """What must survive an interruption, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take `state()` back on resume."""


class SentenceEncoder(Protocol):
    """Anything that turns texts into vectors: our Encoder, a SentenceTransformer. The only seam that `eval` needs."""

    def encode(self, texts: list[str], *, batch_size: int = 64) -> Any:
        """(n, D) vectors, in the order of the texts."""
        ...


class Evaluator(ABC):
    """Scores an encoder.

    Attributes:
        primary: The key of the score that selects checkpoints; larger is better.
    """

    primary: str

    @abstractmethod
    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """Named scores."""
