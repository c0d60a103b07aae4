"""Sub-batches by length: optimal against brute force, and within their budget."""

import random

import numpy as np
import pytest
import torch

from cse.encoder.fast import batching
from cse.encoder.fast.batching import chunk_overhead, length_chunks, token_budget_batches


def partitions(items):
    """Every way to cut a set into non-empty parts."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for parts in partitions(rest):
        yield [[first], *parts]
        for i in range(len(parts)):
            yield [*parts[:i], [first, *parts[i]], *parts[i + 1 :]]


def cost(chunks, lengths, overhead):
    return sum(len(rows) * max(lengths[i] for i in rows) + overhead for rows in chunks)


@pytest.mark.parametrize("overhead", [0, 1, 3, 10, 1000])
def test_length_chunks_cost_the_least_of_all_partitions(overhead):
    rng = random.Random(overhead)
    for size in range(8):
        lengths = [rng.randint(1, 9) for _ in range(size)]
        best = min(cost(chunks, lengths, overhead) for chunks in partitions(list(range(size))))
        assert cost(length_chunks(lengths, overhead), lengths, overhead) == best


def test_length_chunks_hold_every_row_once_and_start_with_the_longest():
    rng = random.Random(0)
    lengths = [rng.randint(1, 60) for _ in range(200)]
    chunks = length_chunks(lengths, 48)
    assert sorted(i for rows in chunks for i in rows) == list(range(200))
    longest = [max(lengths[i] for i in rows) for rows in chunks]
    assert longest == sorted(longest, reverse=True)
    assert 1 < len(chunks) < 30


@pytest.mark.parametrize(("tiles", "bf16", "more"), [(False, False, False), (False, True, False), (True, True, True)])
def test_a_sub_batch_costs_more_tokens_where_the_cpu_multiplies_matrices(monkeypatch, tiles, bf16, more):
    monkeypatch.setattr(batching, "_has_tiles", lambda: tiles)
    plain = chunk_overhead(torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        assert (chunk_overhead(torch.device("cpu")) > plain) == more
    assert chunk_overhead(torch.device("cuda")) > plain


@pytest.mark.parametrize("budget", [1, 16, 64, 10_000])
def test_token_budgets_are_respected_and_used(budget):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, size=150)
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(150))
    ends = []
    for rows in batches:
        longest = int(lengths[rows].max())
        ends.append(longest)
        assert len(rows) * longest <= budget or len(rows) == 1
        if rows is not batches[-1]:
            assert (len(rows) + 1) * max(1, longest) > budget  # one more would not have fitted
    assert ends == sorted(ends, reverse=True)


def test_no_rows_make_no_batches():
    assert list(token_budget_batches(np.zeros(0, dtype=np.int64), 10)) == []
