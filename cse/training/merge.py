"""Averages of weights: of checkpoints (model soups, WiSE-FT), and of initial and trained ones in a run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from cse.encoder.adapters.lora import Lora, scaled
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.checkpoint.layout import ADAPTER, ADAPTER_CONFIG
from cse.encoder.checkpoint.sums import write_sums
from cse.encoder.heads import Dense
from cse.encoder.kinds import detect
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.files import atomic_dir, read_json, write_json
from cse.inference.whiten import require_new

if TYPE_CHECKING:
    from cse.encoder.device import Device
    from cse.evaluation.results import Scored

Method = Literal["linear", "slerp"]


class FinalWeights(nn.Module):
    """Give what a run scores and saves while it trains: theta, or (theta_0 + theta) / 2; see `trainer.initial_weights`.

    The mean is that of every exported weight that is trained. With LoRA, which starts from a difference of 0, it is
    half of the difference.

    Args:
        encoder: The encoder, before training. If this `averages`, its weights are copied, as a part of the run's state.
        averages: Whether it is the mean.
    """

    def __init__(self, encoder: Encoder, *, averages: bool) -> None:
        super().__init__()
        self.averages = averages
        weights = self._weights(encoder) if averages else []
        self.initial = nn.ParameterList(nn.Parameter(w.detach().clone(), requires_grad=False) for w in weights)

    def check(self, encoder: Encoder) -> None:
        """Raise unless the mean is that of the encoder's initial weights; called when a run begins."""
        moved = (bool(weight.any()) for name, weight in encoder.named_parameters() if ".lora_B" in name)
        if self.averages and any(moved):
            raise UserError(
                "trainer.initial_weights is mean, but the LoRA of the encoder was trained before, so that "
                "half of its difference is not the mean\nfix: save the encoder, and train from that checkpoint"
            )

    @contextmanager
    def of(self, encoder: Encoder) -> Iterator[None]:
        """Within, the encoder has the weights that are scored and saved; afterwards those that are trained."""
        if not self.averages:
            yield
            return
        weights = self._weights(encoder)
        trained = [weight.detach().clone() for weight in weights]
        half = scaled(encoder.backbone, 0.5) if isinstance(encoder.adapter, Lora) else nullcontext()
        try:
            _put(weights, [average(a, b, 0.5) for a, b in zip(self.initial, trained, strict=True)])
            with half:
                yield
        finally:
            _put(weights, trained)

    def _weights(self, encoder: Encoder) -> list[nn.Parameter]:
        """The weights that are averaged one by one."""
        named = [*encoder.backbone.named_parameters(), *encoder.post.named_parameters()]
        return [weight for name, weight in named if weight.requires_grad and ".lora_" not in name]


