"""What dashboards are made of: the palette, the limits, the kinds of panel, the frame around them.

Every panel is `kind(id, title, description, queries, ...)`. Ids are chosen by hand and never change: links and alerts
point at them. A description tells the question, how to read the answer, and what to do next.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    statetimeline,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import (
    gauge as gauge_builder,
)
from grafana_foundation_sdk.builders import (
    heatmap as heatmap_builder,
)
from grafana_foundation_sdk.builders import prometheus as prometheus_builder
from grafana_foundation_sdk.builders import (
    stat as stat_builder,
)
from grafana_foundation_sdk.builders import (
    table as table_builder,
)
from grafana_foundation_sdk.builders import (
    timeseries as timeseries_builder,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_shapes
from grafana_foundation_sdk.models import prometheus

from dashboards.src.names import ALERTS, LOAD_JOB, RATE, Metric, increase, pick
from exporter import catalog
from exporter.model import Family

# --- the palette: a colour means the same on every board --------------------------------------------------------------

OK, WARN, BAD, NEUTRAL, QUIET = "green", "orange", "red", "blue", "#8e8e99"
"""Well; soon or for some; users are hurt now; a fact that is neither; nothing to see here."""

PALETTE: dict[str, str] = {
    # where a request's time goes, from first to last
    "queue": "yellow", "load": "purple", "prompt": "light-blue", "generate": "dark-blue",
    # states of a server, and what they are called on the wall
    "ok": OK, "stalled": WARN, "starting": "light-blue", "down": BAD, "unseen": QUIET,
    # how a canary ended
    "caused_load": "purple", "empty": "dark-red", "rejected": "dark-orange", "http_error": BAD,
    "malformed": "light-red", "timeout": "semi-dark-orange", "unreachable": "semi-dark-red",
    # why none was sent
    "unused": QUIET, "saturated": WARN, "in_flight": "dark-orange", "stopped": "light-orange",
    "expiring": "light-blue", "replaced": "light-purple", "remote": "super-light-blue", "incapable": "#b7b7c0",
    "old_server": "#6c6c76", "untold": "#51515a",
    # why a reading failed: no connection, no answer, an answer that says no or nothing of use, settings, our mistake
    **dict.fromkeys(("refused", "reset", "unavailable"), "semi-dark-red"), "connect_timeout": "semi-dark-orange",
    **dict.fromkeys(("http_4xx", "http_5xx"), BAD), **dict.fromkeys(("decode", "too_large", "redirect"), "light-red"),
    **dict.fromkeys(("dns", "tls", "forbidden_host"), "light-orange"), "bug": "dark-purple",
    # percentiles
    "p50": "super-light-blue", "p95": NEUTRAL, "p99": "dark-blue",
    # how far back a mean or an alert looks: those that page are blue, those that open a ticket purple
    "1m": "super-light-blue", "5m": "light-blue", "15m": "dark-blue", "1h": NEUTRAL, "6h": "dark-blue",
    "1d": "light-purple", "3d": "dark-purple",
    # what happens to models
    "loads": "purple", "unloads": QUIET, "reconfigurations": "dark-orange",
    # why runners end
    "unloaded": QUIET, "died": BAD, "unknown": "#6c6c76",
    # what is polled
    "/api/version": "light-blue", "/api/ps": "#7a5bd6", "/api/tags": "#119da4",
    # memory and disk
    "GPU memory": "dark-purple", "host memory": "light-purple", "in use": NEUTRAL, "available": OK, "swap": WARN,
    "size": QUIET, "CPUs": QUIET,
    # what CPUs do, and what tasks wait for
    "user": NEUTRAL, "system": "light-blue", "nice": "super-light-blue", "irq": "#b7b7c0", "softirq": QUIET,
    "iowait": "#119da4", "steal": "#c04fc0",
    "cpu some": NEUTRAL, "cpu full": "dark-blue", "memory some": "light-purple", "memory full": "dark-purple",
    "io some": "#5fc9cf", "io full": "#119da4",
    # requests and slots
    "no answer yet": "yellow", "waiting": "yellow", "at least": "#b7b7c0", "at most": "#6c6c76",
    "streaming": "dark-blue", "idle": QUIET, "exporter": "light-purple", "busy": NEUTRAL, "slots": QUIET,
    "reading prompts": "light-blue", "counted": NEUTRAL, "by Little's law": "light-purple",
    # tokens
    "computed": "light-blue", "cached": QUIET, "room": "#6c6c76", "of prompts": "light-blue", "of answers": "dark-blue",
    # how requests were answered
    "2xx": OK, "3xx": "#b7b7c0", "4xx": "light-blue", "499": "yellow", "5xx": BAD, "503": "dark-orange",
    # what a server's log tells of
    "load_failed": "dark-orange", "load_aborted": "light-purple", "load_oom": "semi-dark-orange",
    "runtime_oom": "semi-dark-red", "allocation_failed": "light-orange", "evicted_for_memory": "purple",
    "host_memory_pressure": WARN, "runner_died": BAD, "generation_failed": "light-red", "prompt_truncated": NEUTRAL,
    "context_shift": "light-blue", "context_exceeded": "dark-blue", "client_left_queue": "yellow",
    "parallel_forced": QUIET, "context_clamped": "super-light-blue", "invalid_option": "#b7b7c0",
    "invalid_environment": "#6c6c76", "template_missing": "#51515a", "gpu_discovery_failed": "#c04fc0",
    "crash": "dark-red", "begun": QUIET, "succeeded": "purple",
    "access": "light-orange", "message": "dark-orange", "slot": "light-purple", "timing": "dark-purple",
    # containers and GPUs
    "restarts": "dark-orange", "OOM kills": BAD, "received": NEUTRAL, "sent": "dark-blue",
    "application": NEUTRAL, "device": BAD, "corrected": "light-blue", "uncorrected": "dark-red",
    "power_cap": QUIET, "power_brake": "dark-orange", "software_thermal": "light-red", "hardware_thermal": BAD,
    "hardware_slowdown": "semi-dark-orange", "sync_boost": "#b7b7c0", "clocks_setting": "#6c6c76",
    # load tests
    "offered": QUIET, "answered well": OK, "failed": BAD, "tester": NEUTRAL,
    **dict.fromkeys(("canary", "access lines", "kernel", "runners or logs, 5 min"), "light-purple"),
    "prompts, tester": "light-blue", "prompts, runners": "super-light-blue", "stream_error": "semi-dark-red",
    "truncated": "dark-red", "prompt_cut": "#119da4", "connection": "dark-purple", "client_lag": "yellow",
    "interrupted": "#b7b7c0",
    # severities of alerts
    "critical": BAD, "warning": WARN, "info": NEUTRAL,
}  # fmt: skip

NAMES = (
    "#3274d9", "#c04fb0", "#119da4", "#7a5bd6", "#b39be6", "#4fb3e8",
    "#8f2f80", "#3fb8bf", "#4a3fa8", "#e08fd0", "#0d6f86", "#6c7a96",
)  # fmt: skip
"""For servers, models, instances and whatever else has a name of its own. None is red, orange, yellow or green: those
tell how something is doing."""


def colours_of_names() -> dict[str, str]:
    """A regular expression for each colour; a name that ends in a letter or digit meets one, on every board the same.

    Grafana's own colours by name come out of a palette in which a healthy server may be red. What a regular expression
    can count is the length of a name and its last character; the sum of the two chooses, so that `gpu-1` to `gpu-9`
    differ, and names of different length that end alike.
    """
    return {colour: _summing_to(number) for number, colour in enumerate(NAMES)}


def _summing_to(number: int) -> str:
    size = len(NAMES)
    last = [[one for one in string.ascii_letters + string.digits if ord(one) % size == rest] for rest in range(size)]
    endings = (f"{'.' * before}[{''.join(last[(number - before) % size])}]" for before in range(size))
    return f"/^(?:.{{{size}}})*(?:{'|'.join(endings)})$/"


# --- the limits: the numbers of the objectives and of the alerts ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Steps:
    """Thresholds. `base` is the colour below the first one."""

    base: str
    at: tuple[tuple[float, str], ...] = ()


def over_is_bad(warn: float | None, bad: float | None) -> Steps:
    steps = ((warn, WARN), (bad, BAD))
    return Steps(OK, tuple((value, colour) for value, colour in steps if value is not None))


def under_is_bad(bad: float, ok: float | None = None) -> Steps:
    """Red below `bad`, green from `ok` (or from `bad`) on, orange between."""
    return Steps(BAD, ((bad, OK),) if ok is None else ((bad, WARN), (ok, OK)))


AVAILABILITY, SUCCESS, WITHIN_2S, WITHIN_5S = 0.999, 0.99, 0.95, 0.99
BURN_RATES = {"1h": 14.4, "6h": 6.0, "1d": 3.0, "3d": 1.0}
"""Long window of an alert on the error budget: from which speed on it fires."""

FACT = Steps(NEUTRAL)
SUCCEEDING = under_is_bad(SUCCESS, 0.995)
PROMPT_ENOUGH = under_is_bad(WITHIN_2S)
ANY_IS_BAD = over_is_bad(None, 1)
ANY_IS_ODD = over_is_bad(1, None)
TTFT_LIMITS = over_is_bad(2.0, 5.0)
WAITED_LIMITS = over_is_bad(0.05, 0.5)
LOAD_LIMITS = over_is_bad(30, None)
WAIT_LIMITS = over_is_bad(2.0, 10.0)
SATURATION_LIMITS = over_is_bad(0.5, 0.9)
SPEED_LIMITS = under_is_bad(10.0, 20.0)
PER_TOKEN_LIMITS = over_is_bad(0.05, 0.1)
LOADS_LIMITS = over_is_bad(6, None)
RECONFIGURATION_LIMITS = over_is_bad(3, None)
GPU_SHARE = Steps(NEUTRAL, ((0.001, WARN), (0.98, OK)))
OLDEST_LIMITS = over_is_bad(180, 600)
FULL_CONTEXT = over_is_bad(0.9, None)
CRASH_LIMITS = Steps(OK, ((0.5, WARN), (2.5, BAD)))
CONTAINER_MEMORY = over_is_bad(0.95, None)
CONTAINER_THROTTLED = over_is_bad(0.5, None)
GPU_MEMORY = over_is_bad(0.98, None)
GPU_HEAT = over_is_bad(87, None)
MEMORY_LEFT = under_is_bad(0.08, 0.15)
STORE_LEFT = under_is_bad(0.05, 0.1)
CLOCK_LIMITS = Steps(WARN, ((-10, OK), (10, WARN)))
STALE = over_is_bad(120, 600)
CANARY_AGE = over_is_bad(600, 1800)
PENDING_LIMITS = over_is_bad(60, 300)
LAG_LIMITS = over_is_bad(0.1, 1.0)

SPENT = "Spent"
NO_TRAFFIC = "No traffic"
NO_DATA = "No data from this source"
NEEDS_SOCKETS, NEEDS_RUNNER, NEEDS_LOGS, NEEDS_AUDIT, NEEDS_NATIVE = (
    f"Needs the source {source}" for source in ("sockets", "runner", "logs", "audit", "native")
)
NEEDS_DOCKER, NEEDS_GPU, NEEDS_NVIDIA = (
    "No container, or no source docker",
    "No GPU, or no source gpu",
    "No NVIDIA GPU seen",
)
"""These sources may see well that there is nothing."""
NEEDS_METRICS = "Needs LLAMA_ARG_ENDPOINT_METRICS=1"
NEEDS_BOTH = "Needs the sources sockets and runner"
MISSING = "–"
"""In a cell, which has no room for a sentence."""

CANARY_STEP = "2m"
"""Least step of a panel on canaries: they come once a minute, so that a shorter rate sees one or none."""

LAST_HALF_HOUR = "30m"

# --- units ------------------------------------------------------------------------------------------------------------

_UNITS = {
    "seconds": "s", "bytes": "bytes", "ratio": "percentunit", "tokens": "none", "watts": "watt", "joules": "joule",
    "celsius": "celsius", "per second": "cps", "": "short",
}  # fmt: skip
SHARE, SECONDS, BYTES, COUNT, TOKENS_PER_SECOND = "percentunit", "s", "bytes", "short", "suffix:tok/s"
WATTS, JOULES, CELSIUS = "watt", "joule", "celsius"
PLAIN = "none"
"""A number that is written out, such as a context of 2048 tokens."""
WORDS = "string"
"""For labels: a digest that happens to be made of digits is no number, and neither is a version."""


def unit_of(metric: Metric) -> str:
    return _UNITS[metric.unit]


# --- queries ----------------------------------------------------------------------------------------------------------

Shape = Literal["range", "instant", "table", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """A question in PromQL, and how its answers are called."""

    expr: str
    legend: str = ""
    hide: bool = False


Queries = Query | str | Sequence[Query | str]


def _queries(queries: Queries) -> list[Query]:
    given: Sequence[Query | str] = (queries,) if isinstance(queries, Query | str) else queries
    return [Query(query) if isinstance(query, str) else query for query in given]


def _targets(queries: Queries, shape: Shape) -> Iterable[prometheus_builder.Dataquery]:
    for number, query in enumerate(_queries(queries)):
        target = prometheus_builder.Dataquery().expr(query.expr).ref_id(chr(ord("A") + number)).datasource(_SOURCE)
        target = target.editor_mode(prometheus.QueryEditorMode.CODE)
        target = target.range() if shape in ("range", "heatmap") else target.instant()
        if shape == "table":
            target = target.format(prometheus.PromQueryFormat.TABLE)
        elif shape == "heatmap":
            target = target.format(prometheus.PromQueryFormat.HEATMAP).legend_format("{{le}}")
        else:
            target = target.format(prometheus.PromQueryFormat.TIME_SERIES).legend_format(query.legend or "__auto")
        yield target


_SOURCE = shapes.DataSourceRef(type_val="prometheus", uid="$datasource")

# --- panels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel with its place on a grid of 24 columns still open."""

    id: int
    builder: Any
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Look:
    """What all kinds of panel have in common.

    `names` are the series whose colour has a meaning, `last_words` the ends of such names. An axis reaches to `room`
    at least, or Grafana draws it to 100 where all is 0.
    """

    unit: str = COUNT
    steps: Steps = FACT
    empty: str = NO_DATA
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    room: float | None = None
    step: str = ""
    names: tuple[str, ...] = ()
    last_words: tuple[str, ...] = ()
    mapping: tuple[tuple[float | str, str, str], ...] = ()
    ranges: tuple[tuple[float | None, float | None, str, str], ...] = ()


