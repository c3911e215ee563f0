"""Cases like those of cases.py, of what is seen from inside; and which vantage point speaks where there are several."""

# ruff: noqa: E501 (tables of sentences: long and flat on purpose)

from __future__ import annotations

from cases import HOST, MODEL, SERVER, Case, Says, Series, attempts, count, histogram, series, skips, steps, told

GPU = {**HOST, "gpu": "0"}
OTHER = {**SERVER, "server": "gpu2"}
_OTHER_MODEL = {**MODEL, "server": "gpu2"}


def event(kind: str, values: str, labels: dict[str, str] = SERVER) -> Series:
    return series("ollama_log_events_total", {**labels, "kind": kind}, values)


def logged(status: str, values: str, labels: dict[str, str] = SERVER) -> Series:
    return series("ollama_log_requests_total", {**labels, "api_endpoint": "/api/chat", "status": status}, values)


def source(name: str, values: str, labels: dict[str, str] = SERVER) -> Series:
    return series("ollama_source_up", {**labels, "source": name}, values)


def _counted_by_server(answers: str, tokens: str, seconds: str) -> tuple[Series, ...]:
    return (
        series("ollama_requests_total", MODEL, answers),
        series("ollama_generated_tokens_total", MODEL, tokens),
        series("ollama_eval_duration_seconds_total", MODEL, seconds),
    )


def _reads(values: str) -> Series:
    return series("ollama_log_reads_total", {**SERVER, "api_endpoint": "/api/ps"}, values)


def _unread(values: str) -> Series:
    return series("ollama_log_misfit_lines_total", {**SERVER, "kind": "access"}, values)


def _oldest(values: str) -> Series:
    return series("ollama_sockets_oldest_unanswered_seconds", SERVER, values)


def _tokens(values: str) -> Series:
    return series("ollama_runner_generated_tokens_seen_total", MODEL, values)


def _slots(busy: str, minutes: int, labels: dict[str, str] = MODEL, loading: str = "") -> tuple[Series, ...]:
    """Two of them."""
    return (
        series("ollama_runner_slots", labels, steps((2, minutes))),
        series("ollama_runner_slots_busy", labels, busy),
        series("ollama_runner_loading", labels, loading or steps((0, minutes))),
    )


def _waiting(values: str, labels: dict[str, str] = SERVER) -> Series:
    return series("ollama_sockets_waiting_requests_estimate", labels, values)


def _growing(seconds: float, from_minute: int, minutes: int) -> str:
    """The oldest of a queue that does not move: none before, then older by a minute each minute."""
    return f"0x{from_minute - 1} {seconds:g}+60x{minutes - 1}"


