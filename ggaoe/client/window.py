"""When to send what, and when again: the window and the retransmission of one device's requests.

Sans-I/O: every method that depends on time takes `now_s`, seconds of any clock that only grows.
Owns tags, the estimate of the round trip and the number of requests in flight. Must not know: what
a request is about, or what carries it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

WINDOW_MAX = 64
"""Requests in flight, however many the target offers to hold."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient an initiator is."""

    first_timeout_s: float = 0.5
    """Until a round trip has been measured."""
    timeout_min_s: float = 0.05
    """Below it, a busy machine would look like a lossy network."""
    timeout_max_s: float = 8.0
    deadline_s: float = 30.0
    """From the first copy of a request until it counts as unanswered."""
    new_tag_on_resend: bool = True
    """As Linux does, so that every reply measures a round trip; False: as iPXE does."""


class Request:
    """One request, to be subclassed with what it is about; belongs to one `Window`."""

    __slots__ = ("copies", "deadline_s", "expires_s", "once_s", "sent_s", "tags")

    def __init__(self, once_s: float | None = None) -> None:
        self.once_s = once_s
        """Where given: sent once only, and given up after so many seconds."""
        self.copies = 0
        self.tags: list[int] = []
        self.deadline_s = 0.0
        self.sent_s = 0.0
        self.expires_s = 0.0


R = TypeVar("R", bound=Request)


class RoundTrip:
    """Smoothed round trip time and its deviation, as TCP reckons them (RFC 6298)."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._smoothed_s: float | None = None
        self._deviation_s = 0.0
        self.timeout_s = timing.first_timeout_s

    def sample(self, seconds: float) -> None:
        if self._smoothed_s is None:
            self._smoothed_s = seconds
            self._deviation_s = seconds / 2
        else:
            self._deviation_s += (abs(seconds - self._smoothed_s) - self._deviation_s) / 4
            self._smoothed_s += (seconds - self._smoothed_s) / 8
        timeout_s = self._smoothed_s + 4 * self._deviation_s
        self.timeout_s = max(self._timing.timeout_min_s, min(timeout_s, self._timing.timeout_max_s))


class Window(Generic[R]):
    """The requests to one device: waiting, in flight, or overdue.

    The window halves when replies fail to come, and grows by one request per window answered.
    """

    def __init__(self, timing: Timing, next_tag: Callable[[], int]) -> None:
        self._timing = timing
        self._next_tag = next_tag
        self._size_max = 1
        self._size = 1.0
        self._waiting: OrderedDict[R, None] = OrderedDict()
        self._overdue: OrderedDict[R, None] = OrderedDict()
        self._flight: dict[R, None] = {}
        self._copies: dict[int, tuple[R, float]] = {}
        self._loss_settled_s = 0.0
        self.round_trip = RoundTrip(timing)

    @property
    def size(self) -> int:
        """Requests that may be in flight now."""
        return int(self._size)

    @property
    def in_flight(self) -> int:
        return len(self._flight)

    def offer(self, requests_max: int) -> None:
        """The target's buffer count: a growing one takes effect at once, a smaller one as well."""
        size_max = max(1, min(requests_max, WINDOW_MAX))
        if size_max > self._size_max or size_max < self._size:
            self._size = size_max
        self._size_max = size_max

    def submit(self, request: R) -> None:
        """Queue it; `take` will hand it out."""
        self._waiting[request] = None

    def withdraw(self, request: R) -> None:
        """Forget it, wherever it is; copies already sent may still take effect."""
        for place in (self._flight, self._overdue, self._waiting):
            place.pop(request, None)
        for tag in request.tags:
            self._copies.pop(tag, None)

    def take(self, now_s: float) -> list[tuple[int, R]]:
        """The copies to send now, each with its tag: those overdue first."""
        copies = []
        while len(self._flight) < self.size and (self._overdue or self._waiting):
            request, _ = (self._overdue or self._waiting).popitem(last=False)
            if request.copies == 0:
                request.deadline_s = now_s + (request.once_s or self._timing.deadline_s)
            if request.copies == 0 or self._timing.new_tag_on_resend:
                request.tags.append(self._next_tag())
            tag = request.tags[-1]
            timeout_s = request.once_s or min(
                self.round_trip.timeout_s * 2**request.copies, self._timing.timeout_max_s
            )
            request.copies += 1
            request.sent_s = now_s
            request.expires_s = min(now_s + timeout_s, request.deadline_s)
            self._copies[tag] = (request, now_s)
            self._flight[request] = None
            copies.append((tag, request))
        return copies

    def find(self, tag: int) -> R | None:
        """The request of which a copy has this tag, if it is still unanswered."""
        copy = self._copies.get(tag)
        return copy[0] if copy else None

    def answered(self, tag: int, now_s: float) -> None:
        """The copy with this tag was answered; whichever copy it is, the request is done."""
        request, sent_s = self._copies[tag]
        if request.copies == 1 or self._timing.new_tag_on_resend:
            # With one tag for all copies nobody can tell which of them was answered.
            self.round_trip.sample(now_s - sent_s)
        self._size = min(self._size + 1 / self._size, self._size_max)
        self.withdraw(request)

    def expire(self, now_s: float) -> list[R]:
        """Queue again what has waited too long; returns the requests that are given up."""
        late = [request for request in self._flight if now_s >= request.expires_s]
        for request in late:
            del self._flight[request]
            self._overdue[request] = None
        if late and now_s >= self._loss_settled_s:
            self._size = max(1.0, self._size / 2)
            self._loss_settled_s = now_s + self.round_trip.timeout_s
        given_up = [request for request in self._overdue if now_s >= request.deadline_s]
        for request in given_up:
            self.withdraw(request)
        return given_up

    def next_event_s(self) -> float | None:
        """When to call `expire` next; None while nothing is under way."""
        times = [request.expires_s for request in self._flight]
        times += [request.deadline_s for request in self._overdue]
        return min(times, default=None)
