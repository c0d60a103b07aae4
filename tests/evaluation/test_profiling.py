from types import SimpleNamespace

import pytest

from eval import profiling


def event(name, microseconds, *shapes):
    return SimpleNamespace(name=name, self_cpu_time_total=microseconds, input_shapes=list(shapes))


def test_operations_and_shares_by_pencil():
    events = [
        event("aten::mm", 200_000, [3, 4], [4, 5]),  # 2 x 3 x 4 x 5 operations
        event("aten::addmm", 200_000, [5], [3, 4], [4, 5], [], []),
        event("aten::bmm", 100_000, [2, 3, 4], [2, 4, 5]),
        event("aten::_softmax", 100_000, [3, 4]),
        event("aten::gelu", 100_000, [3, 4]),
        event("aten::copy_", 50_000, [3, 4], [3, 4]),
        event("Optimizer.step#AdamW.step", 20_000),
        event("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 30_000),
        event("aten::view", 40_000, [3, 4]),  # nothing is computed
    ]
    shares, operations = profiling.divided(events, 1.0)
    assert operations == 240
    assert shares == pytest.approx(
        {
            "products": 0.4,
            "attention": 0.2,
            "optimizer": 0.02,
            "data": 0.03,
            "copies": 0.05,
            "pointwise": 0.1,
            "the rest": 0.2,  # the view, and the 0.16 s in no operation
        }
    )
