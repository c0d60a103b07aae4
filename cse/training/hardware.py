"""Choose what a run computes on, measure how much memory it takes, and say what would fit where that is too much."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from accelerate import (
    Accelerator,
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from cse import distributed
from cse.batch import Batch
from cse.encoder.device import available, why_absent, without_bf16
from cse.encoder.fast.batching import native_bf16
from cse.errors import UserError
from cse.recipe.settings import Settings
from cse.training import optimizers
from cse.training.learner import Learner

EXTRA = {"tensorboard", "trackio"}  # the trackers that the extra of this name installs
SHARED_MEMORY, SHARED_MB = Path("/dev/shm"), 16.0
FSDP = "ACCELERATE_USE_FSDP"
ENGINES = {"DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM", "FSDP": FSDP}
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
ORDERS = (":4096:8", ":16:8")  # the workspaces with which cuBLAS sums in one order
# Bytes that a layer keeps of a token for each of its H numbers, in 16 bits, where attention is fused; 2 of them are its
# input, all that recomputation keeps (Korthikanti et al., 2022, arXiv:2205.05198, equation 1 and section 4).
KEPT, INPUT = 34, 2
STATE = {"adamw": 8, "muon": 8, "adamw8bit": 2, "adafactor": 0}  # bytes of the optimizer for each weight
OTHERWISE = "use an adapter (--encoder.adapter=cse.encoder.Lora), a smaller model, or --trainer.parallel=fsdp"
MARGIN = 0.9  # of the room, for what is not counted


def problems(settings: Settings) -> Iterator[str]:
    """The settings that this machine cannot satisfy, each as a problem with its fix."""
    if settings.device not in {"auto", available(settings.device)}:
        yield f"trainer.device is {settings.device}, {why_absent(settings.device)}\nfix: use auto or cpu"
    device = available(settings.device)
    if settings.precision in {"fp16", "tf32"} and device != "cuda":
        yield f"trainer.precision is {settings.precision}, which needs a CUDA GPU\nfix: use auto, bf16 or fp32"
    if settings.precision == "bf16" and device == "cuda" and not native_bf16(device):
        yield f"trainer.precision is bf16, {without_bf16()}\nfix: use auto or fp16"
    if settings.deterministic and device == "cuda" and os.environ.get(CUBLAS, ORDERS[0]) not in ORDERS:
        yield f"trainer.deterministic needs another {CUBLAS} than {os.environ[CUBLAS]}\nfix: {CUBLAS}={ORDERS[0]}"
    if settings.optimizer == "muon" and mixed_precision(settings, device) == "fp16":
        yield "trainer.optimizer is muon, which does not train in fp16 here\nfix: use adamw, or trainer.precision=fp32"
    if settings.compile and (missing := _missing_compiler(device)):
        yield f"trainer.compile needs {missing}, which is not here\nfix: install it, or remove trainer.compile"
    yield from _of_processes(settings, device)
    yield from optimizers.problems(settings, device)
    for name in settings.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            yield f"trainer.trackers has {name!r}, which is unknown\nfix: use one of {', '.join(LOGGER_TYPE_TO_CLASS)}"
        elif name not in map(str, get_available_trackers()):
            package = "'cse-embeddings[trackers]'" if name in EXTRA else name.replace("_", "-")
            yield f"trainer.trackers has {name!r}, which is not installed\nfix: pip install {package}"


def _of_processes(settings: Settings, device: str) -> Iterator[str]:
    """List what several processes, or those that prepare batches, cannot do."""
    if settings.parallel == "fsdp" and mixed_precision(settings, device) == "fp16":
        yield "trainer.parallel is fsdp, which does not train in fp16 here\nfix: use trainer.precision=fp32"
    if settings.compile and settings.parallel == "fsdp":
        yield "trainer.compile does not go with trainer.parallel=fsdp\nfix: remove one of the two"
    if settings.workers and (room := _shared_memory()) < SHARED_MB:
        yield (
            f"trainer.workers is {settings.workers}, and {SHARED_MEMORY}, through which they hand on their batches, "
            f"has {room:.0f} MB of room\nfix: set trainer.workers to 0, or give the container more: "
            "docker run --shm-size=1g"
        )


def _missing_compiler(device: str) -> str:
    """List what torch.compile would need on a kind of device and does not find; empty if it has all."""
    if device == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton"
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    return "" if any(shutil.which(name) for name in compilers if name) else "a C++ compiler, such as g++"


def require_machine(settings: Settings) -> None:
    """Check that this machine can satisfy the settings."""
    if found := list(problems(settings)):
        raise UserError("\n".join(found))


def mixed_precision(settings: Settings, device: str) -> Literal["no", "bf16", "fp16"]:
    """The precision of the encoder's products on a kind of device, as Accelerate names it."""
    if settings.precision == "auto":
        return "bf16" if native_bf16(device) else "fp16" if device == "cuda" else "no"
    if settings.precision == "fp16" and device != "cuda":
        return "no"  # Accelerate scales the loss on CUDA only; `problems` reports it
    if settings.precision == "bf16" and device == "cuda" and not native_bf16(device):
        return "no"  # Accelerate would refuse it, without a fix; so does `problems`
    return settings.precision if settings.precision in {"bf16", "fp16"} else "no"


