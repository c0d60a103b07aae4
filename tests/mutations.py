"""Whether the tests notice a fault: those below are planted in a copy of the checkout, and their tests must fail.

    python tests/mutations.py                   all of them, some minutes
    python tests/mutations.py --only 3,17-20    some of them
    python tests/mutations.py --list            what they are

A fault is a line: a file of cse/, a text that occurs in it once, what stands there instead, and the tests that catch
it. All these tests must pass in the copy before anything is planted. The exit code is 1 if a fault survives, if its
text is gone (stale), or if its tests do not pass without it. Run it by hand before and after tests are removed.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "build", "dist", "site", "*.egg-info")
SECONDS = 900  # a fault that makes its tests wait for longer is caught, too
OUTSIDE = ("accelerate", "datasets", "pandas", "peft", "scipy.stats", "sklearn", "torch", "transformers")


class Fault(NamedTuple):
    """A line that is wrong.

    Attributes:
        file: The file below cse/.
        text: What stands there, once.
        wrong: What stands there instead.
        tests: What pytest is to run, below tests/; words are separated by spaces.
    """

    file: str
    text: str
    wrong: str
    tests: str


# `@ file  tests`, and below it each fault: the lines that stand there after `-`, and what is wrong after `+`.
TABLE = """\
@ objectives/parts/functional.py  objectives/test_functional.py
- scores = scores.masked_fill(~present, 0.0)
+ scores = scores * 1.0
- terms = scores.masked_fill(~present, -torch.inf)
+ terms = scores
-     negative = present & ~positive
-
+     negative = present
+
- share = share / share.sum(-1, keepdim=True)
+ share = share / share.sum(0, keepdim=True)
- counted = weight.to(rows.dtype) * valid
+ counted = weight.to(rows.dtype)
- rows = rows if row_weight is None else rows * row_weight
+ rows = rows
@ objectives/parts/functional.py  objectives/test_triplet.py
- F.relu(near - far + margin)
+ F.relu(far - near + margin)
@ objectives/parts/functional.py  objectives/test_align_uniform.py
- torch.pdist(normalize(x)).pow(2)
+ torch.pdist(normalize(x))
@ objectives/parts/functional.py  objectives/test_functional.py
- count = negative.sum(-1, keepdim=True)
+ count = negative.sum(0, keepdim=True)
@ objectives/parts/functional.py  objectives/test_authors_programs.py
- (log_p - torch.log_softmax(logits, -1))
+ torch.log_softmax(logits, -1)
@ objectives/parts/functional.py  objectives/test_promcse.py
- hardest = cosine.masked_fill(~negative, -torch.inf)
+ hardest = cosine
@ objectives/parts/candidates.py  objectives/test_candidates.py
- mask &= own | ~_any_same_text(
+ mask &= ~_any_same_text(
- mask &= present & present[view, None]
+ mask &= present
@ objectives/parts/candidates.py  objectives/test_supcon.py
- equal[:, self.texts :] = False
+ equal[:, self.texts :] &= True
@ objectives/parts/candidates.py  objectives/test_candidates.py
- mask=None if pairs.mask is None and mask is None else
+ mask=None if pairs.mask is None else
- return exchanged, batch.with_views([1, 0])
+ return exchanged, batch
@ objectives/cosent.py  objectives/test_cosent.py
- ordered = score[:, None] > score[None, :]
+ ordered = score[:, None] >= score[None, :]
- excess = scaled[None, :] - scaled[:, None]
+ excess = scaled[:, None] - scaled[None, :]
@ objectives/simcse.py  objectives/test_symmetric.py
- return similarity.detach() * chosen
+ return similarity * chosen
@ objectives/dcl.py  objectives/test_authors_programs.py
- near = ratio(scores, weighted_mean(scores, plain.weight))
+ near = scores / scores.mean()
@ objectives/adaptive_layer.py  objectives/test_contract.py::test_a_row_of_weight_2_is_two_rows_and_one_of_weight_0_none[AdaptiveLayer]
- return weight if batch.weight is None else weight * batch.weight[:, None]
+ return weight
@ objectives/adaptive_layer.py  objectives/test_contract.py::test_views_that_do_not_exist_do_not_count_or_are_refused_by_name[AdaptiveLayer]
- weight = weight * batch.view_mask
+ weight = weight * 1
@ objectives/parts/wrapper.py  objectives/test_contract.py::test_terms_of_different_similarity_are_refused
- if len({similarity for _, similarity in shaped}) > 1:
+ if not terms:
@ objectives/parts/wrapper.py  objectives/test_contract.py::test_a_term_without_vectors_is_refused_where_vectors_are_read
- if self.needs_vectors and not term.uses_views:
+ if not self.needs_vectors:
@ objectives/parts/wrapper.py  objectives/test_contract.py::test_a_wrapper_inherits_the_flags_of_its_terms
- self.weighs_rows = all(
+ self.weighs_rows = not all(
@ objectives/gistembed.py  objectives/test_gistembed.py
- removed = (guided > pair - slack)
+ removed = (guided >= pair - slack)
@ objectives/listwise_kl.py  objectives/test_authors_programs.py
- loss = self.student_temperature**2 *
+ loss = self.student_temperature *
@ objectives/matryoshka.py  objectives/test_matryoshka.py
- normalize(part[..., :width])
+ normalize(part[..., -width:])
@ objectives/momentum.py  objectives/test_momentum.py
- self.queue.push(torch.cat(self._found))
+ self.queue.push(self._found[-1])
- momentum, ctx.step + 2,
+ momentum, ctx.step + 1,
@ teachers/queue.py  teachers/test_copy.py
- rows.to(self.vectors)])[len(rows) :]
+ rows.to(self.vectors)])[: len(self.vectors)]
@ training/trainer.py  training/test_trainer.py::test_accumulation_averages_parts_with_their_own_negatives
- self.accelerator.backward(output.loss / settings.accumulation)
+ self.accelerator.backward(output.loss)
@ training/trainer.py  training/test_trainer.py
- seed = partial(seed_dropout, run.seed, "dropout", step, i, distributed.rank())
+ seed = partial(seed_dropout, run.seed, "dropout", i, distributed.rank())
@ training/trainer.py  training/test_trainer.py::test_a_killed_run_resumes_bit_for_bit
- self.log.cut(run.progress.log_bytes)
+ self.log.cut(2**40)
@ training/trainer.py  training/test_trainer.py
- clip_grads_with_norm_(parameters, settings.clip, norm)
+ clip_grads_with_norm_(parameters, math.inf, norm)
@ training/trainer.py  training/test_trainer.py::test_a_loss_that_is_not_finite_stops_the_run
- if not math.isfinite(loss):
+ if math.isinf(loss):
@ training/trainer.py  training/test_trainer.py::test_early_stopping
-  or waited >= patience
+  or waited > patience
@ training/trainer.py  training/test_trainer.py
- progress.best is None or score > progress.best:
+ progress.best is None or score < progress.best:
@ training/gradcache.py  training/test_gradcache.py
- accelerator.backward(output.loss / accumulation)
+ accelerator.backward(output.loss)
- _encode(learner, chunk, seed, i)[: len(gradients)]
+ _encode(learner, chunk, seed, i + 1)[: len(gradients)]
- start : start + max(1, tokens // longest)]
+ start : start + 1 + tokens // longest]
@ training/optimizers.py  training/test_optimizers.py
- group["lr"] = rate * group["factor"]
+ group["lr"] = rate
- (len(layers) - 1 - i)
+ (len(layers) - i)
@ recipe/settings.py  training/test_optimizers.py::test_the_rate_of_every_schedule
- return self.learning_rate * (step + 1) / self.warmup_steps
+ return self.learning_rate * step / self.warmup_steps
@ training/learner.py  training/test_trainer.py
- (every - own) / max(1, size * size - size)
+ every / max(1, size * size)
@ distributed.py  training/test_distributed.py::test_two_processes_have_the_gradient_of_one
-         dist.all_reduce(total)
-         return total[ctx.rows]
+         return total[ctx.rows]
@ training/checkpoint.py  training/test_trainer.py::test_a_damaged_state_is_refused
- whole = sha256_file(damaged) == about["sha256"]
+ whole = "sha256" in about
@ training/checkpoint.py  training/test_trainer.py::test_a_killed_run_resumes_bit_for_bit
-         optimizer.load_state_dict(state)
+         state
@ training/checkpoint.py  training/test_trainer.py
-     if unexpected or absent:
+     if unexpected:
@ training/merge.py  training/test_merge.py
- wide[0].lerp(wide[1], shares[1])
+ wide[1].lerp(wide[0], shares[1])
@ training/merge.py  training/test_merge.py::test_every_weight_is_the_mean_and_what_is_scored_is_what_is_exported
-         finally:
-             _put(weights, trained)
+         finally:
+             pass
@ encoder/checkpoint/sums.py  faults/test_models.py::test_a_checkpoint_with_its_manifest
-         if actual != expected:
+         if len(actual) != len(expected):
@ files.py  test_cache.py
-         os.rename(target, aside)
-         os.rename(scratch, target)
-
+         os.rename(scratch, target)
+
- return pid.isdecimal() and not psutil.pid_exists(int(pid))
+ return pid.isdecimal() and psutil.pid_exists(int(pid))
-         if target.exists():
-             _remove(old)
+         if not target.exists():
+             _remove(old)
@ encoder/poolers.py  encoder/test_encoder.py
- end = mask.shape[1] - mask.flip(1).argmax(1)
+ end = mask.sum(1)
- return (states * weight).sum(1)
+ return states.sum(1)
@ evaluation/evaluators/sts.py  evaluation/test_sts_score.py
- _mean(subsets, sizes)
+ _mean(subsets, dict.fromkeys(subsets, 1))
@ evaluation/statistic.py  evaluation/test_sts_score.py
- coefficient(rankdata(cosines), rankdata(gold))
+ coefficient(rankdata(cosines), gold)
@ evaluation/statistic.py  evaluation/test_statistic.py
- (drawn + counts.sum(1, keepdims=True)) / 2
+ counts.sum(1, keepdims=True) / 2
- (hits * precision).sum(1) / hits.sum(1)
+ (hits * precision).sum(1) / drawn.sum(1)
- (len(p) - rank) * p[name]
+ (len(p) - rank - 1) * p[name]
- 2 * (rarer + 1) / (len(differences) + 1)
+ 2 * rarer / len(differences)
- tail = 100 * (1 - level) / 2
+ tail = 100 * (1 - level)
@ evaluation/evaluators/retrieval.py  evaluation/test_retrieval.py
- value * (k + 0.5) > 1
+ value * k > 1
@ evaluation/evaluators/retrieval.py  evaluation/test_own_rows.py::test_a_model_that_is_compared_by_distance
- -np.square(vectors).sum(1) / 2
+ -np.square(vectors).sum(1)
@ evaluation/evaluators/pairs.py  evaluation/test_own_rows.py
- right = [similarity[a] > similarity[a + 1 : b].max()
+ right = [similarity[a] >= similarity[a + 1 : b].max()
@ evaluation/evaluators/pairs.py  evaluation/test_pairs.py
- above = cuts + 1
+ above = cuts
@ data/part.py  data/test_part.py evaluation/test_held_out.py
- part["negative"] = place > data.num_positives
+ part["negative"] = place >= data.num_positives
- bool(keys[place] != key)
+ bool(keys[place] == key)
@ data/loader.py  training/test_trainer.py::test_the_same_batches_whatever_the_number_of_processes
- start = part * size + rank * share
+ start = part * size + rank
@ data/loader.py  data/test_samplers.py
- epoch = bisect_right(self._ends, step)
+ epoch = bisect_right(self._ends, step + 1)
@ data/samplers.py  data/test_samplers.py
- generator=torch_rng(seed, "order", epoch)
+ generator=torch_rng(seed, "order")
- room = -(len(rows) + 1) % size
+ room = size - len(rows) % size
- left ^ ((mixed
+ left & ((mixed
- while outside.any():
+ while False:
@ data/views/around.py  data/test_masked.py
- (fate < 0.8)
+ (fate < 0.9)
- (chance < probability) & self.ordinary[original]
+ (chance < probability)
@ data/views/texts.py  data/test_collators.py data/test_data.py
- view_mask=None if bool(present.all()) else present
+ view_mask=None
- python_rng(seed, "sample", epoch, example.row_id)
+ python_rng(seed, "sample", example.row_id)
@ data/mixture.py  data/test_mixture.py
- weight * steps[name] ** power
+ steps[name] ** power
- self._count(self._block(block)[:place])
+ self._count(self._block(block)[: place + 1])
@ batch.py  objectives/test_cosent.py
- ((score >= 0) & (score <= 1)).all()
+ ((score >= 0) & (score < 1)).all()
"""  # noqa: E501


def read(table: str) -> list[Fault]:
    """The faults of a table."""
    found, before = [], ""
    for line in table.splitlines():
        mark, text = line[:1], line[2:]
        if mark == "@":
            file, tests = text.split("  ")
        elif mark == "-" != before:
            found.append(Fault(file, text, "", tests))
        elif mark == "-":
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{text}")
        else:
            found[-1] = found[-1]._replace(wrong=text if before == "-" else f"{found[-1].wrong}\n{text}")
        before = mark
    return found


FAULTS = read(TABLE)


def stale(fault: Fault) -> bool:
    """Whether the text of a fault does not stand in its file once."""
    file = ROOT / "cse" / fault.file
    return not file.is_file() or file.read_text(encoding="utf-8").count(fault.text) != 1


def run(copy: Path, tests: Sequence[str]) -> int | None:
    """The exit code of pytest in the copy, in a fork of this process; None if it takes too long."""
    child = os.fork()
    if not child:
        _work(copy, tests)
    os.setpgid(child, child)
    done, until = 0, time.monotonic() + SECONDS
    try:
        while not done and time.monotonic() < until:
            time.sleep(0.02)
            done, status = os.waitpid(child, os.WNOHANG)
    finally:
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if done else None


def _work(copy: Path, tests: Sequence[str]) -> None:
    """Run pytest and end this process."""
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    said = os.open(copy / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    code = 70
    try:
        import pytest

        code = int(
            pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *(f"tests/{t}" for t in tests)])
        )
    finally:
        sys.stdout.flush()
        os._exit(code)


def plant(copy: Path, fault: Fault) -> int | None:
    """The exit code of the tests of a fault while it is planted."""
    file = copy / "cse" / fault.file
    before, times = file.read_text(encoding="utf-8"), file.stat()
    file.write_text(before.replace(fault.text, fault.wrong), encoding="utf-8")
    os.utime(file, (2e9, 2e9))  # so that no compiled file passes for the new one's
    try:
        return run(copy, fault.tests.split())
    finally:
        file.write_text(before, encoding="utf-8")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def chosen(numbers: str) -> list[int]:
    """The numbers of `3,17-20`, from 1; all of them for an empty text."""
    if not numbers:
        return list(range(1, len(FAULTS) + 1))
    ends = [[int(end) for end in part.split("-")] for part in numbers.split(",")]
    return [number for first, *last in ends for number in range(first, (last or [first])[0] + 1)]


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _said(copy: Path) -> str:
    """The last lines of what pytest said."""
    return "\n".join((copy / "said.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def main() -> int:
    """Plant the faults, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="N,N-N", help="the numbers of some faults, from 1")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    options = parser.parse_args()
    wanted = [(number, FAULTS[number - 1]) for number in chosen(options.only)]
    if options.list:
        for number, fault in wanted:
            say(f"{number:3} {fault.file}: {fault.text.strip()!r} -> {fault.wrong.strip()!r}; {fault.tests}")
        return 0
    old = [number for number, fault in wanted if stale(fault)]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="cse-mutations-") as folder:
        copy = Path(folder, "cse")
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() not in (ROOT, ROOT / "tests")]
        for module in OUTSIDE:  # once, for all forks; none of ours
            __import__(module)
        asked = sorted({word for number, fault in wanted if number not in old for word in fault.tests.split()})
        if asked and run(copy, asked) != 0:
            say(f"the tests do not pass before a fault is planted:\n{_said(copy)}")
            return 1
        survived = []
        for number, fault in wanted:
            if number in old:
                say(f"{number:3} stale     {fault.file}: {fault.text.strip()!r}")
                continue
            began, code = time.monotonic(), plant(copy, fault)
            caught = code in (1, 2, None)  # a test failed, collecting them did, or they wait for ever
            survived += [] if caught else [number]
            said = "caught  " if caught else "SURVIVED" if code == 0 else f"code {code}"
            say(
                f"{number:3} {said}  {time.monotonic() - began:5.1f} s  {fault.file}: {fault.wrong.strip()!r}",
            )
            if code not in (0, 1, None):
                say(_said(copy))
    say(f"{len(wanted) - len(old) - len(survived)} of {len(wanted)} caught; survived: {survived}; stale: {old}")
    return 1 if survived or old else 0


if __name__ == "__main__":
    sys.exit(main())
