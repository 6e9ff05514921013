"""The report as one HTML file that needs nothing beside itself.

Every text that is not of this program is escaped and stands apart, so that neither its markup nor
its direction does anything to the page; and the page lets no script run at all.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from memory.growth import Growth
from serve.ledger import day_text
from serve.report_charts import Line, chart

Row = dict[str, Any]
_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'"
)
_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.2rem; border-top: 1px solid #8886; padding-top: .8rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: .8rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; } figcaption { font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; } td { font-variant-numeric: tabular-nums; }
th, td { overflow-wrap: normal; } th { font-weight: 600; } p.soft { opacity: .75; }
"""


@dataclass(frozen=True)
class Told:
    """What a report is about: totals and days as `agents.outcomes.Tally.told` gives them, days with
    their date; memory; from when to when it was asked for; and when it was made."""

    totals: Sequence[Row]
    days: Sequence[Row]
    memory: Sequence[Growth]
    since: str | None
    until: str | None
    made_at: float


@dataclass(frozen=True)
class _Column:
    title: str
    key: str
    show: Callable[[Any], str]


def _number(form: str) -> Callable[[Any], str]:
    return lambda value: "-" if value is None else form.format(value)


_COLUMNS: Final = (
    _Column("runs", "runs", _number("{:,}")), _Column("cost, USD", "usd", _number("{:.4f}")),
    _Column("USD a completed run", "usd_per_completed", _number("{:.6f}")),
    _Column("automated", "automation_rate", _number("{:.0%}")),
    _Column("escalated", "escalation_rate", _number("{:.0%}")),
    _Column("overridden", "override_rate", _number("{:.0%}")),
    _Column("failed", "failure_rate", _number("{:.0%}")),
    _Column("judged", "judged", _number("{:,}")),
    _Column("accepted", "accepted_rate", _number("{:.0%}")),
    _Column("rated, of 5", "rating_mean", _number("{:.1f}")),
    _Column("p50 s", "seconds_p50", _number("{:.2f}")),
    _Column("p95 s", "seconds_p95", _number("{:.2f}")),
)  # fmt: skip
# A chart's caption, what its axis counts, its end, and its lines.
_CHARTS: Final[tuple[tuple[str, str, float | None, dict[str, str]], ...]] = (
    ("Cost", "USD a day", None, {"cost": "usd"}),
    ("Automation and overrides", "share", 1.0,
     {"automated": "automation_rate", "overridden": "override_rate"}),
    ("Quality", "share", 1.0,
     {"accepted by people": "accepted_rate", "replies that cite": "recall_cited_rate"}),
    ("Latency", "seconds a run", None, {"p50": "seconds_p50", "p95": "seconds_p95"}),
)  # fmt: skip


def page(told: Told) -> str:
    """The file's text."""
    workflows = [(row["tenant"], row["workflow"]) for row in told.totals]
    parts = [_heading(told), _totals(told.totals)]
    parts += [_workflow(*whose, _of(told.days, *whose)) for whose in workflows]
    parts += [
        _memory(tenant, told.memory) for tenant in dict.fromkeys(g.tenant for g in told.memory)
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="content-security-policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Mainspring: report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _heading(told: Told) -> str:
    made = datetime.fromtimestamp(told.made_at, UTC).strftime("%Y-%m-%d %H:%M")
    begin, end = told.since or "the first run", told.until or "now"
    return (
        f"<h1>What runs came to</h1>\n<p>From {_said(begin)} to {_said(end)}; made {made} UTC."
        " Days are UTC; a run counts on the day on which it ended, and money on the day on which"
        " it was spent.</p>"
    )


def _totals(totals: Sequence[Row]) -> str:
    if not totals:
        return "<p>No run ended in that time.</p>"
    rows = [[f"{_said(r['workflow'])} of {_said(r['tenant'])}", *_cells(r)] for r in totals]
    return "<h2>All workflows</h2>\n" + _table("workflow", rows)


def _workflow(tenant: str, workflow: str, days: Sequence[Row]) -> str:
    dates = [row["day"] for row in days]
    charts = []
    for caption, unit, top, keys in _CHARTS:
        lines: dict[str, Line] = {n: [row[key] for row in days] for n, key in keys.items()}
        charts.append(_figure(caption, dates, lines, unit, top))
    rows = [[escape(row["day"]), *_cells(row)] for row in days]
    return (
        f"<section>\n<h2>{_said(workflow)} of {_said(tenant)}</h2>\n"
        f'<div class="charts">{"".join(charts)}</div>\n'
        f"<details><summary>Day by day</summary>{_table('day', rows)}</details>\n</section>"
    )


def _memory(tenant: str, grown: Sequence[Growth]) -> str:
    mine = [g for g in grown if g.tenant == tenant]
    dates = [day_text(g.day) for g in mine]
    lines: dict[str, Line] = {"records": [float(g.records) for g in mine]}
    rows = [
        [escape(day), f"{g.added:,}", f"{g.removed:,}", f"{g.records:,}"]
        for day, g in zip(dates, mine, strict=True)
    ]
    return (
        f"<section>\n<h2>Memory of {_said(tenant)}</h2>\n"
        f'<div class="charts">{_figure("Records", dates, lines, "records", None)}</div>\n'
        "<details><summary>Day by day</summary>"
        f"{_table('day', rows, ('came', 'went', 'at its end'))}</details>\n</section>"
    )


def _figure(
    caption: str, dates: Sequence[str], lines: dict[str, Line], unit: str, top: float | None
) -> str:
    known = {n: v for n, v in lines.items() if any(one is not None for one in v)}
    if not known:
        nothing = '<p class="soft">nothing was measured</p>'
        return f"<figure><figcaption>{escape(caption)}</figcaption>{nothing}</figure>"
    said = f"{caption}, {unit}: {', '.join(known)} over {len(dates)} days, in the table below"
    picture = chart(dates, known, unit, top)
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<img src="{picture}" alt="{escape(said)}"></figure>'
    )


def _table(first: str, rows: Iterable[Sequence[str]], titles: Sequence[str] | None = None) -> str:
    """A table of cells that are HTML already."""
    names = [first, *(titles or [column.title for column in _COLUMNS])]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="A table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Row) -> list[str]:
    return [escape(column.show(row[column.key])) for column in _COLUMNS]


def _of(days: Sequence[Row], tenant: str, workflow: str) -> list[Row]:
    return [d for d in days if (d["tenant"], d["workflow"]) == (tenant, workflow)]


def _said(text: str) -> str:
    """What somebody chose as a name: its direction ends with it."""
    return f'<bdi dir="auto">{escape(text)}</bdi>'
