"""Boards as Grafana's JSON, by its own typed builders (the Foundation SDK).

Needs the extra `grafana`.
"""

import json
from itertools import count
from typing import Any, Final, cast

from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, ThresholdsConfig
from grafana_foundation_sdk.builders.dashboard import Row as RowPanel
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from cluster.board import Board, Panel

SOURCE: Final = "mainspring-prometheus"
TAG: Final = "mainspring"
_SPANS: Final = {"line": 8, "number": 3, "table": 8}
_HEIGHTS: Final = {"line": 8, "number": 4, "table": 8}


def drawn(board: Board) -> dict[str, Any]:
    """The board's JSON model, the same for the same board."""
    made = (
        Dashboard(f"Mainspring: {board.title}")
        .uid(board.uid)
        .tags([TAG])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .editable()
    )
    if board.variable is not None:
        made = made.with_variable(_variable(*board.variable))
    ids = count(1)
    for row in board.rows:
        made = made.with_row(RowPanel(row.title).id(next(ids)))
        for panel in row.panels:
            made = made.with_panel(_panel(panel).id(next(ids)))
    return cast(dict[str, Any], json.loads(JSONEncoder(sort_keys=True).encode(made.build())))


def _source() -> DataSourceRef:
    return DataSourceRef("prometheus", SOURCE)


def _variable(label: str, metric: str) -> QueryVariable:
    return (
        QueryVariable(label)
        .label(label)
        .query(f"label_values({metric}, {label})")
        .datasource(_source())
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> Timeseries | Stat | Table:
    made = _form(panel)
    made = (
        made.title(panel.title)
        .unit(panel.unit)
        .datasource(_source())
        .span(_SPANS[panel.kind])
        .height(_HEIGHTS[panel.kind])
    )
    if panel.about:
        made = made.description(panel.about)
    if panel.warn is not None:
        made = made.thresholds(_red_from(panel.warn))
    for place, (expression, legend) in enumerate(panel.queries):
        made = made.with_target(_query(panel, expression, legend).ref_id(chr(ord("A") + place)))
    return made


def _form(panel: Panel) -> Timeseries | Stat | Table:
    if panel.kind == "number":
        return Stat()
    if panel.kind == "table":
        return Table()
    all_lines = VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    named = VizLegendOptions().show_legend(True)
    return Timeseries().tooltip(all_lines).legend(named).fill_opacity(5).min(0)


def _query(panel: Panel, expression: str, legend: str) -> Dataquery:
    made = Dataquery().expr(expression).legend_format(legend or "__auto")
    if panel.kind == "line":
        return made.range()
    made = made.instant()
    return made.format(PromQueryFormat.TABLE) if panel.kind == "table" else made


def _red_from(value: float) -> ThresholdsConfig:
    # The first step has no value: it holds from minus infinity on.
    steps = [Threshold(color="green"), Threshold(value=value, color="red")]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
