"""Rate limits and caps against a clock that stands still until it is told to move; and the answers on disk."""

import threading

import pytest

from cse.feedback.meter import Halted, Limits, Meter, Stop
from cse.feedback.store import Reply, Store, key_of
from tests.refusals import refuses


class Clock(threading.Event):
    """Time passes only while somebody waits."""

    def __init__(self):
        super().__init__()
        self.seconds = 0.0

    def wait(self, timeout=None):
        self.seconds += timeout
        return self.is_set()


def metered(**limits):
    clock = Clock()
    return Meter(Limits(**limits), clock=lambda: clock.seconds, halted=clock), clock


def times(meter, clock, requests):
    found = []
    for size in requests:
        meter.admit(size, 0)
        meter.settle((size, 0), (size, 0))
        found.append(clock.seconds)
    return found


def test_requests_a_minute():
    assert times(*metered(requests_per_minute=2), [0] * 5) == pytest.approx([0, 0, 60, 60, 120])


def test_a_wish_to_wait_holds_everybody():
    meter, clock = metered()
    meter.hold(7.5)
    meter.hold(2.0)  # a shorter one does not shorten it
    assert times(meter, clock, [0, 0]) == pytest.approx([7.5, 7.5])


def test_caps_stop_before_they_are_passed():
    meter, clock = metered(max_requests=3)
    assert len(times(meter, clock, [0, 0, 0])) == 3
    with pytest.raises(Stop, match=r"3 requests.*--max-requests"):
        meter.admit(0, 0)
    meter, _ = metered(max_cost=0.01, price_in=10.0, price_out=100.0)
    meter.admit(500, 50)  # 0.005 + 0.005
    meter.settle((500, 50), (500, 49))
    with pytest.raises(Stop, match=r"\$0.01"):
        meter.admit(0, 2)
    meter.admit(0, 1)


def test_a_reservation_is_waited_for_and_given_back():
    meter, _ = metered(max_cost=100, price_in=1e6, price_out=1e6)  # a dollar for each token
    meter.admit(10, 80)
    meter._clock = lambda: 0.0
    waits = []

    def wait(seconds):
        waits.append(seconds)
        meter.settle((10, 80), (10, 20))  # it took less

    meter.halted.wait = wait
    meter.admit(10, 60)  # 30 + 70
    assert len(waits) == 1
    assert (meter.used.requests, meter.used.tokens_in, meter.used.tokens_out) == (2, 10, 20)


def test_who_waits_is_woken_when_the_job_ends():
    meter, clock = metered()
    clock.set()
    with pytest.raises(Halted):
        meter.admit(0, 0)


# The store
def test_answers_come_back_and_the_first_stays(tmp_path):
    path = tmp_path / "a" / "answers.sqlite"
    first = Reply('{"x": "ü"}', "length", 3, 4, True, "2026-01-02T03:04:05Z")
    keys = [key_of(i) for i in range(1200)]
    store = Store(path)
    store.put([(keys[0], first)])
    store.put([(key, Reply(str(i))) for i, key in enumerate(keys)])
    store.fault(keys[1], "http_500")
    store.fault(keys[1], "http_500")
    store.fault(keys[1100], "timeout")
    store.close()
    store = Store(path)
    found = store.get([*keys, "not there"])
    assert len(found) == 1200
    assert found[keys[0]] == first
    assert found[keys[1199]].text == "1199"
    assert store.faults(keys) == {"http_500": 2, "timeout": 1}
    assert store.faults(keys[:1]) == {}


def test_keys_tell_everything_apart():
    addresses = [("m", {"t": 0.0}, ["score", 1, "abc"], {"text_a": "x"}, 0)]
    addresses += [("n", *addresses[0][1:]), ("m", {"t": 0.1}, *addresses[0][2:]), (*addresses[0][:4], 1)]
    addresses += [(*addresses[0][:2], ["score", 2, "abc"], *addresses[0][3:]), (*addresses[0][:3], {"text_b": "x"}, 0)]
    assert len({key_of(*address) for address in addresses}) == len(addresses)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "answers.sqlite").write_text("no database at all, whatever it says " * 9)
    refuses("--cache", Store, tmp_path / "answers.sqlite")


def test_answers_that_cannot_be_kept_end_the_job(tmp_path):
    store = Store(tmp_path / "answers.sqlite")
    store._database.execute("PRAGMA query_only = 1")
    refuses("cannot be written", store.put, [("key", Reply("text"))])
