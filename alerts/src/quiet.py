"""Fleets with which nothing is wrong. No alert but the Watchdog may speak of them."""

from __future__ import annotations

from cases import EXPORTER, Series, count, series, steps

SERVERS = ("primary", "secondary", "tertiary")
MODELS = ("tinyllama:latest", "llama3.2:3b")
_OUTCOMES = ("ok", "caused_load", "empty", "rejected", "http_error", "malformed", "timeout", "unreachable")
_SKIPS = (
    "busy", "unused", "saturated", "in_flight", "expiring", "replaced", "remote", "incapable", "old_server", "untold",
    "stopped",
)  # fmt: skip
_HISTOGRAMS = {
    "ollama_canary_time_to_first_token_seconds": ("2.0", "5.0"),
    "ollama_canary_duration_seconds": ("2.0",),
    "ollama_canary_queue_wait_upper_bound_seconds": ("2.0",),
    "ollama_canary_load_duration_seconds": ("30.0",),
    "ollama_canary_prompt_duration_seconds": ("2.5",),
    "ollama_canary_time_per_output_token_seconds": ("0.05",),
}

_INSIDE = ("native", "sockets", "runner", "logs", "docker", "audit")
_EVENTS = (
    "load_failed", "runtime_oom", "runner_died", "crash", "generation_failed", "prompt_truncated", "context_shift",
    "context_exceeded", "client_left_queue",
)  # fmt: skip
_MISFITS = ("access", "message", "slot", "timing")
_PROBLEMS = ("invalid_value", "keep_alive_zero", "parallel_forced_to_1")
_THROTTLED = ("power_cap", "hardware_thermal")
_CAUSES = ("application", "device")
_ECC = ("corrected", "uncorrected")


