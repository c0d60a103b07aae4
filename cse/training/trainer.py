"""The one training loop. It knows nothing of any objective."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from cse import distributed
from cse.batch import Batch, Example, LossOutput
from cse.data.loader import Rows
from cse.data.samplers import StepBatches
from cse.data.tokens import TokenStore
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.seeding import seed_dropout, torch_rng
from cse.training import gradcache, preflight
from cse.training.checkpoint import load_progress, load_tensors, save_state
from cse.training.hardware import accelerator, describe, peak_memory
from cse.training.interrupt import Interrupt
from cse.training.learner import Encoded, Learner, diagnostics
from cse.training.metrics import MetricsLog
from cse.training.run import Run


class Trainer:
    """Trains one run."""

    def __init__(self, run: Run) -> None:
        self.run, self.settings = run, run.settings
        settings = run.settings
        self.accelerator = accelerator(settings.device, settings.precision, settings.trackers)
        preflight.check(run, settings)
        self.rows: Sequence[Example] = run.data
        self.mined: torch.Tensor | None = None
        texts = run.data.unique_texts()
        if run.negatives is not None:
            run.negatives.setup(run.data)
            self.rows, texts = run.negatives.rehearsal(), [*texts, *run.negatives.texts]
        tokens = TokenStore.build(texts, run.encoder.tokenizer, run.collator.max_length)
        run.collator.setup(tokens, run.seed)
        run.objective.setup(run.encoder)
        size, accumulation = settings.batch_size, settings.accumulation
        self.batches = StepBatches(
            len(run.data),
            size,
            accumulation,
            run.seed,
            max_steps=settings.max_steps,
            epochs=settings.epochs,
            draw=partial(run.sampler.batches, run.data, size // accumulation, run.seed) if run.sampler else None,
        )
        self.max_steps = run.max_steps = self.batches.max_steps
        run.truncated = tokens.truncated
        run.hardware = describe(self.accelerator)
        self.log = MetricsLog(run.folder / "metrics.jsonl")
        self.learner = Learner(run.encoder, run.objective)
        trained = [p for p in self.learner.parameters() if p.requires_grad]
        fused = self.accelerator.device.type in {"cpu", "cuda"}
        self.optimizer: Any = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )

    def fit(self, *, resume: bool = False) -> Run:
        """Train; on return `run.folder` holds best/, last/, state/ and metrics.jsonl.

        Raises:
            UserError: Data, collator, objective and encoder do not go together, or the state to resume is damaged.
            FloatingPointError: The loss is not finite.
        """
        run, progress = self.run, self.run.progress
        if resume:
            run.progress = progress = load_progress(run.folder / "state")
            self.mined = load_tensors(run.folder / "state", self.learner, self.optimizer)
            for callback in run.callbacks:
                callback.load_state(progress.callbacks.get(type(callback).__name__, {}))
        self.wrapped, self.optimizer = self.accelerator.prepare(self.learner, self.optimizer)
        if not resume:
            self._rehearse()
        self._tell("on_start")
        if self.accelerator.is_main_process:
            self.log.cut(progress.log_bytes)
        self._init_trackers()
        if not progress.finished:
            with Interrupt() as self.interrupt:
                self._train()
        self._tell("on_end")
        self.accelerator.end_training()
        return run

    def _train(self) -> None:
        run, settings, progress = self.run, self.settings, self.run.progress
        self.clock = time.perf_counter()
        if progress.log_bytes == 0:
            self._evaluate({})
        self.wrapped.train()
        since, sentences, steps = time.perf_counter(), 0, 0
        for step, parts in self._parts(progress.step):
            if self._stops():
                break
            due = (step + 1) % settings.eval_every == 0 or step + 1 == self.max_steps
            metrics = self._step(step, parts, probe=due)
            progress.step = step + 1
            sentences, steps = sentences + settings.batch_size * parts[0].views, steps + 1
            self._tell("on_step", metrics)
            run.interrupted = distributed.any_process(self.interrupt.wanted)
            if due:
                seconds = time.perf_counter() - since
                metrics |= {"sentences_per_s": sentences / seconds, "steps_per_s": steps / seconds}
                metrics["peak_mb"] = peak_memory(self.accelerator.device)
                self._evaluate(metrics)
                since, sentences, steps = time.perf_counter(), 0, 0
            elif run.interrupted:
                self._save_state()
        run.interrupted &= progress.step < self.max_steps and not self._out_of_patience()
        if not run.interrupted:
            self._finish()

    def _parts(self, step: int) -> Iterator[tuple[int, list[Batch]]]:
        """From step `step` on: this process's share of each batch, in `accumulation` parts."""
        parts: list[Batch] = []
        while step < self.max_steps and not self._stops():
            last = self._refresh(step)
            loader = DataLoader(
                Rows(self.rows, self.run.collator),
                batch_sampler=self.batches.of_process(step, distributed.rank(), distributed.world_size(), last),
                collate_fn=Rows.collate,  # type: ignore[arg-type]  # given what __getitems__ gives
                num_workers=self.settings.workers,
                pin_memory=self.accelerator.device.type == "cuda",
            )
            for batch in loader:
                parts.append(self._even(batch))
                if len(parts) == self.settings.accumulation:
                    yield step, parts
                    step, parts = step + 1, []

    def _refresh(self, step: int) -> int:
        """Mine negatives, if that is due at this step; returns the step at which it is due again."""
        source = self.run.negatives
        if source is None:
            return self.max_steps
        every = source.interval(self.batches.steps_per_epoch)
        if self.mined is None or step % every == 0:
            self.mined = torch.from_numpy(source.mine(self.run.encoder, step))
        self.rows = source.rows(self.mined.numpy())
        return min(self.max_steps, step - step % every + every)

    def _even(self, batch: Batch) -> Batch:
        """On the device, and where rows have unequal numbers of texts, with as many views on every process."""
        if self.run.negatives is not None or self.run.data.ragged:
            batch = batch.widened(distributed.all_max(batch.views))
        return batch.to(self.accelerator.device)

    def _step(self, step: int, parts: list[Batch], *, probe: bool) -> dict[str, float]:
        """One optimizer step."""
        rate = self.settings.rate(step, self.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = 0.0
        for i, part in enumerate(parts):
            encoded, output = self._backward(step, i, part, final=i == len(parts) - 1)
            total += float(output.loss.detach()) / len(parts)
        norm = float(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.clip))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ctx = self._context(step, 0, parts[-1])
        self.learner.objective.after_step(ctx)
        metrics = {"loss": total, "lr": rate, "grad_norm": norm}
        metrics |= {name: float(value) for name, value in output.metrics.items()}
        return metrics | (diagnostics(encoded, parts[-1].num_positives) if probe else {})

    def _backward(self, step: int, part: int, batch: Batch, *, final: bool) -> tuple[Encoded, LossOutput]:
        """Add the gradient of one part of the batch."""
        ctx = self._context(step, part, batch)

        def seed(chunk: int) -> None:
            seed_dropout(self.run.seed, "dropout", step, part, distributed.rank(), chunk)

        if self.settings.chunk_size is not None:
            encoded, output = gradcache.backward(
                self.accelerator,
                self.wrapped,
                batch,
                ctx,
                chunk_size=self.settings.chunk_size,
                seed=seed,
                accumulation=self.settings.accumulation,
            )
            self._check_finite(output, step)
            return encoded, output
        seed(0)
        with nullcontext() if final else self.accelerator.no_sync(self.wrapped):
            encoded, output = self.wrapped(batch, ctx)
            self._check_finite(output, step)
            self.accelerator.backward(output.loss / self.settings.accumulation)
        return encoded, output

    def _context(self, step: int, part: int, batch: Batch) -> StepContext:
        return StepContext(
            encoder=self.run.encoder,
            step=step,
            max_steps=self.max_steps,
            generator=torch_rng(self.run.seed, "objective", step, part),
            local_rows=distributed.local_rows(batch.size),
        )

    def _check_finite(self, output: LossOutput, step: int) -> None:
        if not math.isfinite(float(output.loss.detach())):
            best = self.run.progress.best_step
            saved = f"the last good checkpoint is {self.run.folder / 'best'} (step {best})"
            good = saved if best is not None else "no checkpoint is saved yet"
            raise FloatingPointError(
                f"the loss is {float(output.loss.detach())} at step {step + 1}, so training stopped; {good}.\n"
                "fix: a lower --trainer.learning_rate, a higher temperature, or --trainer.precision=fp32"
            )

    def _evaluate(self, metrics: dict[str, float]) -> None:
        """Score, keep the best, log, save the state."""
        run, progress = self.run, self.run.progress
        scores = distributed.broadcast(run.evaluator(run.encoder)) if run.evaluator else {}
        score = scores.get(run.evaluator.primary) if run.evaluator else None
        if score is not None:
            scores["dev"] = score
            progress.first = score if progress.first is None else progress.first
            if progress.best is None or score > progress.best:
                progress.best, progress.best_step = score, progress.step
                self._save_model("best")
        self._tick()
        record = {"step": progress.step, **metrics, **scores}
        if self.accelerator.is_main_process:
            progress.log_bytes = self.log.append({**record, "seconds": round(progress.seconds, 3)})
        if self.settings.trackers:
            self.accelerator.log(record, step=progress.step)
        self._tell("on_eval", record)
        self._save_state()

    def _stops(self) -> bool:
        """Whether the run ends before its last step."""
        return self.run.interrupted or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        """Whether `early_stopping` evaluations have passed without a better score."""
        progress, patience = self.run.progress, self.settings.early_stopping
        if patience is None or progress.best_step is None:
            return False
        return (progress.step - progress.best_step) // self.settings.eval_every >= patience

    def _save_model(self, name: str) -> None:
        if self.accelerator.is_main_process:
            self.run.encoder.save(self.run.folder / name)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.run.progress.seconds += now - self.clock
        self.clock = now

    def _save_state(self) -> None:
        self._tick()
        self.run.progress.callbacks = {type(c).__name__: c.state() for c in self.run.callbacks}
        if self.accelerator.is_main_process:
            folder, optimizer = self.run.folder / "state", self.optimizer.optimizer
            save_state(folder, self.learner, optimizer, self.run.progress, self.mined)
        self.accelerator.wait_for_everyone()

    def _finish(self) -> None:
        self._save_model("last")
        if self.run.progress.best is None:  # nothing to select by
            self._save_model("best")
        self.run.progress.finished = True
        self._save_state()

    @torch.no_grad()
    def _rehearse(self) -> None:
        """Take the first loss once, so that what the objective refuses is said before anything is written.

        An objective that sees the encoder through views only is given random ones, which cost nothing.
        """
        run = self.run
        rows = next(iter(self.batches.of_process(0, distributed.rank(), distributed.world_size())))
        batch = self._even(Rows(self.rows, run.collator).__getitems__(rows))
        self.learner.eval()
        encoded = None
        if run.objective.cacheable:
            one = self.learner.encode(gradcache.split(batch, 1)[0])
            encoded = Encoded(*(torch.randn(batch.size, *t.shape[1:], device=t.device) for t in one))
        try:
            self.learner(batch, self._context(0, 0, batch), encoded)
        except ValueError as error:
            raise UserError(
                f"objective {type(run.objective).__name__}: {error}\n"
                f"(trainer.batch_size {self.settings.batch_size}, trainer.accumulation {self.settings.accumulation})"
            ) from error

    def _init_trackers(self) -> None:
        if self.settings.trackers:
            self.accelerator.init_trackers("cse", config={"recipe": self.run.name, "seed": self.run.seed})

    def _tell(self, event: str, *arguments: Any) -> None:
        if self.accelerator.is_main_process:
            for callback in self.run.callbacks:
                getattr(callback, event)(self.run, *arguments)