REQUESTS = (
    Case("OllamaSlotLost", "a request waits for 15 minutes while all slots are idle",
         (_oldest(f"{_growing(0, 10, 15)} 0x9"), *_slots(steps((0, 34)), 34)), (13, 18, 25),
         ((20, told(SERVER, "The oldest request to gpu1 has been without an answer for 10m 0s. All slots are idle and nothing is being loaded: Ollama has lost count of its slots, or the request.")),)),
    Case("OllamaSlotLost", "it waits for a slot that is busy, and then for a load",
         (_oldest(_growing(0, 10, 30)), *_slots(steps((2, 25), (0, 15)), 40, loading=steps((0, 25), (1, 15)))), (20, 25, 30, 39), ()),
    Case("OllamaRequestsHanging", "a runner hangs for half an hour",
         (_oldest(f"{_growing(0, 20, 30)} 0x9"), _tokens(count((300, 20), (0, 30), (300, 9)))), (25, 32, 52),
         ((34, told(SERVER, "The oldest request to gpu1 has been without an answer for 14m 0s, and its runners have made no token for 10 minutes.", "critical")),)),
    Case("OllamaRequestsHanging", "an answer that is not streamed takes half an hour: its tokens are seen",
         (_oldest(_growing(0, 10, 30)), _tokens(count((300, 40)))), (22, 30, 39), ()),
    Case("OllamaRequestsHanging", "nothing is known of the runners",
         (_oldest(f"{_growing(0, 10, 30)} 0x9"),), (25, 29, 40),
         ((31, told(SERVER, "The oldest request to gpu1 has been without an answer for 21m 0s; whether its runners make tokens cannot be seen.", "warning")),)),
    Case("OllamaAcceptQueueFilling", "the process takes no connection for 10 minutes",
         (series("ollama_sockets_accept_queue_connections", SERVER, steps((0, 10), (3, 10), (0, 10))),), (9, 14, 20),
         ((15, told(SERVER, "3 connections have been waiting for gpu1 to take them at each look of 5 minutes: its process hangs or starves.")),)),
    Case("OllamaAcceptQueueFilling", "one connection was just coming in, twice",
         (series("ollama_sockets_accept_queue_connections", SERVER, steps((0, 10), (1, 1), (0, 4), (1, 1), (0, 10))),), (10, 15, 16), ()),
    Case("OllamaGenerationsFailing", "four answers break off",
         (event("generation_failed", count((0, 10), (1, 4), (0, 30))),), (11, 30),
         ((14, told(SERVER, "Runners of gpu1 left 4 requests without an end in 15 minutes. Of a stream, users and status codes see a 200.")),)),
    Case("OllamaPromptsTruncated", "a client sends more than fits, once a minute",
         (event("prompt_truncated", count((0, 10), (1, 10), (0, 60))), event("context_shift", count((0, 80))),
          event("context_exceeded", count((0, 80))), logged("2xx", count((4, 80))), source("logs", steps((1, 80)))), (10, 13, 55),
         ((20, told(SERVER, "10 prompts or answers at gpu1 were cut or refused in 30 minutes because they exceeded the context: users get answers to a part of what they asked.")),)),
    Case("OllamaPromptsTruncated", "ten prompts in thousands are no matter for the morning",
         (event("prompt_truncated", count((0, 40), (1, 10), (0, 30))), logged("2xx", count((60, 80))), source("logs", steps((1, 80)))), (45, 50, 60), ()),
    Case("OllamaContextNearlyFull", "one request after the other fills nineteen twentieths of its context, for half an hour",
         (series("ollama_runner_slot_context_tokens", MODEL, steps((4096, 60))),
          series("ollama_runner_longest_sequence_tokens", MODEL, f"{steps((1000, 10))} {' '.join(['3900 0'] * 15)} {steps((1000, 20))}")), (9, 19, 46),
         ((25, told(MODEL, "The longest request to llama3.2:3b at gpu1 has filled 95.21% of its slot's context within 5 minutes, and so again and again for 10. At the end the oldest tokens are dropped, or the answer is cut.")),)),
    Case("OllamaContextNearlyFull", "a single long request",
         (series("ollama_runner_slot_context_tokens", MODEL, steps((4096, 40))),
          series("ollama_runner_longest_sequence_tokens", MODEL, steps((100, 10), (4000, 3), (0, 27)))), (12, 15, 20), ()),
)  # fmt: skip

