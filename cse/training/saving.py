"""The checkpoints of a run: sentence encoders, or plain backbones if nothing in the run trains sentence vectors."""

from __future__ import annotations

from torch import nn

from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.kinds import SavedAs
from cse.encoder.language_models import save_backbone
from cse.objectives.masked_lm import MaskedLM, MaskedLMHead
from cse.training.run import Run
from cse.training.sources import similarities, sources


def saves_backbone(run: Run) -> bool:
    """Tell whether checkpoints of the run are plain backbones. Soft prompts are none, whatever they are trained for."""
    return not similarities(run) and not isinstance(run.encoder.adapter, SoftPrompts)


def trained_head(run: Run) -> nn.Module | None:
    """The masked-LM head that the run trains and saves with its backbone, the first if there are several, or None.

    One with an output matrix of its own is not the backbone's, whose output matrix is that of its input embeddings.
    """
    if not saves_backbone(run):
        return None
    modules = [module for source in sources(run).values() for module in source.objective.modules()]
    apart = {id(m.head) for m in modules if isinstance(m, MaskedLM) and m.output == "own"}
    heads = [m for m in modules if isinstance(m, MaskedLMHead) and m.bias is not None and id(m) not in apart]
    return heads[0] if heads else None


def save(run: Run, name: str, *, whole: bool | None = None, precision: SavedAs = "fp32") -> None:
    """Write a checkpoint to a folder of the run.

    Args:
        run: The run.
        name: The name of the folder.
        whole: See `Encoder.save`; a plain backbone is whole in any case.
        precision: See `Encoder.save`.
    """
    if saves_backbone(run):
        head = {} if run.head is None else run.head.state_dict()
        save_backbone(run.encoder, run.folder / name, head, precision=precision)
    else:
        run.encoder.save(run.folder / name, whole=whole, precision=precision)
