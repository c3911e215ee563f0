"""The dashboards ask only what exists, say what they mean, and are what their sources make."""

from __future__ import annotations

import colorsys
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins

from dashboards.src import names, panels
from dashboards.src.__main__ import BOARDS, FOLDER, texts
from exporter import catalog
from exporter.catalog import FAMILIES
from exporter.model import Family

ROOT = FOLDER.parent
UIDS = (
    "ollama-overview", "ollama-server", "ollama-latency", "ollama-capacity", "ollama-models", "ollama-runner",
    "ollama-host", "ollama-canary", "ollama-exporter", "ollama-status",
)  # fmt: skip
FILES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
SCHEMA = json.loads((FOLDER / "src" / "grafana-13.2.2.schema.json").read_text("utf-8"))

_PROPOSED = "of a proposal that no release has; passed on for boards that were made for it"
DOCS_ONLY: dict[str, str] = {
    "http_requests_total": _PROPOSED,
    "ollama_eval_total": _PROPOSED,
    "ollama_native_left_out_series": "tells why a series of a server's own page is missing, to who looks for it",
    "ollama_peak_memory_bytes": _PROPOSED,
    "ollama_prompt_eval_total": _PROPOSED,
    "ollama_total_duration_seconds_total": _PROPOSED,
}
"""Families that no panel and no rule asks for, each with the reason."""