_STATES = ("down", "starting", "stalled", "ok")
STATES = Look(mapping=((-1, "unseen", PALETTE["unseen"]), *((n, s, PALETTE[s]) for n, s in enumerate(_STATES))))
"""The values of `names.state_code()`."""
BUDGET = Look(
    SHARE, under_is_bad(0.0, 0.25), "Not known yet", decimals=0, least=0, most=1, ranges=((None, 0.0, SPENT, BAD),)
)
"""What `names.budget_left()` tells. How far below 0 it is says nothing more."""
STATES_BY_NAME = Look(mapping=tuple((state, state, PALETTE[state]) for state in _STATES))


def _common(builder: Any, id: int, title: str, description: str, look: Look, grey: bool = False) -> Any:
    if not description:
        raise ValueError(f"{title}: no description")
    builder = builder.id(id).title(title).description(description).datasource(_SOURCE)
    builder = builder.unit(look.unit).no_value(look.empty).thresholds(_thresholds(look.steps))
    if look.decimals is not None:
        builder = builder.decimals(look.decimals)
    if look.least is not None:
        builder = builder.min(look.least)
    if look.most is not None:
        builder = builder.max(look.most)
    if look.step:
        builder = builder.interval(look.step)
    if look.mapping or look.ranges or grey:
        builder = builder.mappings([*_mappings(look), *([_grey_when_empty(look)] if grey else [])])
    for name in look.names:
        builder = builder.override_by_name(name, [_fixed(PALETTE[name])])
    for colour in dict.fromkeys(PALETTE[word] for word in look.last_words):
        words = "|".join(word for word in look.last_words if PALETTE[word] == colour)
        builder = builder.override_by_regexp(f"/(?:^| )(?:{words})$/", [_fixed(colour)])
    return builder


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    levels = [model.Threshold(None, steps.base), *(model.Threshold(value, colour) for value, colour in steps.at)]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(levels)


