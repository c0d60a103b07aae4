"""The one training loop: `fit` begins or resumes a run, `_train` is the loop, `_step` is one optimizer step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cse import distributed
from cse.batch import Batch, Example
from cse.console import Interrupt
from cse.data.loader import Rows
from cse.encoder.device import numbers
from cse.encoder.layers import train_last
from cse.evaluation.encoding import changing
from cse.evaluation.evaluator import run_evaluator
from cse.interfaces import StepContext
from cse.seeding import seed_dropout, torch_rng
from cse.training import fitted, fsdp, gradcache, hardware, optimizers, preflight, sources, tracking
from cse.training.checkpoint import MetricsLog, States, load_progress, load_tensors, save, trained_head
from cse.training.learner import Learner, diagnostics
from cse.training.merge import FinalWeights
from cse.training.run import Progress, Run


class Trainer:
    """Trains one run.

    Args:
        run: The run. The constructor checks that its parts go together and prepares them; nothing is written yet.

    Raises:
        UserError: The parts of the run do not go together. The message names all problems that were found.
    """

    def __init__(self, run: Run) -> None:
        settings = run.settings
        self.run, self.settings = run, settings
        self.sources = sources.sources(run)
        self.collators = {name: source.collator for name, source in self.sources.items()}
        objectives = {name: source.objective for name, source in self.sources.items()}
        several = len(set(objectives.values())) > 1
        plugin = fsdp.plugin(run.encoder) if settings.parallel == "fsdp" else None
        # It starts the process group.
        self.accelerator = hardware.accelerator(settings, run.folder, several=several, plugin=plugin)
        preflight.check(run)
        if settings.train_layers is not None:
            train_last(run.encoder.backbone, settings.train_layers)
        if settings.gradient_checkpointing:
            run.encoder.recompute()
        if settings.compile:
            run.encoder.compile_layers()

        self.batches = sources.steps(run)
        run.source.prompts = run.encoder.prompts_by_role(run.collator.prompts)
        run.source.setup(run.data, self.batches.steps_per_epoch)
        self.texts = sources.for_each(run, partial(sources.set_up, more=run.source.texts()))
        for objective in dict.fromkeys(objectives.values()):
            objective.setup(run.encoder)  # before the optimizer, which takes the weights that this adds
        for similarity in sources.similarities(run).values():  # all are the same
            run.encoder.similarity = similarity  # of the checkpoints, and of the evaluator's scores
        run.head = trained_head(run)
        run.max_steps = self.batches.max_steps
        run.hardware = hardware.describe(self.accelerator)

        self.learner = Learner(run.encoder, objectives)
        self.final = FinalWeights(run.encoder, averages=settings.initial_weights == "mean")
        self.learner.add_module("final", self.final)  # a part of the state of the run
        start = self.learner.start()  # before its weights are in shares
        made = optimizers.optimizers(settings, self.learner, self.accelerator.device)
        self.wrapped: Any
        self.gathered: fsdp.Gathered | None = None
        if plugin is not None and distributed.world_size() > 1:
            self.gathered = fsdp.Gathered(run.encoder, run.head, self.accelerator.device)
            # What is scored and saved; `learner.encoder` is what is trained.
            run.encoder, run.head = self.gathered.encoder, self.gathered.head
            self.wrapped, *self.optimizers = fsdp.prepare(self.accelerator, plugin, self.learner, made)
        else:
            self.wrapped, *self.optimizers = self.accelerator.prepare(self.learner, *made)
        # Only one process writes and prints. Callbacks cannot change training, so the others need none.
        self.callbacks = run.callbacks if self.accelerator.is_main_process else ()
        self.log = MetricsLog(run.folder / "metrics.jsonl")
        every = {name or "the data": source.data for name, source in self.sources.items()}
        rows = {name: {"rows": len(data), "sha256": data.hash} for name, data in every.items()}
        self.states = States(run.folder / "state", {"recipe": run.recipe, "rows": rows, "start": start})
        self.interrupt = Interrupt()
        self.began = 0.0  # when the run would have begun if it had never been interrupted

    def fit(self, *, resume: bool = False) -> Run:
        """Train; on return `run.folder` holds best/, last/, state/ and metrics.jsonl.

        Raises:
            UserError: The objective refuses the batches of the run, or the state to resume from is damaged.
            FloatingPointError: The loss or its gradient is not finite.
        """
        with hardware.one_order(self.settings):
            return self._fit(resume)

    def _fit(self, resume: bool) -> Run:
        run = self.run
        if distributed.broadcast(resume):  # a shared file system may show the others an older state, or none
            same = {name: fact for name, fact in self.states.made_from.items() if name != "recipe"}
            saved = partial(load_progress, run.folder / "state", same)
            read = saved if distributed.is_first() else Progress
            run.progress = distributed.gather_results(read)[0]
            rows = load_tensors(run.folder / "state", self.learner, self.optimizers, self.accelerator.scaler)
            run.source.load_state(rows)
        else:
            self.final.check(run.encoder)
            self.rehearse()
        with self._whole():
            distributed.gather_results(self._start)  # what stops the first stops all
        if self.accelerator.is_main_process:
            self.log.cut(run.progress.log_bytes)  # steps after the last saved state are taken again
        if self.settings.trackers:
            tracking.start(self.accelerator, run.folder, f"{run.name}-{run.folder.name}", tracking.settings_of(run))
        if not run.progress.finished:
            with self.interrupt, self.states:
                self._train()
            distributed.all_max(0)  # the last state is written: no process leaves before, since others may read it
        if not run.interrupted:
            tracking.log_result(self.accelerator, run)
        with self._whole(), self.final.of(run.encoder):
            for callback in self.callbacks:
                callback.on_end(run)
        # DDP goes before its process group: if it held the last reference, freeing the group would hold Python's lock
        # while a thread of the group waits for that lock.
        self.wrapped = self.learner
        self.accelerator.free_memory()
        self.accelerator.end_training()
        return run

    def _start(self) -> None:
        for callback in self.callbacks:
            callback.on_start(self.run)

    def rehearse(self) -> tuple[float, float]:
        """Take the loss of every source's first batch, so that it can be refused before anything is written.

        Returns:
            By estimate, the bytes of weights, gradients and optimizer, and of what the largest of these batches keeps.
        """
        wide = self.accelerator.mixed_precision == "no"
        rows, firsts = Rows(self.run.source.widest(), self.collators), self.batches.firsts()

        def rehearse(name: str, source: Run) -> float:
            part = next(self.batches.divided(*firsts[name], distributed.rank(), distributed.world_size()))
            batch = self._placed(rows.__getitems__(part))
            preflight.rehearse(self.learner, batch, self._context(0, 0, batch), source.settings)
            return hardware.of_step(self.learner, source.settings, batch, wide=wide)

        kept = sources.for_each(self.run, rehearse)
        return hardware.of_weights(self.learner, self.settings), max(kept.values())

    def _train(self) -> None:
        run, settings, progress = self.run, self.settings, self.run.progress
        self.began = time.perf_counter() - progress.seconds
        if progress.log_bytes == 0:
            self._evaluate({})  # the score before training, to compare with
            self._save_state()
        self.wrapped.train()
        since, sentences, steps = time.perf_counter(), 0, 0
        while not (run.interrupted or self._complete()):
            # Mined rows hold until the encoder has moved; then a search with all of its weights gives the next.
            with self._whole():
                rows, until = run.source.rows(progress.step, run.encoder)
            for parts in self._load(rows, progress.step, until):
                due = (progress.step + 1) % self._every == 0 or progress.step + 1 == run.max_steps
                wide = self.accelerator.mixed_precision == "no"
                with hardware.explained(self.learner, settings, parts[0], progress.step + 1, wide=wide):
                    metrics = self._step(parts, probe=due)
                progress.step += 1
                rows_of_step = distributed.world_size() * sum(part.size for part in parts)
                sentences, steps = sentences + rows_of_step * parts[0].views, steps + 1
                for callback in self.callbacks:
                    callback.on_step(run, metrics)
                run.interrupted = self._interrupted(due)
                if due:
                    seconds = time.perf_counter() - since
                    metrics |= {"sentences_per_s": sentences / seconds, "steps_per_s": steps / seconds}
                    metrics |= {"peak_mb": hardware.peak_memory(self.accelerator.device), **run.encoder.graphs()}
                    self._evaluate(metrics)
                    since, sentences, steps = time.perf_counter(), 0, 0
                # After the score, so that a resumed run does not take it again and its log is what it would have been.
                if run.interrupted or (due if settings.save_every is None else not progress.step % settings.save_every):
                    self._save_state()
                if run.interrupted or self._complete():
                    break
        if self._complete():
            self._finish()

    def _finish(self) -> None:
        """Save the last checkpoint and the state of a run that is complete."""
        self.run.interrupted = 0  # a signal during the last step leaves nothing to resume
        self.states.wait()
        with self._whole(), self.final.of(self.run.encoder):
            if self.accelerator.is_main_process:
                save(self.run, "last", whole=False, precision=self.settings.save_precision)
                if self.run.progress.best is None:  # without an evaluator the last weights are the best ones known
                    save(self.run, "best", precision=self.settings.save_precision)
        self.run.progress.finished = True
        self._save_state()

    def _interrupted(self, due: bool) -> int:
        """The signal that ends the run after this step, or 0.

        It may reach one process only; all must stop at the same step, or the others wait for it. On GPUs they ask each
        other every ten steps, since the host waits for the answer.
        """
        if self.accelerator.device.type == "cuda" and not due and self.run.progress.step % 10:
            return 0
        return distributed.all_max(self.interrupt.wanted)

    def _complete(self) -> bool:
        """Tell whether the run is over: all steps are taken, a callback ended it, or the score stopped improving."""
        progress, patience = self.run.progress, self.settings.early_stopping
        if patience is None or progress.best_step is None:
            return progress.step >= self.run.max_steps or self.run.ended
        waited = (progress.step - progress.best_step) // self._every
        return progress.step >= self.run.max_steps or self.run.ended or waited >= patience

    @property
    def _every(self) -> int:
        """Steps between evaluations."""
        return self.settings.eval_every or self.run.progress.eval_every or self.run.max_steps

    def _load(self, rows: Sequence[Example], first: int, until: int | None) -> Iterator[list[Batch]]:
        """For each step from `first` to before `until`: this process's share of its batch, in `accumulation` parts."""
        last = self.run.max_steps if until is None else min(until, self.run.max_steps)
        on_gpu, workers = self.accelerator.device.type == "cuda", self.settings.workers
        loader = DataLoader(
            Rows(rows, self.collators),
            batch_sampler=self.batches.of_process(first, distributed.rank(), distributed.world_size(), last),
            collate_fn=Rows.collate,  # type: ignore[arg-type]  # it receives what __getitems__ returns
            num_workers=workers,
            pin_memory=on_gpu,
            # A copy of this process would have its CUDA context and its locks, but not the threads that hold them.
            multiprocessing_context="forkserver" if on_gpu and workers and os.name == "posix" else None,
            prefetch_factor=4 if on_gpu and workers else None,
        )
        parts: list[Batch] = []
        for batch in loader:
            parts.append(self._placed(batch))
            if len(parts) == self.settings.accumulation:
                yield parts
                parts = []

    def _placed(self, batch: Batch) -> Batch:
        """The batch on this process's device, with as many views as on every other process."""
        if self.sources[batch.source].data.ragged or self.run.source.hard_negatives:
            batch = batch.widened(distributed.all_max(batch.views))  # processes gather views of one shape
        return batch.to(self.accelerator.device)

    def _context(self, step: int, part: int, batch: Batch) -> StepContext:
        """The context of a part of a step, for the objective."""
        return StepContext(
            encoder=self.learner.encoder,
            step=step,
            max_steps=self.run.max_steps,
            generator=torch_rng(self.run.seed, "objective", step, part),
            local_rows=distributed.local_rows(batch.size),
            texts=self.texts[batch.source],
        )

    def _step(self, parts: list[Batch], *, probe: bool) -> dict[str, float]:
        """Take one optimizer step; returns what to log of it, with the diagnostics of the last part if `probe`."""
        run, settings, step = self.run, self.settings, self.run.progress.step
        rate = settings.rate(step, run.max_steps)
        for optimizer in self.optimizers:
            optimizers.set_rate(optimizer, rate)
        losses: list[Tensor] = []
        for i, part in enumerate(parts):
            ctx = self._context(step, i, part)
            # Dropout is seeded by its place in the run, not by what ran before: a resumed run draws the same masks.
            seed = partial(seed_dropout, run.seed, "dropout", step, i, distributed.rank())
            if settings.caching is not None:
                encoded, output = gradcache.backward(
                    self.accelerator,
                    self.wrapped,
                    part,
                    ctx,
                    chunk_size=settings.chunk_size,
                    chunk_tokens=settings.chunk_tokens,
                    seed=seed,
                    accumulation=settings.accumulation,
                )
            else:
                seed(0)
                # Gradients are averaged over processes once a step, with the last part.
                with nullcontext() if i == len(parts) - 1 else self.accelerator.no_sync(self.wrapped):
                    encoded, output = self.wrapped(part, ctx)
                    self.accelerator.backward(output.loss / settings.accumulation)
            losses.append(output.loss.detach())
        parameters = list(self.wrapped.parameters())
        # An infinite limit leaves the gradient as it is. Another one would make all of it NaN where a part is.
        norm = fsdp.whole(self.accelerator.clip_grad_norm_(parameters, math.inf))
        probed = diagnostics(encoded, parts[-1].num_positives) if probe else {}
        read = {"grad_norm": norm, **output.metrics, **probed}
        # Here alone a step waits for a GPU: a step on a gradient that is not finite could not be taken back.
        found = numbers([*losses, *read.values()])
        total = sum(loss / len(parts) for loss in found[: len(parts)])
        values = dict(zip(read, found[len(parts) :], strict=True))
        self._require_finite(total, values["grad_norm"])
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip, norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.learner.objective_of(parts[-1]).after_step(self._context(step, 0, parts[-1]))
        metrics = {"loss": total, "lr": rate, "grad_norm": values["grad_norm"]}
        metrics |= {f"loss_{part.source}": total for part in parts if part.source}
        metrics |= values
        if not probe:  # a step that is probed is logged with its evaluation
            self.accelerator.log(metrics, step=step + 1)
        return metrics

    def _require_finite(self, loss: float, norm: float) -> None:
        """Check the loss and the norm of its gradient before the weights change.

        An infinite norm of a scaled loss (fp16) is left to its scaler, which skips the step.
        """
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
            fix = "use a lower --trainer.learning_rate, a higher temperature, or --trainer.precision=fp32"
        elif self.accelerator.scaler is None and not math.isfinite(norm):
            gradients = ((name, p.grad) for name, p in self.learner.named_parameters() if p.grad is not None)
            first = next((f" of {name}" for name, g in gradients if not fsdp.whole(g).isfinite().all()), "")
            what, fix = f"the gradient{first} is not finite", "use --trainer.precision=fp32, or report the objective"
        else:
            return
        best = self.run.progress.best_step
        kept = f"the last good checkpoint is {self.run.folder / 'best'} (step {best})"
        raise FloatingPointError(
            f"{what} at step {self.run.progress.step + 1}, so training stopped; "
            f"{'no checkpoint is saved yet' if best is None else kept}\nfix: {fix}"
        )

    def _evaluate(self, metrics: dict[str, float]) -> None:
        """Score the encoder with its final weights, keep it if it is the best so far, and log."""
        self.states.wait()  # the files of a run are written one after the other
        with self._whole(), self.final.of(self.run.encoder):
            self._score(metrics)

    def _score(self, metrics: dict[str, float]) -> None:
        run, progress = self.run, self.run.progress
        scores, letters = dict[str, float](), 0
        if run.evaluator is not None:
            start = time.perf_counter()
            with changing() as asked:
                answer = run_evaluator(run.evaluator, run.encoder)
                scores = distributed.broadcast(answer.scores)  # rounding may differ between processes
            letters = asked.letters
            run.findings = answer.findings
            metrics = {**metrics, "eval_seconds": round(time.perf_counter() - start, 3)}
            score = scores.get(run.evaluator.primary)
            if score is not None:
                scores["dev"] = score
                progress.first = score if progress.first is None else progress.first
                if progress.best is None or score > progress.best:
                    progress.best, progress.best_step = score, progress.step
                    if self.accelerator.is_main_process:
                        save(run, "best", precision=self.settings.save_precision)
        if self.settings.eval_every is None and progress.eval_every is None:  # at the first evaluation
            progress.eval_every, run.scoring = fitted.spacing(run, letters)
        progress.seconds = time.perf_counter() - self.began
        record = {"step": progress.step, **metrics, **scores, **self.batches.figures(progress.step)}
        if self.accelerator.is_main_process:
            progress.log_bytes = self.log.append({**record, "seconds": round(progress.seconds, 3)})
        self.accelerator.log(record, step=progress.step)
        for callback in self.callbacks:
            callback.on_eval(run, record)
        run.ended = distributed.any_process(run.ended)  # callbacks are called on one process only

    def _save_state(self) -> None:
        """Save what it takes to resume here."""
        progress = self.run.progress
        progress.seconds = time.perf_counter() - self.began
        rows, scaler, sharded = self.run.source.state(), self.accelerator.scaler, self.settings.parallel == "fsdp"
        self.states.save(self.learner, self.optimizers, progress, rows, scaler, sharded=sharded)

    def _whole(self) -> AbstractContextManager[None]:
        """Within, `run.encoder` and `run.head` have all weights of those that are trained, which may be in shares."""
        return nullcontext() if self.gathered is None else self.gathered.weights()