each_board = pytest.mark.parametrize("uid", UIDS)


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries_of(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in panels_of(board):
        for target in panel["targets"]:
            yield f"{panel['title']}: {target['refId']}", target["expr"]
    for annotation in board["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            matched = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])
            assert matched is not None, variable["query"]
            yield f"variable {variable['name']}", matched[1]


ALL_QUERIES = [(uid, name, expr) for uid in UIDS for name, expr in queries_of(FILES[uid])]

# --- files ------------------------------------------------------------------------------------------------------------


def test_the_committed_dashboards_are_what_their_sources_make() -> None:
    assert tuple(board.uid for board in BOARDS) == UIDS
    assert {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")} == texts()


def test_the_command_tells_that_they_are_in_step() -> None:
    command = [sys.executable, "-m", "dashboards.src", "--check"]
    checked = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


@each_board
def test_the_sdk_reads_and_writes_a_board_without_a_difference(uid: str) -> None:
    """An unknown or misspelt key at any level would be lost on the way."""
    register_default_plugins()
    again = json.loads(JSONEncoder().encode(panels.model.Dashboard.from_json(FILES[uid])))
    panels.correct(again)  # what the SDK adds by itself whenever it writes
    assert again == FILES[uid]


# What Prometheus annotations keep in the classic model, and Grafana's own types do not tell.
_UNTOLD = {"expr", "step", "textFormat", "titleFormat"}


def _mistakes(part: dict[str, Any], value: Any) -> list[str]:
    """Types, enums and unknown keys. A key that newer versions require is theirs to fill in."""
    found = jsonschema.Draft7Validator({**part, "definitions": SCHEMA["definitions"]}).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found if error.validator != "required"]


@each_board
def test_a_board_keeps_to_grafanas_own_types(uid: str) -> None:
    parts = SCHEMA["definitions"]["Boards"]["properties"]
    options, custom = parts["options"]["properties"], parts["custom"]["properties"]
    board = json.loads(json.dumps(FILES[uid]))
    for annotation in board["annotations"]["list"]:
        for key in _UNTOLD:
            annotation.pop(key, None)
    mistakes = _mistakes(parts["dashboard"], board)
    for panel in panels_of(board):
        mistakes += [f"{panel['title']}: {mistake}" for mistake in _mistakes(options[panel["type"]], panel["options"])]
        own = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
        if own is not None:
            mistakes += [f"{panel['title']}: {mistake}" for mistake in _mistakes(custom[panel["type"]], own)]
    assert mistakes == []


def test_the_schema_would_notice_a_mistake() -> None:
    parts = SCHEMA["definitions"]["Boards"]["properties"]
    assert _mistakes(parts["options"]["properties"]["stat"], {"graphMode": "lines"})
    assert _mistakes(parts["dashboard"], {**FILES["ollama-overview"], "graphTooltip": 9})
    assert _mistakes(parts["dashboard"], {**FILES["ollama-overview"], "titel": "x"})


# --- frame ------------------------------------------------------------------------------------------------------------


@each_board
def test_a_board_is_provisionable_and_linked_with_the_others(uid: str) -> None:
    board = FILES[uid]
    assert board["uid"] == uid
    assert 39 <= board["schemaVersion"] <= 42
    assert board["tags"] == ["ollama"]
    assert board["editable"] is False
    assert "id" not in board
    assert "__inputs" not in board
    (link,) = board["links"]
    assert (link["type"], link["tags"], link["asDropdown"]) == ("dashboards", ["ollama"], True)
    assert (link["includeVars"], link["keepTime"]) == (True, True)
    assert "placement" not in link


@each_board
def test_the_variables_are_those_of_all_boards(uid: str) -> None:
    variables = {variable["name"]: variable for variable in FILES[uid]["templating"]["list"]}
    assert {"datasource", "job", "server", "model", "objective"} <= variables.keys()
    assert (variables["datasource"]["type"], variables["datasource"]["label"]) == ("datasource", "Data source")
    labels = {"job": "Job", "instance": "Instance", "server": "Server", "model": "Model", "host": "Host",
              "source": "Source", "gpu": "GPU"}  # fmt: skip
    for name in labels.keys() & variables.keys():
        variable = variables[name]
        assert variable["label"] == labels[name]
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
        assert variable["refresh"] == 2
    text = json.dumps([FILES[uid]["panels"], FILES[uid]["annotations"]])
    builtin = {"__rate_interval", "__range", "__url_time_range", "__value"}
    assert set(re.findall(r"\$\{?(\w+)", text)) - builtin <= variables.keys()


@each_board
def test_objectives_to_choose_from_are_boundaries_of_the_histogram(uid: str) -> None:
    objective = next(variable for variable in FILES[uid]["templating"]["list"] if variable["name"] == "objective")
    values = [option["value"] for option in objective["options"]]
    assert objective["current"]["value"] == "2.0"
    assert {"2.0", "5.0"} <= set(values) <= {str(bound) for bound in catalog.TTFT_BUCKETS}
    assert objective["query"] == ",".join(f"{option['text']} : {option['value']}" for option in objective["options"])


@each_board
def test_no_data_source_is_written_down(uid: str) -> None:
    found = re.findall(r'"datasource": (\{[^}]*\}|"[^"]*"|null)', json.dumps(FILES[uid]))
    assert found
    assert {json.dumps(json.loads(one), sort_keys=True) for one in found} == {
        '{"type": "prometheus", "uid": "$datasource"}'
    }


@each_board
def test_a_board_marks_alerts_restarts_and_loads(uid: str) -> None:
    names = {annotation["name"] for annotation in FILES[uid]["annotations"]["list"]}
    alerts = {"Alerts: critical", "Alerts: warning"}
    assert names == alerts | {"Servers that came up", "ollama serve started", "Loads", "Load test phases"}


@each_board
def test_panels_have_ids_titles_and_places_of_their_own(uid: str) -> None:
    board = FILES[uid]
    ids = [panel["id"] for panel in board["panels"]]
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(isinstance(id, int) and id > 0 for id in ids)
    assert len(set(titles)) == len(titles)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


# --- panels -----------------------------------------------------------------------------------------------------------

Dimension = tuple[int, int, int, int]
"""Powers of seconds, bytes, joules and degrees."""
_BARE: Dimension = (0, 0, 0, 0)
_SECONDS: Dimension = (1, 0, 0, 0)
_BYTES: Dimension = (0, 1, 0, 0)
_EACH_SECOND: Dimension = (-1, 0, 0, 0)

# Units are ids of Grafana's value formats; a suffix of one's own is formatted too.
_DIMENSIONS: dict[str, Dimension] = {
    "s": _SECONDS, "bytes": _BYTES, "Bps": (-1, 1, 0, 0), "cps": _EACH_SECOND, "reqps": _EACH_SECOND,
    "percentunit": _BARE, "short": _BARE, "suffix:tok/s": _EACH_SECOND, "suffix:words/s": _EACH_SECOND,
    "suffix:CPUs": _BARE, "suffix:x": _BARE,
    "suffix:s": _SECONDS, "none": _BARE, "watt": (-1, 0, 1, 0), "joule": (0, 0, 1, 0), "celsius": (0, 0, 0, 1),
}  # fmt: skip


@each_board
def test_every_panel_says_what_it_answers(uid: str) -> None:
    for panel in panels_of(FILES[uid]):
        assert 3 <= len(panel["title"]) <= 70, panel["title"]
        words = panel["description"]
        assert len(words) >= 40, panel["title"]
        assert words.endswith((".", "?")), panel["title"]
        assert "?" in words, f"{panel['title']}: which question?"


@each_board
def test_every_panel_has_a_unit_and_words_for_nothing(uid: str) -> None:
    for panel in panels_of(FILES[uid]):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in ({panels.WORDS} if panel["type"] == "table" else _DIMENSIONS), panel["title"]
        assert defaults["noValue"], panel["title"]
        assert panel["targets"], panel["title"]


@each_board
def test_a_number_in_a_table_has_a_unit_of_its_own(uid: str) -> None:
    """Its other cells are words, which Grafana would abbreviate where they look like numbers: a digest, a context."""
    for panel in panels_of(FILES[uid]):
        if panel["type"] == "table" and panel["transformations"][0]["id"] == "merge":
            renamed = panel["transformations"][1]["options"]["renameByName"]
            numbers = {title for name, title in renamed.items() if name.startswith("Value")}
            overrides = panel["fieldConfig"]["overrides"]
            measured = {
                one["matcher"]["options"]
                for one in overrides
                if any(each["id"] == "unit" for each in one["properties"])
            }
            assert measured == numbers, panel["title"]


_NOT_EVERYWHERE = ("sockets", "runner", "log", "container", "gpu", "config", "policy")
"""What the names of families begin with, of sources that cannot see every server."""


def test_an_empty_panel_says_which_source_it_needs() -> None:
    """What is seen from inside only is missing on most fleets, and that is no failure."""
    silent = []
    for uid in UIDS:
        for panel in panels_of(FILES[uid]):
            asked = set().union(*(judged(target["expr"])[1] for target in panel["targets"]))
            inside = all(re.match(rf"ollama_(?:{'|'.join(_NOT_EVERYWHERE)})_", name) for name in asked)
            if inside and panel["fieldConfig"]["defaults"]["noValue"] in (panels.NO_DATA, panels.NO_TRAFFIC):
                silent.append(f"{uid}: {panel['title']}")
    assert not silent, "\n".join(silent)


@each_board
def test_limits_are_ours_and_not_the_stock_80(uid: str) -> None:
    for panel in panels_of(FILES[uid]):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        assert values[0] is None, panel["title"]
        assert values[1:] == sorted(values[1:]), panel["title"]
        assert 80 not in values, panel["title"]


@each_board
def test_every_colour_is_of_the_one_palette(uid: str) -> None:
    """A colour means the same everywhere, so there is no other place to take one from."""
    allowed = {panels.OK, panels.WARN, panels.BAD, panels.NEUTRAL, panels.QUIET, "text", *panels.PALETTE.values()}
    allowed |= set(panels.NAMES)
    allowed.add("rgba(255,0,255,0.7)")  # of exemplars, which there are none
    found = set(re.findall(r'"(?:color|fixedColor|iconColor|fill)": "([^"]+)"', json.dumps(FILES[uid])))
    assert found <= allowed


def test_no_name_has_a_colour_that_judges() -> None:
    """Red, orange, yellow and green tell how something is doing; a server's name does not."""
    for colour in panels.NAMES:
        red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        hue, _, _ = colorsys.rgb_to_hls(red, green, blue)
        assert 170 <= 360 * hue <= 320, colour
    assert not set(panels.NAMES) & {panels.OK, panels.WARN, panels.BAD}


@pytest.mark.parametrize("name", ["primary", "gpu-1", "GPU-B", "http://10.0.0.7:11434", "a qwen3:4b", "x" * 200])
def test_a_name_has_one_colour(name: str) -> None:
    patterns = [pattern.strip("/") for pattern in panels.colours_of_names().values()]
    assert sum(re.search(pattern, name) is not None for pattern in patterns) == 1


@pytest.mark.parametrize(
    "names", [[f"gpu-{number}" for number in range(1, 10)], ["primary", "secondary", "tertiary"]], ids=str
)
def test_names_side_by_side_differ_in_colour(names: list[str]) -> None:
    def colour(name: str) -> str:
        patterns = panels.colours_of_names().items()
        return next(colour for colour, pattern in patterns if re.search(pattern.strip("/"), name))

    assert len({colour(name) for name in names}) == len(names)


@each_board
def test_a_graph_leaves_no_colour_to_chance(uid: str) -> None:
    for panel in panels_of(FILES[uid]):
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["color"] == {"mode": "fixed", "fixedColor": panels.NEUTRAL}
            coloured = [one for one in panel["fieldConfig"]["overrides"] if one["properties"][0]["id"] == "color"]
            several = any("{{" in target["legendFormat"] for target in panel["targets"])
            assert len(coloured) >= (2 if several else len(panel["targets"])), panel["title"]


def test_what_is_missing_is_grey_and_not_the_worst() -> None:
    """A number that is not there would have the colour of the lowest one: red where little is bad."""
    grey = {"type": "special", "color": panels.QUIET}
    for uid in UIDS:
        for panel in panels_of(FILES[uid]):
            fields = [panel["fieldConfig"]["defaults"]] if panel["type"] in ("stat", "gauge") else []
            for one in panel["fieldConfig"]["overrides"] if panel["type"] == "table" else []:
                properties = {each["id"]: each["value"] for each in one["properties"]}
                fields += [properties] if "thresholds" in properties else []
            for each in fields:
                found = [{"type": mapping["type"], "color": mapping["options"].get("result", {}).get("color")}
                         for mapping in each["mappings"]]  # fmt: skip
                assert grey in found, panel["title"]


@each_board
def test_a_count_of_nothing_is_drawn_on_an_axis_of_its_size(uid: str) -> None:
    for panel in panels_of(FILES[uid]):
        if panel["type"] == "timeseries" and panel["fieldConfig"]["defaults"]["unit"] == "short":
            assert panel["fieldConfig"]["defaults"]["custom"]["axisSoftMax"] <= 10, panel["title"]


@each_board
def test_no_row_has_a_hole(uid: str) -> None:
    """Between the panels of a row, and beside its last one, there is none."""
    board = FILES[uid]
    rows = [panel["gridPos"]["y"] for panel in board["panels"] if panel["type"] == "row"]
    covered = sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in board["panels"])
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    assert rows[0] == 0
    assert covered == 24 * bottom


@each_board
def test_a_graph_shows_its_legend(uid: str) -> None:
    for panel in panels_of(FILES[uid]):
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"] is True
        if panel["type"] in ("stat", "gauge", "bargauge"):
            assert panel["options"]["reduceOptions"]["calcs"] == ["lastNotNull"]


def test_links_lead_to_boards_that_exist() -> None:
    targets = set(re.findall(r"/d/([\w-]+)", json.dumps(FILES)))
    assert targets
    assert targets <= set(UIDS)


def test_alerts_link_to_boards_and_variables_that_exist() -> None:
    rules = yaml.safe_load((ROOT / "alerts" / "alerting.rules.yml").read_text("utf-8"))
    urls = [rule["annotations"].get("dashboard_url", "") for group in rules["groups"] for rule in group["rules"]]
    links = [(url, *matched.groups()) for url in urls if (matched := re.search(r"/d/(ollama-[\w-]+)(.*)", url))]
    assert links
    for url, uid, query in links:
        assert uid in UIDS, url
        variables = {variable["name"] for variable in FILES[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= variables, url


def test_limits_are_the_numbers_of_the_alerts() -> None:
    text = (ROOT / "alerts" / "alerting.rules.yml").read_text("utf-8")
    for expression in (
        f"server:ollama_saturation:ratio_15m > {panels.SATURATION_LIMITS.at[0][0]:g}",
        f"server:ollama_saturation:ratio_15m > {panels.SATURATION_LIMITS.at[1][0]:g}",
        f"server:ollama_queue_wait_seconds:mean_30m > {panels.WAIT_LIMITS.at[0][0]:g}",
        f"server:ollama_ttft_over_2s:ratio_rate_30m > {panels.WAITED_LIMITS.at[1][0]:g}",
        f"host:ollama_memory_available:ratio < {panels.MEMORY_LEFT.at[0][0]:g}",
        f"host:ollama_model_store_available:ratio < {panels.STORE_LEFT.at[1][0]:g}",
        f"ollama_canary_pending_since_timestamp_seconds > {panels.PENDING_LIMITS.at[1][0]:g}",
        f"ollama_source_last_attempt_timestamp_seconds > {panels.STALE.at[1][0]:g}",
        f"abs(ollama_clock_offset_seconds) > {panels.CLOCK_LIMITS.at[1][0]:g}",
        f"server:ollama_model_reconfigurations:increase_15m > {panels.LOADS_LIMITS.at[0][0]:g}",
        f"ollama_sockets_oldest_unanswered_seconds > {panels.OLDEST_LIMITS.at[0][0]:g}",
        f"ollama_sockets_oldest_unanswered_seconds > {panels.OLDEST_LIMITS.at[1][0]:g}",
        f"model:ollama_longest_sequence:ratio[5m]) > {panels.FULL_CONTEXT.at[0][0]:g}",
        f"server:ollama_crashes:increase_30m > {panels.CRASH_LIMITS.at[0][0]:g}",
        f"server:ollama_crashes:increase_30m > {panels.CRASH_LIMITS.at[1][0]:g}",
        f"server:ollama_container_memory_used:ratio > {panels.CONTAINER_MEMORY.at[0][0]:g}",
        f"server:ollama_container_throttled:ratio_rate_15m > {panels.CONTAINER_THROTTLED.at[0][0]:g}",
        f"gpu:ollama_gpu_memory_used:ratio > {panels.GPU_MEMORY.at[0][0]:g}",
        f"(ollama_gpu_temperature_celsius) > {panels.GPU_HEAT.at[0][0]:g}",
    ):
        assert expression in text, expression
    for window, factor in panels.BURN_RATES.items():
        assert re.search(rf"_{window} > {factor:g} \*|_{window} > {factor * 0.001:g}\b|_{window}.*{factor:g}", text)


# --- queries ----------------------------------------------------------------------------------------------------------

_RATE_INTERVAL, _RANGE = "17m", "19m"
_OF_COUNTERS = {"rate", "increase", "irate", "resets", "changes"}
_SPECIAL = {"job", "instance"}


def filled(expr: str) -> str:
    """Macros become values that can be recognized in the parsed query."""
    expr = expr.replace("$__rate_interval", _RATE_INTERVAL).replace("$__range", _RANGE).replace("$objective", "2.0")
    return re.sub(r"\$(\w+)", r"VARIABLE_\1", expr)


@dataclass(frozen=True)
class Answer:
    """What a query gives: its labels, its dimension, whether buckets are in it still,
    whose boundaries they are. A scalar has no labels (None), a number no dimension (None) either."""

    labels: frozenset[str] | None
    dimension: Dimension | None
    le: Dimension | None = None


_NUMBER = Answer(None, None)
_BY_UNIT = {
    "seconds": _SECONDS, "bytes": _BYTES, "tokens": _BARE, "ratio": _BARE, "per second": _EACH_SECOND,
    "watts": _DIMENSIONS["watt"], "joules": _DIMENSIONS["joule"], "celsius": _DIMENSIONS["celsius"], "": _BARE,
}  # fmt: skip
_FAMILIES = {family.name: family for family in FAMILIES}
_RECORDED = {
    value.name: value
    for one in vars(names).values()
    for value in (one.values() if isinstance(one, dict) else (one,))
    if isinstance(value, names.Recorded)
}


def find(name: str) -> tuple[Family | names.Recorded, str]:
    """The family or recorded series of a name, and the suffix of the name."""
    if name in _FAMILIES:
        assert _FAMILIES[name].kind != "histogram", f"{name} is a histogram: _bucket, _count or _sum"
        return _FAMILIES[name], ""
    base, _, suffix = name.rpartition("_")
    if suffix in ("bucket", "count", "sum") and base in _FAMILIES:
        assert _FAMILIES[base].kind == "histogram", f"{base} is no histogram"
        return _FAMILIES[base], suffix
    assert name in _RECORDED, f"{name} exists neither in the catalogue nor among the recorded names"
    return _RECORDED[name], ""


class Judge:
    """Walks a query and tells what it gives; asserts on the way whatever can be wrong with it."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def of(self, node: Any, function: str = "") -> Answer:
        match node:
            case promql_parser.NumberLiteral():
                return _NUMBER
            case promql_parser.StringLiteral():
                return _NUMBER
            case promql_parser.ParenExpr():
                return self.of(node.expr)
            case promql_parser.UnaryExpr():
                return self.of(node.expr)
            case promql_parser.VectorSelector():
                return self._selected(node, function)
            case promql_parser.MatrixSelector():
                self._check_range(node, function)
                return self._selected(node.vector_selector, function)
            case promql_parser.SubqueryExpr():
                return self.of(node.expr)
            case promql_parser.AggregateExpr():
                return self._aggregated(node)
            case promql_parser.BinaryExpr():
                return self._combined(node)
            case promql_parser.Call():
                return self._called(node)
        raise AssertionError(f"not foreseen: {type(node).__name__}")

    def _selected(self, node: Any, function: str) -> Answer:
        metric, suffix = find(node.name)
        self.used.add(metric.name)
        matchers = {matcher.name: matcher for matcher in node.matchers.matchers}
        labels = {*metric.labels, *(_SPECIAL if isinstance(metric, Family) else ())}
        if suffix == "bucket":
            labels.add("le")
        assert matchers.keys() <= labels, f"{node.name} has no label {sorted(matchers.keys() - labels)}"
        counted = isinstance(metric, Family) and metric.kind in ("counter", "histogram")
        assert counted == (function in ("rate", "increase", "irate", "resets")) or (
            not counted and function not in ("rate", "increase", "irate", "resets")
        ), f"{node.name} under {function or 'no function'}"
        if counted:
            assert function in _OF_COUNTERS, f"{node.name} is a counter, but not under rate or increase"
        unit = "" if suffix in ("bucket", "count") else metric.unit
        bounds = _BY_UNIT[metric.unit] if suffix == "bucket" else None
        if "le" in matchers and str(matchers["le"].op) in ("MatchOp.Equal", "="):
            value = matchers["le"].value
            assert isinstance(metric, Family)
            assert value in {str(bound) for bound in metric.buckets}, f"le={value} is no boundary of {metric.name}"
            labels.discard("le")
            bounds = None
        return Answer(frozenset(labels), _BY_UNIT[unit], bounds)

    def _check_range(self, node: Any, function: str) -> None:
        seconds = node.range.total_seconds()
        if function in ("rate", "increase"):
            assert seconds in (17 * 60, 19 * 60), f"{function} over {node.range}: neither $__rate_interval nor $__range"

    def _aggregated(self, node: Any) -> Answer:
        if node.param is not None:
            self.of(node.param)
        inner = self.of(node.expr)
        assert inner.labels is not None, "an aggregation of a scalar"
        kept = frozenset(node.modifier.labels) if node.modifier is not None else frozenset[str]()
        assert node.modifier is None or str(node.modifier.type).endswith("By"), "by, not without"
        assert kept <= inner.labels, f"no label {sorted(kept - inner.labels)} to group by"
        operation = str(node.op)
        if "le" in inner.labels:
            assert "le" in kept, f"{operation} loses le of a bucket"
        if operation in ("topk", "bottomk"):
            return inner
        dimension = _BARE if operation in ("count", "group") else inner.dimension
        return Answer(kept, dimension, inner.le if "le" in kept else None)

    def _combined(self, node: Any) -> Answer:
        left, right, operator = self.of(node.lhs), self.of(node.rhs), str(node.op)
        if left.labels is not None and right.labels is not None:
            self._check_matching(node, left.labels, right.labels, operator)
        labels = left.labels if left.labels is not None else right.labels
        if operator in ("and", "unless", ">", "<", ">=", "<=", "==", "!="):
            compared = operator not in ("and", "unless")
            if compared and left.dimension is not None and right.dimension is not None:
                assert left.dimension == right.dimension, f"{operator} between different units"
            is_bool = compared and node.modifier is not None and node.modifier.return_bool
            return Answer(labels, _BARE if is_bool else left.dimension, left.le)
        if operator in ("+", "-", "or"):
            if left.dimension is not None and right.dimension is not None:
                assert left.dimension == right.dimension, f"{operator} of different units"
            return Answer(labels, left.dimension or right.dimension, left.le)
        sign = {"*": 1, "/": -1}[operator]
        seconds, octets, joules, degrees = (
            a + sign * b for a, b in zip(left.dimension or _BARE, right.dimension or _BARE, strict=True)
        )
        return Answer(labels, (seconds, octets, joules, degrees))

    def _check_matching(self, node: Any, left: frozenset[str], right: frozenset[str], operator: str) -> None:
        matching = node.modifier.matching if node.modifier is not None else None
        if matching is None:
            assert left == right, f"{operator} between {sorted(left)} and {sorted(right)} never matches"
            return
        labels = frozenset(matching.labels)
        if str(matching.type).endswith("Include"):
            assert labels <= left & right, f"{operator} on {sorted(labels)}"
        else:
            assert left - labels == right - labels, f"{operator} ignoring {sorted(labels)}"

    def _called(self, node: Any) -> Answer:
        name = node.func.name
        arguments = [self.of(argument, name) for argument in node.args]
        match name:
            case "time":
                return Answer(None, _SECONDS)
            case "vector":
                return Answer(frozenset(), arguments[0].dimension)
            case "histogram_quantile":
                inner = arguments[1]
                assert inner.labels is not None
                assert "le" in inner.labels
                assert inner.le is not None, "a quantile of what are no buckets"
                return Answer(inner.labels - {"le"}, inner.le)
            case "quantile_over_time" | "clamp" | "predict_linear" | "clamp_max" | "clamp_min":
                return next(argument for argument in arguments if argument.labels is not None)
            case "rate" | "deriv":
                (inner,) = arguments
                assert inner.dimension is not None
                seconds, octets, joules, degrees = inner.dimension
                return Answer(inner.labels, (seconds - 1, octets, joules, degrees), inner.le)
            case "changes" | "resets":
                return Answer(arguments[0].labels, _BARE)
            case "count_over_time":
                return Answer(arguments[0].labels, _BARE)
            case "increase" | "max_over_time" | "min_over_time" | "avg_over_time" | "last_over_time" | "ceil":
                return arguments[0]
        raise AssertionError(f"not foreseen: {name}")


def judged(expr: str) -> tuple[Answer, set[str]]:
    judge = Judge()
    return judge.of(promql_parser.parse(filled(expr))), judge.used


def test_every_query_asks_only_what_exists_and_asks_it_right() -> None:
    wrong = []
    for uid, name, expr in ALL_QUERIES:
        try:
            judged(expr)
        except (AssertionError, ValueError) as error:
            wrong.append(f"{uid}: {name}: {error}\n    {expr}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("rate(ollama_up[$__rate_interval])", "under rate"),
        ("ollama_model_loads_seen_total", "under no function"),
        ("sum(rate(ollama_model_loads_seen_total[5m]))", "neither"),
        ("ollama_upp", "exists neither"),
        ('ollama_up{model="x"}', "has no label"),
        ("sum by (model) (ollama_up)", "to group by"),
        ("sum(rate(ollama_canary_time_to_first_token_seconds_bucket[$__rate_interval]))", "loses le"),
        ('rate(ollama_canary_time_to_first_token_seconds_bucket{le="2.5"}[$__rate_interval])', "no boundary"),
        ("ollama_up / ollama_loaded_model_size_bytes", "never matches"),
        ("ollama_exporter_render_duration_seconds + ollama_exporter_page_bytes", "different units"),
        ("ollama_api_request_duration_seconds", "is a histogram"),
    ],
)  # fmt: skip
def test_the_judge_notices(query: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        judged(query)


def test_every_selector_carries_the_variables() -> None:
    """The dashboard-linter asks for job and instance; here the member of the fleet is `server`."""
    wrong = []
    for uid, name, expr in ALL_QUERIES:
        if name.startswith("variable"):
            continue
        for metric_name, matchers in re.findall(r"\b([a-zA-Z_:]\w*(?::\w+)*)\{([^}]*)\}", expr):
            metric, _ = find(metric_name)
            if metric is names.ALERTS:
                wanted_of_alerts = {"job", "server"}
                assert all(f'{one}=~"${one}|' in matchers for one in wanted_of_alerts), name
                continue
            wanted = {"job", *({"server", "host", "model", "gpu"} & set(metric.labels))}
            of_exporter = isinstance(metric, Family) and metric not in names.OF_TARGETS
            if of_exporter and not {"server", "host"} & set(metric.labels):
                wanted.add("instance")
            if name.startswith("annotation"):
                wanted -= {"host", "model", "gpu", "instance"}
            missing = [one for one in sorted(wanted) if f'{one}=~"${one}' not in matchers]
            if missing:
                wrong.append(f"{uid}: {name}: {metric_name} without {missing}")
    assert not wrong, "\n".join(wrong)


def test_the_unit_of_a_panel_fits_what_it_asks() -> None:
    wrong = []
    for uid in UIDS:
        for panel in panels_of(FILES[uid]):
            if panel["type"] in ("table", "heatmap"):
                continue
            unit = panel["fieldConfig"]["defaults"]["unit"]
            for target in panel["targets"]:
                answer, _ = judged(target["expr"])
                if answer.dimension not in (None, _DIMENSIONS[unit]):
                    wrong.append(f"{uid}: {panel['title']}: {unit} for {answer.dimension}")
    assert not wrong, "\n".join(wrong)


def test_the_units_of_a_tables_columns_fit_what_they_ask() -> None:
    wrong = []
    for uid in UIDS:
        for panel in panels_of(FILES[uid]):
            if panel["type"] != "table" or panel["transformations"][0]["id"] != "merge":
                continue
            renamed = panel["transformations"][1]["options"]["renameByName"]
            overrides = {one["matcher"]["options"]: one["properties"] for one in panel["fieldConfig"]["overrides"]}
            for target in panel["targets"]:
                title = renamed.get(f"Value #{target['refId']}", renamed.get("Value"))
                unit = next((p["value"] for p in overrides.get(title, ()) if p["id"] == "unit"), None)
                answer, _ = judged(target["expr"])
                if unit is not None and answer.dimension not in (None, _DIMENSIONS[unit]):
                    wrong.append(f"{uid}: {panel['title']}: {title}: {unit} for {answer.dimension}")
            known = set().union(*(judged(target["expr"])[0].labels or () for target in panel["targets"]))
            columns = {name for name in renamed if not name.startswith("Value")}
            wrong += [f"{uid}: {panel['title']}: no label {name}" for name in columns - known]
    assert not wrong, "\n".join(wrong)


def test_legends_and_annotations_name_labels_that_are_there() -> None:
    wrong = []
    for uid in UIDS:
        texts = [
            (panel["title"], target.get("legendFormat", ""), target["expr"])
            for panel in panels_of(FILES[uid])
            for target in panel["targets"]
            if panel["type"] != "heatmap"
        ]
        texts += [(one["name"], one["titleFormat"] + one["textFormat"], one["expr"])
                  for one in FILES[uid]["annotations"]["list"]]  # fmt: skip
        for title, legend, expr in texts:
            missing = set(re.findall(r"{{(\w+)}}", legend)) - (judged(expr)[0].labels or frozenset())
            if missing:
                wrong.append(f"{uid}: {title}: {sorted(missing)}")
    assert not wrong, "\n".join(wrong)


def test_variables_take_values_of_labels_that_exist() -> None:
    for uid in UIDS:
        for variable in FILES[uid]["templating"]["list"]:
            if variable["type"] == "query":
                label = variable["query"].rsplit(", ", 1)[1].rstrip(")")
                expr = variable["query"].removeprefix("label_values(").rsplit(", ", 1)[0]
                assert label in (judged(expr)[0].labels or ())


def recorded_rules() -> set[str]:
    rules = yaml.safe_load((ROOT / "alerts" / "recording.rules.yml").read_text("utf-8"))
    return {rule["record"] for group in rules["groups"] for rule in group["rules"]}


def test_every_recorded_name_that_is_asked_for_is_recorded() -> None:
    used = set().union(*(judged(expr)[1] for _, _, expr in ALL_QUERIES))
    own = {metric.name for metric in names.BUILT_IN}
    assert {name for name in used if name in _RECORDED} - own <= recorded_rules()


def test_every_family_is_asked_for_by_a_board_or_a_rule() -> None:
    asked = set().union(*(judged(expr)[1] for _, _, expr in ALL_QUERIES))
    rules = "\n".join(path.read_text("utf-8") for path in (ROOT / "alerts").glob("*.rules.yml"))
    words = set(re.findall(r"\w+", rules))
    forms = {
        family.name: {family.name, *(f"{family.name}_{end}" for end in ("bucket", "count", "sum"))}
        for family in FAMILIES
    }
    unused = {name for name, known in forms.items() if name not in asked and not known & words}
    assert unused == DOCS_ONLY.keys()
    assert all(DOCS_ONLY.values())


def test_the_dashboards_name_their_families_through_the_catalogue() -> None:
    """A name that is written twice is wrong once."""
    for path in sorted(Path(FOLDER / "src").glob("*.py")):
        if path.name != "names.py":
            written = set(
                re.findall(r"\b(?:ollama|process)_\w+(?:total|bytes|seconds|info|models)\b", path.read_text("utf-8"))
            )
            assert not {name for name in written if name in _FAMILIES}, path.name