def _mappings(look: Look) -> list[Any]:
    values = {
        f"{value:g}" if isinstance(value, int | float) else value: model.ValueMappingResult(text, colour, index=index)
        for index, (value, text, colour) in enumerate(look.mapping)
    }
    ranges = [
        model.RangeMap(model.DashboardRangeMapOptions(low, high, model.ValueMappingResult(text, colour, index=index)))
        for index, (low, high, text, colour) in enumerate(look.ranges, len(values))
    ]
    return [*([model.ValueMap(values)] if values else []), *ranges]


def _grey_when_empty(look: Look, text: str = "") -> model.SpecialValueMap:
    """Without it a number that is missing has the colour of the lowest one, which may be red."""
    result = model.ValueMappingResult(text or look.empty, QUIET, index=len(look.mapping) + len(look.ranges))
    return model.SpecialValueMap(model.DashboardSpecialValueMapOptions(model.SpecialValueMatch.NULL_AND_NAN, result))


def _fixed(colour: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def stat(
    id: int, title: str, description: str, queries: Queries, look: Look = Look(), *, width: int = 4, height: int = 4,
    show: Literal["value", "name", "both"] = "value", severities: bool = False,
) -> Panel:  # fmt: skip
    """One number. It is coloured when it is a verdict, and blue when it is a fact."""
    modes = {"value": "value", "name": "name", "both": "value_and_name"}
    builder = _common(stat_builder.Panel(), id, title, description, look, grey=True)
    builder = builder.graph_mode(shapes.BigValueGraphMode.NONE).text_mode(shapes.BigValueTextMode(modes[show]))
    builder = builder.color_mode(shapes.BigValueColorMode.VALUE).reduce_options(_last())
    builder = builder.justify_mode(shapes.BigValueJustifyMode.CENTER)
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    if severities:
        for name in ("critical", "warning"):
            levels = [{"value": None, "color": OK}, {"value": 1, "color": PALETTE[name]}]
            value = model.DynamicConfigValue("thresholds", {"mode": "absolute", "steps": levels})
            builder = builder.override_by_name(name, [value])
    return Panel(id, builder.targets(list(_targets(queries, "instant"))), width, height)


def gauge(
    id: int, title: str, description: str, queries: Queries, look: Look = Look(), *, width: int = 4, height: int = 5
) -> Panel:
    """One number against its limits."""
    builder = _common(gauge_builder.Panel(), id, title, description, look, grey=True)
    builder = builder.show_threshold_markers(True).show_threshold_labels(False).reduce_options(_last())
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    return Panel(id, builder.targets(list(_targets(queries, "instant"))), width, height)


def bars(
    id: int, title: str, description: str, queries: Queries, look: Look = Look(), *, width: int = 8, height: int = 8
) -> Panel:
    """The last value of several series, side by side."""
    builder = _common(bargauge.Panel(), id, title, description, look)
    builder = builder.orientation(shapes.VizOrientation.HORIZONTAL).reduce_options(_last())
    builder = builder.display_mode(shapes.BarGaugeDisplayMode.BASIC).value_mode(shapes.BarGaugeValueMode.COLOR)
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    return Panel(id, builder.targets(list(_targets(queries, "instant"))), width, height)


def graph(
    id: int, title: str, description: str, queries: Queries, look: Look = Look(), *, width: int = 8, height: int = 8,
    stack: bool = False, as_bars: bool = False,
) -> Panel:  # fmt: skip
    """Lines over time (or bars, for what is counted per step). Limits are dashed lines."""
    builder = _common(timeseries_builder.Panel(), id, title, description, look)
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(NEUTRAL))
    if not look.names and not look.last_words:
        for colour, pattern in colours_of_names().items():
            builder = builder.override_by_regexp(pattern, [_fixed(colour)])
    room = 1 if look.room is None and look.unit == COUNT else look.room
    if room is not None:
        builder = builder.axis_soft_max(room)
    legend = common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
    builder = builder.legend(legend.display_mode(shapes.LegendDisplayMode.LIST).calcs([]))
    builder = builder.tooltip(
        common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
    )
    builder = builder.draw_style(shapes.GraphDrawStyle.BARS if as_bars else shapes.GraphDrawStyle.LINE)
    builder = builder.line_width(0 if as_bars else 1 if stack else 2).show_points(shapes.VisibilityMode.AUTO)
    builder = builder.fill_opacity(80 if as_bars else 40 if stack else 0).axis_border_show(False)
    builder = builder.span_nulls(False)
    if stack:
        builder = builder.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    style = shapes.GraphThresholdsStyleMode.DASHED if look.steps.at else shapes.GraphThresholdsStyleMode.OFF
    builder = builder.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    return Panel(id, builder.targets(list(_targets(queries, "range"))), width, height)


