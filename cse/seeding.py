"""Randomness by address: every random draw depends on its place in the run, and never on earlier draws.

A run therefore resumes bit for bit without a saved generator (on a GPU with `trainer.deterministic`), and a view is the
same on every machine.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*address: object) -> int:
    """A 63-bit seed for an address such as (run seed, "dropout", step, rank)."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def python_rng(*address: object) -> random.Random:
    """A Python generator for an address."""
    return random.Random(derive(*address))


def torch_rng(*address: object) -> torch.Generator:
    """A CPU torch generator for an address."""
    import torch

    return torch.Generator().manual_seed(derive(*address))


def seed_dropout(*address: object) -> None:
    """Set torch's own generator, the one that dropout draws from, on every device."""
    import torch

    torch.manual_seed(derive(*address))
