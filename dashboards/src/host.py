"""Does the machine hold? Only of machines that an exporter runs on."""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import age, increase, over, pick, rate
from dashboards.src.panels import (
    BYTES,
    CELSIUS,
    COUNT,
    JOULES,
    NEEDS_DOCKER,
    NEEDS_GPU,
    NEEDS_NVIDIA,
    SECONDS,
    SHARE,
    WATTS,
    Board,
    Column,
    Look,
    Query,
    Row,
    link_to,
)  # fmt: skip
from exporter import catalog
from exporter.model import Family

_USED = f"{pick(catalog.HOST_MEMORY_TOTAL)} - {pick(catalog.HOST_MEMORY_AVAILABLE)}"
_STORE_USED = f"{pick(catalog.HOST_STORE_SIZE)} - {pick(catalog.HOST_STORE_AVAILABLE)}"
_NO_STORE = "No model store here"
_NO_PRESSURE = "This kernel tells none"
_PRESSURES = tuple(f"{resource} {share}" for resource in ("cpu", "memory", "io") for share in ("some", "full"))
_NO_PROCESS = "No process of Ollama seen here"

_THROTTLING = ("power_cap", "power_brake", "software_thermal", "hardware_thermal", "hardware_slowdown", "sync_boost",
               "clocks_setting")  # fmt: skip


_STATES = Look(
    mapping=tuple(
        (state, state, colour)
        for colour, states in (
            (panels.OK, ("running",)),
            (panels.WARN, ("created", "paused", "restarting")),
            (panels.BAD, ("removing", "exited", "dead")),
        )
        for state in states
    )
)
_HEALTH = Look(
    mapping=(
        ("healthy", "healthy", panels.OK),
        ("starting", "starting", panels.NEUTRAL),
        ("unhealthy", "unhealthy", panels.WARN),
    )
)


def _of(operation: str, family: Family) -> str:
    return over(operation, "server", pick(family))


def _in_time(family: Family) -> str:
    return over("sum", "server", f"increase({pick(family)}[$__range])")


def _of_gpus(family: Family) -> str:
    return over("max", "host, gpu", pick(family))


def _errors(family: Family, kind: str) -> str:
    return f"{over('sum', f'host, gpu, {kind}', increase(family))} > 0"


_HEAT_OR_POWER = "~hardware_slowdown|hardware_thermal|power_brake|software_thermal"
_HELD_BACK = over("max", "host, gpu", pick(catalog.GPU_THROTTLED, reason=_HEAT_OR_POWER))

_VERDICT = Row(
    100,
    "Is it well?",
    (
        panels.gauge(
            101,
            "Memory left",
            "How much memory can be had without swapping? Below 8 % the kernel is about to end a runner. Next: what"
            " takes it, in the row on processes and on Models and memory.",
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
            Look(COUNT, empty=_NO_PROCESS),
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
            # Read at moments of its own, so that between two scrapes there may be more of it than time.
            Query(
                f"clamp_max({over('max', 'resource, share', rate(catalog.HOST_PRESSURE))}, 1)", "{{resource}} {{share}}"
            ),
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
            " traffic on (ifb, dummy, tunnels' ends) are not exported. Ten busiest.",
            Query(
                f"topk(10, {over('sum', 'host, device', rate(catalog.HOST_RECEIVED))})",
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
                f"topk(10, {over('sum', 'host, device', rate(catalog.HOST_SENT))})",
                "{{host}} {{device}}",
            ),
            Look("Bps", least=0, room=1000),
            width=12,
        ),
    ),
)

_PROCESSES = Row(
    400,
    "What do Ollama's processes use, on the exporter's machine?",
    (
        panels.stat(
            401,
            "Youngest runner",
            "How long has the youngest runner been there? Seconds, again and again: runners die or models thrash.",
            Query(f"time() - {over('max', 'host', pick(catalog.HOST_PROCESS_START, process='runner'))}", "{{host}}"),
            Look(SECONDS, empty=_NO_PROCESS, decimals=0),
            width=12,
        ),
        panels.stat(
            402,
            "Youngest ollama serve",
            "How long has ollama serve been up? A restart that nobody ordered: the log of its service.",
            Query(f"time() - {over('max', 'host', pick(catalog.HOST_PROCESS_START, process='serve'))}", "{{host}}"),
            Look(SECONDS, empty=_NO_PROCESS, decimals=0),
            width=12,
        ),
        panels.graph(
            403,
            "CPUs used by Ollama's processes",
            "Do runners compute on the CPU? One CPU each is the sampling beside a GPU; many are a model, or a part of"
            " one, on the CPU.",
            Query(over("sum", "process", rate(catalog.HOST_PROCESS_CPU)), "{{process}}"),
            Look("suffix:CPUs", empty=_NO_PROCESS, least=0),
        ),
        panels.graph(
            404,
            "Memory of Ollama's processes",
            "What do they hold in host memory? Memory-mapped weights count as far as they are in memory; prompt"
            " caches grow to 8 GiB per runner.",
            Query(over("sum", "process", pick(catalog.HOST_PROCESS_RSS)), "{{process}}"),
            Look(BYTES, empty=_NO_PROCESS, least=0),
        ),
        panels.graph(
            405,
            "Open files of Ollama's processes",
            "Do connections pile up? serve holds one for each request and each idle keep-alive; near its limit (often"
            " 1024) new ones are refused.",
            Query(over("sum", "process", pick(catalog.HOST_PROCESS_FDS)), "{{process}}"),
            Look(COUNT, empty=_NO_PROCESS, least=0),
        ),
    ),
)

