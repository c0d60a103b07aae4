"""Objectives around others: what they take from their terms, and which terms they refuse."""

from __future__ import annotations

from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import Objective, held
from cse.teachers.queue import Queue


class Wrapper(Objective):
    """An objective around others, its terms, which a subclass keeps as attributes.

    It has the flags of the sum of its terms. They are promises for what a subclass adds, too: if the terms weigh their
    rows, so does it, or its `__post_init__` sets `weighs_rows` to False after that of this class.

    Attributes:
        needs_vectors: Whether it refuses terms that do not read the vectors of the views, since it reads them itself.
        changes_vectors: Whether terms get other vectors than the encoder's last layer gives, so that it refuses terms
            with a head or a queue, which are made for these.

    Raises:
        UserError: The terms shape different similarities; or, in `setup`, a term is refused.
    """

    needs_vectors = True
    changes_vectors = False

    def __post_init__(self) -> None:
        super().__post_init__()
        terms = self._terms()
        shaped = [(type(term).__name__, term.similarity) for term in terms if term.trains_vectors]
        if len({similarity for _, similarity in shaped}) > 1:
            raise UserError(
                f"the terms of {type(self).__name__} shape different similarities: "
                f"{', '.join(map(': '.join, shaped))}\n"
                "fix: give terms of one similarity, in which the vectors are then compared"
            )
        self.cacheable = all(term.cacheable for term in terms)
        self.contrasts = any(term.contrasts for term in terms)
        self.uses_views = any(term.uses_views for term in terms)
        self.weighs_rows = all(term.weighs_rows for term in terms)
        self.encodes_views = any(term.encodes_views for term in terms)
        self.similarity = shaped[0][1] if shaped else "cosine"
        self.note = " ".join(dict.fromkeys(term.note for term in terms if term.note))
        self.labels = min((term.labels for term in terms if term.labels is not None), default=None)

    def setup(self, encoder: Encoder) -> None:
        """Set up the terms, and refuse those that do not fit."""
        for term in self._terms():
            self._check_term(term)
        super().setup(encoder)
        for term in self._terms():
            self._check_head(term)

    def _terms(self) -> list[Objective]:
        return [part for part in held(self) if isinstance(part, Objective)]

    def check_exported(self, encoder: Encoder, what: str) -> None:
        """Refuse an encoder whose head is not exported, so that the vectors that terms get are not those of users."""
        if [*encoder.head.parameters()]:
            raise UserError(
                f"objective {type(self).__name__} {what} behind encoder.head, which is not exported\n"
                "fix: --encoder.export_head=true, or --encoder.head=none"
            )

    def _check_term(self, term: Objective) -> None:
        """Refuse a term that does not read vectors, if it gets some."""
        if self.needs_vectors and not term.uses_views:
            wrapper, name = type(self).__name__, type(term).__name__
            inside = f"put {wrapper} inside of {name}" if term.encodes_views else f"add {name} beside it by WeightedSum"
            raise UserError(
                f"objective.term of {wrapper} is {name}, which does not read the vectors that {wrapper} gives it\n"
                f"fix: {inside}, or wrap another objective, such as SimCSE"
            )

    def _check_head(self, term: Objective) -> None:
        """Refuse a term that, after its setup, has weights or a queue for other vectors than those that it gets."""
        objectives = [m for m in term.modules() if isinstance(m, Objective) and self.changes_vectors]
        heads = [m for m in objectives if any(p.requires_grad for p in m.parameters())]
        queues = [m for m in objectives if any(isinstance(part, Queue) for part in m.modules())]
        for found, what in ((heads, "a head"), (queues, "a queue")):
            if found:
                wrapper, name = type(self).__name__, type(found[-1]).__name__
                raise UserError(
                    f"objective.term of {wrapper} is or contains {name}, which has {what} of its own\n"
                    f"fix: wrap an objective without {what}, such as SimCSE; "
                    f"WeightedSum can add {name} beside {wrapper}"
                )
