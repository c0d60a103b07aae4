"""The commands of `cse`, one file for each; a new file is found without an edit elsewhere.

The file of a command has its name, and defines `HELP`, `add_arguments(parser)` and `run(arguments, overrides) -> exit
code`. It imports nothing heavy at the top, so that `cse --help` is quick. With `TAKES_OVERRIDES = True`, options of a
recipe are passed to `run`; otherwise they are errors. `ACTIONS` names the subcommands; the first one is the default.
"""

from __future__ import annotations

import argparse


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Declare --device and --precision, the same for every command that encodes."""
    add_device(parser)
    text = "auto is bf16 if the hardware computes it natively"
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare --device."""
    text = "auto is the accelerator of this machine, or the CPU"
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help=text)


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Declare --shard and --shards, the same for every command whose work can be cut."""
    one = "do one of N equal parts, counted from 1; each is complete or absent, and the last one may run first"
    parser.add_argument("--shard", metavar="I/N", help=one)
    every = "do N parts, shared by the processes of --processes, torchrun, srun or an array job of SLURM"
    parser.add_argument("--shards", type=int, metavar="N", help=every)
