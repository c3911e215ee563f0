"""`ollama-exporter load`: arguments and exit codes. 0 objectives met, 1 missed, 2 wrong usage, 3 an invalid run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.config import Config, ConfigError, endpoint_of
from exporter.config import load as load_config
from exporter.config.addresses import host_and_port, parse_listen, parse_url
from exporter.config.kinds import Wrong
from exporter.loadtest.safety import beyond, cost, located
from exporter.loadtest.scenario import BUILT_IN, Scenario, load
from exporter.model import Endpoint

if TYPE_CHECKING:
    from exporter.loadtest.session import Session

METRICS_ADDRESS = "127.0.0.1:8083"
EXPORTER = "http://127.0.0.1:8082"
_LIMITS = {"rate": "N", "concurrency": "N", "duration": "TIME", "tokens": "N"}


def main(argv: Sequence[str]) -> int:
    try:
        import rich  # noqa: F401 - only whether it is there
    except ImportError as missing:
        return _wrong([f"load needs {missing.name}: pip install 'ollama-exporter[load]'"])
    if argv[:1] == ["compare"]:
        return _compare(argv[1:])
    capacity = argv[:1] == ["capacity"]
    given = vars(_parser(capacity).parse_args(argv[1:] if capacity else argv))
    try:
        scenario = _scenario(given)
        servers = _servers(given)
        metrics = _address(given["metrics_address"])
        exporter = None if given["exporter"] in ("off", "none") else given["exporter"]
        chosen = exporter and parse_url(exporter)
    except ConfigError as error:
        return _wrong(error.mistakes)
    except Wrong as error:
        return _wrong([str(error)])
    places, refusals = located([endpoint.url for _, endpoint in servers], given["own"])
    refusals += [f"{name}: proxy_url is not supported by load" for name, endpoint in servers if endpoint.proxy]
    expected = cost(scenario)
    refusals += [] if capacity else beyond(scenario, expected)
    if refusals:
        return _wrong(refusals)
    from rich.console import Console

    from exporter.loadtest.session import Server, Session

    console = Console(stderr=True, quiet=given["quiet"], highlight=False)
    session = Session(
        scenario,
        tuple(Server(name, endpoint, place.address) for (name, endpoint), place in zip(servers, places, strict=True)),
        console,
        metrics,
        chosen,
        ("ollama-exporter", "load", *argv),
    )
    out = Path(given["out"] or f"load-{scenario.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        return _wrong([f"--out: {out} cannot be written: {error.strerror}"])
    if capacity:
        return _capacity(session, given, out)
    names = ", ".join(name for name, _ in servers)
    console.print(f"[bold]{scenario.name}[/]: {expected.text()}, models {', '.join(scenario.models)}, to {names}")
    return _run(session, out)


def _run(session: Session, out: Path) -> int:
    from rich.console import Console

    from exporter.loadtest import report, report_html, terminal
    from exporter.loadtest.verdict import EXIT

    requests = report.Requests(out / report.CSV)
    try:
        facts = asyncio.run(session.conduct(requests.hear, requests.flush))
    finally:
        requests.close()
    built = report.build(facts)
    (out / report.JSON).write_text(json.dumps(built, indent=1, allow_nan=False) + "\n", "utf-8")
    (out / report.HTML).write_text(report_html.page(built), "utf-8")
    terminal.tell(built, Console(highlight=False, quiet=session.console.quiet))
    session.console.print(f"reports: {out}/{report.JSON}, {report.CSV}, {report.HTML}", soft_wrap=True)
    return EXIT[facts.verdict.word]


def _capacity(session: Session, given: Mapping[str, Any], out: Path) -> int:
    from exporter.loadtest import capacity

    return capacity.main(session, given, out)


def _compare(argv: Sequence[str]) -> int:
    from exporter.loadtest import compare

    parser = argparse.ArgumentParser(
        prog="ollama-exporter load compare", allow_abbrev=False,
        description="What changed from one run to another beyond noise. A and B are folders with reports.",
    )  # fmt: skip
    parser.add_argument("before", metavar="A")
    parser.add_argument("after", metavar="B")
    given = parser.parse_args(argv)
    try:
        lines = compare.told(Path(given.before), Path(given.after))
    except (OSError, ValueError) as error:
        return _wrong([str(error)])
    print("\n".join(lines))
    return 0


# --- what was given ---------------------------------------------------------------------------------------------------


def _parser(capacity: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ollama-exporter load capacity" if capacity else "ollama-exporter load",
        description=(
            "Finds the highest load that servers carry within the objectives, and what bounds it."
            if capacity
            else "Offers a load to Ollama servers and judges it. Also: load capacity --help, load compare A B."
        ),
        epilog="Exit codes: 0 objectives met; 1 missed; 2 wrong usage; 3 the run proves nothing (invalid).",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--scenario", default="agents-174", metavar="NAME|FILE", help=f"{', '.join(BUILT_IN)}, or a YAML file")
    add("--url", action="append", help="a server; may be given again. Without, the configured servers")
    add("--weights", metavar="50,30,20", help="how much each server gets, against the others")
    add("--model", help="the model to ask, in place of those of the scenario")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument("--users", type=_whole, metavar="N", help="closed loop: so many users")
    loop.add_argument("--rate", type=_number, metavar="R", help="open loop: so many requests a second")
    add("--duration", metavar="60s", help="how long the load is offered")
    add("--shape", metavar="SHAPE", help="steady, ramp, step, spike or soak")
    add("--seed", type=_whole, metavar="S", help="the same number gives the same load")
    add("--timeout", metavar="TIME", help="how long a request may take")
    add("--no-warm-up", action="store_true", help="do not ask each model once beforehand")
    add("--out", metavar="DIR", help="where reports go; by default a new folder here")
    add("--abort-on", metavar="50%", help="end when so many of the last 50 requests failed; `never`")
    for limit, metavar in _LIMITS.items():
        add(f"--max-{limit}", metavar=metavar, help=f"limit of the scenario, in place of limits.{limit}")
    add("--i-own-this-server", action="store_true", dest="own", help="allow servers outside private networks")
    add(
        "--exporter",
        default=EXPORTER,
        metavar="URL",
        help=f"whose /metrics to hold the run against ({EXPORTER}); `off`",
    )
    add(
        "--metrics-address", default=METRICS_ADDRESS, metavar="ADDRESS", help=f"own /metrics ({METRICS_ADDRESS}); `off`"
    )
    add("--config.file", dest="config", metavar="FILE", help="configuration with the servers, where no --url is given")
    add("--quiet", action="store_true", help="print nothing but mistakes")
    if capacity:
        add(
            "--repeats", type=_whole, default=3, metavar="N", help="runs of each load; all must keep the objectives (3)"
        )
        add(
            "--start",
            type=_number,
            metavar="N",
            help="where the sweep begins; by default an eighth of the scenario's load",
        )
        add(
            "--most",
            type=_number,
            metavar="N",
            help="where it ends at the latest; by default 16 times the scenario's load",
        )
        add("--parallel", metavar="1,2,4", help="values of OLLAMA_NUM_PARALLEL to try, with --restart")
        add(
            "--restart",
            metavar="COMMAND",
            help="restarts the server; {parallel} in it is replaced, and set as variable",
        )
    return parser


def _whole(text: str) -> int:
    return int(text)


def _number(text: str) -> float:
    return float(text)


def _scenario(given: Mapping[str, Any]) -> Scenario:
    keys = ("model", "users", "rate", "duration", "shape", "seed", "timeout")
    flags: dict[str, object] = {key: given[key] for key in keys}
    if given["abort_on"] not in (None, "never"):
        flags["abort_on"] = given["abort_on"]
    if given["weights"] is not None:
        flags["weights"] = [_weight(each) for each in given["weights"].split(",")]
    if given["no_warm_up"]:
        flags["warm_up"] = False
    limits = {limit: _limit(given[f"max_{limit}"]) for limit in _LIMITS if given[f"max_{limit}"] is not None}
    return load(given["scenario"], flags, limits, abort=given["abort_on"] != "never")


def _weight(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _limit(text: str) -> object:
    """As YAML would read it."""
    try:
        return int(text)
    except ValueError:
        return _weight(text)


def _servers(given: Mapping[str, Any]) -> list[tuple[str, Endpoint]]:
    if given["url"]:
        urls = [parse_url(url) for url in given["url"]]
        for place, url in enumerate(urls):
            if url in urls[:place]:
                raise Wrong(f"--url: {url} is given twice: --weights says how much a server gets")
        return [(host_and_port(url), Endpoint(url)) for url in urls]
    config: Config = load_config(given["config"], os.environ)
    return [(str(server.name), endpoint_of(server)) for server in config.servers]


def _address(text: str) -> tuple[str, int] | None:
    if text in ("off", "none", ""):
        return None
    listen = parse_listen(text)
    return listen.host, listen.port


def _wrong(mistakes: Sequence[str]) -> int:
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    return 2
