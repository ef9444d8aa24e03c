"""Tables and plots of a run's figures: on the terminal, in README.md, as SVG.

`python bench/report.py` makes README.md and the plots again from recorded figures: each case has
those of the newest run that measured it. Owns: medians, ratios, Markdown, SVG. Must not know: how
anything was measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

from cases import GOALS, Goal

BENCH = Path(__file__).parent
RESULTS = BENCH / "results"
BEGIN, END = "<!-- made by report.py -->", "<!-- end of what report.py made -->"
YARDSTICK = "vblade"

# Column, figure of a round, its divisor, digits.
COLUMNS = (
    ("k requests/s", "iops", 1000, 1),
    ("MB/s", "mb_per_s", 1, 0),
    ("p50 µs", "p50_us", 1, 1),
    ("p99 µs", "p99_us", 1, 1),
    ("p99.9 µs", "p99_9_us", 1, 0),
    ("CPU µs", "cpu_us", 1, 2),
    ("load idle %", "empty_polls", 0.01, 0),
)

PLOTS = (
    ("iops.svg", "Thousand requests per second (more is better)", "iops", 1000),
    ("p99.svg", "99th percentile of latency, µs (less is better)", "p99_us", 1),
    ("cpu.svg", "Processor time of the target per request, µs (less is better)", "cpu_us", 1),
)
COLOURS = ("#8a8f98", "#1f6feb", "#79a8f2", "#b7cdf2", "#d9a441", "#b8741a")
LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH = 300, 420, 80  # px
BAR_HEIGHT, CASE_GAP, HEAD_HEIGHT = 14, 14, 40

Cases = dict[str, dict[str, Any]]


def case_record(
    key: str,
    title: str,
    rounds: Mapping[str, Sequence[Mapping[str, float]]],
    skipped: Mapping[str, str],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """A case as it is kept: of each target the figures of every round, or why there are none."""
    return {"key": key, "title": title, "rounds": rounds, "skipped": skipped, "failed": failed}


def median(case: Mapping[str, Any], target: str, metric: str) -> float | None:
    """Of the rounds of one target; None if it was not measured."""
    rounds = case["rounds"].get(target, [])
    values = [figures[metric] for figures in rounds if metric in figures]
    return float(statistics.median(values)) if values else None


def spread_percent(case: Mapping[str, Any], target: str) -> float:
    """How far the rounds' rates lie apart, of their median."""
    rates = [figures["iops"] for figures in case["rounds"][target]]
    return float(100 * (max(rates) - min(rates)) / (statistics.median(rates) or 1))


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """The goals and the figures of `runs`, oldest first, as Markdown."""
    cases = newest_cases(runs)
    described = [line for run in runs if (line := _description(run, cases))]
    goals, figures = _goals(cases), _figures(cases)
    return "\n".join(
        ["\n\n".join(described), "", "### Goals", "", *goals, "", "### Figures", "", *figures]
    )


def newest_cases(runs: Sequence[Mapping[str, Any]]) -> Cases:
    """Every case by its key, from the newest of `runs` that measured it."""
    return {case["key"]: {**case, "date": run["date"]} for run in runs for case in run["cases"]}


def _description(run: Mapping[str, Any], cases: Cases) -> str:
    """How and where those of `cases` were measured that are this run's; empty if there are none."""
    ours = [key for key, case in cases.items() if case["date"] == run["date"]]
    if not ours:
        return ""
    options, host = run["options"], run["machine"]
    if len(ours) == len(cases):
        which = ""
    else:
        which = f" ({', '.join(ours) if len(ours) < len(cases) / 2 else 'the other cases'})"
    realtime = ", target and load with SCHED_FIFO" if options.get("realtime") else ""
    measured = (
        f"Run of {run['date']}{which}: medians of {options['rounds']} rounds of"
        f" {options['seconds']:g} s, {options['size_mib']} MiB served{realtime}."
    )
    where = (
        f"Machine: {host['processors']} x {host['model']}, Linux {host['kernel']},"
        f" load average before {host['load_average_before']:.2f};"
        f" {host['ggaoe']}, Python {host['python']}, vblade {host['vblade']}, {host['fio']}."
    )
    return f"{measured}\n{where}"