_CONTAINERS = Row(
    500,
    "Do the containers hold? (source docker)",
    (
        panels.table(
            501,
            "Containers of servers",
            "Which container is not as it should be? Exit code 137: killed, by hand or for want of memory. Starts and"
            " OOM kills are of the chosen time; a runner may be killed while the container runs on. Held: CPUs that"
            " its quota withheld, on average. Image: without its registry.",
            (
                Column("Server", "server", link=link_to("ollama-server", "server"), width=140),
                Column("Container", "container"),
                Column("Image", "image"),
                Column("State", "state", look=_STATES, cell="colour", width=90),
                Column("Health", "health", look=_HEALTH, cell="colour", width=90),
                Column("Up for", query=f"time() - {_of('max', catalog.CONTAINER_START)}",
                       look=Look(SECONDS, decimals=0), width=90),
                Column("Ended before", query=f"time() - {_of('max', catalog.CONTAINER_LAST_EXIT)}",
                       look=Look(SECONDS, decimals=0), width=110),
                Column("Exit code", query=_of("max", catalog.CONTAINER_EXIT_CODE),
                       look=Look(panels.PLAIN, panels.ANY_IS_ODD), cell="colour", width=80),
                Column("Starts", query=_in_time(catalog.CONTAINER_RESTARTS),
                       look=Look(COUNT, panels.ANY_IS_ODD, decimals=0), cell="colour", width=70),
                Column("OOM kills", query=_in_time(catalog.CONTAINER_OOM_KILLS),
                       look=Look(COUNT, panels.ANY_IS_BAD, decimals=0), cell="colour", width=90),
                Column("CPU limit", query=_of("max", catalog.CONTAINER_CPU_LIMIT), look=Look("suffix:CPUs"), width=90),
                Column("Held", query=over("max", "server", rate(catalog.CONTAINER_CPU_THROTTLED)),
                       look=Look("suffix:CPUs", decimals=2), width=90),
                Column("Memory limit", query=_of("max", catalog.CONTAINER_MEMORY_LIMIT), look=Look(BYTES), width=110),
            ),
            extra=(
                over("max", "server, container, image", pick(catalog.CONTAINER_INFO)),
                over("max", "server, state", f"{pick(catalog.CONTAINER_STATE)} == 1"),
                over("max", "server, health", f"{pick(catalog.CONTAINER_HEALTH)} == 1"),
            ),
            empty=NEEDS_DOCKER,
            height=6,
        ),
        panels.graph(
            502,
            "CPUs used by containers",
            "Which server computes on the CPU? Beside a GPU, one or two CPUs are usual; at its limit (table above) a"
            " container is held. Ten busiest.",
            Query(f"topk(10, {over('max', 'server', rate(catalog.CONTAINER_CPU))})", "{{server}}"),
            Look("suffix:CPUs", empty=NEEDS_DOCKER, least=0),
        ),
        panels.graph(
            503,
            "Held by the CPU quota",
            "Is a container's CPU limit too low? Share of the quota's periods of 15 minutes in which it was used up;"
            " from a half on (dashed) tokens come in jerks. Next: a higher limit, or fewer threads. Ten most.",
            Query(f"topk(10, {over('max', 'server', pick(names.CONTAINER_THROTTLED))})", "{{server}}"),
            Look(SHARE, panels.CONTAINER_THROTTLED, "No quota, or no source docker", least=0, most=1),
        ),
        panels.graph(
            504,
            "Memory, of the container's limit",
            "Is a container about to lose a runner to the kernel? Above 95 % (dashed) the next context or prompt"
            " cache is too much. Next: a higher limit, a smaller context, fewer models at once. Ten fullest.",
            Query(f"topk(10, {over('max', 'server', pick(names.CONTAINER_MEMORY))})", "{{server}}"),
            Look(SHARE, panels.CONTAINER_MEMORY, "No limit, or no source docker", least=0, most=1),
        ),
        panels.graph(
            505,
            "Memory of containers",
            "Who takes the machine's memory? Without what the kernel can drop; weights count while they are in use."
            " No GPU memory. Ten largest.",
            Query(f"topk(10, {_of('max', catalog.CONTAINER_MEMORY)})", "{{server}}"),
            Look(BYTES, empty=NEEDS_DOCKER, least=0),
            stack=True,
        ),
        panels.graph(
            506,
            "Restarts and OOM kills",
            "Did a container start anew, or lose a process for want of memory? Both hurt users. Next: the container's"
            " log, and its memory limit.",
            [
                Query(f"sum({increase(catalog.CONTAINER_RESTARTS)})", "restarts"),
                Query(f"sum({increase(catalog.CONTAINER_OOM_KILLS)})", "OOM kills"),
            ],
            Look(COUNT, empty=NEEDS_DOCKER, least=0, names=("restarts", "OOM kills")),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            507,
            "Network of containers",
            "Is a model being pulled? Prompts and tokens are small; megabytes a second are models. Nothing is told of a"
            " container in the machine's own network.",
            [
                Query(f"sum({rate(catalog.CONTAINER_RECEIVED)})", "received"),
                Query(f"sum({rate(catalog.CONTAINER_SENT)})", "sent"),
            ],
            Look("Bps", empty=NEEDS_DOCKER, least=0, room=1000, names=("received", "sent")),
        ),
    ),
)  # fmt: skip

