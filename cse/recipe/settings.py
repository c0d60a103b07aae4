"""The settings of a training run. The constructor checks their ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cse.encoder.kinds import SavedAs
from cse.errors import Count, NotNegative, Positive, UserError, require_ranges, require_within


@dataclass(kw_only=True, eq=False)
class Settings:
    """Settings of a training run.

    Args:
        batch_size: Anchors per optimizer step, over all processes.
        max_steps: Optimizer steps. None: the number of steps in `epochs`.
        epochs: Passes over the data; ignored if `max_steps` is given.
        cap_steps: Most steps that `epochs` may amount to; ignored if `max_steps` is given. None sets no limit.
        optimizer: `adamw` (betas 0.9 and 0.999, eps 1e-8); `adamw8bit`, its state in 8 bits, by bitsandbytes on a CUDA
            GPU; `adafactor`, whose state is small (arXiv:1804.04235); or `muon` (arXiv:2502.16982) for the matrices of
            the backbone's layers, with AdamW for all other weights.
        learning_rate: Peak rate of the optimizer.
        head_learning_rate: Peak rate of the encoder's head and of the objective's own weights. None: `learning_rate`.
        layer_decay: Each layer of the backbone learns at this fraction of the rate of the layer above it, and the
            embeddings at that fraction of the first layer's. 1 is the same rate for all.
        train_layers: Train this many of the backbone's last layers. Those below and the embeddings stand still, which
            saves time and memory. None: all weights.
        weight_decay: Weight decay of the optimizer.
        warmup_steps: Steps over which the rate rises from 0.
        schedule: The rate after the warm-up: `linear` falls to 0 at the last step, `cosine` likewise along half a
            cosine, `constant` stays, and `wsd` (warm-up, stable, decay) stays and falls linearly at the end.
        decay_share: The share of the steps in which `wsd` falls, at the end.
        clip: Largest norm of the gradient.
        accumulation: Cut each batch into this many parts. It saves memory; the negatives are those of the part.
        chunk_size: Cache gradients, and encode this many anchors at a time. It saves memory; the negatives are still
            those of the whole batch. None: encode the batch at once.
        chunk_tokens: Cache gradients, and encode at most this many tokens at a time, padding included; instead of
            `chunk_size`. Texts of similar length are encoded together, which saves time as well where lengths differ.
        gradient_checkpointing: Compute the backbone's layers again in the backward pass instead of keeping their
            states. It saves memory and takes about a third more time; the gradient is the same.
        compile: Compile the backbone's layers by torch.compile, which needs a C++ compiler on a CPU, and Triton on a
            GPU. The first steps take minutes; rows are padded to one of a few lengths, each of which is compiled once.
        precision: `auto` is bf16 if the hardware computes it natively, else fp16 on a CUDA GPU, else fp32. `fp16`
            scales the loss, and `tf32` is fp32 with rounded products; both need a CUDA GPU. Similarities are always
            fp32.
        device: `auto` is the accelerator of this machine, or the CPU.
        parallel: What several processes share. `ddp`: the batch; each holds all weights. `fsdp`: the weights and the
            state of the optimizer too (torch's FSDP2), for models that do not fit otherwise. While the encoder is
            scored or saved, each process holds its weights once, without gradients and optimizer.
        timeout: Seconds that a process waits for the others before it ends with a message.
        eval_every: Steps between evaluations. The run is also evaluated before the first step and after the last. None:
            a tenth of the steps, or more where evaluations would otherwise cost more than a tenth of the run.
        save_every: Steps between saved states, from which a run resumes. It continues while a state is written, which
            needs memory for a copy of it (weights and optimizer), except under `fsdp`. None: after each evaluation.
        early_stopping: Stop after this many evaluations without a better score. None: never.
        workers: Processes that prepare batches ahead, at most 128.
        trackers: Names of trackers in Accelerate (tensorboard, trackio, wandb), which receive settings, curves and the
            final table. Trackers that write files, such as tensorboard, write to trackers/ in the run's folder.
        initial_weights: What the initial weights are used for. `compare`: the run ends with a table of scores before
            and after training, on the dev set and on a general one: helped.json. A number: also save merged/, the
            average of the last weights and the initial ones, in which the last ones have this share (WiSE-FT,
            arXiv:2109.01903, whose authors use 0.5 by default). `mean`: every evaluation scores, and best/ and last/
            hold, the mean of the trained weights and the initial ones (PEARL, arXiv:2401.10407); training itself does
            not change, and needs memory and disk space for one more copy of the trained weights. `ignore`: nothing.
            `auto` and `mean` also compare, if the backbone is a sentence encoder already.
        save_precision: The number format of the weights of whole checkpoints: best/, merged/, and last/ unless it holds
            an adapter alone. `bf16` halves them; scores in the log are those of the weights before they are rounded.
            Weights that are trained in bf16 are saved in it in any case.
        deterministic: Whether equal runs are equal to the bit on a GPU too, as they are on a CPU: torch then computes
            every operation in one order, which is slower, and the run stops at an operation that has no such order.

    Raises:
        UserError: A value is out of range.
    """

    batch_size: Count = 64
    max_steps: Count | None = None
    epochs: Annotated[float, "in (0, 1000000]"] = 1.0  # the steps are counted before the first one
    cap_steps: Count | None = None
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "muon"] = "adamw"
    learning_rate: Positive = 3e-5
    head_learning_rate: Positive | None = None
    layer_decay: Annotated[float, "in (0, 1]"] = 1.0
    train_layers: Count | None = None
    weight_decay: NotNegative = 0.0
    warmup_steps: Annotated[int, ">= 0"] = 0
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    decay_share: Annotated[float, "in (0, 1]"] = 0.1
    clip: Positive = 1.0
    accumulation: Count = 1
    chunk_size: Count | None = None
    chunk_tokens: Count | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16", "tf32"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    timeout: Positive = 1800.0
    eval_every: Count | None = 125
    save_every: Count | None = None
    early_stopping: Count | None = None
    workers: Annotated[int, "in [0, 128]"] = 0  # each is a process of this machine
    trackers: Sequence[str] = ()
    initial_weights: Literal["auto", "ignore", "compare", "mean"] | float = "auto"
    save_precision: SavedAs = "fp32"
    deterministic: bool = False

    def __post_init__(self) -> None:
        require_ranges("trainer", self)
        require_within("[0, 1]", "trainer", initial_weights=self.merged_share)
        self.trackers = tuple(self.trackers)
        if self.chunk_size is not None and self.chunk_tokens is not None:
            raise UserError(
                f"trainer.chunk_size is {self.chunk_size} and trainer.chunk_tokens is {self.chunk_tokens}, and both "
                "say how much of a batch is encoded at a time\nfix: give one of the two"
            )

    @property
    def merged_share(self) -> float | None:
        """The share of the last weights in merged/, or None if it is not saved."""
        return None if isinstance(self.initial_weights, str) else self.initial_weights

    @property
    def caching(self) -> str | None:
        """Say how much of a batch is encoded at a time, such as `64 rows`; None: all of it, uncached."""
        if self.chunk_tokens is not None:
            return f"{self.chunk_tokens} tokens"
        return None if self.chunk_size is None else f"{self.chunk_size} rows"

    def rate(self, step: int, max_steps: int) -> float:
        """The learning rate of step `step`, from 0: linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        left, falling = max_steps - step, max(1, max_steps - self.warmup_steps)
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            return self.learning_rate * (1 - math.cos(math.pi * left / falling)) / 2
        if self.schedule == "wsd":
            falling = max(1, round(self.decay_share * max_steps))
            return self.learning_rate * min(1.0, left / falling)
        return self.learning_rate * left / falling