@torch.no_grad()
def _put(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def merge_with_initial(initial: Path, trained: Path, out: Path, share: float) -> None:
    """Write the checkpoint whose weights are share * trained + (1 - share) * initial.

    Both were saved by one encoder, so they have the same files and tensors, of which one of each is in memory at a
    time; everything but weights is that of the trained one. Shares of 0 and 1 give one of the two exactly. With LoRA,
    this is the initial weights plus `share` of the difference, and the adapter alone gets that scale.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    with atomic_dir(out) as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        for path in sorted(folder.rglob("*.safetensors")):
            name = path.relative_to(folder)
            if name.parts[0] == ADAPTER:
                continue
            with safe_open(initial / name, framework="pt") as a, safe_open(trained / name, framework="pt") as b:
                tensors = {key: average(a.get_tensor(key), b.get_tensor(key), share) for key in b.keys()}  # noqa: SIM118
                metadata = b.metadata()
            save_file(tensors, path, metadata=metadata)
        settings = folder / ADAPTER / ADAPTER_CONFIG
        if settings.is_file():
            about = read_json(settings)
            write_json(settings, about | {"lora_alpha": about["lora_alpha"] * share})
        write_sums(folder)


def merge(
    checkpoints: Sequence[str],
    out: Path,
    *,
    method: Method = "linear",
    weights: Sequence[float] = (),
    tasks: str = "sts-mini",
    device: Device = "auto",
) -> dict[str, Scored]:
    """Average the weights of checkpoints of one architecture, save the mean as a checkpoint, and score all of them.

        linear   sum_i w_i theta_i                                          model soups (arXiv:2203.05482)
        slerp    (sin((1-w) a) theta_1 + sin(w a) theta_2) / sin a          a: the angle of each tensor (Shoemake, 1985)

    Tokenizer, prompts and length are those of the last checkpoint. The scores of the mean are OUT/results.json, from
    which `cse push` takes those of its card.

    Args:
        checkpoints: Folders, `asset:NAME` or Hub ids, which began as one model: two or more, for slerp two.
        out: Folder of the new checkpoint, or another checkpoint to replace.
        method: `linear`, or `slerp`, along the arc between two.
        weights: The share of each checkpoint; they are divided by their sum. None: all are equal.
        tasks: Names of tasks that all are scored on, separated by commas; empty for none.
        device: See `cse.encoder.device`.

    Returns:
        The scores by checkpoint, the mean's last.

    Raises:
        UserError: A checkpoint cannot be read, their weights differ in name or shape, or an argument is out of range.
    """
    from cse.evaluation import scoring

    shares = _shares(checkpoints, weights, method)
    for checkpoint in checkpoints:
        require_new(Path(out), checkpoint)
    encoder = Encoder.load(checkpoints[-1])
    states = [Encoder.load(checkpoint).state_dict() for checkpoint in checkpoints[:-1]] + [encoder.state_dict()]
    for checkpoint, state in zip(checkpoints, states, strict=True):
        _require_same(checkpoint, state, checkpoints[-1], states[-1])
    with torch.no_grad():
        mean = {key: combine([state[key] for state in states], shares, method) for key in states[-1]}
    encoder.load_state_dict(mean)
    encoder.save(out)
    if not tasks:
        return {}
    found = {name: scoring.evaluate(name, tasks, device=device) for name in dict.fromkeys(checkpoints)}
    return found | {str(out): scoring.evaluate(out, tasks, device=device, out=Path(out) / "results.json")}


def _shares(checkpoints: Sequence[str], weights: Sequence[float], method: Method) -> list[float]:
    """The share of each checkpoint; they sum to 1."""
    if len(checkpoints) < 2 or (method == "slerp" and len(checkpoints) > 2):
        what = "two" if method == "slerp" else "two or more"
        raise UserError(f"{len(checkpoints)} checkpoints are given, and {method} merges {what}\nfix: give {what}")
    shares = list(weights) or [1.0] * len(checkpoints)
    if len(shares) != len(checkpoints) or min(shares) < 0 or not 0 < sum(shares) < math.inf:
        shown = " ".join(f"{share:g}" for share in shares)
        raise UserError(f"--weights is {shown}\nfix: give {len(checkpoints)} numbers >= 0, not all 0")
    return [share / sum(shares) for share in shares]


def _require_same(name: str, state: Mapping[str, Tensor], last: str, known: Mapping[str, Tensor]) -> None:
    """Raise unless two checkpoints have weights of the same names and shapes, and none are factors of LoRA."""
    if factors := [key for key in state if ".lora_" in key]:
        raise UserError(f"{name} has LoRA ({factors[0]}), whose factors have no mean\nfix: give best/, a whole model")
    shapes, wanted = ({key: tuple(value.shape) for key, value in each.items()} for each in (state, known))
    for key in dict.fromkeys([*wanted, *shapes]):
        if shapes.get(key) != wanted.get(key):
            sizes = f"{shapes.get(key, 'missing')} in {name} and {wanted.get(key, 'missing')} in {last}"
            raise UserError(f"the weights {key} are {sizes}\nfix: give checkpoints that began as one model")


def average(initial: Tensor, trained: Tensor, share: float) -> Tensor:
    """The mean of two tensors, in which the second one has a share; see `combine`."""
    return combine([initial, trained], [1 - share, share])


def combine(tensors: Sequence[Tensor], shares: Sequence[float], method: Method = "linear") -> Tensor:
    """The mean of tensors of one shape, computed in float32 at least; integers are those of the last one.

    The shares sum to 1. Slerp takes two tensors, and is linear for tensors of one direction; see `merge`.
    """
    last = tensors[-1]
    if not last.is_floating_point():
        return last
    wide = [tensor.to(torch.promote_types(last.dtype, torch.float32)) for tensor in tensors]
    if method == "slerp":
        a, b = (tensor.double().flatten() for tensor in wide)
        angle = torch.acos((a @ b / (a.norm() * b.norm()).clamp_min(1e-30)).clamp(-1, 1))
        if angle.sin() > 1e-6:
            arc = (angle * shares[0]).sin() * a + (angle * shares[1]).sin() * b
            return (arc / angle.sin()).reshape(last.shape).to(last.dtype)
    if len(wide) == 2:
        return wide[0].lerp(wide[1], shares[1]).to(last.dtype)  # exact at both ends
    return torch.stack([share * tensor for share, tensor in zip(shares, wide, strict=True)]).sum(0).to(last.dtype)


def problems(encoder: Encoder) -> Iterator[str]:
    """Say why an encoder has no initial weights worth an average, each with its fix."""
    asked = "trainer.initial_weights asks for an average"
    if isinstance(encoder.adapter, SoftPrompts):
        yield (
            f"{asked}, but the soft prompts of encoder.adapter start at random, so there are no initial ones\n"
            "fix: remove trainer.initial_weights, or train with cse.encoder.Lora"
        )
    if isinstance(encoder.adapter, Lora) and encoder.adapter.kind in {"dora", "pissa"}:
        yield (
            f"{asked}, and that of encoder.adapter.kind={encoder.adapter.kind} is not a share of its difference\n"
            "fix: remove trainer.initial_weights, or set encoder.adapter.kind to lora or rslora"
        )
    known = [module for module in detect(encoder.source, encoder.revision).layout.post if module.dense is not None]
    if len([module for module in encoder.post if isinstance(module, Dense)]) > len(known):
        yield (
            f"{asked}, but the exported head of the encoder starts at random, so there is no initial one\n"
            "fix: remove trainer.initial_weights, or set encoder.export_head to false"
        )