_GPUS = Row(
    600,
    "Do the GPUs hold? (source gpu, of the exporter's machine)",
    (
        panels.stat(
            601,
            "GPUs",
            "How many GPUs answer their driver? One less than yesterday has fallen off: models run on the CPU instead."
            " Next: dmesg, and the errors beside.",
            Query(over("sum", "host", pick(catalog.GPUS)), "{{host}}"),
            Look(COUNT, empty=NEEDS_GPU, decimals=0),
        ),
        panels.stat(
            602,
            "Fullest memory",
            "How full is the memory of the fullest GPU? Above 98 % the next model goes to the CPU or pushes one out;"
            " full is right where one large model lives alone.",
            f"max({pick(names.GPU_MEMORY)})",
            Look(SHARE, panels.GPU_MEMORY, NEEDS_GPU, decimals=0),
        ),
        panels.stat(
            603,
            "Hottest GPU",
            "Is a GPU too hot? From 87 degrees on most hold back their clock. Next: fans, the room's air, a lower power"
            " limit.",
            f"max({pick(catalog.GPU_TEMPERATURE)})",
            Look(CELSIUS, panels.GPU_HEAT, NEEDS_GPU, decimals=0),
        ),
        panels.stat(
            604,
            "GPUs held back",
            "How many GPUs does their driver hold back for heat or want of power? The normal limit on power under full"
            " load (power_cap) does not count. 0 is well.",
            f"count({_HELD_BACK} == 1) or 0 * count({_HELD_BACK})",
            Look(COUNT, panels.ANY_IS_ODD, NEEDS_NVIDIA),
        ),
        panels.stat(
            605,
            "Errors of GPUs",
            "Did a GPU fail in the chosen time? XID errors that no program makes, and memory errors that could not be"
            " corrected. Any: the exporter's log tells the code; look whether it comes again.",
            f"sum(increase({pick(catalog.GPU_XID, cause='device')}[$__range]))"
            f" + (sum(increase({pick(catalog.GPU_ECC, error='uncorrected')}[$__range])) or vector(0))",
            Look(COUNT, panels.ANY_IS_BAD, NEEDS_NVIDIA, decimals=0),
        ),
        panels.stat(
            606,
            "Energy in the chosen time",
            "How much did the GPUs use? 3.6 million joules are a kilowatt-hour. Only cards that count it.",
            f"sum(increase({pick(catalog.GPU_ENERGY)}[$__range]))",
            Look(JOULES, empty=NEEDS_NVIDIA),
        ),
        panels.graph(
            607,
            "Share of time in which a GPU was at work",
            "Do the GPUs work? 1: never idle, which is not fully used. Near 0 while users wait: weights on the CPU,"
            " or a load. Ten busiest.",
            Query(f"topk(10, {_of_gpus(catalog.GPU_UTILIZATION)})", "{{host}} {{gpu}}"),
            Look(SHARE, empty=NEEDS_GPU, least=0, most=1),
        ),
        panels.graph(
            608,
            "Share of time in which its memory was read or written",
            "Is it bound by memory? Generating tokens reads all weights for each step. High with few tokens: requests"
            " one by one; more of them side by side cost little. Ten busiest.",
            Query(f"topk(10, {_of_gpus(catalog.GPU_MEMORY_BANDWIDTH)})", "{{host}} {{gpu}}"),
            Look(SHARE, empty=NEEDS_GPU, least=0, most=1),
        ),
        panels.graph(
            609,
            "GPU memory in use",
            "Is there room for another model? Share of each card, the driver's own reserve included. Above 98 %"
            " (dashed) the next one goes to the CPU, or pushes one out. Ten fullest.",
            Query(f"topk(10, {over('max', 'host, gpu', pick(names.GPU_MEMORY))})", "{{host}} {{gpu}}"),
            Look(SHARE, panels.GPU_MEMORY, NEEDS_GPU, least=0, most=1),
        ),
        panels.graph(
            610,
            "GPU memory, by server and model",
            "Which model holds which card? By the processes, so right where Ollama's own sum is an estimate. other"
            " without a server: processes that are no runner seen from here. Twelve largest.",
            Query(
                f"topk(12, {over('sum', 'host, gpu, server, model', pick(catalog.GPU_RUNNER_MEMORY))})",
                "{{host}} {{gpu}} {{server}} {{model}}",
            ),
            Look(BYTES, empty=NEEDS_NVIDIA, least=0),
            width=16,
            stack=True,
        ),
        panels.graph(
            611,
            "GPUs held back, by reason",
            "Why is the clock lower than it could be? power_cap: the normal limit under full load. thermal: heat."
            " power_brake and hardware_slowdown: the supply, or the card itself. How many GPUs at each look.",
            Query(f"{over('sum', 'reason', pick(catalog.GPU_THROTTLED))} > 0", "{{reason}}"),
            Look(COUNT, empty="None, or no source gpu", least=0, names=_THROTTLING),
            stack=True,
        ),
        panels.graph(
            612,
            "Power of GPUs",
            "What do they draw? Compare with the limits in the table below; near idle while users wait: the work is"
            " done on the CPU. Ten most.",
            Query(f"topk(10, {_of_gpus(catalog.GPU_POWER)})", "{{host}} {{gpu}}"),
            Look(WATTS, empty=NEEDS_GPU, least=0),
        ),
        panels.graph(
            613,
            "Temperature of GPUs",
            "Does one run hot? From 87 degrees (dashed) it alerts. One above the others at the same work: its fan or"
            " its place. Ten hottest.",
            Query(f"topk(10, {_of_gpus(catalog.GPU_TEMPERATURE)})", "{{host}} {{gpu}}"),
            Look(CELSIUS, panels.GPU_HEAT, NEEDS_GPU),
        ),
        panels.graph(
            614,
            "XID errors and memory errors",
            "Does a card or its driver fail? application: a program crashed or was killed. device: anything else,"
            " look at dmesg. uncorrected memory errors: exchange the card when they come again.",
            [
                Query(_errors(catalog.GPU_XID, "cause"), "{{host}} {{gpu}} {{cause}}"),
                Query(_errors(catalog.GPU_ECC, "error"), "{{host}} {{gpu}} {{error}}"),
            ],
            Look(COUNT, empty="None, or no source gpu", least=0,
                 last_words=("application", "device", "corrected", "uncorrected")),
            stack=True,
            as_bars=True,
        ),
        panels.table(
            615,
            "GPUs of the machines",
            "Which cards are there, and with which driver? Different drivers on machines that should be alike explain"
            " different speeds. Power limit: as it is in force.",
            (
                Column("Host", "host", width=140),
                Column("GPU", "gpu", width=80),
                Column("Name", "name"),
                Column("Vendor", "vendor", width=100),
                Column("Driver", "driver", width=130),
                Column("UUID", "uuid"),
                Column("Memory", query=_of_gpus(catalog.GPU_MEMORY_TOTAL), look=Look(BYTES), width=110),
                Column("In use", query=_of_gpus(catalog.GPU_MEMORY_USED), look=Look(BYTES), width=110),
                Column("Power limit", query=_of_gpus(catalog.GPU_POWER_LIMIT), look=Look(WATTS), width=110),
            ),
            extra=(over("max", "host, gpu, name, vendor, driver, uuid", pick(catalog.GPU_INFO)),),
            empty=NEEDS_GPU,
            height=6,
        ),
    ),
)  # fmt: skip

BOARD = Board(
    "ollama-host",
    "Ollama / Host, containers, GPU",
    "Does the machine hold? Machines without an exporter of their own are not here; containers are those of servers.",
    (_VERDICT, _CPU, _MEMORY, _PROCESSES, _CONTAINERS, _GPUS),
)