def accelerator(
    settings: Settings, folder: Path, *, several: bool = False, plugin: FullyShardedDataParallelPlugin | None = None
) -> Accelerator:
    """Accelerate on the device and in the precision that the settings ask for.

    What the machine does not have is left out here and reported by `problems`: the accelerator comes first, since it
    starts the process group, and the number of processes is part of the other checks. Trackers that write files write
    to trackers/ in the run's folder. If a run has `several` objectives, a step takes one: weights of the others then
    have no gradient in that step, on one process or many, and the optimizer leaves them as they are.
    """
    device = available(settings.device)
    require_engine(settings)
    require_gpus(device)
    torch.set_float32_matmul_precision("high" if settings.precision == "tf32" and device == "cuda" else "highest")
    installed = set(map(str, get_available_trackers()))
    AcceleratorState._reset_state(reset_partial_state=True)  # precision and device of an earlier run in this process
    with distributed.meeting():
        made = Accelerator(
            cpu=device == "cpu",
            fsdp_plugin=plugin,
            mixed_precision=mixed_precision(settings, device),
            log_with=[name for name in settings.trackers if name in installed] or None,
            project_dir=str(folder / "trackers") if settings.trackers else None,
            # Buffers are the same on every process already: each computes them from the gathered batch.
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    broadcast_buffers=False, find_unused_parameters=several, gradient_as_bucket_view=True
                ),
                InitProcessGroupKwargs(timeout=timedelta(seconds=settings.timeout)),
            ],
        )
    # Of torch 2.13: that DDP's `broadcast_buffers` has a new name, which torch 2.6 does not know.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
    os.environ.pop(FSDP, None)  # Accelerate sets it for a plugin, and would read it for the next accelerator
    return made


@contextmanager
def one_order(settings: Settings) -> Iterator[None]:
    """Within, operations whose order of sums is free have one order, if `trainer.deterministic` asks for it."""
    if not settings.deterministic:
        yield
        return
    before, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    os.environ.setdefault(CUBLAS, ORDERS[0])  # cuBLAS reads it at its first product
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # which transformers reads
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"trainer.deterministic: {reason}\nfix: remove trainer.deterministic") from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.deterministic = cudnn
        del os.environ["FLASH_ATTENTION_DETERMINISTIC"]


def require_gpus(device: str) -> None:
    """Check that each process of this machine can have a GPU of its own, and that they can exchange vectors."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda" and (gpus := torch.cuda.device_count()) < processes:
        raise UserError(
            f"{processes} processes were started on {socket.gethostname()}, which has {gpus} GPUs, one for each\n"
            f"fix: start {gpus} or fewer there (torchrun --nproc-per-node), or give --trainer.device=cpu"
        )
    if device == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_nccl_available():
        raise UserError(
            f"torch {torch.__version__} is built without NCCL, by which the GPUs of several processes exchange\n"
            "fix: use one process, torch for Linux with CUDA, or --trainer.device=cpu"
        )


def require_engine(settings: Settings) -> None:
    """Check that the environment, which `accelerate launch` fills, asks for what the settings ask for."""
    for name, variable in ENGINES.items():
        if os.environ.get(variable, "").lower() in {"1", "true"} and (name != "FSDP" or settings.parallel != "fsdp"):
            raise UserError(
                f"the config of Accelerate asks for {name} ({variable}), which does not train here\n"
                "fix: shard a model that does not fit by --trainer.parallel=fsdp, and start the processes by torchrun, "
                "or by accelerate launch --multi_gpu"
            )


def describe(accelerator: Accelerator) -> str:
    """Device, processes and precision, such as `cpu×2 bf16`."""
    plain = "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    precision = plain if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    return f"{accelerator.device.type}×{distributed.world_size()} {precision}"


def _shared_memory() -> float:
    """The room in shared memory, in MB. Only Linux has it as a folder, which containers make small or leave out."""
    if sys.platform != "linux":
        return math.inf
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0.0
    return free.f_bavail * free.f_frsize / 2**20


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use so far, in MB: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource  # does not exist on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, in kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextmanager
def explained(learner: Learner, settings: Settings, part: Batch, step: int, *, wide: bool) -> Iterator[None]:
    """Turn a step that does not fit into a message (`UserError`) with the settings that would.

    A loss is taken of `part` (b, V, L); products are in 32 bits if they are `wide`.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        total, fixed = torch.cuda.mem_get_info()[1], of_weights(learner, settings)
        of_row, kept, recomputed = of_states(learner, part, wide=wide)
        options = fitting(
            settings,
            rows=part.size,
            of_row=of_row,
            kept=kept,
            recomputed=recomputed,
            room=total - fixed,
            cacheable=learner.objective_of(part).cacheable,
        )
        fix = f"by estimate, {' or '.join(options)} fits" if options else OTHERWISE
        raise UserError(
            f"out of memory at step {step}, on a GPU of {total / 2**30:.1f} GB: weights, gradients and the optimizer "
            f"take {fixed / 2**30:.1f} GB, and {part.size} rows of {part.views} texts of up to "
            f"{part.input_ids.shape[-1]} tokens do not fit beside them\n"
            f"fix: {fix}"
        ) from error