_DIED = "Runners of gpu1, or the server itself, died at least {} times in 30 minutes: the answers in the making were lost each time."
RUNNERS = (
    Case("OllamaRunnerCrashed", "a runner dies once, and again and again an hour later",
         (event("runner_died", count((0, 10), (1, 1), (0, 59), (0.5, 10), (0, 60))), event("crash", count((0, 140)))), (9, 45, 115),
         ((12, told(SERVER, _DIED.format(1), "warning")),
          (80, (*told(SERVER, _DIED.format(5), "critical"), *told(SERVER, _DIED.format(5), "warning"))))),
    Case("OllamaRunnerCrashed", "the log cannot be read, and two models are seen without a process",
         (event("runner_died", count((0, 60))), series("ollama_runner_ends_seen_total", {**MODEL, "reason": "died"}, count((0, 10), (1, 1), (0, 49))),
          series("ollama_runner_ends_seen_total", {**MODEL, "model": "tinyllama:latest", "reason": "died"}, count((0, 10), (1, 1), (0, 49)))), (9, 45),
         ((12, told(SERVER, _DIED.format(2), "warning")),)),
    Case("OllamaRunnerCrashed", "there is no log, and a model is seen without a process",
         (series("ollama_runner_ends_seen_total", {**MODEL, "reason": "died"}, count((0, 10), (1, 1), (0, 49))),), (9, 45),
         ((12, told(SERVER, _DIED.format(1), "warning")),)),
    Case("OllamaGhostModel", "nobody asks for the model whose runner died, for 20 minutes",
         (series("ollama_runner_missing", MODEL, steps((0, 10), (1, 20), (0, 10))),), (9, 19, 30),
         ((20, told(MODEL, "/api/ps of gpu1 has listed llama3.2:3b for 10 minutes, and no runner is there: it died, and the next request waits for a load.")),)),
    Case("OllamaModelLoadFailing", "a model does not load, four times",
         (event("load_failed", count((0, 10), (1, 4), (0, 30))),), (11, 30),
         ((14, told(SERVER, "Server gpu1 failed 4 times in 15 minutes to load a model: whoever asks for it gets an error.")),)),
    Case("OllamaRuntimeOutOfMemory", "once",
         (event("runtime_oom", count((0, 10), (1, 1), (0, 49))),), (9, 45),
         ((12, told(SERVER, "Runners of gpu1 ran out of memory 1 times in 30 minutes. Ollama unloads all models each time.")),)),
)  # fmt: skip

_MEMORY, _LIMIT = "ollama_container_memory_working_set_bytes", "ollama_container_memory_limit_bytes"
_PERIODS, _HELD = "ollama_container_cpu_periods_total", "ollama_container_cpu_throttled_periods_total"
CONTAINERS = (
    Case("OllamaContainerRestarting", "four starts in 12 minutes",
         (series("ollama_container_restarts_total", SERVER, count((0, 70), (0.25, 16), (0, 80))),), (70, 76, 145),
         ((88, told(SERVER, "The container of gpu1 was started 4 times within an hour.")),)),
    Case("OllamaContainerRestarting", "it is updated", (series("ollama_container_restarts_total", SERVER, count((0, 70), (1, 1), (0, 20))),), (71, 80), ()),
    Case("OllamaContainerOutOfMemory", "a runner is killed, and the container runs on",
         (series("ollama_container_oom_kills_total", SERVER, count((0, 40), (1, 1), (0, 49))),), (39, 75),
         ((42, told(SERVER, "At least 1 processes in the container of gpu1 were killed in 30 minutes because its memory was at its limit: a runner, or all of it.")),)),
    Case("OllamaContainerUnhealthy", "for 10 minutes",
         (series("ollama_container_health", {**SERVER, "health": "unhealthy"}, steps((0, 10), (1, 10), (0, 10))),), (14, 20),
         ((15, told(SERVER, "The container of gpu1 has called itself unhealthy for 5 minutes.")),)),
    Case("OllamaContainerMemoryHigh", "a prompt cache grows into the limit",
         (series(_MEMORY, SERVER, steps((10e9, 10), (15.5e9, 30), (10e9, 10))), series(_LIMIT, SERVER, steps((16e9, 50)))), (10, 24, 40),
         ((25, told(SERVER, "The container of gpu1 has used 96.88% of its memory limit for 15 minutes.")),)),
    Case("OllamaContainerMemoryHigh", "there is no limit", (series(_MEMORY, SERVER, steps((60e9, 50))),), (25, 49), ()),
    Case("OllamaContainerThrottled", "three periods in four are cut short, for an hour",
         (series(_PERIODS, SERVER, count((600, 150))), series(_HELD, SERVER, count((0, 30), (450, 60), (0, 60)))), (30, 48, 110),
         ((70, told(SERVER, "The container of gpu1 used up its CPU quota in 75% of its periods.")),)),
    Case("OllamaContainerThrottled", "there is no quota", (series(_PERIODS, SERVER, count((0, 60))), series(_HELD, SERVER, count((0, 60)))), (30, 59), ()),
)  # fmt: skip

