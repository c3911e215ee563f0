"""What `check` and `metrics` print: the plan, what its sources can see and cannot, what was seen, the catalogue."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from exporter import catalog
from exporter.config import Config, Server, plan
from exporter.config.kinds import duration_text
from exporter.discovery.report import report
from exporter.environment import advice
from exporter.exposition import encode
from exporter.fleet import Observer
from exporter.gaps import Gap, gaps, what_helps
from exporter.model import (
    CanaryMode,
    CanarySettings,
    Family,
    HostSettings,
    Reading,
    Source,
    Watch,
    canonical,
)
from exporter.ollama import version_number
from exporter.series import Count, Switches, count
from exporter.sources import SOURCES, build
from exporter.sources.canary import SAFE_VERSION

Build = Callable[[Watch], Source]

ASSUMED_LOADED, ASSUMED_INSTALLED = 3, 10


# --- the plan --------------------------------------------------------------------------------------------------------


def plan_text(config: Config, here: Reading) -> str:
    """The plan, for `check`. `here` is a reading of this machine: the host is the only target that is looked at."""
    watches = plan(config)
    switches = _switches(config)
    parts = [
        _head(config),
        _servers(config.servers),
        _sources(config, watches, here),
        _probe(config),
        series_text(watches, here, switches),
    ]
    return "\n\n".join(parts) + "\n"


def look_here(config: Config, build: Build = build) -> Reading:
    """Look at the machine once, through the host source (also where it is switched off: then nothing is exported)."""
    watch = Watch("", "host", 15.0, 10.0, HostSettings(config.host.name, config.host.models_dir))
    return asyncio.run(_look([watch], build))[0]


def _head(config: Config) -> str:
    count = "1 server" if len(config.servers) == 1 else f"{len(config.servers)} servers"
    origin = {"default": "nothing else is configured"}.get(config.origin, f"from {config.origin}")
    places = ", ".join(each.name for each in config.discovery)
    found = f" and those that discovery finds ({places}; --online asks)" if places else ""
    return f"The configuration is right. {count} ({origin}){found}; listens on {config.web.listen_address}."


def _servers(servers: Iterable[Server]) -> str:
    rows = [
        (
            server.name,
            server.url,
            duration_text(server.poll_interval),
            duration_text(server.inventory_interval),
            duration_text(server.timeout),
            _canary(server),
            _credentials(server),
        )
        for server in servers
    ]
    return _table(("server", "url", "poll", "inventory", "timeout", "canary", "credentials"), rows)


def _canary(server: Server) -> str:
    if _is_off(server):
        return "off"
    named = [f"{name} {mode}" for name, mode in server.canary.models]
    return f"{'; '.join([server.canary.mode, *named])}; every {duration_text(server.canary.every)}"


def _is_off(server: Server) -> bool:
    return all(mode == "off" for mode in (server.canary.mode, *dict(server.canary.models).values()))


def _credentials(server: Server) -> str:
    ways = {
        "bearer token": server.bearer_token_file,
        "basic auth": server.basic_auth,
        "headers": server.headers,
        "certificate": server.tls.cert_file,
    }
    given = ", ".join(name for name, value in ways.items() if value)
    return (
        f"{given}, UNENCRYPTED"
        if given and server.url.startswith("http:") and not _is_here(server)
        else given or "none"
    )


# --- /probe ----------------------------------------------------------------------------------------------------------


def _probe(config: Config) -> str:
    probe = config.probe
    if not probe.enabled:
        return "/probe: off"
    allowed = ", ".join(map(str, probe.allow)) or "no other target"
    ports = f" on ports {', '.join(map(str, probe.ports))}" if probe.allow else ""
    token = "with a token" if config.web.tokens.probe_file else "WITHOUT A TOKEN" if probe.allow else "no token"
    rows = [
        (
            name,
            ", ".join(map(str, module.targets)) or "all that are allowed",
            duration_text(module.timeout),
            f"{module.canary.mode}; every {duration_text(module.canary.every)}" if module.canary.wanted else "off",
            ", ".join(module.credentials) or "none",
        )
        for name, module in probe.modules
    ]
    head = f"/probe: configured servers, {allowed}{ports}; {token}; {probe.concurrency} at the same time"
    return f"{head}\n{_table(('module', 'targets', 'timeout', 'canary', 'credentials'), rows)}"


# --- what can be seen ------------------------------------------------------------------------------------------------


def _sources(config: Config, watches: Sequence[Watch], here: Reading) -> str:
    told = {
        "api": _about_api(),
        "canary": _about_canary(config.servers),
        **{name: [("sees", kind.sees), ("is blind", kind.blind)] for name, kind in SOURCES.items() if kind.sees},
        "host": _about_host(config, here),
        "exporter": [("sees", "itself: build, reloads, the event loop's lag, its own process.")],
    }
    blocks = [_about(name, told[name], [watch for watch in watches if watch.source == name]) for name in told]
    return "\n\n".join(blocks)


def _about(name: str, told: Iterable[tuple[str, str]], watches: Sequence[Watch]) -> str:
    rhythms = sorted({(watch.every, watch.within) for watch in watches})
    rhythm = "; ".join(f"every {duration_text(every)}, within {duration_text(within)}" for every, within in rhythms)
    lines = [f"{name}: {rhythm or 'off'}"]
    for title, text in told:
        # Paths and URLs stay whole, to be copied.
        wrapper = textwrap.TextWrapper(112, f"  {title:<10}", " " * 12, break_on_hyphens=False, break_long_words=False)
        lines += wrapper.wrap(text)
    return "\n".join(lines)


def _about_api() -> list[tuple[str, str]]:
    return [
        ("sees", "whether a server answers, its version, its loaded and installed models, their memory and expiry."),
        ("is blind", "to the queue, to single requests and to their latency: Ollama tells none of it over HTTP."),
    ]


def _about_canary(servers: Sequence[Server]) -> list[tuple[str, str]]:
    off = [server.name for server in servers if _is_off(server)]
    if len(off) == len(servers):
        return [("is blind", "to everything: its mode is off for every server.")]
    named = [f"{name} on {server.name}" for server in servers for name, mode in server.canary.models if mode != "off"]
    always = [
        f"{name} on {server.name}" for server in servers for name, mode in server.canary.models if mode == "always"
    ]
    told = [
        ("sees", "time to first token, wait and decode speed of one tiny generation on models that are in use anyway."),
        (
            "is blind",
            "to servers before 0.30, where probing can reload a model, unless the model is named"
            f" ({', '.join(named) or 'none is'}); to models that nobody uses; to the speed of reading prompts.",
        ),
    ]
    if off:
        told.append(("is off", f"for {', '.join(off)}."))
    if always:
        told.append(("costs", f"memory for good: always keeps {', '.join(always)} loaded."))
    return told


def _about_host(config: Config, here: Reading) -> list[tuple[str, str]]:
    if not config.host.enabled:
        return [("is blind", "to this machine: host.enabled is false.")]
    told = [("sees", f"this machine, as {config.host.name}: CPU, memory, swap, network, Ollama's processes.")]
    if any(sample.family is catalog.HOST_STORE_SIZE for sample in here.samples):
        told.append(("sees", f"the file system of the model store{_where(config)}."))
    else:
        place = (
            f"{config.host.models_dir} is not there or not open to us" if config.host.models_dir else "none was found"
        )
        told.append(("is blind", f"to the model store: {place} (host.models_dir says where it is)."))
    if here.failure:
        told.append(("is blind", f"to some of this machine now ({here.failure}); the log tells which part."))
    remote = [server.name for server in config.servers if not _is_here(server)]
    if remote:
        told.append(("is blind", f"to the machines of {', '.join(remote)}: run an exporter on each for that."))
    return told


def _where(config: Config) -> str:
    return f" at {config.host.models_dir}" if config.host.models_dir else ", found without being told where"


def _is_here(server: Server) -> bool:
    host = urlsplit(server.url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


# --- how many series -------------------------------------------------------------------------------------------------


def _switches(config: Config) -> Switches:
    return Switches(config.limits.histogram_models, config.limits.inventory)


def series_text(watches: Sequence[Watch], here: Reading, switches: Switches) -> str:
    rows, total = [], 0
    for source in ("api", "canary", "host", "exporter"):
        watched = sum(watch.source == source for watch in watches)
        each = Count(encode(here).series) if source == "host" else count(source, switches)
        subtotal = watched * each.total(ASSUMED_LOADED, ASSUMED_INSTALLED)
        total += subtotal
        rows.append(
            (source, str(watched), str(each.fixed), str(each.per_loaded), str(each.per_installed), str(subtotal))
        )
    head = ("source", "watches", "fixed", "per loaded model", "per installed model", "series")
    return (
        f"{_table(head, rows)}\n\n"
        f"About {total} series at most: watches x (fixed + loaded x per loaded + installed x per installed), assuming"
        f" {ASSUMED_LOADED} loaded\nand {ASSUMED_INSTALLED} installed models on each server, which was not asked"
        " (--online asks).\nFor the canary, a model counts as loaded from its first load on. The host's are those of"
        " this machine now. What else is seen of a server is not in it: --online counts\nthat; docs/series.md tells"
        " how to lower it."
    )


# --- online ----------------------------------------------------------------------------------------------------------


def online(config: Config, build: Build = build) -> str:
    """Look once for servers and through all watches, and tell what was seen. The canary is left out, so that nothing is
    generated; whether it could run is told from what the api source saw."""
    found = asyncio.run(report(config))
    watches = plan(found.fleet)
    asked = [watch for watch in watches if watch.source not in ("canary", "exporter")]
    readings = asyncio.run(_look(asked, build))
    canaries = {watch.server: watch.settings for watch in watches if isinstance(watch.settings, CanarySettings)}
    rows = [_seen(each, canaries.get(each.watch.server)) for each in readings if each.watch.source == "api"]
    parts = [*found.blocks]
    parts += [_table(("server", "state", "version", "took", "failure", "loaded models", "canary"), rows)]
    failed = [reading for reading in readings if reading.failure and not reading.lacks]
    for each in failed:
        if each.failure:
            helps = what_helps(each.watch.source, each.failure)
            parts.append(f"{_name(each.watch)}: {each.failure}: {helps}")
    parts += advice([sample for reading in readings for sample in reading.samples])
    parts += [_gap(gap) for gap in gaps(readings)]
    parts.append(_series_now(readings, canaries, _switches(config)))
    return "\n\n".join(parts) + "\n"


def _gap(gap: Gap) -> str:
    """What a source cannot see here, and below it the line that would enable it, whole, to be copied."""
    of = f" of {', '.join(gap.servers)}" if gap.servers else ""
    return f"{gap.source}{of}: {gap.lack.what}\n  to enable it: {gap.lack.remedy}"


def _name(watch: Watch) -> str:
    return f"{watch.server} {watch.source}" if watch.server and watch.source != "api" else watch.server or watch.source


def _series_now(readings: Sequence[Reading], canaries: Mapping[str, CanarySettings], switches: Switches) -> str:
    now = sum(encode(reading).series for reading in readings) + count("exporter").fixed
    most = sum(
        count("canary", switches).total(len(_loaded(each)), 0) for each in readings if each.watch.server in canaries
    )
    return f"{now} series now" + (f", and up to {most} of the canary." if canaries else ".")


async def _look(watches: Sequence[Watch], build: Build) -> list[Reading]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_look_once(watch, build), name=f"{watch.server} {watch.source}") for watch in watches
        ]
    return [task.result() for task in tasks]


async def _look_once(watch: Watch, build: Build) -> Reading:
    source = build(watch)
    try:
        return await Observer(watch, source, SOURCES[watch.source].reasons, time.time).observe()
    finally:
        await source.aclose()


def _seen(reading: Reading, canary: CanarySettings | None) -> tuple[str, ...]:
    state = next(_values(reading, catalog.STATE, "state"), "unknown")
    version = next(_values(reading, catalog.BUILD_INFO, "version"), "")
    loaded = _loaded(reading)
    return (
        _name(reading.watch),
        state,
        version or "unknown",
        f"{reading.took * 1000:.0f}ms",
        reading.failure or "none",
        ", ".join(loaded) or ("none" if state == "ok" else "unknown"),
        canary_verdict(canary, version, loaded) if state == "ok" else "unknown",
    )


def _loaded(reading: Reading) -> list[str]:
    return sorted(_values(reading, catalog.LOADED_INFO, "model"))


def _values(reading: Reading, family: Family, label: str) -> Iterator[str]:
    """The label's values for which the family is 1."""
    for sample in reading.samples:
        if sample.family is family and sample.value == 1.0:
            yield sample.labels[family.labels.index(label)]


