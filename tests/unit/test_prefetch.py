import threading
import time

import pytest

from topnine.pipeline.prefetch import map_ahead


def test_results_come_in_order_whatever_the_threads_do():
    def slow_when_even(i):
        time.sleep(0.002 * (i % 2 == 0))
        return i

    assert list(map_ahead(slow_when_even, range(50), threads=4, limit=8)) == list(range(50))


def test_it_never_runs_further_ahead_than_it_may():
    begun = []
    results = map_ahead(lambda i: begun.append(i) or i, range(100), threads=4, limit=5)
    for expected in range(20):
        assert next(results) == expected
        time.sleep(0.002)
        assert len(begun) <= expected + 6
    results.close()


def test_an_error_is_raised_where_its_result_was_due():
    results = map_ahead(lambda i: 1 // (3 - i), range(6), threads=2, limit=4)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_its_threads():
    results = map_ahead(lambda i: i, range(1000), threads=3, limit=10)
    next(results)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_what_the_items_raise_is_raised_and_never_taken_for_their_end(kind):
    def items():
        yield from range(3)
        raise kind("no more")

    results = map_ahead(lambda i: i, items(), threads=2, limit=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind, match="no more"):
        next(results)


def test_chained_maps_end_together_and_the_first_does_not_wait_for_the_last():
    closed, begun = [], []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    first = map_ahead(lambda i: begun.append(i) or i, items(), threads=2, limit=20)
    second = map_ahead(lambda i: i, first, threads=1, limit=3)
    assert next(second) == 0
    deadline = time.monotonic() + 10
    while len(begun) < 23 and time.monotonic() < deadline:  # its own limit, and what the second has taken
        time.sleep(0.005)
    assert 23 <= len(begun) <= 25
    second.close()
    assert closed == [True]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_limit_is_one_of_weights_and_what_is_heavier_goes_alone():
    running, most, lock = set(), [0], threading.Lock()

    def work(weight):
        with lock:
            running.add(weight)
            most[0] = max(most[0], sum(running))
        time.sleep(0.005)
        with lock:
            running.remove(weight)
        return weight

    weights = [*range(1, 8), 50, *range(8, 12)]
    assert list(map_ahead(work, weights, threads=8, limit=12, weigh=int)) == weights
    assert most[0] == 50  # alone: with any other it would have been more