_THERMAL = {**GPU, "reason": "hardware_thermal"}
_XID = "ollama_gpu_xid_errors_total"
GPUS = (
    Case("OllamaGpuLost", "one of two falls off the bus for half an hour", (series("ollama_gpus", HOST, steps((2, 60), (1, 30), (2, 30))),), (59, 64, 90),
         ((65, told(HOST, "gpu1 shows 1 GPUs, and showed more within the last 6 hours. Models that are loaded now run on the CPU.")),)),
    Case("OllamaGpuLost", "there never was one", (series("ollama_gpus", HOST, steps((0, 60))),), (10, 59), ()),
    Case("OllamaGpuFailing", "the driver reports an error of the device", (series(_XID, {**GPU, "cause": "device"}, count((0, 70), (1, 1), (0, 80))),), (69, 135),
         ((72, told(GPU, "GPU 0 of gpu1 reported 1 errors of its own in an hour: XID errors that no program makes, or memory errors that could not be corrected.")),)),
    Case("OllamaGpuFailing", "memory errors could not be corrected",
         (series(_XID, {**GPU, "cause": "device"}, count((0, 150))),
          series("ollama_gpu_ecc_errors_total", {**GPU, "error": "uncorrected"}, count((0, 70), (2, 1), (0, 80)))), (69, 135),
         ((72, told(GPU, "GPU 0 of gpu1 reported 2 errors of its own in an hour: XID errors that no program makes, or memory errors that could not be corrected.")),)),
    Case("OllamaGpuFailing", "programs crash, and memory errors are corrected",
         (series(_XID, {**GPU, "cause": "application"}, count((0, 70), (1, 5), (0, 20))),
          series("ollama_gpu_ecc_errors_total", {**GPU, "error": "corrected"}, count((0, 70), (1, 5), (0, 20)))), (72, 80), ()),
    Case("OllamaGpuHot", "a fan stops", (series("ollama_gpu_temperature_celsius", GPU, steps((70, 10), (91, 20), (70, 10))),), (10, 14, 30),
         ((15, told(GPU, "GPU 0 of gpu1 is hotter than 87 degrees, or its driver has held back its clock for most of 10 minutes for heat or want of power.")),)),
    Case("OllamaGpuHot", "the driver holds it back before it is that hot",
         (series("ollama_gpu_temperature_celsius", GPU, steps((84, 60))), series("ollama_gpu_throttled", _THERMAL, steps((0, 10), (1, 30), (0, 20)))), (14, 18, 46),
         ((30, told(GPU, "GPU 0 of gpu1 is hotter than 87 degrees, or its driver has held back its clock for most of 10 minutes for heat or want of power.")),)),
    Case("OllamaGpuHot", "it works at its power limit, as it should",
         (series("ollama_gpu_temperature_celsius", GPU, steps((84, 60))), series("ollama_gpu_throttled", {**GPU, "reason": "power_cap"}, steps((1, 60)))), (30, 59), ()),
    Case("OllamaGpuMemoryFull", "for three quarters of an hour",
         (series("ollama_gpu_memory_used_bytes", GPU, steps((20e9, 10), (23.9e9, 45), (20e9, 10))), series("ollama_gpu_memory_total_bytes", GPU, steps((24e9, 65)))), (12, 39, 55),
         ((40, told(GPU, "99.58% of the memory of GPU 0 of gpu1 has been in use for 30 minutes: what comes next is loaded on the CPU, or pushes something out.")),)),
)  # fmt: skip

_RUNNER_KEY = {**SERVER, "problem": "runner_key"}
_FORCED = {**SERVER, "problem": "parallel_forced_to_1"}
_NOT_ALLOWED = {**SERVER, "rule": "model_not_allowed"}
SETTINGS = (
    Case("OllamaSettingIgnored", "two misspelt variables, for two hours",
         (series("ollama_config_ignored_variables", SERVER, steps((0, 10), (2, 120), (0, 10))),), (69, 130),
         ((70, told(SERVER, "2 variables in the environment of gpu1 do nothing in its version.")),)),
    Case("OllamaSettingHurts", "somebody sets a key that runners refuse Ollama for",
         (series("ollama_config_problem", _RUNNER_KEY, steps((0, 10), (1, 50), (0, 10))),), (39, 60),
         ((40, told(_RUNNER_KEY, "The settings of gpu1 hurt: runner_key. `ollama-exporter check --online` says it in words.", "warning")),)),
    Case("OllamaSettingHurts", "a model allows one slot only",
         (series("ollama_config_problem", _FORCED, steps((0, 10), (1, 90), (0, 10))),), (69, 100),
         ((70, told(_FORCED, "OLLAMA_NUM_PARALLEL of gpu1 does not suit a loaded model: parallel_forced_to_1.", "info")),)),
    Case("OllamaPolicyViolated", "somebody pulls a model that is not allowed",
         (series("ollama_policy_violation", _NOT_ALLOWED, steps((0, 10), (1, 30), (0, 10))),), (24, 40),
         ((25, told(_NOT_ALLOWED, "gpu1 breaks the rule model_not_allowed of the policy file.")),)),
)  # fmt: skip

