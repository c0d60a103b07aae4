"""The optimizers by name, and the weights that learn at a rate of their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cse.encoder.layers import final_norms, find_layers, require_layers
from cse.errors import UserError, require_package
from cse.recipe.settings import Settings
from cse.training.learner import Learner

Groups = list[dict[str, Any]]


def problems(settings: Settings, device: str) -> Iterator[str]:
    """Say what is missing for the optimizer of the settings on a kind of device, as a problem with its fix."""
    if settings.optimizer == "adamw8bit":
        if device != "cuda":
            yield "trainer.optimizer is adamw8bit, which needs a CUDA GPU\nfix: use adamw, or adafactor for less memory"
        elif importlib.util.find_spec("bitsandbytes") is None:
            fix = "pip install 'cse-embeddings[bnb]', or use adamw"
            yield f"trainer.optimizer is adamw8bit, and bitsandbytes is not installed\nfix: {fix}"
    if settings.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        yield f"trainer.optimizer is muon, which torch {torch.__version__} lacks\nfix: use adamw, or torch 2.9 or later"


def optimizers(settings: Settings, learner: Learner, device: torch.device) -> list[Optimizer]:
    """The optimizer of the settings over the trained weights of a learner: one, or two for Muon.

    Muon orthogonalizes the step of a matrix, so it takes the matrices of the backbone's layers, with its steps scaled
    to those of AdamW (`match_rms_adamw`, arXiv:2502.16982, equation 4). AdamW takes all other weights.
    Each group of weights has a `factor`, by which `set_rate` multiplies the learning rate.

    Raises:
        UserError: `trainer.layer_decay` is given, and the layers of the backbone are not known; or
            `trainer.head_learning_rate` is, and there is no weight that it is for.
    """
    rate, decay = settings.learning_rate, settings.weight_decay

    def adamw(groups: Groups) -> Optimizer:
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=device.type in {"cpu", "cuda"})

    make: dict[str, Callable[[Groups], Optimizer]] = {
        "adamw": adamw,
        "adamw8bit": lambda groups: require_package("bitsandbytes.optim", extra="bnb", user="adamw8bit").AdamW8bit(
            groups, lr=rate, weight_decay=decay
        ),
        "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=rate, weight_decay=decay),
        "muon": lambda groups: torch.optim.Muon(groups, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
    }
    if settings.optimizer != "muon":
        return [make[settings.optimizer](_groups(settings, learner))]
    found = find_layers(learner.encoder.backbone)
    hidden = {p for p in ([] if found is None else found[1].parameters()) if p.requires_grad and p.ndim == 2}
    halves = (adamw, lambda p: p not in hidden), (make["muon"], lambda p: p in hidden)
    return [build(groups) for build, belongs in halves if (groups := _groups(settings, learner, belongs))]


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group of weights its learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def _groups(
    settings: Settings, learner: Learner, belongs: Callable[[nn.Parameter], bool] = lambda parameter: True
) -> Groups:
    """The trained weights that belong, by their factor on the learning rate, in the order of the learner."""
    factor = _factors(settings, learner)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in learner.parameters():
        if parameter.requires_grad and belongs(parameter):
            groups.setdefault(factor(parameter), []).append(parameter)
    return [{"params": parameters, "factor": value} for value, parameters in groups.items()]


def _factors(settings: Settings, learner: Learner) -> Callable[[nn.Parameter], float]:
    """The factor of a weight on the learning rate, by its place in the learner."""
    known: dict[nn.Parameter, float] = {}
    backbone = learner.encoder.backbone
    if settings.layer_decay < 1:
        holder, layers = require_layers(backbone, "trainer.layer_decay")
        known |= dict.fromkeys(backbone.parameters(), settings.layer_decay ** len(layers))  # embeddings
        for i, layer in enumerate(layers):
            known |= dict.fromkeys(layer.parameters(), settings.layer_decay ** (len(layers) - 1 - i))
        known |= {parameter: 1.0 for norm in final_norms(holder) for parameter in norm.parameters()}
    if settings.head_learning_rate is not None:
        modules = (learner.encoder.head, learner.objective, learner.others)
        new = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
        if not new:
            raise UserError(
                f"trainer.head_learning_rate is {settings.head_learning_rate}, but neither the encoder's head nor the "
                "objective has weights\nfix: remove trainer.head_learning_rate"
            )
        known |= dict.fromkeys(new, settings.head_learning_rate / settings.learning_rate)
    return lambda parameter: known.get(parameter, 1.0)