class Fleet:
    """Three servers, two models on each. `again`: the minute at which the exporter comes back after two minutes."""

    def __init__(
        self,
        minutes: int,
        *,
        users: float = 1,
        canary: bool = True,
        host: bool = True,
        inside: bool = True,
        again: int = 0,
    ) -> None:
        self.minutes, self.users, self.again = minutes, users, again
        self.canary, self.host, self.inside = canary, host, inside

    def series(self) -> tuple[Series, ...]:
        made = [*self._own(), *(found for server in SERVERS for found in self._server(server))]
        made += self._host() if self.host else []
        return tuple(made + (self._gpus() if self.inside else []))

    def _held(self, value: float) -> str:
        if not self.again:
            return steps((value, self.minutes))
        return f"{value:g}x{self.again - 3} stale _ {steps((value, self.minutes - self.again))}"

    def _counted(self, rate: float) -> str:
        if not self.again:
            return count((rate, self.minutes), start=100)
        return f"{count((rate, self.again - 2))} stale _ {count((rate, self.minutes - self.again))}"

    def _clock(self) -> str:
        return f"0+60x{self.minutes - 1}" if not self.again else (
            f"0+60x{self.again - 3} stale _ {self.again * 60}+60x{self.minutes - self.again - 1}"
        )  # fmt: skip

    def _own(self) -> list[Series]:
        up = steps((1, self.again - 2), (0, 2), (1, self.minutes - self.again)) if self.again else self._held(1)
        start = self._held(0) if not self.again else (
            f"0x{self.again - 3} stale _ {steps((self.again * 60, self.minutes - self.again))}"
        )  # fmt: skip
        return [
            series("up", EXPORTER, up),
            series("ollama_exporter_build_info", {**EXPORTER, "version": "0.1.0", "python": "3.13.1"}, self._held(1)),
            series("ollama_exporter_servers", EXPORTER, self._held(len(SERVERS))),
            series("ollama_exporter_config_last_reload_successful", EXPORTER, self._held(1)),
            series("ollama_exporter_loop_lag_seconds_count", EXPORTER, self._counted(24)),
            series("ollama_exporter_loop_lag_seconds_bucket", {**EXPORTER, "le": "1.0"}, self._counted(24)),
            series("process_start_time_seconds", EXPORTER, start),
        ]

    def _server(self, server: str) -> list[Series]:
        here = {**EXPORTER, "server": server}
        states = {"ok": 1, "stalled": 0, "starting": 0, "down": 0}
        made = [
            series("ollama_up", here, self._held(1)),
            *(series("ollama_state", {**here, "state": s}, self._held(v)) for s, v in states.items()),
            series("ollama_build_info", {**here, "version": "0.33.0"}, self._held(1)),
            series("ollama_clock_offset_seconds", here, self._held(0.4)),
            series("ollama_installed_models", here, self._held(len(MODELS))),
            series("ollama_loaded_models", here, self._held(len(MODELS))),
            series("ollama_api_rejected_values_total", here, self._counted(0)),
            series("ollama_exporter_label_values_dropped", here, self._held(0)),
            *(found for model in MODELS for found in self._model({**here, "model": model})),
        ]
        sources = ("api", "canary") if self.canary else ("api",)
        for source in sources:
            made += self._source({**here, "source": source})
        return made + (self._inside(here) if self.inside else [])

    def _source(self, labels: dict[str, str]) -> list[Series]:
        return [
            series("ollama_source_up", labels, self._held(1)),
            series("ollama_source_last_attempt_timestamp_seconds", labels, self._clock()),
        ]

    def _model(self, here: dict[str, str]) -> list[Series]:
        described = {"digest": "aaaaaaaaaaaa", "family": "llama", "parameter_size": "3.2B", "quantization": "Q4_K_M"}
        return [
            series("ollama_installed_model_info", {**here, **described}, self._held(1)),
            series("ollama_loaded_model_size_bytes", here, self._held(4e9)),
            # A server without a GPU, or one whose CPU buffers count as GPU memory, is as healthy as the others.
            series("ollama_loaded_model_vram_bytes", here, self._held(0 if here["server"] == "tertiary" else 4e9)),
            series("ollama_model_uses_seen_total", here, self._counted(self.users)),
            series("ollama_model_loads_seen_total", here, self._counted(0.02 if self.users else 0)),
            series("ollama_model_reconfigurations_seen_total", here, self._counted(0)),
            *(self._canary(here) if self.canary else []),
            *(self._runner(here) if self.inside else []),
        ]

    def _canary(self, here: dict[str, str]) -> list[Series]:
        sent = 1 if self.users else 0
        made = [
            *(
                series(
                    "ollama_canary_attempts_total",
                    {**here, "outcome": name},
                    self._counted(sent if name == "ok" else 0),
                )
                for name in _OUTCOMES
            ),
            *(
                series(
                    "ollama_canary_skips_total",
                    {**here, "reason": name},
                    self._counted(1 - sent if name == "unused" else 0),
                )
                for name in _SKIPS
            ),
            series("ollama_canary_stopped", here, self._held(0)),
        ]
        if self.users:
            for family, buckets in _HISTOGRAMS.items():
                made.append(series(f"{family}_count", here, self._counted(1)))
                made.append(series(f"{family}_sum", here, self._counted(0.02)))
                made += [series(f"{family}_bucket", {**here, "le": le}, self._counted(1)) for le in buckets]
        return made

    def _host(self) -> list[Series]:
        here = {**EXPORTER, "host": "primary"}
        return [
            series("ollama_host_memory_available_bytes", here, self._held(40e9)),
            series("ollama_host_memory_total_bytes", here, self._held(64e9)),
            series("ollama_host_swap_used_bytes", here, self._held(0)),
            series("ollama_host_swap_total_bytes", here, self._held(0)),
            series("ollama_host_model_store_available_bytes", here, self._held(400e9)),
            series("ollama_host_model_store_size_bytes", here, self._held(1000e9)),
            series("ollama_host_process_start_time_seconds", {**here, "process": "serve"}, self._held(1000)),
            *self._source({**EXPORTER, "source": "host"}),
        ]

    def _inside(self, here: dict[str, str]) -> list[Series]:
        """Users' requests, at times as many as there are slots; some clients ask for what is not there, or go away."""
        asked = self.users * len(MODELS) + (len(MODELS) if self.canary and self.users else 0)
        statuses = {"2xx": asked, "4xx": self.users / 10, "499": self.users / 20, "5xx": self.users / 20, "503": 0}
        events = dict.fromkeys(_EVENTS, 0.0) | {"client_left_queue": self.users / 20}
        held, counted, prefix = self._held, self._counted, "ollama_"
        gauges = {
            "sockets_unanswered_requests": self.users,
            "sockets_oldest_unanswered_seconds": 20 if self.users else 0,
            "sockets_waiting_requests_estimate": 0,
            "sockets_accept_queue_connections": 0,
            "sockets_accept_queue_limit_connections": 4096,
            "log_behind": 0,
            "container_memory_working_set_bytes": 20e9,
            "container_memory_limit_bytes": 32e9,
            "config_ignored_variables": 0,
        }
        counters = {
            "log_gaps_total": 0.0,
            "container_restarts_total": 0.0,
            "container_oom_kills_total": 0.0,
            "container_cpu_periods_total": 600,
            "container_cpu_throttled_periods_total": 60,
        }
        chat = {**here, "api_endpoint": "/api/chat"}
        return [
            *(series(prefix + family, here, held(value)) for family, value in gauges.items()),
            *(series(prefix + family, here, counted(rate)) for family, rate in counters.items()),
            *(series("ollama_log_requests_total", {**chat, "status": s}, counted(n)) for s, n in statuses.items()),
            series("ollama_log_reads_total", {**here, "api_endpoint": "/api/ps"}, counted(12)),
            series("ollama_log_request_duration_seconds_count", chat, counted(asked)),
            series("ollama_log_request_duration_seconds_sum", chat, counted(8 * asked)),
            *(series("ollama_log_events_total", {**here, "kind": k}, counted(n)) for k, n in events.items()),
            *(series("ollama_log_misfit_lines_total", {**here, "kind": k}, counted(0)) for k in _MISFITS),
            *(
                series("ollama_container_health", {**here, "health": h}, held(float(h == "healthy")))
                for h in ("starting", "healthy", "unhealthy")
            ),
            *(series("ollama_config_problem", {**here, "problem": p}, held(0)) for p in _PROBLEMS),
            series("ollama_policy_violation", {**here, "rule": "model_not_allowed"}, held(0)),
            *(found for name in _INSIDE for found in self._source({**here, "source": name})),
        ]

    def _runner(self, here: dict[str, str]) -> list[Series]:
        """A busy server has both slots at work in two minutes of five."""
        busy = " ".join(["2", "2", "1", "0", "1"] * (self.minutes // 5)) if self.users and not self.again else ""
        slow = {**here, "le": "30.0"}
        return [
            series("ollama_runner_slots", here, self._held(2)),
            series("ollama_runner_slots_busy", here, busy or self._held(0)),
            series("ollama_runner_slots_reading_prompt", here, self._held(0)),
            series("ollama_runner_loading", here, self._held(0)),
            series("ollama_runner_missing", here, self._held(0)),
            series("ollama_runner_slot_context_tokens", here, self._held(8192)),
            series("ollama_runner_longest_sequence_tokens", here, self._held(3000 if self.users else 0)),
            series("ollama_runner_ends_seen_total", {**here, "reason": "died"}, self._counted(0)),
            series("ollama_runner_ends_seen_total", {**here, "reason": "unloaded"}, self._counted(0.02 * self.users)),
            series("ollama_runner_generated_tokens_seen_total", here, self._counted(500 * self.users)),
            series("ollama_log_generated_tokens_total", here, self._counted(500 * self.users)),
            series("ollama_log_generations_total", here, self._counted(5 * self.users)),
            series("ollama_log_generations_cut_off_total", here, self._counted(0)),
            series("ollama_log_cut_off_seen_tokens_total", here, self._counted(0)),
            series("ollama_requests_total", here, self._counted(5 * self.users)),
            series("ollama_generated_tokens_total", here, self._counted(500 * self.users)),
            series("ollama_eval_duration_seconds_total", here, self._counted(10 * self.users)),
            series("ollama_log_load_duration_seconds_count", here, self._counted(0.02 if self.users else 0)),
            series("ollama_log_load_duration_seconds_bucket", slow, self._counted(0.02 if self.users else 0)),
        ]

    def _gpus(self) -> list[Series]:
        """One at its power limit, which is normal."""
        host = {**EXPORTER, "host": "primary"}
        here = {**host, "gpu": "0"}
        return [
            series("ollama_gpus", host, self._held(1)),
            series("ollama_gpu_memory_used_bytes", here, self._held(20e9)),
            series("ollama_gpu_memory_total_bytes", here, self._held(24e9)),
            series("ollama_gpu_temperature_celsius", here, self._held(78)),
            *(
                series("ollama_gpu_throttled", {**here, "reason": r}, self._held(float(r == "power_cap")))
                for r in _THROTTLED
            ),
            *(series("ollama_gpu_xid_errors_total", {**here, "cause": c}, self._counted(0)) for c in _CAUSES),
            *(series("ollama_gpu_ecc_errors_total", {**here, "error": e}, self._counted(0)) for e in _ECC),
            *self._source({**EXPORTER, "source": "gpu"}),
        ]


def _restarted_servers() -> tuple[Series, ...]:
    """All servers restart at once, for a minute; every model is loaded anew, some prompts fail meanwhile."""
    whole, replaced = Fleet(180), ("ollama_up", "ollama_state", "ollama_model_loads_seen_total", "ollama_host_process")
    kept = [(name, values) for name, values in whole.series() if not name.startswith(replaced)]
    for server in SERVERS:
        here = {**EXPORTER, "server": server}
        kept.append(series("ollama_up", here, steps((1, 100), (0, 1), (1, 79))))
        kept.append(series("ollama_state", {**here, "state": "ok"}, steps((1, 100), (0, 1), (1, 79))))
        kept.append(series("ollama_state", {**here, "state": "starting"}, steps((0, 100), (1, 1), (0, 79))))
        for model in MODELS:
            labels = {**here, "model": model}
            kept.append(series("ollama_model_loads_seen_total", labels, count((0, 101), (1, 1), (0, 78), start=5)))
    serve = {**EXPORTER, "host": "primary", "process": "serve"}
    kept.append(series("ollama_host_process_start_time_seconds", serve, steps((1000, 101), (6060, 79))))
    return tuple(kept)


SCENES: tuple[tuple[str, tuple[Series, ...], int], ...] = (
    ("a healthy fleet in use", Fleet(200).series(), 200),
    ("an idle fleet whose models are pinned", Fleet(200, users=0).series(), 200),
    ("a fleet whose exporter restarts", Fleet(200, again=100).series(), 200),
    ("a fleet five minutes old whose exporter restarts", Fleet(90, again=8).series(), 90),
    ("a fleet whose servers restart", _restarted_servers(), 180),
    ("the canary is off", Fleet(120, canary=False).series(), 120),
    ("the host source is off", Fleet(120, host=False).series(), 120),
    ("nothing is seen from inside", Fleet(120, inside=False).series(), 120),
    ("only the canary is off, and nobody asks", Fleet(120, canary=False, users=0).series(), 120),
    ("a new fleet", Fleet(45).series(), 45),
)