LOGS = (
    Case("OllamaLogFormatChanged", "a new version writes its access lines in another way",
         (series("ollama_log_misfit_lines_total", {**SERVER, "kind": "access"}, count((0, 70), (2, 20), (0, 90))),), (70, 73, 160),
         ((90, told(SERVER, "40 lines in the log of gpu1 could not be read within an hour, though they look like those that are counted: what is counted is too low.")),)),
    Case("OllamaLogFormatChanged", "two lines were written into each other",
         (series("ollama_log_misfit_lines_total", {**SERVER, "kind": "timing"}, count((0, 70), (2, 1), (0, 20))),), (72, 80), ()),
    Case("OllamaLogIncomplete", "the journal breaks off every 10 minutes",
         (series("ollama_log_gaps_total", SERVER, count((0, 70), (0.1, 60), (0, 90))),), (70, 100, 201),
         ((125, told(SERVER, "The log of gpu1 broke off several times within an hour, or has been longer for 15 minutes than the exporter may read: what is counted is too low, or late.")),)),
    Case("OllamaLogIncomplete", "more is written than may be read",
         (series("ollama_log_gaps_total", SERVER, count((0, 120))), series("ollama_log_behind", SERVER, steps((0, 30), (1, 50), (0, 40)))), (30, 50, 80),
         ((60, told(SERVER, "The log of gpu1 broke off several times within an hour, or has been longer for 15 minutes than the exporter may read: what is counted is too low, or late.")),)),
    Case("OllamaLogIncomplete", "the file is rotated once",
         (series("ollama_log_gaps_total", SERVER, count((0, 70), (1, 1), (0, 50))), series("ollama_log_behind", SERVER, steps((0, 70), (1, 5), (0, 46)))), (72, 90, 110), ()),
    Case("OllamaLogSilent", "the server logs elsewhere for 50 minutes",
         (_reads(count((12, 30), (0, 50), (12, 30))), logged("2xx", count((1, 30), (0, 50), (1, 30))), source("logs", steps((1, 110))),
          _unread(count((0, 110))), series("ollama_up", SERVER, steps((1, 110)))), (29, 45, 52, 82),
         ((57, told(SERVER, "gpu1 has answered the exporter all the time, and the log that is read for it has had no access line for 15 minutes: it is not this server's, or no longer.")),)),
    Case("OllamaLogSilent", "the server is down",
         (_reads(count((12, 30), (0, 50))), logged("2xx", count((1, 30), (0, 50))), _unread(count((0, 80))), source("logs", steps((1, 80))), series("ollama_up", SERVER, steps((1, 30), (0, 50)))), (50, 60, 79), ()),
    Case("OllamaLogSilent", "its access lines are there, and cannot be read",
         (_reads(count((12, 30), (0, 50))), logged("2xx", count((1, 30), (0, 50))), _unread(count((0, 30), (13, 50))), source("logs", steps((1, 80))), series("ollama_up", SERVER, steps((1, 80)))), (50, 60, 79), ()),
)  # fmt: skip

_NO_CANARY = (attempts("ok", count((0, 120))), attempts("timeout", count((0, 120))), attempts("rejected", count((0, 120))),
              skips("saturated", count((0, 120))), skips("in_flight", count((0, 120))), skips("busy", count((1, 120))))  # fmt: skip
