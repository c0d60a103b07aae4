"""The settings of a training run. The constructor checks their ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cse.errors import UserError, require_at_least, require_positive, require_within


class Settings:
    """Settings of a training run.

    Args:
        batch_size: Anchors per optimizer step, over all processes.
        max_steps: Optimizer steps. None: the number of steps in `epochs`.
        epochs: Passes over the data; ignored if `max_steps` is given.
        cap_steps: Most steps that `epochs` may amount to; ignored if `max_steps` is given. None sets no limit.
        learning_rate: Peak rate of AdamW (betas 0.9 and 0.999, eps 1e-8).
        weight_decay: Weight decay of AdamW.
        warmup_steps: Steps over which the rate rises from 0.
        schedule: The rate after the warm-up: `linear` falls to 0 at the last step, `constant` stays.
        clip: Largest norm of the gradient.
        accumulation: Cut each batch into this many parts. It saves memory; the negatives are those of the part.
        chunk_size: Cache gradients, and encode this many anchors at a time. It saves memory; the negatives are still
            those of the whole batch. None: encode the batch at once.
        gradient_checkpointing: Compute the backbone's layers again in the backward pass instead of keeping their
            states. It saves memory and takes about a third more time; the gradient is the same.
        precision: `auto` is bf16 if the hardware computes it natively, else fp32. Similarities are always fp32.
        device: `auto` is the accelerator of this machine, or the CPU.
        eval_every: Steps between evaluations. The run is also evaluated before the first step and after the last.
        early_stopping: Stop after this many evaluations without a better score. None: never.
        workers: Processes that prepare batches ahead.
        trackers: Names of trackers in Accelerate (tensorboard, trackio, wandb), which receive settings, curves and the
            final table. Trackers that write files, such as tensorboard, write to trackers/ in the run's folder.
        compare_initial: Whether the run ends with a table of scores before and after training, on the dev set and on a
            general one: helped.json in its folder. `auto`: if the backbone is a sentence encoder already, or
            `merge_initial` is given.
        merge_initial: Also save merged/, the average of the last weights and the initial ones, in which the last ones
            have this share (WiSE-FT, arXiv:2109.01903, whose authors use 0.5 by default). None: it is not saved.
        final_weights: The weights that every evaluation scores and that best/ and last/ hold: `last` are those that are
            trained, `mean_with_initial` their mean with the initial ones (PEARL, arXiv:2401.10407). Training itself
            does not change. The mean needs memory and disk space for one more copy of the trained weights.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        max_steps: int | None = None,
        epochs: float = 1.0,
        cap_steps: int | None = None,
        learning_rate: float = 3e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        schedule: Literal["linear", "constant"] = "linear",
        clip: float = 1.0,
        accumulation: int = 1,
        chunk_size: int | None = None,
        gradient_checkpointing: bool = False,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        eval_every: int = 125,
        early_stopping: int | None = None,
        workers: int = 0,
        trackers: Sequence[str] = (),
        compare_initial: Literal["auto", "always", "never"] = "auto",
        merge_initial: float | None = None,
        final_weights: Literal["last", "mean_with_initial"] = "last",
    ) -> None:
        require_at_least(1, "trainer", batch_size=batch_size, accumulation=accumulation, eval_every=eval_every)
        require_at_least(1, "trainer", max_steps=max_steps, cap_steps=cap_steps, chunk_size=chunk_size)
        require_at_least(1, "trainer", early_stopping=early_stopping)
        require_at_least(0, "trainer", warmup_steps=warmup_steps, weight_decay=weight_decay, workers=workers)
        require_within("[0, 1]", "trainer", merge_initial=merge_initial)
        require_positive("trainer", learning_rate=learning_rate, clip=clip, epochs=epochs)
        self.batch_size, self.max_steps, self.epochs, self.cap_steps = batch_size, max_steps, epochs, cap_steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps, self.schedule, self.clip = warmup_steps, schedule, clip
        self.accumulation, self.chunk_size = accumulation, chunk_size
        self.gradient_checkpointing = gradient_checkpointing
        self.precision, self.device = precision, device
        self.eval_every, self.early_stopping = eval_every, early_stopping
        self.workers, self.trackers = workers, tuple(trackers)
        self.compare_initial, self.merge_initial = compare_initial, merge_initial
        self.final_weights: Literal["last", "mean_with_initial"] = final_weights
        if merge_initial is not None and final_weights != "last":
            raise UserError(
                f"trainer.merge_initial is {merge_initial:g} and trainer.final_weights is {final_weights}, and both "
                "average with the initial weights\nfix: give one of the two"
            )

    def rate(self, step: int, max_steps: int) -> float:
        """The learning rate of step `step`, from 0: linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (max_steps - step) / max(1, max_steps - self.warmup_steps)
