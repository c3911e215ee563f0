"""Api: a member of the fleet, seen through its HTTP API."""

from __future__ import annotations

from exporter.catalog.buckets import POLL_BUCKETS
from exporter.model import Family

_SM = ("server", "model")

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
