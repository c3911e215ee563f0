"""Every metric family there is: name, type, help, labels, unit, buckets. Data only, long and flat on purpose.

The prefix of a name tells the vantage point. HELP says where the number was seen from and when; "poll" means the last
reading of that source, whose time is `ollama_source_last_attempt_timestamp_seconds`.
"""

from __future__ import annotations

from exporter.model import Family

# Bucket boundaries, in seconds. Objectives (2 s and 5 s) are boundaries, so that ratios of buckets are exact.
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
PER_TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.033, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
DURATION_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LOAD_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
NETWORK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
POLL_BUCKETS = (0.01, 0.05, 0.25, 1.0, 2.5, 5.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

_SM = ("server", "model")

# --- api: a member of the fleet, seen through its HTTP API -----------------------------------------------------------

UP = Family(
    "ollama_up", "gauge",
    "1 if /api/version answered correctly at the last poll, else 0. Says that HTTP works, not that models answer: see the"
    " canary. A server whose state is stalled is up.",
    ("server",),
)  # fmt: skip
STATE = Family(
    "ollama_state", "gauge",
    "1 for the state at the last poll, 0 for the others. ok: /api/version and /api/ps answer. stalled: /api/version"
    " answers, /api/ps does not (a load or unload holds the scheduler, or it fails). starting: TCP connects but HTTP is"
    " silent (GPU discovery at start, or a hung process). down: no connection, or no correct HTTP answer.",
    ("server", "state"),
)  # fmt: skip
SERVER_INFO = Family(
    "ollama_server_info", "info", "Always 1. The configured URL of a member of the fleet, without credentials.",
    ("server", "url"),
)  # fmt: skip
BUILD_INFO = Family(
    "ollama_build_info", "info", "Always 1. Version that /api/version told at the last poll; 0.0.0 is a development build.",
    ("server", "version"),
)  # fmt: skip
CLOCK_OFFSET = Family(
    "ollama_clock_offset_seconds", "gauge",
    "Server's clock minus the exporter's, from the Date header of the last poll. Resolution one second.",
    ("server",), "seconds",
)  # fmt: skip
INSTALLED_MODELS = Family(
    "ollama_installed_models", "gauge", "Models on the server's disk, by the last answer of /api/tags; remote ones left out.",
    ("server",),
)  # fmt: skip
REMOTE_MODELS = Family(
    "ollama_remote_models", "gauge",
    "Stubs of remote (cloud) models in the last answer of /api/tags. They are counted and never probed.",
    ("server",),
)  # fmt: skip
INSTALLED_SIZE = Family(
    "ollama_installed_model_size_bytes", "gauge",
    "Sum of a model's layers on disk (/api/tags size). Layers may be shared, so the sum over models can exceed the disk"
    " in use. Models past the label cap are summed under other.",
    _SM, "bytes",
)  # fmt: skip
INSTALLED_INFO = Family(
    "ollama_installed_model_info", "info",
    "Always 1. What /api/tags last told of an installed model; digest is the first 12 hex digits of its manifest's.",
    (*_SM, "digest", "family", "parameter_size", "quantization"),
)  # fmt: skip
LOADED_MODELS = Family(
    "ollama_loaded_models", "gauge",
    "Models in /api/ps at the last poll. A model that is still loading is not listed (0.30 and newer); one whose runner"
    " has died still is.",
    ("server",),
)  # fmt: skip
LOADED_SIZE = Family(
    "ollama_loaded_model_size_bytes", "gauge",
    "Memory of a loaded model (/api/ps size) at the last poll: weights, KV cache, buffers, as fixed at load. The runner's"
    " prompt cache (up to 8 GiB of host memory) is not in it. Estimated by servers before 0.30.",
    _SM, "bytes",
)  # fmt: skip
LOADED_VRAM = Family(
    "ollama_loaded_model_vram_bytes", "gauge",
    "Part of a loaded model that Ollama counts as GPU memory (/api/ps size_vram) at the last poll. Above 0 is no proof of a"
    " GPU: CPU buffers of some builds (AMX) are counted here too.",
    _SM, "bytes",
)  # fmt: skip
LOADED_CONTEXT = Family(
    "ollama_loaded_model_context_tokens", "gauge",
    "Context of one slot of a loaded model in tokens (/api/ps context_length) at the last poll.",
    _SM, "tokens",
)  # fmt: skip
LOADED_EXPIRY = Family(
    "ollama_loaded_model_expiry_timestamp_seconds", "gauge",
    "Unix time at which a loaded model may be unloaded (/api/ps expires_at), on the server's clock. In the past: a request"
    " outlives it. Centuries ahead: pinned (keep_alive -1).",
    _SM, "seconds",
)  # fmt: skip
LOADED_INFO = Family(
    "ollama_loaded_model_info", "info",
    "Always 1. What /api/ps last told of a loaded model; digest is the first 12 hex digits of its manifest's.",
    (*_SM, "digest", "family", "parameter_size", "quantization"),
)  # fmt: skip
KNOWN_BUSY = Family(
    "ollama_loaded_model_known_busy", "gauge",
    "1 if the last poll showed a request in flight: the expiry is past (or the model is being unloaded), or it slides with"
    " the clock since load. 0 says nothing: a request to a warm model cannot be seen in /api/ps.",
    _SM,
)  # fmt: skip
USES_SEEN = Family(
    "ollama_model_uses_seen_total", "counter",
    "Polls at which a loaded model's expiry had moved, so at least one request had finished since the poll before. A lower"
    " bound of requests; the canary's own are among them.",
    _SM,
)  # fmt: skip
LOADS_SEEN = Family(
    "ollama_model_loads_seen_total", "counter",
    "Loads of a model seen as a difference between two polls of /api/ps. A lower bound: what comes and goes between polls"
    " is missed.",
    _SM,
)  # fmt: skip
UNLOADS_SEEN = Family(
    "ollama_model_unloads_seen_total", "counter",
    "Unloads of a model seen as a difference between two polls of /api/ps, whatever the cause. A lower bound.",
    _SM,
)  # fmt: skip
RECONFIGURATIONS_SEEN = Family(
    "ollama_model_reconfigurations_seen_total", "counter",
    "Polls at which a loaded model had another context length or digest than before: it was reloaded because a request"
    " asked for other options, or its tag was replaced. Also counted as a load and an unload. A lower bound.",
    _SM,
)  # fmt: skip
API_DURATION = Family(
    "ollama_api_request_duration_seconds", "histogram",
    "Time from sending one of the exporter's own polls to the end of its answer, correct answers only.",
    ("server", "api_endpoint"), "seconds", POLL_BUCKETS,
)  # fmt: skip
REJECTED_VALUES = Family(
    "ollama_api_rejected_values_total", "counter",
    "Values in answers of /api/ps and /api/tags that were left out because their type or range was impossible.",
    ("server",),
)  # fmt: skip

# --- canary: a timed tiny generation on a model that is loaded anyway ------------------------------------------------

CANARY_ATTEMPTS = Family(
    "ollama_canary_attempts_total", "counter",
    "Canary generations that ended, by outcome. ok: HTTP 200, done, at least one token. caused_load: answered, but after a"
    " load or reload that it had to wait for; the canary then stops for that model.",
    (*_SM, "outcome"),
)  # fmt: skip
CANARY_SKIPS = Family(
    "ollama_canary_skips_total", "counter",
    "Canaries that were due and not sent, by reason, at most one per interval and model. busy: users' requests are in"
    " flight. unused: nobody used the model since the last canary, so it is left to expire.",
    (*_SM, "reason"),
)  # fmt: skip
CANARY_TTFT = Family(
    "ollama_canary_time_to_first_token_seconds", "histogram",
    "Time to first token of canaries with outcome ok, on the server's own clock: total_duration - eval_duration.",
    _SM, "seconds", TTFT_BUCKETS,
)  # fmt: skip
CANARY_DURATION = Family(
    "ollama_canary_duration_seconds", "histogram",
    "total_duration of canaries with outcome ok, on the server's own clock.",
    _SM, "seconds", DURATION_BUCKETS,
)  # fmt: skip
CANARY_QUEUE_WAIT = Family(
    "ollama_canary_queue_wait_upper_bound_seconds", "histogram",
    "Upper bound of the time that canaries with outcome ok waited for a slot: total - load - prompt_eval - eval. Includes"
    " 5 to 30 ms of overhead. Not known for embeddings.",
    _SM, "seconds", WAIT_BUCKETS,
)  # fmt: skip
CANARY_LOAD = Family(
    "ollama_canary_load_duration_seconds", "histogram",
    "load_duration of canaries with outcome ok or caused_load: the wait for the scheduler to hand over a runner, a load"
    " included if there was one.",
    _SM, "seconds", LOAD_BUCKETS,
)  # fmt: skip
CANARY_PROMPT = Family(
    "ollama_canary_prompt_duration_seconds", "histogram",
    "prompt_eval_duration of canaries with outcome ok. The prompt is fixed and mostly cached: no measure of prefill speed.",
    _SM, "seconds", PER_TOKEN_BUCKETS,
)  # fmt: skip
CANARY_PER_TOKEN = Family(
    "ollama_canary_time_per_output_token_seconds", "histogram",
    "Decode time per output token of canaries with outcome ok: eval_duration / (eval_count - 1). Absent below 8 tokens.",
    _SM, "seconds", PER_TOKEN_BUCKETS,
)  # fmt: skip
CANARY_NETWORK = Family(
    "ollama_canary_network_seconds", "histogram",
    "Round trip of canaries with outcome ok as the exporter saw it minus the server's total_duration.",
    _SM, "seconds", NETWORK_BUCKETS,
)  # fmt: skip
CANARY_LAST_ATTEMPT = Family(
    "ollama_canary_last_attempt_timestamp_seconds", "gauge", "Unix time at which the last canary was sent.",
    _SM, "seconds",
)  # fmt: skip
CANARY_LAST_SUCCESS = Family(
    "ollama_canary_last_success_timestamp_seconds", "gauge", "Unix time at which the last canary ended with outcome ok.",
    _SM, "seconds",
)  # fmt: skip
CANARY_PENDING = Family(
    "ollama_canary_pending_since_timestamp_seconds", "gauge",
    "Unix time at which the canary that is in flight now was sent. Absent when none is.",
    _SM, "seconds",
)  # fmt: skip
CANARY_STOPPED = Family(
    "ollama_canary_stopped", "gauge",
    "1 if the canary has stopped for this model because one of its attempts seemed to cause a load. Until the exporter"
    " restarts, its settings change or the model's digest does.",
    _SM,
)  # fmt: skip

# --- host: the machine the exporter runs on --------------------------------------------------------------------------

HOST_CPU = Family(
    "ollama_host_cpu_seconds_total", "counter", "CPU time of the exporter's machine by mode, over all CPUs (psutil).",
    ("host", "mode"), "seconds",
)  # fmt: skip
HOST_CPUS = Family("ollama_host_cpus", "gauge", "Logical CPUs of the exporter's machine.", ("host",))
HOST_LOAD = Family(
    "ollama_host_load_average", "gauge", "Load average of the exporter's machine over 1, 5 and 15 minutes.",
    ("host", "window"),
)  # fmt: skip
HOST_MEMORY_TOTAL = Family(
    "ollama_host_memory_total_bytes", "gauge", "Memory of the exporter's machine.", ("host",), "bytes"
)
HOST_MEMORY_AVAILABLE = Family(
    "ollama_host_memory_available_bytes", "gauge",
    "Memory that can be had without swapping on the exporter's machine, at the last reading.", ("host",), "bytes",
)  # fmt: skip
HOST_SWAP_TOTAL = Family(
    "ollama_host_swap_total_bytes", "gauge", "Swap of the exporter's machine; 0 when it has none.", ("host",), "bytes"
)
HOST_SWAP_USED = Family(
    "ollama_host_swap_used_bytes",
    "gauge",
    "Swap in use on the exporter's machine, at the last reading.",
    ("host",),
    "bytes",
)
HOST_STORE_SIZE = Family(
    "ollama_host_model_store_size_bytes", "gauge",
    "Size of the file system that holds Ollama's model store (configured, OLLAMA_MODELS or its defaults). Absent when the store is not"
    " on the exporter's machine.",
    ("host",), "bytes",
)  # fmt: skip
HOST_STORE_AVAILABLE = Family(
    "ollama_host_model_store_available_bytes", "gauge",
    "Space left for unprivileged users on the file system that holds Ollama's model store. Absent when it is not on the"
    " exporter's machine.",
    ("host",), "bytes",
)  # fmt: skip
HOST_RECEIVED = Family(
    "ollama_host_network_receive_bytes_total", "counter",
    "Bytes received by network device of the exporter's network namespace; loopback, veth and Docker's bridges left out.",
    ("host", "device"), "bytes",
)  # fmt: skip
HOST_SENT = Family(
    "ollama_host_network_transmit_bytes_total", "counter",
    "Bytes sent by network device of the exporter's network namespace; loopback, veth and Docker's bridges left out.",
    ("host", "device"), "bytes",
)  # fmt: skip
HOST_PRESSURE = Family(
    "ollama_host_pressure_seconds_total", "counter",
    "Time in which some (or all: full) tasks waited for a resource, from /proc/pressure. cpu has no full."
    " Absent where the kernel tells none.",
    ("host", "resource", "share"), "seconds",
)  # fmt: skip
HOST_BOOT = Family(
    "ollama_host_boot_timestamp_seconds",
    "gauge",
    "Unix time at which the exporter's machine started.",
    ("host",),
    "seconds",
)
HOST_PROCESSES = Family(
    "ollama_host_processes", "gauge",
    "Processes of Ollama on the exporter's machine: serve (ollama serve) and runner (a model's llama-server or ollama"
    " runner). Absent while there is none of either, or when the exporter may not see their arguments.",
    ("host", "process"),
)  # fmt: skip
HOST_PROCESS_CPU = Family(
    "ollama_host_process_cpu_seconds_total", "counter",
    "CPU time of Ollama's processes on the exporter's machine since the exporter's first look, summed over processes and"
    " carried across their ends; what one used between the last reading and its end is lost.",
    ("host", "process"), "seconds",
)  # fmt: skip
HOST_PROCESS_RSS = Family(
    "ollama_host_process_resident_memory_bytes", "gauge",
    "Resident memory of Ollama's processes on the exporter's machine, summed; memory-mapped weights count when in memory.",
    ("host", "process"), "bytes",
)  # fmt: skip
HOST_PROCESS_START = Family(
    "ollama_host_process_start_time_seconds", "gauge",
    "Unix time at which the youngest of Ollama's processes of this kind on the exporter's machine started.",
    ("host", "process"), "seconds",
)  # fmt: skip
HOST_PROCESS_FDS = Family(
    "ollama_host_process_open_fds", "gauge",
    "Open files of Ollama's processes on the exporter's machine, summed. Absent when the exporter may not look at all of"
    " them.",
    ("host", "process"),
)  # fmt: skip

# --- every source, about itself --------------------------------------------------------------------------------------

_SOURCE = ("server", "source")

SOURCE_UP = Family(
    "ollama_source_up", "gauge", "1 if the source's last reading saw all it should, else 0. server is empty for host and"
    " exporter.", _SOURCE,
)  # fmt: skip
SOURCE_DURATION = Family(
    "ollama_source_duration_seconds", "gauge", "Time that the source's last reading took.", _SOURCE, "seconds"
)
SOURCE_LAST_ATTEMPT = Family(
    "ollama_source_last_attempt_timestamp_seconds", "gauge",
    "Unix time of the source's last reading, good or not: the age of what is on this page.", _SOURCE, "seconds",
)  # fmt: skip
SOURCE_LAST_SUCCESS = Family(
    "ollama_source_last_success_timestamp_seconds", "gauge",
    "Unix time of the source's last reading that saw all it should. Absent before the first.", _SOURCE, "seconds",
)  # fmt: skip
SOURCE_FAILURES = Family(
    "ollama_source_failures_total", "counter", "Readings of the source that failed, by reason out of a fixed list.",
    (*_SOURCE, "reason"),
)  # fmt: skip

# --- exporter: ourselves ---------------------------------------------------------------------------------------------

EXPORTER_BUILD = Family(
    "ollama_exporter_build_info", "info", "Always 1. Version of this exporter and of its Python.", ("version", "python")
)
EXPORTER_CONFIG = Family(
    "ollama_exporter_config_info", "info", "Always 1. Hash of the configuration in force (first 12 hex digits of SHA-256).",
    ("hash",),
)  # fmt: skip
EXPORTER_RELOAD_OK = Family(
    "ollama_exporter_config_last_reload_successful", "gauge",
    "1 if the last reload of the configuration succeeded (the start counts), 0 if it failed and the old one stays in force.",
)  # fmt: skip
EXPORTER_RELOAD_TIME = Family(
    "ollama_exporter_config_last_reload_success_timestamp_seconds", "gauge",
    "Unix time of the last successful load of the configuration.", (), "seconds",
)  # fmt: skip
EXPORTER_SERVERS = Family("ollama_exporter_servers", "gauge", "Servers in the configuration in force.")
EXPORTER_LAG = Family(
    "ollama_exporter_loop_lag_seconds", "histogram",
    "How late the exporter's polls start, against their schedule: the event loop's own delay.", (), "seconds", LAG_BUCKETS,
)  # fmt: skip
EXPORTER_RENDER = Family(
    "ollama_exporter_render_duration_seconds", "gauge", "CPU-side time of the last render of /metrics.", (), "seconds"
)
EXPORTER_SERIES = Family("ollama_exporter_series", "gauge", "Series on the last rendered /metrics.")
EXPORTER_PAGE = Family(
    "ollama_exporter_page_bytes", "gauge", "Size of the last rendered /metrics, before compression.", (), "bytes"
)
EXPORTER_DROPPED = Family(
    "ollama_exporter_label_values_dropped", "gauge",
    "Values of the label model that the last polls left out or put under other, because of the cap or their length.",
    ("server",),
)  # fmt: skip

PROCESS_CPU = Family(
    "process_cpu_seconds_total", "counter", "User and system CPU time of the exporter itself.", (), "seconds"
)
PROCESS_RSS = Family("process_resident_memory_bytes", "gauge", "Resident memory of the exporter itself.", (), "bytes")
PROCESS_VIRTUAL = Family("process_virtual_memory_bytes", "gauge", "Virtual memory of the exporter itself.", (), "bytes")
PROCESS_START = Family(
    "process_start_time_seconds", "gauge", "Unix time at which the exporter itself started.", (), "seconds"
)
PROCESS_FDS = Family("process_open_fds", "gauge", "Open files of the exporter itself.")
PROCESS_MAX_FDS = Family("process_max_fds", "gauge", "Limit of open files of the exporter itself.")

FAMILIES: tuple[Family, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Family))
"""Every family, in the order of the page."""