def of_weights(learner: Learner, settings: Settings) -> float:
    """The bytes of weights, gradients and the optimizer's state on one process."""
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    size = sum(p.numel() * p.element_size() for p in learner.parameters())
    size += trained * (4 + STATE[settings.optimizer])
    return size / (distributed.world_size() if settings.parallel == "fsdp" else 1)


def of_states(learner: Learner, part: Batch, *, wide: bool) -> tuple[int, float, float]:
    """The tokens of a row of `part` (b, V, L), and the bytes that a token keeps, also where layers are recomputed."""
    encoder = learner.encoder
    of_token = encoder.backbone.config.hidden_size * (2 if wide else 1)
    kept, recomputed = of_token * KEPT * encoder.depth, of_token * (INPUT * encoder.depth + KEPT)
    return part.views * part.input_ids.shape[-1], kept, recomputed


def of_step(learner: Learner, settings: Settings, part: Batch, *, wide: bool) -> float:
    """The bytes of what a step on `part` keeps until the backward pass, by estimate."""
    of_row, kept, recomputed = of_states(learner, part, wide=wide)
    tokens = min(part.size * of_row, settings.chunk_tokens or (settings.chunk_size or part.size) * of_row)
    return tokens * (recomputed if settings.gradient_checkpointing else kept)


def fitting(
    settings: Settings, *, rows: int, of_row: int, kept: float, recomputed: float, room: float, cacheable: bool
) -> list[str]:
    """The options with each of which a step fits, as words of the command line; empty if none alone is enough.

    Args:
        settings: The settings, with which it does not fit.
        rows: The rows that are encoded for one loss, on one process.
        of_row: Tokens of a row, in all of its views.
        kept: Bytes that a token takes until the backward pass.
        recomputed: The same with `trainer.gradient_checkpointing`.
        room: The bytes beside weights, gradients and the optimizer.
        cacheable: Whether gradients can be cached.
    """
    now = recomputed if settings.gradient_checkpointing else kept
    tokens = min(rows * of_row, settings.chunk_tokens or (settings.chunk_size or rows) * of_row)
    more = max(1.0, room / (tokens * now))  # what did not fit takes the room at least

    def fits(tokens: int, of_token: float = now) -> bool:
        return more * tokens * of_token <= MARGIN * room

    def largest(most: int, least: int, of_one: int) -> int:
        """The largest power of two below `most` of which each takes `of_one` tokens and all fit; 0 below `least`."""
        sizes = (1 << n for n in reversed(range((most - 1).bit_length())))
        return next((size for size in sizes if size >= least and fits(size * of_one)), 0)

    found = []
    if not settings.gradient_checkpointing and fits(tokens, recomputed):
        found.append("--trainer.gradient_checkpointing=true")
    if cacheable and settings.parallel == "ddp" and (chunk := largest(tokens, of_row, 1)):
        found.append(f"--trainer.chunk_tokens={chunk}")
    if settings.caching is None and (fewer := largest(rows, 2, of_row)):
        found.append(f"--trainer.batch_size={fewer * distributed.world_size() * settings.accumulation}")
    return found
