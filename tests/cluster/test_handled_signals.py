"""Signals are handled while a block runs; a hang-up that is ignored, and only that, stays ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from csr.cluster.handled_signals import handled

NUMBERS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT, signal.SIGUSR1), NUMBERS])
def test_what_was_ignored_is_heard_but_for_a_hang_up(ignored):
    heard = []
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    with handled(NUMBERS, lambda number, _: heard.append(number)):
        for number in NUMBERS:
            os.kill(os.getpid(), number)
    left_alone = {signal.SIGHUP} & {*ignored}
    assert heard == [number for number in NUMBERS if number not in left_alone]
    for number in NUMBERS:
        assert signal.getsignal(number) == (signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def test_handlers_are_as_before_after_an_error():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with pytest.raises(ValueError, match="inside"), handled(NUMBERS, lambda *_: None):
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