def timeline(
    id: int, title: str, description: str, queries: Queries, look: Look, *, width: int = 24, height: int = 7,
    back: str = "",
) -> Panel:  # fmt: skip
    """States over time, one row per series."""
    builder = _common(statetimeline.Panel(), id, title, description, look)
    builder = builder.show_value(shapes.VisibilityMode.NEVER).merge_values(True).row_height(0.85).fill_opacity(85)
    builder = builder.legend(
        common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
        .display_mode(shapes.LegendDisplayMode.LIST).calcs([])
    )  # fmt: skip
    builder = builder.tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.SINGLE))
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)).line_width(0)
    if back:
        builder = builder.time_from(back)
    return Panel(id, builder.targets(list(_targets(queries, "range"))), width, height)


def heat(
    id: int, title: str, description: str, family: Family, *, width: int = 12, height: int = 9, step: str = CANARY_STEP,
    empty: str = NO_TRAFFIC,
) -> Panel:  # fmt: skip
    """How a histogram's observations spread over time: one colour from few to many, which judges nothing."""
    look = Look(unit_of(family), empty=empty, step=step)
    expr = f"sum by (le) ({increase(family, '_bucket')})"
    builder = _common(heatmap_builder.Panel(), id, title, description, look)
    colour = heatmap_builder.HeatmapColorOptions().mode(heatmap_shapes.HeatmapColorMode.SCHEME).scheme("Blues")
    builder = builder.color(colour.fill(NEUTRAL).steps(32).exponent(0.5).reverse(False)).calculate(False)
    builder = builder.y_axis(heatmap_builder.YAxisConfig().unit(look.unit).axis_placement(shapes.AxisPlacement.LEFT))
    builder = builder.cell_gap(1).tooltip(
        heatmap_builder.HeatmapTooltip().mode(shapes.TooltipDisplayMode.SINGLE).y_histogram(True)
    )
    builder = builder.filter_values(heatmap_builder.FilterValueRange().le(1e-9)).show_value(shapes.VisibilityMode.NEVER)
    builder = builder.legend(common.HeatmapLegend().show(True)) if hasattr(common, "HeatmapLegend") else builder
    return Panel(id, builder.targets(list(_targets(expr, "heatmap"))), width, height)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a label of the queries, or the value of one of them (`Column(query=...)`).

    `cell` draws a number as a bar from `look.least` to `look.most`, or colours the text by its limits or mapping.
    """

    title: str
    label: str = ""
    query: str = ""
    look: Look = field(default_factory=Look)
    cell: Literal["", "bar", "colour"] = ""
    link: str = ""
    width: int = 0


def table(
    id: int, title: str, description: str, columns: Sequence[Column], *, width: int = 24, height: int = 9,
    empty: str = NO_DATA, step: str = "", sort: str = "", descending: bool = False, extra: Sequence[str] = (),
) -> Panel:  # fmt: skip
    """One row per combination of labels, each column a query of its own. `extra` queries bring labels, not numbers."""
    queries = [column.query for column in columns if column.query]
    refs = [f"Value #{chr(ord('A') + number)}" for number in range(len(queries) + len(extra))]
    values = iter(refs)
    fields = {next(values) if column.query else column.label: column for column in columns}
    exclude = {"Time": True, **dict.fromkeys(refs[len(queries) :], True)}
    if len(queries) + len(extra) == 1:  # Grafana calls the value of a lone query by no letter
        fields = {"Value" if name == "Value #A" else name: column for name, column in fields.items()}
        exclude = {"Value" if name == "Value #A" else name: True for name in exclude}
    builder = _common(table_builder.Panel(), id, title, description, Look(WORDS, empty=empty, step=step))
    builder = builder.show_header(True).cell_height(shapes.TableCellHeight.SM).filterable(False)
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color("text"))
    merge = model.DataTransformerConfig("merge", options={})
    organize = model.DataTransformerConfig(
        "organize",
        options={
            "excludeByName": exclude,
            "indexByName": {name: index for index, name in enumerate(fields)},
            "renameByName": {name: column.title for name, column in fields.items()},
        },
    )
    builder = builder.transformations([merge, organize])
    for column in columns:
        properties = _column(column)
        if properties:
            builder = builder.override_by_name(column.title, properties)
    if sort:
        builder = builder.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    return Panel(id, builder.targets(list(_targets([*queries, *extra], "table"))), width, height)


def matrix(
    id: int, title: str, description: str, query: str, *, row: str, column: str, value: str, width: int = 24,
    height: int = 9, empty: str = NO_DATA,
) -> Panel:  # fmt: skip
    """A label's value of each row and column of a crosswise table."""
    builder = _common(table_builder.Panel(), id, title, description, Look(WORDS, empty=empty))
    builder = builder.override_by_regexp("/.*/", [model.DynamicConfigValue("noValue", MISSING)])
    builder = builder.show_header(True).cell_height(shapes.TableCellHeight.SM).filterable(False)
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color("text"))
    options = {"rowField": row, "columnField": column, "valueField": value, "emptyValue": "empty"}
    grouped = model.DataTransformerConfig("groupingToMatrix", options=options)
    corner = {f"{row}\\{column}": row.capitalize()}
    named = model.DataTransformerConfig(
        "organize", options={"excludeByName": {}, "indexByName": {}, "renameByName": corner}
    )
    builder = builder.transformations([grouped, named])
    return Panel(id, builder.targets(list(_targets(query, "table"))), width, height)


