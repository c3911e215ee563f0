"""Does the machine hold? Only of machines that an exporter runs on."""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import age, over, pick, rate
from dashboards.src.panels import BYTES, COUNT, SECONDS, SHARE, Board, Look, Query, Row
from exporter import catalog

_USED = f"{pick(catalog.HOST_MEMORY_TOTAL)} - {pick(catalog.HOST_MEMORY_AVAILABLE)}"
_STORE_USED = f"{pick(catalog.HOST_STORE_SIZE)} - {pick(catalog.HOST_STORE_AVAILABLE)}"
_NO_STORE = "No model store here"
_NO_PRESSURE = "This kernel tells none"
_PRESSURES = tuple(f"{resource} {share}" for resource in ("cpu", "memory", "io") for share in ("some", "full"))
_REAL = "!~(ifb|dummy|docker|virbr|gre|gretap|erspan|ip_vti|ip6_vti|sit|tunl|ip6tnl).*"

_VERDICT = Row(
    100,
    "Is it well?",
    (
        panels.gauge(
            101,
            "Memory left",
            "How much memory can be had without swapping? Below 8 % the kernel is about to end a runner. Next: what"
            " takes it, on Runner internals and Models and memory.",
            Query(over("min", "host", pick(names.MEMORY_AVAILABLE)), "{{host}}"),
            Look(SHARE, panels.MEMORY_LEFT, decimals=0, least=0, most=1),
        ),
        panels.gauge(
            102,
            "Disk left for models",
            "How much of the file system of the model store is free? Below 10 % plan, below 5 % pulls fail soon."
            " Next: what could be removed, on Models and memory.",
            Query(over("min", "host", pick(names.STORE_AVAILABLE)), "{{host}}"),
            Look(SHARE, panels.STORE_LEFT, _NO_STORE, decimals=0, least=0, most=1),
        ),
        panels.stat(
            103,
            "Load for each CPU",
            "Do tasks queue for a CPU? Load average of 5 minutes over CPUs; above 1 they do. High with idle CPUs:"
            " they wait for the disk, see pressure.",
            Query(
                over(
                    "max",
                    "host",
                    f"{pick(catalog.HOST_LOAD, window='5m')} / ignoring (window) {pick(catalog.HOST_CPUS)}",
                ),
                "{{host}}",
            ),
            Look(COUNT, panels.over_is_bad(1, 2), decimals=2),
            height=5,
        ),
        panels.stat(
            104,
            "Swap in use",
            "Is memory so short that the machine swaps? Some is normal; growing while models load is not: a model in"
            " swap is unbearably slow.",
            Query(over("max", "host", pick(catalog.HOST_SWAP_USED)), "{{host}}"),
            Look(BYTES),
            height=5,
        ),
        panels.stat(
            105,
            "Processes of Ollama",
            "Is Ollama on this machine at all? One serve; as many runners as loaded models.",
            Query(over("sum", "process", pick(catalog.HOST_PROCESSES)), "{{process}}"),
            Look(COUNT, empty="No process of Ollama seen here"),
            show="both",
            height=5,
        ),
        panels.stat(
            106,
            "Machine up for",
            "Has it restarted? Compare with the annotations of ollama serve.",
            Query(age(catalog.HOST_BOOT, "host"), "{{host}}"),
            Look(SECONDS, decimals=0),
            height=5,
        ),
    ),
)

