"""How far a long command is, on standard error.

Owns the bar on a terminal, the lines elsewhere, rate and remaining time. Must not know what is
being done.
"""

from __future__ import annotations

import sys
import time

from ggaoe.units import format_size

DRAW_INTERVAL_S = 0.2
LINE_PERCENT = 10
"""Distance between two lines where there is no terminal to draw a bar on."""
BAR_CHARS = 30


class Progress:
    """Bytes done out of a total. A bar on a terminal, otherwise a line at each tenth."""

    def __init__(self, *, quiet: bool) -> None:
        self.done_bytes = 0
        self._skipped_bytes = 0
        self._total_bytes: int | None = None
        self._quiet = quiet
        self._is_terminal = sys.stderr.isatty()
        self._start_s = self._drawn_s = time.monotonic()
        self._percent_printed = 0
        self._bar_is_open = False

    def begin(self, total_bytes: int | None, skipped_bytes: int = 0) -> None:
        """Start the clock. `total_bytes` is None for a pipe; `skipped_bytes` of the total were done
        by an earlier run and count for the percentage, not for the rate."""
        self._total_bytes = total_bytes
        self.done_bytes = self._skipped_bytes = skipped_bytes
        self._start_s = self._drawn_s = time.monotonic()
        self._percent_printed = self._percent() // LINE_PERCENT * LINE_PERCENT

    def advance(self, size_bytes: int) -> None:
        """Count `size_bytes` more, and show it if it is time to."""
        self.done_bytes += size_bytes
        if self._quiet:
            return
        if self._is_terminal:
            if time.monotonic() - self._drawn_s >= DRAW_INTERVAL_S:
                self._drawn_s = time.monotonic()
                self._bar_is_open = True
                print(
                    f"\r{self._bar()}{self._figures()}\x1b[K", end="", file=sys.stderr, flush=True
                )
        elif self._percent() >= self._percent_printed + LINE_PERCENT:
            self._percent_printed = self._percent()
            print(f"{self._percent():3d}% {self._figures()}", file=sys.stderr)

    def end_bar(self) -> None:
        """Leave the cursor on a line of its own, whatever is printed next."""
        if self._bar_is_open:
            self._bar_is_open = False
            print(file=sys.stderr, flush=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since `begin`, never 0."""
        return max(time.monotonic() - self._start_s, 1e-6)

    @property
    def bytes_per_s(self) -> float:
        """Mean rate of this run."""
        return (self.done_bytes - self._skipped_bytes) / self.elapsed_s

    def _percent(self) -> int:
        return 100 * self.done_bytes // self._total_bytes if self._total_bytes else 0

    def _bar(self) -> str:
        if not self._total_bytes:
            return ""
        full = BAR_CHARS * self._percent() // 100
        return f"[{'#' * full}{'.' * (BAR_CHARS - full)}] {self._percent():3d}% "

    def _figures(self) -> str:
        done = format_size(self.done_bytes)
        rate = f"{format_size(int(self.bytes_per_s))}/s"
        if not self._total_bytes:
            return f"{done}, {rate}"
        left_bytes = self._total_bytes - self.done_bytes
        left = f", {format_left(left_bytes / self.bytes_per_s)} left" if self.bytes_per_s else ""
        return f"{done} of {format_size(self._total_bytes)}, {rate}{left}"


def format_left(seconds: float) -> str:
    """`7 s`, `3 min 05 s` or `2 h 05 min`: a remaining time."""
    whole_s = round(seconds)
    if whole_s < 60:
        return f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60:02d} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60:02d} min"
