"""The interfaces that a method is made of. The rest of the package is written against them."""

from __future__ import annotations

import inspect
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_type_hints

import torch.nn.functional as F
from torch import nn

from cse import distributed
from cse.batch import Batch, Example, LossOutput, Views
from cse.errors import require_ranges

if sys.version_info >= (3, 11):
    from typing import dataclass_transform
else:
    from typing_extensions import dataclass_transform

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
    from typing_extensions import Self

    from cse.encoder.model import Encoder

Rows = TypeVar("Rows", bound=Sequence[Example])


@dataclass(frozen=True, slots=True)
class StepContext:
    """The information that an objective may use besides embeddings and batch.

    Attributes:
        encoder: The encoder in training, for objectives that encode more than the batch's views.
        step: Number of optimizer steps taken so far.
        max_steps: Number of optimizer steps of the whole run.
        generator: The randomness of this step, the same on every process and after a resume.
        local_rows: The place of this process's rows in the gathered batch.
        texts: The texts of the batch's source by number, as `Batch.text_id` counts them, for teachers that read texts.
    """

    encoder: Encoder
    step: int = 0
    max_steps: int = 1
    generator: torch.Generator | None = None
    local_rows: slice = field(default_factory=lambda: slice(None))
    texts: Sequence[str] = ()

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, with gradient, for objectives that reduce over this process's tokens."""
        return distributed.all_sum(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows (b, ...) of every process as (B, ...), with gradient, for what is computed from local tokens."""
        return distributed.gather(tensor)

    def all_max(self, value: int) -> int:
        """The largest value over processes, for objectives that pad tokens to one length everywhere."""
        return distributed.all_max(value)

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.max_steps))


class _Options(nn.Module, ABC):
    """A module whose options are its annotated attributes, of which its constructor is made, as that of a dataclass.

    The constructor takes them by name, keeps them, and calls `__post_init__`. A subclass may write one instead.
    """

    requires: frozenset[str]

    def __init_subclass__(cls) -> None:
        """Make the constructor of a subclass that has none, nor inherits one that was written and adds no option."""
        super().__init_subclass__()
        if _Options in cls.__bases__:
            return  # its annotated attributes are not options
        base = next(kind for kind in cls.__mro__[1:] if "__init__" in vars(kind))
        written = issubclass(base, _Options) and "__dataclass_fields__" not in vars(base)
        if "__init__" not in vars(cls) and (inspect.get_annotations(cls) or not written):
            made: Any = dataclass(kw_only=True, eq=False, repr=False)(cls)
            # Those of a class of another module are names of that module.
            made.__init__.__annotations__ |= get_type_hints(made.__mro__[1].__init__, include_extras=True)
            for option in fields(made):
                if option.name in vars(cls):
                    delattr(cls, option.name)  # a default, which would hide a module of this name

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Begin as a module, so that the constructor may keep modules."""
        made = super().__new__(cls)
        nn.Module.__init__(made)
        return made

    def __post_init__(self) -> None:
        """Check the ranges of the options, and require what the teachers among them read; an override calls it."""
        require_ranges("teacher" if isinstance(self, Teacher) else "objective", self)
        self.requires = self.requires.union(*(part.requires for part in held(self)))


@dataclass_transform(kw_only_default=True, eq_default=False)
class Objective(_Options):
    """A training loss: a function of embeddings and a batch. It never tokenizes, logs or steps.

    The options of a subclass are its annotated attributes.

    It sees the views and the row fields of the whole batch, gathered over all processes. The token fields are those of
    this process; what an objective computes from them it combines through the step's context.

    A constructor refuses an argument outside of its range, and `setup` an encoder or a teacher that does not fit
    (`UserError`); `forward` refuses rows of another kind than the class names, and a contrast a batch without positives
    or in-batch negatives (`ValueError`). In a contrast, a text that a row itself has is not its negative
    (`Batch.text_id`), as it is in most authors' programs: a deviation that is said here for all.

    Attributes:
        requires: Names of the optional Batch fields that `forward` reads.
        cacheable: Whether the loss depends on the encoder through `views` only, so that gradients can be cached.
        contrasts: Whether the other rows of a batch serve as negatives.
        uses_views: Whether `forward` reads `views`. If not, the batch's views are not encoded, and `views` is empty.
        weighs_rows: Whether the loss honors `Batch.weight`: it is sum_i w_i l_i / sum_i w_i of the losses of rows (sums
            over pairs of rows have the products of their weights), and 0 if all weights are. So a row of weight 2 is
            two rows, and one of weight 0 has no gradient. Only where rows contrast, each serves the others whatever its
            weight: as a candidate, and in the statistics of the batch.
        encodes_views: Whether `forward` encodes the views itself, with the encoder's heads.
        similarity: The function of two vectors that the loss shapes. The checkpoint names it, and is scored by it.
        note: A sentence for the model card, on how to use vectors that were trained in this way; empty for none.
        labels: Number of labels that it can tell apart. None: any, or it reads none.
    """

    requires: frozenset[str] = frozenset()
    cacheable: bool = True
    contrasts: bool = True
    uses_views: bool = True
    weighs_rows: bool = False
    encodes_views: bool = False
    similarity: Literal["cosine", "euclidean"] = "cosine"
    note: str = ""
    labels: int | None = None

    @property
    def trains_vectors(self) -> bool:
        """Tell whether it trains sentence vectors. A run without any such objective saves a plain backbone."""
        return self.uses_views or self.encodes_views

    def setup(self, encoder: Encoder) -> None:
        """Build what depends on the encoder, such as heads. Called once, before the optimizer exists.

        The default sets up the objectives and teachers that it holds, in the order of its attributes. An override calls
        it, at the place where their weights are to be drawn.
        """
        for part in held(self):
            part.setup(encoder)

    @abstractmethod
    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The loss of a batch gathered over all processes, the same on each of them."""

    def after_step(self, ctx: StepContext) -> None:
        """Update moving averages and queues. Called after each optimizer step.

        The default calls it for the objectives that it holds, and `follow` for the teachers.
        """
        for part in held(self):
            if isinstance(part, Objective):
                part.after_step(ctx)
            else:
                part.follow(ctx.encoder)

    def describe(self) -> str:
        """The class and its settings, as a run's header shows them: `SimCSE(temperature=0.05)`.

        The default shows the constructor's arguments that the object keeps under their own names, also those that are
        objectives or lists of objectives. None and what is neither a number nor a string are left out.
        """
        return _described(self)


def held(module: nn.Module) -> Iterator[Objective | Teacher]:
    """Find the objectives and teachers that a module holds, in the order of its attributes; not what these hold."""
    for child in module.children():
        if isinstance(child, Objective | Teacher):
            yield child
        else:
            yield from held(child)


def _described(part: object) -> str:
    """A class and its settings: the constructor's arguments that the object keeps under their own names."""
    named = {name: _shown(getattr(part, name, None)) for name in inspect.signature(type(part)).parameters}
    settings = [f"{name}={text}" for name, text in named.items() if text is not None]
    return f"{type(part).__name__}({', '.join(settings)})"


def _shown(value: object) -> str | None:
    """A constructor's argument in words; None for what has no short form."""
    if isinstance(value, Objective):
        return value.describe()
    if isinstance(value, Teacher):
        return _described(value)
    if isinstance(value, list | tuple | nn.ModuleList):
        items = [_shown(item) for item in value]
        return f"[{', '.join(item for item in items if item is not None)}]" if None not in items else None
    return str(value) if isinstance(value, int | float | str) else None


class Tokens(Protocol):
    """The tokenized texts of a run, as a collator sees them; `cse.data.tokens.TokenStore` in training.

    Attributes:
        max_length: Most ids of a text, template and special tokens included.
        truncated: Number of distinct texts that were longer.
        pad_id: The id that fills short rows on the right.
        mask_id: The mask token; None for a tokenizer without one.
        special_ids: Ids that represent no text, such as [CLS].
        vocab_size: All ids are smaller.
        added: Numbers of ids that the tokenizer adds before and after every text: special tokens and template.
        prompt_ids: The ids of each distinct prompt that is put before texts; empty without prompts.
    """

    max_length: int
    truncated: int
    pad_id: int
    mask_id: int | None
    special_ids: tuple[int, ...]
    vocab_size: int
    added: tuple[int, int]
    prompt_ids: tuple[tuple[int, ...], ...]

    @property
    def continues(self) -> NDArray[np.bool_]:
        """(vocabulary,) whether a token continues the word of the token before it."""
        ...

    def text_id(self, text: str) -> int:
        """The number of one of the run's texts, the same whatever prompt is before it."""
        ...

    def text_ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The numbers (n,) of texts of the run, much faster than one by one."""
        ...

    def ids(self, text_id: int, role: str = "anchor") -> NDArray[np.int32]:
        """(L,) the ids of a text, given its number, behind the prompt of a role: anchor, positive or negative."""
        ...

    def encode(self, text: str, role: str = "anchor") -> list[int]:
        """The ids of a text that was made during training, behind the prompt of a role."""
        ...

    def places(self, text: str, role: str = "anchor") -> list[tuple[int, int]]:
        """The characters of a text, start and end, that each of its ids stands for; (0, 0) for ids of no text."""
        ...

    def added_in(self, template: str | None) -> tuple[list[int], list[int]]:
        """The ids before and after every text in a template; None: in the encoder's own, as `added` counts them."""
        ...

    def pad(self, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Rows of ids as input_ids and attention_mask, both (n, L), padded on the right."""
        ...


class Collator(ABC):
    """Makes a Batch of Examples. The randomness of a view depends on (run seed, epoch, row id) alone.

    Attributes:
        max_length: Most tokens of a text in training, template and special tokens included; 0 until the run sets it.
        provides: Names of the optional Batch fields that it fills.
        prompts: The name of the encoder's prompt for the texts of a role (anchor, positive, negative); None for none.
            A role that is missing has the encoder's default prompt.
    """

    max_length: int
    provides: frozenset[str] = frozenset()
    prompts: Mapping[str, str | None] = MappingProxyType({})

    @abstractmethod
    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed. Called once, before the first batch."""

    @abstractmethod
    def needs_dropout(self, example: Example) -> bool:
        """Tell whether views of rows such as this one have the same tokens, so that they differ by dropout only.

        Raises:
            UserError: Rows such as this one do not fit the collator.
        """

    @abstractmethod
    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch of the given epoch."""


class Sampler(ABC):
    """Chooses which rows share a batch, epoch by epoch, so that a run can resume at any step, on any processes.

    A batch is what an objective sees at once: the rows of a step, or of each of its accumulated parts. The randomness
    depends on (run seed, epoch) alone.
    """

    @abstractmethod
    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """(n, size) row numbers of an epoch's n >= 1 batches; no row occurs twice.

        Raises:
            UserError: The data does not suffice for one batch of this kind.
        """


class RowSource(ABC):
    """Gives a run rows that change while the encoder learns, such as rows with newly mined negatives.

    The training loop asks for the rows of a step, and trains on them until the step at which they change. Without a
    source it trains on the rows of the data throughout. The rows keep their number, order, and texts before the added
    ones.

    Attributes:
        hard_negatives: Most hard negatives that a row gets after its own.
        positives: Number of positives that a row of one text gets.
        prompts: The text that is put before the texts of each role (anchor, positive, negative); set before `setup`.
    """

    hard_negatives: int = 0
    positives: int = 0
    prompts: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def setup(self, data: Sequence[Example], steps_per_epoch: int) -> None:
        """Receive the rows of the data, and the steps of a pass over them. Called once, before everything else."""

    @abstractmethod
    def texts(self) -> Sequence[str]:
        """Every text that a row may get besides those of the data; they are tokenized before the first step."""

    @abstractmethod
    def widest(self) -> Sequence[Example]:
        """Rows with as many texts as they can have. The loss is tried on them before anything is written."""

    @abstractmethod
    def rows(self, step: int, encoder: Encoder) -> tuple[Sequence[Example], int | None]:
        """The rows to train on from this step, and the step at which to ask again; None: never.

        All processes call it and get the same rows. After a resume, the step may lie between two changes of the rows.
        """

    def state(self) -> dict[str, Tensor]:
        """The state that a resumed run needs to train on the same rows; it is saved with the state of the run."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - a source may have no state
        """Restore what `state()` returned. Called after `setup`."""

    @abstractmethod
    def describe(self) -> str:
        """A description of the source for the header of a run."""


class Augmentation(ABC):
    """A function that changes a text. All its randomness comes from `rng`."""

    @abstractmethod
    def __call__(self, text: str, rng: random.Random) -> str:
        """The changed text."""


@dataclass_transform(kw_only_default=True, eq_default=False)
class Teacher(_Options):
    """A second opinion on the batch's texts, which an objective holds as an attribute and asks in `forward`.

    A teacher is never trained by gradient and never exported. It stays in evaluation mode while the objective trains,
    so that its opinion does not change with dropout. The options of a subclass are its annotated attributes.

    Attributes:
        requires: Names of the optional Batch fields that it reads; the objective adds them to its own.
        dim: Dt, the size of its vectors, after `setup`; 0 if it is not known.
    """

    requires: frozenset[str] = frozenset()
    dim: int = 0

    def setup(self, encoder: Encoder) -> None:
        """Build what depends on the encoder. Called by `Objective.setup`. The default sets up the teachers inside."""
        for part in held(self):
            part.setup(encoder)

    def follow(self, encoder: Encoder) -> None:
        """Move after the encoder, if the teacher moves. Called by `Objective.after_step`; moves the teachers inside."""
        for part in held(self):
            if isinstance(part, Teacher):
                part.follow(encoder)

    @abstractmethod
    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        """The teacher's vectors (B, V, Dt) of the views of all processes, for cosines, without gradient."""

    def scores(self, batch: Batch, ctx: StepContext) -> Tensor:
        """(B, V - 1) how similar each anchor is to each other text of its row, without gradient: cosines of vectors."""
        vectors = F.normalize(self.embed(batch, ctx), dim=-1)
        return (vectors[:, :1] * vectors[:, 1:]).sum(-1)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


class SentenceEncoder(Protocol):
    """Anything that turns texts into vectors: an `Encoder` of cse, a SentenceTransformer.

    Evaluation needs only this of an encoder. For speed it uses more if it exists: the device and the mode of a torch
    module, `precision` and `max_tokens` of our `Encoder.encode`, `max_seq_length` of a SentenceTransformer. To load a
    checkpoint by name, `cse.evaluation.loading` uses `Encoder.load` and the files of the folder.
    """

    def encode(self, texts: list[str], *, batch_size: int = 64) -> Any:
        """(n, D) vectors, in the order of the texts."""
        ...


class Evaluator(ABC):
    """Scores an encoder.

    Attributes:
        primary: The key of the score that selects checkpoints; larger is better.
        prompt: The name of the encoder's prompt that it scores with; None: the encoder's default prompt.
    """

    primary: str
    prompt: str | None = None

    @abstractmethod
    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """Named scores."""

    def take(self, data: Rows) -> Rows:
        """The rows to train on: all rows, without those that the evaluator takes to score an encoder on them.

        Called once, on every process and after a resume, before the rows are read for training; the same rows give the
        same answer.
        """
        return data

    def describe(self) -> str:
        """Say what is scored, for the header of a run; empty for nothing to say."""
        return ""


class Callback(ABC):  # noqa: B024 - no event is required
    """Watches a run. Each method does nothing unless overridden, and none may change training.

    `run` is a `cse.training.run.Run`. One exception: `on_eval` may end it before its last step, by `run.ended = True`.
    """

    def on_start(self, run: Any) -> None:  # noqa: B027
        """Called before the first step, when everything is built."""

    def on_step(self, run: Any, metrics: dict[str, float]) -> None:  # noqa: B027
        """Called after each optimizer step."""

    def on_eval(self, run: Any, metrics: dict[str, float]) -> None:  # noqa: B027
        """Called after each evaluation."""

    def on_end(self, run: Any) -> None:  # noqa: B027
        """Called after the last step, or when an interrupted run is saved."""
