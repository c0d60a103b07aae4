"""Runs scenarios on the rehearsed device: `python -m tests.rehearsal OUT.json [PART/PARTS] [NAME ...]`.

It is a process of its own, since the guard must be loaded before torch. OUT.json has a line a scenario: its error, if
it has one, its steps, and the places where the host waits in a step. Without OUT.json it prints the same.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.rehearsal import guard

guard.load()

import contextlib  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from cse.errors import UserError  # noqa: E402
from tests.conftest import WORDS  # noqa: E402
from tests.models import OF_WIKI, save_tiny, save_words  # noqa: E402
from tests.rehearsal import device  # noqa: E402

STEPS = 2
# Options of recipes that two layers, or a batch of 16 rows, do not suit.
SUITED = {
    "micse": ["--objective.first_layer=0", "--objective.last_layer=1"],
    "setcse": ["--trainer.batch_size=18"],
    "pretrain-cotmae": ["--data.words=8"],
    "pretrain-cocondenser": ["--data.words=8"],
}
BF16 = "--trainer.precision=bf16"
VARIANTS = {
    "cached by rows": ["--trainer.chunk_size=4"],
    "cached by tokens": ["--trainer.chunk_tokens=64"],
    "accumulated": ["--trainer.accumulation=2"],
    "recomputed": ["--trainer.gradient_checkpointing=true"],
    "fp16": ["--trainer.precision=fp16"],
    "fp32": ["--trainer.precision=fp32"],
    "tf32": ["--trainer.precision=tf32"],
    "muon": ["--trainer.optimizer=muon"],
    "merged": ["--trainer.initial_weights=0.5"],
    "cutoff": ["--encoder.dropout.token_cutoff=0.2", "--encoder.dropout.feature_cutoff=0.2"],
    "bf16 weights, LoRA": ["--encoder.weights=bf16", "--encoder.adapter=cse.encoder.Lora"],
    "evaluated": ["--evaluator=cse.evaluation.STSEvaluator", "--evaluator.tasks=sts-mini-dev"],
    "workers": ["--trainer.workers=1"],
    "in one order": ["--trainer.deterministic=true"],
}
CACHED = ("promcse-sup", "gistembed", "mocose", "matryoshka")
CAUSAL = ("simcse-unsup", "promcse-unsup", "mocose")


def prepare(folder: Path) -> None:
    """Write a tiny BERT and Llama, a reranker, and 64 texts."""
    from transformers import BertConfig, BertForSequenceClassification

    words = save_words(WORDS + [f"w{i}" for i in range(60)], folder / "words")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 130}
    save_tiny("bert", words, folder / "bert", masked=True, **sizes)
    save_tiny("llama", words, folder / "llama", causal=True, **sizes)
    shutil.copytree(folder / "bert", folder / "reranker")
    config = BertConfig.from_pretrained(folder / "bert", num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder / "reranker")
    texts = (" ".join(WORDS[(i * 5 + k * (i + 3)) % len(WORDS)] for k in range(3 + i % 7)) for i in range(64))
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))


def command(*words: object) -> None:
    """Run a command as a terminal would."""
    from cse import cli

    if code := cli.main([str(word) for word in words]):
        raise SystemExit(f"exit code {code}")


def train(folder: Path, name: str, *more: str, recipe: str, backbone: str = "bert", device: str = "cuda") -> None:
    """Train a recipe for a few steps, as `cse train` does."""
    options = [f"--encoder={folder / backbone}", f"--trainer.device={device}", f"--trainer.max_steps={STEPS}"]
    options += ["--trainer.batch_size=16", f"--trainer.eval_every={STEPS}", "--evaluator=null"]
    options += ["--trainer.initial_weights=ignore", f"--run-dir={folder / 'runs' / name.replace('/', '-')}"]
    command("train", recipe, *options, *more)


def scenarios(folder: Path) -> dict:
    """What is run, by name."""
    from cse import recipe as recipes

    found, texts = {}, f"--data={folder / 'texts.txt'}"
    for name in recipes.names():
        if not name.startswith("paper/"):
            path = recipes.read(recipes.find(name))["data"]["init_args"].get("path", "asset:wiki")
            fetched = path == "asset:wiki" or not path.startswith("asset:")
            source = f"--data.sources.{OF_WIKI.get(name)}.data.path"
            data = [texts.replace("--data", source)] if name in OF_WIKI else [texts] * fetched
            found[name] = partial(train, folder, name, BF16, *data, *SUITED.get(name, []), recipe=name)
    for name, more in VARIANTS.items():
        found[f"simcse-unsup {name}"] = partial(train, folder, name, BF16, texts, *more, recipe="simcse-unsup")
    for name, backbone, more in [
        *((f"{name} cached", "bert", ["--trainer.chunk_size=4"]) for name in CACHED),
        *((f"{name} causal", "llama", []) for name in CAUSAL),
    ]:
        recipe = name.split()[0]
        data = [] if recipe in {"promcse-sup", "gistembed"} else [texts]
        found[name] = partial(train, folder, name, BF16, *data, *more, recipe=recipe, backbone=backbone)
    for name in ("cosent.CoSENT", "angle.AnglE"):
        options = (BF16, f"--objective=cse.objectives.{name}")
        found[f"objective {name}"] = partial(train, folder, name, *options, recipe="angle")
    found["resume"] = partial(resume, folder, texts)
    found["cpu and then cuda"] = partial(two_devices, folder, texts)
    found["gpu-check"] = partial(gpu_check, folder)
    found["tests of a GPU"] = gpu_tests
    return found | inference(folder)


def inference(folder: Path) -> dict:
    """What encodes and searches, with the tiny BERT as it is."""
    model, texts, cuda = folder / "bert", folder / "texts.txt", ("--device", "cuda")
    mine = ("mine", model, "--data", "asset:triplets-mini", "--k", 1, "--ranks", 1, 20, *cuda)
    encode = ("encode", model, texts, *cuda, "--out")
    return {
        "encode": partial(command, *encode, folder / "v.npy"),
        "encode int8": partial(command, *encode, folder / "v8.npy", "--quantize", "int8"),
        "encode windows": partial(command, *encode, folder / "vw.npy", "--windows", 100),
        "encode spans": partial(spans, model),
        "eval": partial(command, "eval", model, "--tasks", "sts-mini", "--out", folder / "scores", *cuda),
        "whiten": partial(command, "whiten", model, "--data", texts, "--out", folder / "white", "--k", 8, *cuda),
        "mine": partial(command, *mine, "--out", folder / "m.jsonl"),
        "mine with a reranker": partial(command, *mine, "--out", folder / "r.jsonl", "--reranker", folder / "reranker"),
        "static": partial(command, "static", model, "--data", texts, "--out", folder / "static", *cuda),
    }


def resume(folder: Path, texts: str) -> None:
    """A run that is killed after its first step goes on from there."""
    from cse.training.trainer import Trainer

    def dies(trainer, *parts, **options):
        if trainer.run.progress.step:
            raise InterruptedError
        return step(trainer, *parts, **options)

    step, Trainer._step = Trainer._step, dies
    try:
        train(folder, "resumed", BF16, texts, "--trainer.eval_every=1", recipe="simcse-unsup")
    except InterruptedError:
        pass
    finally:
        Trainer._step = step
    command("train", "--resume", folder / "runs" / "resumed")


def two_devices(folder: Path, texts: str) -> None:
    """Two runs in one process are each on the device that they ask for; the loss sees float32, also under autocast."""
    from cse.training.learner import Learner

    def watched(learner, batch, encoded, ctx):
        if torch.is_grad_enabled():
            seen.add((encoded.projected.device.type, encoded.projected.dtype))
        return loss(learner, batch, encoded, ctx)

    seen: set[tuple[str, torch.dtype]] = set()
    loss, Learner.loss = Learner.loss, watched
    try:
        for name in ("cpu", "cuda"):
            train(folder, f"on-{name}", BF16, texts, recipe="simcse-unsup", device=name)
            if seen != {(name, torch.float32)}:
                raise device.DeviceError(f"trainer.device is {name}, and the loss saw {seen}")
            seen.clear()
    finally:
        Learner.loss = loss


def gpu_check(folder: Path) -> None:
    """What `make gpu-check` measures, in this process; without a compiler, sentence-transformers and the tests."""
    from eval import bench_train, gpu

    bench_train.alone, bench_train.peer = lambda measure, work: measure(work), bench_train.ours
    gpu._tests = lambda: {"exit_code": 0}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    out = folder / "gpu.json"
    with contextlib.suppress(UserError):
        gpu.check(out, rounds=1, steps=bench_train.WARMUP + 1, sizes=sizes, batches=(8, 16))
    found = json.loads(out.read_text())
    if set(found["failed"]) != {"compiled"}:
        raise device.DeviceError(f"gpu-check failed: {found['failed']}")
    if not {"against sentence-transformers", "bf16", "fp16", "fp32", "waits", "batch 8", "batch 16"} <= found.keys():
        raise device.DeviceError(f"gpu-check measured {sorted(found)} only")


def gpu_tests() -> None:
    """The tests of training that need a GPU, but those of bitsandbytes, of a compiler and of NCCL."""
    words = ["-m", "gpu", "-k", "not bitsandbytes and not compiled and not nccl", "-p", "no:cacheprovider", "-n", "0"]
    if code := pytest.main([*words, str(Path(__file__).parents[1] / "training" / "test_gpu.py")]):
        raise device.DeviceError(f"pytest ends with {code!r}")


def spans(model: Path) -> None:
    """Spans of two texts."""
    from cse.encoder.model import Encoder

    encoder = Encoder.load(str(model)).to("cuda")
    encoder.encode(["the cat sat", "a dog ran fast"], precision="auto", batch_size=1)
    encoder.encode_spans(["the cat sat", "a dog ran fast"], [[(0, 7)], [(2, 5), (6, 9)]])


@contextlib.contextmanager
def phases(steps: list[int]):
    """Within, events are counted by the phase of a run, and `steps` gets an entry a step."""
    from cse.training.trainer import Trainer

    with contextlib.ExitStack() as undo:
        for method, phase in (("_step", "step"), ("_evaluate", "evaluate"), ("rehearse", "setup")):
            plain = getattr(Trainer, method)

            def inside(*parts, plain=plain, phase=phase, **options):
                steps.extend([1] * (phase == "step"))
                with device.EVENTS.within(phase):
                    return plain(*parts, **options)

            undo.callback(setattr, Trainer, method, plain)
            setattr(Trainer, method, inside)
        yield


def report(run, steps: list[int]) -> dict:
    """What happened in a scenario."""
    events, start, error = device.EVENTS.counts, time.perf_counter(), ""
    events.clear()
    steps.clear()
    try:
        run()
    except (Exception, SystemExit) as raised:
        ours = [f for f in traceback.extract_tb(raised.__traceback__) if "/cse/" in f.filename]
        where = f" at {ours[-1].filename.rpartition('/cse/')[2]}:{ours[-1].lineno}" if ours else ""
        error = f"{type(raised).__name__}: {str(raised)[:300]}{where}"

    def a_step(kind: str) -> dict[str, float]:
        """The places of these events in a step, and how often there is one."""
        found = events.most_common()
        return {place: times / len(steps) for (*what, place), times in found if what == ["step", kind]}

    seconds = round(time.perf_counter() - start, 1)
    named = {"waits": a_step("wait"), "copies": a_step("copy")}
    return {"error": error, "steps": len(steps), "seconds": seconds, **named}


def main(words: list[str]) -> None:
    """Run the scenarios that are named, or one of every PARTS of them."""
    out = Path(words.pop(0)) if words and words[0].endswith(".json") else None
    part, parts = map(int, words.pop(0).split("/")) if words and "/" in words[0] and words[0][0].isdigit() else (1, 1)
    steps: list[int] = []
    with tempfile.TemporaryDirectory() as folder, device.cuda(), phases(steps):
        os.environ["CSE_CACHE"] = str(Path(folder, "cache"))
        os.fsync = lambda _: None  # nothing here outlives the process
        prepare(Path(folder))
        gc.freeze()  # a run collects garbage at its end, and would look at every module again
        every = scenarios(Path(folder))
        chosen = [name for i, name in enumerate(every) if name in words or (not words and i % parts == part - 1)]
        found = {}
        for name in chosen:
            found[name] = report(every[name], steps)
            if out is None:
                waits = {kind: round(sum(found[name][kind].values()), 1) for kind in ("waits", "copies")}
                line = f"{name:40} {waits}  {found[name]['seconds']} s  {found[name]['error']}"
                sys.stderr.write(f"{line}\n")
        if out is not None:
            out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
