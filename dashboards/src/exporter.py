"""Can the other boards be trusted?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import RATE, increase, mean, over, pick, quantile, rate
from dashboards.src.panels import BYTES, COUNT, NEEDS_LOGS, SECONDS, SHARE, Board, Column, Look, Query, Row
from exporter import catalog
from exporter.model import REASONS, Family
from exporter.ollamalog import MISFIT_KINDS

_SS = "server, source"


def _longest(by: str, source: str) -> str:
    return over("max", by, f"max_over_time({pick(catalog.SOURCE_DURATION, source=source)}[{RATE}])")


def _in_time(family: Family) -> str:
    return over("sum", "server", f"increase({pick(family)}[$__range])")


# `job` may be any: what else this Prometheus scrapes is no exporter of ours, and neither are targets of /probe.
_OURS = f"and on (job) last_over_time({pick(catalog.EXPORTER_BUILD)}[1d])"
_SCRAPED = f"({pick(names.SCRAPED)} {_OURS})"


def _of_exporters(family: names.Recorded) -> str:
    return over("max", "instance", f"{pick(family)} and on (job, instance) {pick(catalog.EXPORTER_BUILD)}")


_NO_DISCOVERY = "Not configured"
_ID, _LEGEND = "instance, discovery", "{{instance}} {{discovery}}"

_VERDICT = Row(
    100,
    "Can the other boards be trusted?",
    (
        panels.stat(
            101,
            "Exporters not scraped",
            "How many exporters does Prometheus not reach? While one is away, its servers count as unavailable:"
            " nobody knows. Next: is it running, is its port open?",
            f"count({_SCRAPED} == 0) or 0 * count({_SCRAPED})",
            Look(COUNT, panels.ANY_IS_BAD),
        ),
        panels.stat(
            102,
            "Sources not seeing all",
            "How many sources failed at their last reading? A server that is down counts; more than those: the table"
            " below.",
            f"count({pick(catalog.SOURCE_UP)} == 0) or 0 * count({pick(catalog.SOURCE_UP)})",
            Look(COUNT, panels.ANY_IS_ODD),
        ),
        panels.stat(
            103,
            "Oldest reading",
            "How old is the oldest reading that is shown? Readings come every 15 s unless set otherwise; minutes mean"
            " that a source hangs.",
            f"time() - min({pick(catalog.SOURCE_LAST_ATTEMPT)})",
            Look(SECONDS, panels.STALE, decimals=0),
        ),
        panels.stat(
            104,
            "Last reload of the settings",
            "Did the last change of the configuration take effect? Failed: the old one stays in force; the exporter's"
            " log names every mistake.",
            Query(over("min", "instance", pick(catalog.EXPORTER_RELOAD_OK)), "{{instance}}"),
            Look(mapping=((1, "well", panels.OK), (0, "failed", panels.BAD))),
        ),
        panels.stat(
            105,
            "Servers watched",
            "How many servers are in the configurations in force?",
            f"sum({pick(catalog.EXPORTER_SERVERS)})",
            Look(COUNT),
        ),
        panels.stat(
            106,
            "Model names left out",
            "How many names of models were put under `other`, because of the cap or their length? Above 0: raise"
            " limits.models, or remove models.",
            f"sum({pick(catalog.EXPORTER_DROPPED)})",
            Look(COUNT, panels.ANY_IS_ODD),
        ),
    ),
)

_SOURCES = Row(
    200,
    "What does each source see?",
    (
        panels.table(
            201,
            "Sources, by server",
            "Which source is blind, stale or slow? A source without a server is about the exporter's own machine."
            " Failures are of the chosen time.",
            (
                Column("Server", "server", width=170),
                Column("Source", "source", width=120),
                Column(
                    "Sees all",
                    query=over("min", _SS, pick(catalog.SOURCE_UP)),
                    look=Look(mapping=((1, "yes", panels.OK), (0, "no", panels.BAD))),
                    cell="colour",
                    width=100,
                ),
                Column(
                    "Last reading",
                    query=f"time() - {over('max', _SS, pick(catalog.SOURCE_LAST_ATTEMPT))}",
                    look=Look(SECONDS, panels.STALE, decimals=0),
                    cell="colour",
                    width=130,
                ),
                Column(
                    "Last good one",
                    query=f"time() - {over('max', _SS, pick(catalog.SOURCE_LAST_SUCCESS))}",
                    look=Look(SECONDS, panels.STALE, decimals=0),
                    cell="colour",
                    width=130,
                ),
                Column(
                    "Duration",
                    query=over("max", _SS, pick(catalog.SOURCE_DURATION)),
                    look=Look(SECONDS, panels.over_is_bad(1, 5), least=0, most=5),
                    cell="bar",
                ),
                Column(
                    "Failures",
                    query=over("sum", _SS, f"increase({pick(catalog.SOURCE_FAILURES)}[$__range])"),
                    look=Look(COUNT, panels.ANY_IS_ODD, decimals=0),
                    cell="colour",
                    width=110,
                ),
            ),
            sort="Last good one",
            descending=True,
            height=10,
        ),
        panels.graph(
            202,
            "Failed readings, by reason",
            "Since when, and why? timeout and refused are the server's matter, dns and tls the settings', bug is"
            " ours: please report it with the log.",
            Query(over("sum", "server, source, reason", f"{increase(catalog.SOURCE_FAILURES)} > 0"),
                  "{{server}} {{source}} {{reason}}"),
            Look(COUNT, empty="No failures", least=0, last_words=REASONS),
            width=12,
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            203,
            "Duration of polls, by server",
            "Which server's API has become slow? The longest reading of each step; ten slowest. What is slow delays"
            " nothing else: every source has its own rhythm.",
            Query(f"topk(10, {_longest('server', 'api')})", "{{server}}"),
            Look(SECONDS, least=0),
            width=12,
        ),
        panels.graph(
            204,
            "Duration of canaries, by server",
            "How long do canaries take, with the look at the server before them? The longest of each step; ten slowest."
            " Milliseconds: it was decided not to send one.",
            Query(f"topk(10, {_longest('server', 'canary')})", "{{server}}"),
            Look(SECONDS, least=0),
            width=12,
        ),
        panels.graph(
            205,
            "Duration of the other readings, by source",
            "Is one of the sources that look at the exporter's own machine slow? The longest reading of each step.",
            Query(f"topk(10, {_longest('source', '!~api|canary')})", "{{source}}"),
            Look(SECONDS, least=0),
            width=12,
        ),
    ),
)  # fmt: skip

_PAGE = Row(
    300,
    "What does it cost?",
    (
        panels.graph(
            301,
            "Series on the page",
            "How many series does Prometheus store for us? Grows with servers times models. The scrape's own count is"
            " what really arrived.",
            [
                Query(over("max", "instance", pick(catalog.EXPORTER_SERIES)), "{{instance}} page"),
                Query(_of_exporters(names.SCRAPE_SAMPLES), "{{instance}} scraped"),
            ],
            Look(COUNT, least=0),
        ),
        panels.graph(
            302,
            "Size of the page",
            "How large is /metrics before compression?",
            Query(over("max", "instance", pick(catalog.EXPORTER_PAGE)), "{{instance}}"),
            Look(BYTES, least=0),
        ),
        panels.graph(
            303,
            "Time to make and to fetch the page",
            "Is scraping cheap? Milliseconds; a scrape takes no look at servers. A scrape much longer than the"
            " layout is joining, compressing and the network.",
            [
                Query(over("max", "instance", pick(catalog.EXPORTER_RENDER)), "{{instance}} layout"),
                Query(_of_exporters(names.SCRAPE_DURATION), "{{instance}} scrape"),
            ],
            Look(SECONDS, least=0),
        ),
        panels.graph(
            304,
            "Lateness of polls",
            "Does the exporter keep up? 99th percentile and mean of how late polls start. Above 0.1 s (dashed) the"
            " machine is short of CPU, or something blocks.",
            [
                Query(quantile(0.99, catalog.EXPORTER_LAG, "instance"), "{{instance}} p99"),
                Query(mean(catalog.EXPORTER_LAG, "instance"), "{{instance}} mean"),
            ],
            Look(SECONDS, panels.LAG_LIMITS, least=0),
        ),
        panels.graph(
            305,
            "CPU of the exporter",
            "What does watching cost? Share of one CPU; a few per cent.",
            Query(over("sum", "instance", rate(catalog.PROCESS_CPU)), "{{instance}}"),
            Look(SHARE, least=0),
        ),
        panels.graph(
            306,
            "Memory of the exporter",
            "Does it leak? Resident is what counts; it levels off after some minutes.",
            [
                Query(over("max", "instance", pick(catalog.PROCESS_RSS)), "{{instance}} resident"),
                Query(over("max", "instance", pick(catalog.PROCESS_VIRTUAL)), "{{instance}} virtual"),
            ],
            Look(BYTES, least=0),
        ),
        panels.stat(
            307,
            "Open files, of the allowed",
            "Do connections leak? Near 100 % neither scrapes nor polls can connect.",
            Query(
                over("max", "instance", f"{pick(catalog.PROCESS_FDS)} / {pick(catalog.PROCESS_MAX_FDS)}"),
                "{{instance}}",
            ),
            Look(SHARE, panels.over_is_bad(0.7, 0.9), decimals=1),
            width=8,
        ),
        panels.stat(
            308,
            "Exporter up for",
            "Has it restarted? Counters begin anew, and canaries wait one interval.",
            Query(f"time() - {over('max', 'instance', pick(catalog.PROCESS_START))}", "{{instance}}"),
            Look(SECONDS, decimals=0),
            width=8,
        ),
        panels.stat(
            309,
            "Restarts in the chosen time",
            "How often did it start anew? More than upgrades explain: its service's log.",
            Query(over("sum", "instance", f"changes({pick(catalog.PROCESS_START)}[$__range])"), "{{instance}}"),
            Look(COUNT, panels.ANY_IS_ODD, decimals=0),
            width=8,
        ),
        panels.table(
            310,
            "Builds and settings in force",
            "Are all exporters the same? Version of the exporter and of its Python, hash of its settings, time since"
            " they were loaded.",
            (
                Column("Instance", "instance"),
                Column("Version", "version"),
                Column("Python", "python"),
                Column("Settings", "hash"),
                Column(
                    "Loaded before",
                    query=f"time() - {over('max', 'instance', pick(catalog.EXPORTER_RELOAD_TIME))}",
                    look=Look(SECONDS, decimals=0),
                ),
            ),
            extra=(
                over("max", "instance, version, python", pick(catalog.EXPORTER_BUILD)),
                over("max", "instance, hash", pick(catalog.EXPORTER_CONFIG)),
            ),
            height=5,
        ),
    ),
)

_LOGS = Row(
    400,
    "Are logs read as they should be? (source logs)",
    (
        panels.table(
            401,
            "Logs, by server",
            "Which log is not read whole? A last line from before the server's last request: it is not this server's"
            " log. Behind: there is more than may be read at a time; what is counted comes late. Gaps and misfits are"
            " of the chosen time.",
            (
                Column("Server", "server"),
                Column("Read from", "reader"),
                Column("Last line", query=f"time() - {over('max', 'server', pick(catalog.LOG_LAST_LINE))}",
                       look=Look(SECONDS, decimals=0)),
                Column("Behind", query=over("max", "server", pick(catalog.LOG_BEHIND)),
                       look=Look(mapping=((0, "no", panels.OK), (1, "yes", panels.WARN))), cell="colour"),
                Column("Not read yet", query=over("max", "server", pick(catalog.LOG_BACKLOG)), look=Look(BYTES)),
                Column("Gaps", query=_in_time(catalog.LOG_GAPS),
                       look=Look(COUNT, panels.ANY_IS_ODD, decimals=0), cell="colour"),
                Column("Misfits", query=_in_time(catalog.LOG_MISFITS),
                       look=Look(COUNT, panels.ANY_IS_ODD, decimals=0), cell="colour"),
            ),
            extra=(over("max", "server, reader", pick(catalog.LOG_READER)),),
            empty=NEEDS_LOGS,
            height=6,
        ),
        panels.graph(
            402,
            "Lines that could not be read, by kind",
            "Does Ollama write in a way that the exporter does not know? Anything above 0 after an upgrade: what is"
            " counted is too low; please report the version.",
            Query(f"{over('sum', 'kind', increase(catalog.LOG_MISFITS))} > 0", "{{kind}}"),
            Look(COUNT, empty="None, or no source logs", least=0, names=MISFIT_KINDS),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            403,
            "Lines read a second",
            "Which logs are busy? A line or two for each request; thousands are debug output, which costs the"
            " exporter CPU. Ten busiest.",
            Query(f"topk(10, {over('sum', 'server', rate(catalog.LOG_LINES))})", "{{server}}"),
            Look("cps", empty=NEEDS_LOGS, least=0),
        ),
        panels.graph(
            404,
            "Bytes read a second",
            "How much is read? In the form that the log is kept in; a journal's export is several times its text. Ten"
            " busiest.",
            Query(f"topk(10, {over('sum', 'server', rate(catalog.LOG_BYTES))})", "{{server}}"),
            Look("Bps", empty=NEEDS_LOGS, least=0, room=1000),
        ),
    ),
)  # fmt: skip

_DISCOVERY = Row(
    500,
    "Are all servers found? (discovery, where it is configured)",
    (
        panels.stat(
            501,
            "Last look",
            "Did the last look for servers succeed, place by place? Failed: those found before stay in the fleet. Next:"
            " the reasons below, and the exporter's log.",
            Query(over("min", _ID, pick(catalog.DISCOVERY_UP)), _LEGEND),
            Look(mapping=((1, "well", panels.OK), (0, "failed", panels.BAD)), empty=_NO_DISCOVERY),
            width=6,
        ),
        panels.stat(
            502,
            "Servers found",
            "How many servers of the fleet come from each place? Fewer than there are: left out, beside, or dropped by"
            " relabel rules.",
            Query(over("sum", _ID, pick(catalog.DISCOVERY_SERVERS)), _LEGEND),
            Look(COUNT, empty=_NO_DISCOVERY, decimals=0),
            width=6,
        ),
        panels.stat(
            503,
            "Last good look",
            "How old is what discovery knows? Minutes mean that a place cannot be asked.",
            Query(f"time() - {over('max', _ID, pick(catalog.DISCOVERY_SUCCESS))}", _LEGEND),
            Look(SECONDS, panels.STALE, _NO_DISCOVERY, decimals=0),
            width=6,
        ),
        panels.stat(
            504,
            "Found and left out, by reason",
            "Who was found and is not watched? name_taken, address_taken: another server has it. invalid: labels make"
            " no URL or no name. unreachable: a container without an address. limit: limits.servers.",
            Query(over("sum", "reason", pick(catalog.DISCOVERY_LEFT_OUT)), "{{reason}}"),
            Look(COUNT, panels.ANY_IS_ODD, _NO_DISCOVERY, decimals=0),
            width=6,
            show="both",
        ),
        panels.graph(
            505,
            "Looks of discovery that failed, by reason",
            "Since when, and why? unavailable: a file, an engine or a cluster that cannot be asked from here. http_4xx:"
            " credentials or rights.",
            Query(f"{over('sum', 'reason', increase(catalog.DISCOVERY_FAILURES))} > 0", "{{reason}}"),
            Look(COUNT, empty="None, or discovery is not configured", least=0, names=REASONS),
            width=24,
            height=5,
            stack=True,
            as_bars=True,
        ),
    ),
)

_NO_PROBES = "Nobody asks /probe"
_PROBED = "job, instance"

_PROBES = Row(
    600,
    "Are targets probed? (/probe, where Prometheus asks it)",
    (
        panels.stat(
            601,
            "Targets not seen",
            "How many targets of /probe were not seen at their last probe? Next: the fleet's board; `&debug=true` at"
            " the end of the probe's URL shows what came back.",
            f"count({pick(catalog.PROBE_SUCCESS)} == 0) or 0 * count({pick(catalog.PROBE_SUCCESS)})",
            Look(COUNT, panels.ANY_IS_BAD, _NO_PROBES),
            width=6,
            height=8,
        ),
        panels.graph(
            602,
            "Time of a probe, of the time it has",
            "Which targets come near their deadline? At 100 % a probe is given up; ten slowest.",
            Query(
                "topk(10, "
                + over("max", _PROBED, f"{pick(catalog.PROBE_DURATION)} / {pick(catalog.PROBE_TIMEOUT)}")
                + ")",
                "{{instance}}",
            ),
            Look(SHARE, empty=_NO_PROBES, least=0),
            width=9,
        ),
        panels.graph(
            603,
            "Probes answered, by outcome",
            "How many probes does each exporter answer a second, and how many targets did it not see?",
            Query(over("sum", "instance, outcome", rate(catalog.EXPORTER_PROBES)), "{{instance}} {{outcome}}"),
            Look("cps", empty=_NO_PROBES, least=0),
            width=9,
        ),
        panels.graph(
            604,
            "Probes refused, by reason",
            "Which questions are not answered? not_allowed: not in probe.allow; module, missing, malformed: the job's"
            " relabel rules; too_many: spread them over more exporters; address: a name leads inside.",
            Query(
                f"{over('sum', 'instance, reason', increase(catalog.EXPORTER_PROBES_REFUSED))} > 0",
                "{{instance}} {{reason}}",
            ),
            Look(COUNT, empty="None refused", least=0),
            width=12,
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            605,
            "Probes under way, and what is kept",
            "Does it come near probe.concurrency? Sources are kept a quarter of an hour after their last probe, 2,000"
            " of them.",
            [
                Query(over("max", "instance", pick(catalog.EXPORTER_PROBES_IN_FLIGHT)), "{{instance}} under way"),
                Query(over("max", "instance", pick(catalog.EXPORTER_PROBE_STATES)), "{{instance}} kept"),
            ],
            Look(COUNT, least=0),
            width=12,
        ),
    ),
)

BOARD = Board(
    "ollama-exporter",
    "Ollama / Exporter health",
    "Can the other boards be trusted? The exporter about itself.",
    (_VERDICT, _SOURCES, _PAGE, _LOGS, _DISCOVERY, _PROBES),
)