def record(results: Mapping[str, Any]) -> None:
    """Keep a run as results/DATE.json, and bring README.md and the plots up to date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{results['date']}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    refresh()


def refresh() -> None:
    """Make the plots, and the part of README.md between the markers, from all recorded runs."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    cases = newest_cases(runs)
    images = []
    for name, title, metric, divisor in PLOTS:
        (RESULTS / name).write_text(plot(cases, title, metric, divisor))
        images += ["", f"![{title}](results/{name})"]
    readme = BENCH / "README.md"
    head, _, rest = readme.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    made = "\n".join([BEGIN, "", tables(runs), *images, "", END])
    readme.write_text(head + made + tail)


def _goals(cases: Cases) -> list[str]:
    lines = ["| goal | wanted | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        value = _value(goal, cases)
        wanted = f"at least {goal.low:g}" if goal.low else f"at most {goal.high:g}"
        if goal.base is not None:
            wanted += " x"
        if value is None:
            lines.append(f"| {goal.text} | {wanted} | – | not measured |")
        else:
            verdict = "met" if goal.low <= value <= goal.high else "**not met**"
            lines.append(f"| {goal.text} | {wanted} | {value:.2f} | {verdict} |")
    return lines


def _value(goal: Goal, cases: Cases) -> float | None:
    figures = [
        median(cases[key], target, goal.metric) if key in cases else None
        for key, target in (goal.ours, goal.base or goal.ours)
    ]
    ours, base = figures
    if ours is None or base is None:
        return None
    if goal.base is None:
        return ours
    return ours / base if base else None


def _figures(cases: Cases) -> list[str]:
    names = [column[0] for column in COLUMNS]
    lines = [
        f"| case | target | {' | '.join(names)} | rate of {YARDSTICK}'s | spread |",
        "|---|---|" + "--:|" * (len(names) + 2),
    ]
    for case in cases.values():
        title = case["title"]
        yardstick = median(case, YARDSTICK, "iops")
        for target in case["rounds"]:
            cells = []
            for _, metric, divisor, digits in COLUMNS:
                value = median(case, target, metric)
                cells.append("" if value is None else f"{value / divisor:.{digits}f}")
            rate = median(case, target, "iops")
            cells.append(f"{rate / yardstick:.2f}" if rate is not None and yardstick else "")
            cells.append(f"{spread_percent(case, target):.0f} %")
            resent = median(case, target, "retransmissions")
            note = f" ({resent:.0f} resent)" if resent else ""
            lines.append(f"| {title} | {target}{note} | {' | '.join(cells)} |")
            title = ""
        absent = [(name, f"skipped: {why}") for name, why in case["skipped"].items()]
        absent += [
            (name, f"**failed**: {why.splitlines()[0]}") for name, why in case["failed"].items()
        ]
        for target, why in absent:
            lines.append(f"| {title} | {target} | {why} |{' |' * (len(names) + 1)}")
            title = ""
    return lines


def plot(cases: Cases, title: str, metric: str, divisor: float) -> str:
    """Horizontal bars, grouped by case; the longest bar of each case has full length."""
    parts = []
    y = HEAD_HEIGHT
    for case in cases.values():
        bars = [(target, median(case, target, metric)) for target in case["rounds"]]
        present = [(target, value / divisor) for target, value in bars if value is not None]
        if not present:
            continue
        parts.append(
            f'<text x="0" y="{y + BAR_HEIGHT - 3}" class="case">{escape(case["title"])}</text>'
        )
        y += BAR_HEIGHT + 4
        longest = max(value for _, value in present) or 1
        for colour, (target, value) in zip(cycle(COLOURS), present, strict=False):
            base, width = y + BAR_HEIGHT - 3, BAR_WIDTH * value / longest
            parts.append(
                f'<text x="{LABEL_WIDTH - 6}" y="{base}" class="name">{escape(target)}</text>'
                f'<rect x="{LABEL_WIDTH}" y="{y + 1}" width="{width:.1f}"'
                f' height="{BAR_HEIGHT - 2}" fill="{colour}"/>'
                f'<text x="{LABEL_WIDTH + width + 5:.1f}" y="{base}">{value:.3g}</text>'
            )
            y += BAR_HEIGHT
        y += CASE_GAP
    width = LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}">\n'
        "<style>text{font:11px sans-serif;fill:#24292f}.name{text-anchor:end}"
        ".case{font-weight:bold}.title{font:bold 14px sans-serif}</style>\n"
        f'<rect width="{width}" height="{y}" fill="#ffffff"/>\n'
        f'<text x="0" y="20" class="title">{escape(title)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    refresh()
