"""Train sentence embeddings: every published contrastive method is one recipe away.

    run = cse.train("simcse-unsup", data=texts)        # cse.resume(run) continues it after a kill or Ctrl-C
    cse.evaluate(run), cse.compare(run, other)         # scores with intervals; a paired test
    cse.encode(run, file, vectors), cse.mine(run, rows), cse.teach(model, rows, file), cse.push(run, "me/name")

The classes are those that a recipe names: data sets, collators, samplers, augmentations, encoders, objectives, miners,
evaluators; and those that a method of one's own is made of. Everything is imported when it is first asked for.
"""

from __future__ import annotations

import os

from cse.errors import on_demand

os.environ.setdefault("USE_HUB_KERNELS", "NO")  # else transformers fetches code from the Hub for a model on a GPU

__version__ = "0.1.0"
__getattr__, __all__ = on_demand(__name__)  # `cse --help` does not pay for torch


def __dir__() -> list[str]:
    """The names that `__getattr__` finds, for completion."""
    return [*globals(), *__all__]
