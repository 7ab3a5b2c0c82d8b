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
