"""`Window` with a clock of the test's own: what is sent, when again, and when it is given up."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from ggaoe.client.window import WINDOW_MAX, Request, Timing, Window

TIMING = Timing(first_timeout_s=1.0, timeout_min_s=0.1, timeout_max_s=4.0, deadline_s=10.0)


def counter() -> Callable[[], int]:
    return itertools.count(1).__next__


def window_of(size: int, timing: Timing = TIMING) -> Window[Request]:
    window: Window[Request] = Window(timing, counter())
    window.offer(size)
    return window


def submit(window: Window[Request], count: int) -> list[Request]:
    requests = [Request() for _ in range(count)]
    for request in requests:
        window.submit(request)
    return requests


def test_no_more_in_flight_than_the_target_holds() -> None:
    window = window_of(3)
    requests = submit(window, 5)
    first = window.take(0.0)
    assert [request for _, request in first] == requests[:3]
    assert window.take(0.0) == []
    window.answered(first[1][0], 0.2)
    assert [request for _, request in window.take(0.2)] == [requests[3]]


def test_offer_is_capped_and_never_stops_everything() -> None:
    window = window_of(60000)
    submit(window, WINDOW_MAX + 10)
    assert len(window.take(0.0)) == WINDOW_MAX
    window = window_of(0)
    submit(window, 2)
    assert len(window.take(0.0)) == 1


def test_smaller_offer_takes_effect_at_once() -> None:
    window = window_of(8)
    submit(window, 10)
    copies = window.take(0.0)
    window.offer(2)
    for tag, _ in copies[:6]:
        window.answered(tag, 0.1)
    assert window.take(0.1) == []
    window.answered(copies[6][0], 0.1)
    assert len(window.take(0.1)) == 1


def test_overdue_request_is_sent_again_with_a_new_tag() -> None:
    window = window_of(1)
    (request,) = submit(window, 1)
    ((first, _),) = window.take(0.0)
    assert window.next_event_s() == 1.0
    assert window.expire(0.99) == []
    assert window.take(0.99) == []
    assert window.expire(1.0) == []
    ((second, again),) = window.take(1.0)
    assert again is request
    assert second != first
    # It waits twice as long for the second copy.
    assert window.next_event_s() == 3.0


def test_same_tag_if_wanted() -> None:
    window = window_of(1, Timing(first_timeout_s=1.0, new_tag_on_resend=False))
    submit(window, 1)
    ((first, _),) = window.take(0.0)
    window.expire(1.0)
    ((second, _),) = window.take(1.0)
    assert first == second


def test_answer_to_any_copy_counts_once() -> None:
    window = window_of(2)
    (request,) = submit(window, 1)
    ((first, _),) = window.take(0.0)
    window.expire(1.0)
    ((second, _),) = window.take(1.0)
    assert window.find(first) is window.find(second) is request
    window.answered(first, 1.5)
    assert window.find(first) is window.find(second) is None
    assert window.next_event_s() is None
    assert window.in_flight == 0


def test_answer_that_comes_before_the_resend_cancels_it() -> None:
    window = window_of(1)
    submit(window, 1)
    ((tag, _),) = window.take(0.0)
    window.expire(1.0)
    window.answered(tag, 1.0)
    assert window.take(1.0) == []


def test_window_shrinks_once_for_losses_together_and_grows_again() -> None:
    window = window_of(8)
    requests = submit(window, 50)
    window.take(0.0)
    window.expire(1.0)
    assert window.size == 4
    # Those overdue go first.
    copies = window.take(1.0)
    assert [request for _, request in copies] == requests[:4]
    for step in range(40):
        tag, _ = copies.pop(0)
        window.answered(tag, 1.01 + step / 1000)
        copies += window.take(1.01 + step / 1000)
    assert window.size == 8


def test_time_out_follows_the_round_trip() -> None:
    window = window_of(1)
    submit(window, 40)
    for step in range(40):
        ((tag, _),) = window.take(float(step))
        window.answered(tag, step + 0.5)
    assert 0.5 <= window.round_trip.timeout_s < 0.6
    assert window.round_trip.timeout_s >= TIMING.timeout_min_s


def test_one_tag_for_all_copies_measures_nothing() -> None:
    window = window_of(1, Timing(first_timeout_s=1.0, new_tag_on_resend=False))
    submit(window, 1)
    window.take(0.0)
    window.expire(1.0)
    ((tag, _),) = window.take(1.0)
    window.answered(tag, 1.0001)
    assert window.round_trip.timeout_s == 1.0


def test_unanswered_request_is_given_up_at_its_deadline() -> None:
    window = window_of(1)
    first, second = submit(window, 2)
    now_s = 0.0
    given_up: list[Request] = []
    while not given_up:
        window.take(now_s)
        next_s = window.next_event_s()
        assert next_s is not None
        now_s = next_s
        given_up = window.expire(now_s)
    assert given_up == [first]
    assert now_s == TIMING.deadline_s
    # Sent at 0, 1, 3 and 7: the last was not waited for to its end.
    assert first.copies == 4
    # The clock of the next one starts when it is sent.
    assert [request for _, request in window.take(now_s)] == [second]
    assert second.deadline_s == now_s + TIMING.deadline_s


def test_once_means_once() -> None:
    window = window_of(1)
    request = Request(once_s=0.7)
    window.submit(request)
    window.take(0.0)
    assert window.next_event_s() == 0.7
    assert window.expire(0.7) == [request]
    assert window.take(0.7) == []


def test_withdrawn_request_is_forgotten_wherever_it_is() -> None:
    window = window_of(2)
    in_flight, overdue, waiting = submit(window, 3)
    copies = {request: tag for tag, request in window.take(0.0)}
    window.answered(copies[in_flight], 0.0)
    (in_flight,) = submit(window, 1)
    window.withdraw(waiting)
    window.expire(1.0)
    window.withdraw(overdue)
    assert window.find(copies[overdue]) is None
    assert [request for _, request in window.take(1.0)] == [in_flight]
    window.withdraw(in_flight)
    assert window.next_event_s() is None


@given(st.data(), st.integers(1, 80), st.booleans())
def test_every_request_ends_whatever_the_network_does(
    data: st.DataObject, offered: int, new_tag: bool
) -> None:
    timing = Timing(1.0, 0.1, 4.0, 10.0, new_tag_on_resend=new_tag)
    window = window_of(offered, timing)
    left = set(submit(window, data.draw(st.integers(1, 30))))
    network: list[int] = []
    now_s = 0.0
    while left:
        network += [tag for tag, _ in window.take(now_s)]
        assert window.in_flight <= min(offered, WINDOW_MAX)
        fate = data.draw(st.sampled_from(["answer", "duplicate", "lose", "wait"]))
        if network and fate != "wait":
            tag = network[data.draw(st.integers(0, len(network) - 1))]
            if fate != "duplicate":
                network.remove(tag)
            request = window.find(tag)
            if fate != "lose" and request is not None:
                window.answered(tag, now_s)
                left.remove(request)
        else:
            next_s = window.next_event_s()
            assert next_s is not None
            now_s = max(now_s, next_s)
            for request in window.expire(now_s):
                assert now_s >= request.deadline_s
                left.remove(request)
    assert window.next_event_s() is None
    assert window.take(now_s) == []
    assert all(window.find(tag) is None for tag in network)