def _column(column: Column) -> list[model.DynamicConfigValue]:
    look, properties = column.look, list[model.DynamicConfigValue]()

    def add(id: str, value: object) -> None:
        properties.append(model.DynamicConfigValue(id, value))

    if column.query:
        add("unit", look.unit)
    empty = MISSING if look.empty == NO_DATA else look.empty
    add("noValue", empty)
    if look.decimals is not None:
        add("decimals", look.decimals)
    if look.least is not None:
        add("min", look.least)
    if look.most is not None:
        add("max", look.most)
    if column.cell:
        add("thresholds", _thresholds(look.steps).build())
        add("color", {"mode": "thresholds"})
        kind = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"} if column.cell == "bar" else None
        add("custom.cellOptions", kind or {"type": "color-text"})
    grey = [_grey_when_empty(look, empty)] if column.cell else []
    if look.mapping or look.ranges or grey:
        add("mappings", [*_mappings(look), *grey])
    if column.width:
        add("custom.width", column.width)
    if column.link:
        add("links", [{"title": "Look closer", "url": column.link}])
    return properties


def link_to(uid: str, variable: str) -> str:
    """The same time and variables on another board, with the value of this cell chosen there."""
    kept = "".join(f"&${{{name}:queryparam}}" for name in ("datasource", "job"))
    return f"/d/{uid}?${{__url_time_range}}{kept}&var-{variable}=${{__value.raw}}"


