"""One function over many items in threads."""

import time

import pytest

from csr.runtime.thread_map import AHEAD, in_threads, mapped


def test_results_come_in_the_order_of_the_items_whichever_is_done_first():
    def wait(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    assert list(in_threads(wait, range(20), workers=4)) == list(range(20))
    assert list(mapped(wait, iter(range(5)), workers=2, total=5, title="test")) == list(range(5))


def test_items_are_taken_a_few_ahead_of_the_results():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_threads(str, items(), workers=2)
    assert taken == []
    assert [next(results), next(results)] == ["0", "1"] and len(taken) == 2 * AHEAD + 2
    results.close()
    assert len(taken) == 2 * AHEAD + 2


def test_the_first_exception_in_order_ends_the_iteration():
    results = in_threads(lambda number: 1 // (number - 1), range(5), workers=2)
    assert next(results) == -1
    with pytest.raises(ZeroDivisionError):
        next(results)