_CPU = Row(
    200,
    "Who waits for what?",
    (
        panels.graph(
            201,
            "CPUs in use, by mode",
            "What do the CPUs do? user: computing, on a machine with a GPU a sign of weights on the CPU. iowait:"
            " models are read from a slow disk. steal: the hypervisor gives too little. Idle is left out.",
            Query(over("sum", "mode", f"{rate(catalog.HOST_CPU, mode='!idle')} > 0.001"), "{{mode}}"),
            Look("suffix:CPUs", least=0, names=("user", "system", "nice", "iowait", "irq", "softirq", "steal")),
            stack=True,
        ),
        panels.graph(
            202,
            "Load average against CPUs",
            "Is more asked than there is? The lines above `CPUs` queue. The 1-minute line leads, the 15-minute one"
            " tells whether it lasts.",
            [
                Query(over("max", "window", pick(catalog.HOST_LOAD)), "{{window}}"),
                Query(f"max({pick(catalog.HOST_CPUS)})", "CPUs"),
            ],
            Look(COUNT, least=0, names=("1m", "5m", "15m", "CPUs")),
        ),
        panels.graph(
            203,
            "Pressure: share of time in which tasks waited",
            "What is short: cpu, memory or io? some: at least one task waited for it; full: all did. memory above 10"
            " % (dashed): the machine thrashes.",
            Query(over("max", "resource, share", rate(catalog.HOST_PRESSURE)), "{{resource}} {{share}}"),
            Look(SHARE, panels.over_is_bad(0.1, 0.5), _NO_PRESSURE, least=0, room=0.2, names=_PRESSURES),
        ),
    ),
)

_MEMORY = Row(
    300,
    "What is left?",
    (
        panels.graph(
            301,
            "Memory in use and available",
            "Does it run out? Together they are the machine's memory.",
            [Query(f"sum({_USED})", "in use"), Query(f"sum({pick(catalog.HOST_MEMORY_AVAILABLE)})", "available")],
            Look(BYTES, least=0, names=("in use", "available")),
            stack=True,
        ),
        panels.graph(
            302,
            "Swap in use, against its size",
            "Does the machine swap while users wait? Flat is harmless, however high.",
            [
                Query(f"sum({pick(catalog.HOST_SWAP_USED)})", "swap"),
                Query(f"sum({pick(catalog.HOST_SWAP_TOTAL)})", "size"),
            ],
            Look(BYTES, least=0, names=("swap", "size"), room=2**30),
        ),
        panels.graph(
            303,
            "Disk of the model store",
            "When is the disk full? Together they are the file system's size for ordinary users.",
            [Query(f"sum({_STORE_USED})", "in use"), Query(f"sum({pick(catalog.HOST_STORE_AVAILABLE)})", "available")],
            Look(BYTES, empty=_NO_STORE, least=0, names=("in use", "available")),
            stack=True,
        ),
        panels.graph(
            304,
            "Network: received",
            "Is something pulled, or are prompts huge? By device; loopback, containers' bridges and what only passes"
            " traffic on (ifb, dummy, tunnels' ends) are left out. Ten busiest.",
            Query(
                f"topk(10, {over('sum', 'host, device', rate(catalog.HOST_RECEIVED, device=_REAL))})",
                "{{host}} {{device}}",
            ),
            Look("Bps", least=0, room=1000),
            width=12,
        ),
        panels.graph(
            305,
            "Network: sent",
            "Are answers leaving? Tokens are small: megabytes a second are something else, such as a copy of models.",
            Query(
                f"topk(10, {over('sum', 'host, device', rate(catalog.HOST_SENT, device=_REAL))})",
                "{{host}} {{device}}",
            ),
            Look("Bps", least=0, room=1000),
            width=12,
        ),
    ),
)

_LATER = Row(
    400,
    "Containers and GPUs",
    (
        panels.note(
            401,
            "With their sources",
            "- **Containers** (limits, use, restarts, health, OOM kills): with the source `docker`, which needs the"
            " Docker socket.\n- **GPUs** (use, memory, power, temperature, throttling, memory by runner): with the"
            " source `gpu`, which needs NVIDIA's library or amdgpu's files in sysfs.\n\nWhat Ollama itself counts as"
            " GPU memory is on Models and memory.",
        ),
    ),
)

BOARD = Board(
    "ollama-host",
    "Ollama / Host, containers, GPU",
    "Does the machine hold? Machines without an exporter of their own are not here.",
    (_VERDICT, _CPU, _MEMORY, _LATER),
)