def canary_verdict(canary: CanarySettings | None, version: str, loaded: Iterable[str]) -> str:
    """Whether the canary could run on what is loaded, as far as version and configuration tell."""
    if canary is None:
        return "off"
    number, named = version_number(version), dict(canary.models)
    verdicts: dict[str, list[str]] = {}
    for model in sorted({*loaded, *(name for name, mode in named.items() if mode == "always")}):
        verdicts.setdefault(_verdict(named.get(canonical(model)), canary.mode, number), []).append(model)
    return "; ".join(f"{verdict}: {', '.join(models)}" for verdict, models in verdicts.items()) or "no model to run on"


def _verdict(named: CanaryMode | None, default: CanaryMode, number: tuple[int, int, int] | None) -> str:
    if (named or default) == "off":
        return "off"
    if named is None and (number is None or number < SAFE_VERSION):
        return "not before 0.30 unless named"
    return "able"


# --- the catalogue ---------------------------------------------------------------------------------------------------


def catalogue_markdown() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "<!-- Made from exporter/catalog; change it there. -->",
        "",
        "| name | type | labels | unit | help |",
        "|---|---|---|---|---|",
    ]
    for family in catalog.FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        cells = (f"`{family.name}`", family.kind, labels, family.unit, family.help.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def catalogue_text() -> str:
    rows = [
        (family.name, family.kind, ",".join(family.labels) or "-", family.unit or "-", family.help)
        for family in catalog.FAMILIES
    ]
    return _table(("name", "type", "labels", "unit", "help"), rows) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)
