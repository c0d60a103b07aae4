"""Commands in processes that start at once: forks of one that has imported everything and computed nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

HEAVY = (
    "transformers.models.bert.modeling_bert",
    "sentence_transformers",
    "accelerate",
    "pandas",
    "datasets",
    "sklearn",
)


class Forks:
    """Runs commands below this process; use it in a `with` block.

    Args:
        more: Variables of the environment, besides those of this process.
    """

    def __init__(self, **more):
        self.more = more

    def __enter__(self):
        environment = {
            **os.environ,
            **self.more,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "SOURCE_DATE_EPOCH": "0",
        }
        command = [sys.executable, "-m", "tests.forks"]
        root = Path(__file__).resolve().parents[1]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.parent = subprocess.Popen(command, cwd=root, env=environment, text=True, **pipes)
        return self

    def __exit__(self, *_):
        self.parent.stdin.close()
        self.parent.wait()

    def run(self, line, folder, cache, seconds=None, until=None):
        """Run a command in a folder, and kill it after so many seconds, or as soon as the file `until` exists.

        Returns:
            The exit code, or -9 if it was killed, and the seconds that it ran.
        """
        self.parent.stdin.write(json.dumps([line, str(folder), str(cache), seconds, until and str(until)]) + "\n")
        self.parent.stdin.flush()
        return json.loads(self.parent.stdout.readline())


def _serve():
    import cse

    for module in walk_packages(cse.__path__, "cse."):
        if module.name not in {"cse.__main__", "cse.publish.verify_child"}:
            with contextlib.suppress(ImportError):
                import_module(module.name)
    for name in HEAVY:
        import_module(name)
    for request in sys.stdin:
        line, folder, cache, seconds, until = json.loads(request)
        began = time.perf_counter()
        child = os.fork()
        if not child:
            _work(line, folder, cache)
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            late = seconds is not None and time.perf_counter() - began > seconds
            if late or (until is not None and os.path.exists(until)):
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                break
            time.sleep(0.002)
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - began]) + "\n")
        sys.stdout.flush()


def _work(line, folder, cache):
    from cse import cli

    os.chdir(folder)
    os.environ["CSE_CACHE"] = cache
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    code = 70
    try:
        code = cli.main(line)
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