# --- the frame --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and what is below it, laid from left to right; a row that is full goes on below."""

    id: int
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    start: str = "now-1h"
    annotations: tuple[str, ...] = ("alerts", "restarts")
    """Which of them are switched on when the board opens; all can be."""

    def json(self) -> str:
        """The dashboard as Grafana provisions it: the same bytes every time."""
        board = build.Dashboard(self.title).uid(self.uid).description(self.description).tags(["ollama"])
        board = board.readonly().tooltip(model.DashboardCursorSync.CROSSHAIR).timezone("browser").refresh("30s")
        board = board.time(self.start, "now").link(_links())
        for panel in _laid(self.rows):
            board = board.with_row(panel) if isinstance(panel, build.Row) else board.with_panel(panel)
        used = set(re.findall(r"\$\{?(\w+)", JSONEncoder().encode(board.build())))
        for variable in _variables(used):
            board = board.with_variable(variable)
        for annotation in _annotations(self.annotations):
            board = board.annotation(annotation)
        plain = json.loads(JSONEncoder().encode(board.build()))
        correct(plain)
        return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _laid(rows: Sequence[Row]) -> Iterable[Any]:
    y = 0
    for row in rows:
        yield build.Row(row.title).id(row.id).grid_pos(model.GridPos(h=1, w=24, x=0, y=y))
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            yield panel.builder.grid_pos(model.GridPos(h=panel.height, w=panel.width, x=x, y=y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _links() -> build.DashboardLink:
    link = build.DashboardLink("Ollama").type(model.DashboardLinkType.DASHBOARDS).tags(["ollama"]).as_dropdown(True)
    return link.include_vars(True).keep_time(True).icon("external link").tooltip("The other boards, at the same time")


OBJECTIVES = tuple(bound for bound in catalog.TTFT_BUCKETS if 0.5 <= bound <= 30.0)
"""What "within" may be set to: boundaries of buckets, so that the shares are exact."""


def _variables(used: set[str]) -> Iterable[Any]:
    """Those that links carry from board to board are on each of them, out of sight where no panel asks for them."""
    yield build.DatasourceVariable("datasource").label("Data source").type("prometheus")
    job = f"label_values({catalog.UP.name}, job)"  # a job of /probe has servers, and no exporter
    at_job = '{job=~"$job"}'
    yield _variable("job", "Job", job)
    if "instance" in used:
        yield _variable("instance", "Instance", f"label_values({catalog.EXPORTER_BUILD.name}{at_job}, instance)")
    if "host" in used:
        yield _variable("host", "Host", f"label_values({catalog.HOST_CPUS.name}{at_job}, host)")
    if "gpu" in used:
        yield _variable("gpu", "GPU", f"label_values({catalog.GPU_INFO.name}{at_job}, gpu)")
    yield _variable("server", "Server", f"label_values({catalog.UP.name}{at_job}, server)", "server" not in used)
    if "source" in used:
        yield _variable("source", "Source", f"label_values({catalog.SOURCE_UP.name}{at_job}, source)")
    models = f'label_values({catalog.INSTALLED_SIZE.name}{{job=~"$job",server=~"$server"}}, model)'
    yield _variable("model", "Model", models, "model" not in used)
    objective = (
        build.CustomVariable("objective")
        .label("First token within")
        .values(",".join(f"{bound:g} s : {bound}" for bound in OBJECTIVES))
    )
    yield (
        (objective if "objective" in used else objective.hide(model.VariableHide.HIDE_VARIABLE))
        .options(
            [model.VariableOption(text=f"{bound:g} s", value=str(bound), selected=bound == 2.0) for bound in OBJECTIVES]
        )
        .current(model.VariableOption(text="2 s", value="2.0", selected=True))
        .description("Boundaries of the histogram's buckets, so that shares are exact.")
    )


def _variable(name: str, label: str, query: str, hidden: bool = False) -> Any:
    variable = build.QueryVariable(name).label(label).query(query).datasource(_SOURCE)
    variable = variable.multi(True).include_all(True).all_value(".+").sort(model.VariableSort.ALPHABETICAL_ASC)
    variable = variable.current(model.VariableOption(text=["All"], value=["$__all"], selected=True))
    variable = variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.hide(model.VariableHide.HIDE_VARIABLE) if hidden else variable


def _annotations(on: Sequence[str]) -> Iterable[Any]:
    came_up = f"{pick(catalog.BUILD_INFO)} unless {pick(catalog.BUILD_INFO)} offset 1m"
    started = f'changes({catalog.HOST_PROCESS_START.name}{{job=~"$job",process="serve"}}[{RATE}]) > 0'
    for severity in ("critical", "warning"):
        matchers = f'alertname=~"Ollama.+",alertstate="firing",severity="{severity}",job=~"$job|",server=~"$server|"'
        yield _annotation(
            f"Alerts: {severity}",
            f"{ALERTS.name}{{{matchers}}}",
            "{{alertname}}",
            "{{server}} {{model}}",
            PALETTE[severity],
            "alerts" in on,
        )
    yield _annotation(
        "Servers that came up", came_up, "{{server}} came up", "Version {{version}}", NEUTRAL, "restarts" in on
    )
    yield _annotation("ollama serve started", started, "ollama serve started", "{{host}}", NEUTRAL, "restarts" in on)
    loads = f"sum by (server, model) ({increase(catalog.LOADS_SEEN)}) > 0"
    yield _annotation("Loads", loads, "{{model}} was loaded", "{{server}}", PALETTE["loads"], "loads" in on)
    phases = f'max by (scenario, phase) ({catalog.LOAD_PHASE.name}{{job=~"$job|{LOAD_JOB}"}})'
    title = "Load test {{scenario}}: {{phase}}"
    yield _annotation("Load test phases", phases, title, "{{scenario}}", QUIET, "load tests" in on, "15s")


def _annotation(name: str, expr: str, title: str, text: str, colour: str, enabled: bool, step: str = "60s") -> Any:
    annotation = build.AnnotationQuery().name(name).datasource(_SOURCE).expr(expr).enable(enabled).hide(False)
    return annotation.icon_color(colour).title_format(title).text_format(text).step(step)


def correct(board: dict[str, Any]) -> None:
    """What the SDK writes by itself and Grafana 11 to 13 are better off without."""
    for link in board["links"]:
        link.pop("placement", None)
    for annotation in board["annotations"]["list"]:
        annotation.pop("placement", None)
    for panel in board["panels"]:
        if panel["type"] == "table":
            panel["options"].pop("footer", None)  # moved into the fields by 12.2
            panel["fieldConfig"]["defaults"].setdefault("custom", {})["cellOptions"] = {"type": "auto"}
    for variable in board["templating"]["list"]:
        for key in ("auto", "auto_count", "auto_min"):
            variable.pop(key, None)