_MET = "{} of what was looked at in 15 minutes met no free slot at {}."
_LOADS = "ollama_log_load_duration_seconds"
BEST = (
    Case("OllamaQueueSaturated", "a queue without a pause keeps the canary away; the kernel sees who waits. Another server has room",
         (*_NO_CANARY, *_slots(steps((1, 30), (2, 50), (1, 40)), 120), _waiting(steps((0, 30), (4, 50), (0, 40))),
          *_slots(steps((1, 120)), 120, _OTHER_MODEL), _waiting(steps((0, 120)), OTHER)), (20, 35, 95),
         ((47, told(SERVER, _MET.format("100%", "gpu1"), "warning")),
          (60, (*told(SERVER, _MET.format("100%", "gpu1"), "critical"), *told(SERVER, _MET.format("100%", "gpu1"), "warning"))))),
    Case("OllamaQueueSaturated", "one more request than there are slots waits all the time: nobody is paged",
         (*_slots(steps((2, 60)), 60), _waiting(steps((1, 60)))), (8,), ((40, told(SERVER, _MET.format("100%", "gpu1"), "warning")),)),
    Case("OllamaQueueSaturated", "all slots are at work without a pause, and who waits cannot be seen: nobody is paged",
         (*_NO_CANARY, *_slots(steps((1, 30), (2, 50), (1, 40)), 120)), (20, 35, 95), ((60, told(SERVER, _MET.format("100%", "gpu1"), "warning")),)),
    Case("OllamaQueueSaturated", "everybody waits for a load, that is another trouble",
         (*_slots(steps((0, 60)), 60, loading=steps((0, 20), (1, 30), (0, 10))), _waiting(steps((0, 20), (8, 30), (0, 10)))), (30, 40, 49), ()),
    Case("OllamaQueueSaturated", "everybody waits for a server that takes no connection, that is another trouble",
         (_waiting(steps((0, 20), (8, 30), (0, 10))), series("ollama_up", SERVER, steps((1, 20), (0, 30), (1, 10)))), (30, 40, 49), ()),
    Case("OllamaQueueSaturated", "by the kernel at one server, by the canary at another",
         (*_slots(steps((2, 60)), 60), _waiting(steps((1, 60))), attempts("ok", count((0, 60)), _OTHER_MODEL), attempts("timeout", count((0.25, 60)), _OTHER_MODEL),
          attempts("rejected", count((0, 60)), _OTHER_MODEL), skips("saturated", count((0.75, 60)), _OTHER_MODEL), skips("in_flight", count((0, 60)), _OTHER_MODEL)), (),
         ((40, (*told(SERVER, _MET.format("100%", "gpu1"), "warning"), *told(OTHER, _MET.format("100%", "gpu2"), "critical"), *told(OTHER, _MET.format("100%", "gpu2"), "warning"))),)),
    Case("OllamaQueueWaitHigh", "four requests wait all the time, twelve come in a minute: each waits for 20 s",
         (*_slots(steps((2, 120)), 120), _waiting(steps((0, 40), (4, 40), (0, 40))), logged("2xx", count((12, 120))), source("logs", steps((1, 120)))), (40, 45, 115),
         ((78, told(SERVER, "Measured requests to gpu1 waited 20s for a slot, on average over 30 minutes.")),)),
    Case("OllamaDecodeSlow", "by users' own answers, where the server counts them; canaries see nothing of it",
         (*_counted_by_server(count((0.5, 3200)), count((50, 3200)), count((0.99, 2900), (2.97, 100), (0.99, 200))), source("native", steps((1, 3200))),
          *histogram("ollama_canary_time_per_output_token_seconds", count((1, 3200)), {}, count((0.02, 3200)))), (2900, 2920, 3100),
         ((2980, told(MODEL, "llama3.2:3b at gpu1 takes 60ms for a token, more than twice the median of the day before.")),), step=4),
    Case("OllamaDecodeSlow", "four answers of users in half an hour are too few to tell",
         (*_counted_by_server(count((0.125, 3200)), count((12.5, 3200)), count((0.2475, 2900), (0.7425, 100), (0.2475, 200))), source("native", steps((1, 3200)))),
         (2940, 2980, 2996), (), step=4),
    Case("OllamaErrorRatioHigh", "a tenth of users' requests fails, while the canary does well; those who left the queue do not count",
         (logged("2xx", count((9, 120))), logged("5xx", count((0, 40), (1.5, 40), (0, 40))), logged("503", count((0, 120))), logged("4xx", count((5, 120))),
          event("client_left_queue", count((0, 40), (0.5, 40), (0, 40))), source("logs", steps((1, 120))), attempts("ok", count((1, 120)))), (40, 50, 115),
         ((78, told(SERVER, "9.524% of measured requests to gpu1 failed in 30 minutes.")),)),
    Case("OllamaErrorRatioHigh", "requests hang, and no access line tells of them: the canary does",
         (logged("2xx", count((4, 40), (0, 40))), logged("5xx", count((0, 80))), logged("503", count((0, 80))), event("client_left_queue", count((0, 80))),
          source("logs", steps((1, 80))), attempts("ok", count((1, 40), (0, 40))), attempts("timeout", count((0, 40), (1, 40)))), (40,),
         ((75, told(SERVER, "100% of measured requests to gpu1 failed in 30 minutes.")),)),
    Case("OllamaErrorRatioHigh", "the log cannot be read any more, and every second canary fails",
         (logged("2xx", count((4, 40), (0, 80))), logged("5xx", count((0, 120))), logged("503", count((0, 120))), event("client_left_queue", count((0, 120))),
          source("logs", steps((1, 40), (0, 80))), attempts("ok", count((1, 40), (0.5, 80))), attempts("http_error", count((0, 40), (0.5, 80)))), (40,),
         ((110, told(SERVER, "50% of measured requests to gpu1 failed in 30 minutes.")),)),
    Case("OllamaErrorRatioHigh", "clients ask for what is not there, or go away: no fault of the server's",
         (logged("2xx", count((4, 80))), logged("5xx", count((1, 80))), logged("503", count((0, 80))), logged("4xx", count((4, 80))), logged("499", count((2, 80))),
          event("client_left_queue", count((1, 80))), source("logs", steps((1, 80)))), (40, 79), ()),
    Case("OllamaRequestsRejected", "users get 503 of which the canary sees nothing",
         (logged("2xx", count((9, 60))), logged("503", count((0, 10), (3, 1), (0, 49))), source("logs", steps((1, 60))), attempts("rejected", count((0, 60)))), (9, 30),
         ((14, told(SERVER, "Server gpu1 answered 3 requests with 503 in 15 minutes: its queue is full.")),)),
    Case("OllamaModelLoadSlow", "a user's load takes 45 s, which no canary waits for",
         (*histogram(_LOADS, count((0, 70), (1, 1), (0, 80)), {"30.0": count((0, 151))}), source("logs", steps((1, 151))),
          *histogram("ollama_canary_load_duration_seconds", count((1, 151)), {"30.0": count((1, 151))})), (69, 135),
         ((72, told(MODEL, "1 of the loads of llama3.2:3b at gpu1 that were seen took more than 30 s in the last hour.")),)),
    Case("OllamaSuccessBudgetBurn", "one request in five fails at a server with a log, none at one without",
         (logged("2xx", count((4, 90))), logged("5xx", count((1, 90))), logged("503", count((0, 90))), event("client_left_queue", count((0, 90))),
          source("logs", steps((1, 90))), attempts("ok", count((1, 90)), _OTHER_MODEL)), (),
         ((50, (Says({"job": "ollama"}, "16.67% of measured requests failed in job ollama over 1h: more than 14.4 times what the objective allows, and so it was over the last 5m.", "critical", (("long", "1h"), ("short", "5m"))),
                Says({"job": "ollama"}, "16.67% of measured requests failed in job ollama over 6h: more than 6 times what the objective allows, and so it was over the last 30m.", "critical", (("long", "6h"), ("short", "30m"))))),)),
)  # fmt: skip

FILES = {
    "requests": REQUESTS, "runners": RUNNERS, "containers": CONTAINERS, "gpus": GPUS, "settings": SETTINGS, "logs": LOGS, "best": BEST,
}  # fmt: skip
