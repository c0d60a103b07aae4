r"""Operations on sets of texts by meaning: what a set shares with others, and what sets it apart (arXiv:2404.17606).

    SIM(x, S) = mean_{y in S} cos(x, y)
    A n B_1 n .. n B_p \ C_1 \ .. \ C_q    ranks the members x of A by    sum_i SIM(x, B_i) - sum_j SIM(x, C_j)

A is the set that is ranked, so the operations do not commute, and their result is an order instead of a set. Sets are
texts, which an encoder embeds, or vectors. No training is needed; `cse.objectives.setcse.SetCSE` trains an encoder on
the sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError
from cse.interfaces import SentenceEncoder

Members: TypeAlias = Sequence[str] | NDArray[np.floating]  # texts, or vectors (n, D)
FIX = "give a list of texts, or vectors as an array (n, D)"


class Ranked(NamedTuple):
    """The members of a set in the order of an operation.

    Attributes:
        order: (n,) the numbers of the members, the highest score first; equal scores keep the order of the members.
        score: (n,) the score of each member, in the order of the members.
    """

    order: NDArray[np.int64]
    score: NDArray[np.float64]


def intersection(members: Members, *others: Members, encoder: SentenceEncoder | None = None) -> Ranked:
    """A n B_1 n .. n B_p: the members of A by their similarity with all the other sets; see `ranked`."""
    return ranked(members, like=others, encoder=encoder)


def difference(members: Members, *others: Members, encoder: SentenceEncoder | None = None) -> Ranked:
    r"""A \ C_1 \ .. \ C_q: the members of A by their distance from all the other sets; see `ranked`."""
    return ranked(members, unlike=others, encoder=encoder)


def ranked(
    members: Members,
    *,
    like: Sequence[Members] = (),
    unlike: Sequence[Members] = (),
    encoder: SentenceEncoder | None = None,
) -> Ranked:
    """The members x of a set, ranked by sum_i SIM(x, B_i) - sum_j SIM(x, C_j).

    Args:
        members: A, the set to rank: texts or vectors (n, D).
        like: The sets B_1, B_2, ... that a member should resemble.
        unlike: The sets C_1, C_2, ... that it should not resemble.
        encoder: An encoder of cse, a SentenceTransformer, or whatever has their `encode`. It is needed for texts only.

    Raises:
        UserError: A set is empty, texts come without an encoder, vectors differ in their number of dimensions or are
            not finite, or no set is given to compare with.
    """
    if not like and not unlike:
        raise UserError("ranked has no set to compare with\nfix: give sets in like, in unlike, or in both")
    named = {"members": members}
    named |= {
        f"{name}[{i}]": each for name, sets in (("like", like), ("unlike", unlike)) for i, each in enumerate(sets)
    }
    vectors = {name: _unit(name, each, encoder) for name, each in named.items()}
    widths = {name: rows.shape[1] for name, rows in vectors.items()}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(f"the sets have vectors of different dimensions: {said}\nfix: give vectors of one model")
    own = vectors.pop("members")  # (n, D)
    score = np.zeros(len(own))
    for name, rows in vectors.items():
        score += (1 if name.startswith("like") else -1) * (own @ rows.mean(0))  # (n,) the mean of the cosines
    return Ranked(np.argsort(-score, kind="stable"), score)


def _unit(name: str, members: Members, encoder: SentenceEncoder | None) -> NDArray[np.float64]:
    """(n, D) the unit vectors of a set."""
    if isinstance(members, str) or not hasattr(members, "__len__"):
        raise UserError(f"{name} is {str(members)[:40]!r}\nfix: {FIX}")
    if not len(members):
        raise UserError(f"{name} is empty\nfix: {FIX}")
    if all(isinstance(member, str) for member in members):
        if encoder is None:
            raise UserError(
                f"{name} has texts, but there is no encoder\nfix: give encoder, or vectors instead of texts"
            )
        members = encoder.encode([str(member) for member in members])
    try:
        rows = np.asarray(members, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers: {error}\nfix: {FIX}") from error
    if rows.ndim != 2 or not np.isfinite(rows).all():
        what = f"the shape {rows.shape}" if rows.ndim != 2 else "a value that is not finite"
        raise UserError(f"{name} has {what}\nfix: {FIX}")
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return unit
