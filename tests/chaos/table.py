"""The faults: what is done, and what the exporter must make of it. One row each in docs/reliability.md."""

# ruff: noqa: E501 (a table of sentences: long and flat on purpose)

from __future__ import annotations

from dataclasses import dataclass

NETWORK, MACHINE, SELF, THOUSAND = "network", "machine", "self", "thousand"
"""The houses: each has an exporter of its own, whose faults happen side by side (in `self`, one after the other)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`reasons` must be counted in ollama_source_failures_total, for the source that looks; others must not, but for
    time-outs, which a busy machine may add, and those that it `also` may meet on its way. `states`: ollama_state while
    the fault lasts, of all servers that it was done to; none where the server is well, or is not what suffers."""

    name: str
    house: str
    done: str
    reasons: frozenset[str]
    states: frozenset[str]
    also: frozenset[str]
    told: str = ""


def _fault(
    name: str, house: str, done: str, reasons: str = "", states: str = "", also: str = "", told: str = ""
) -> Fault:
    return Fault(
        name, house, done, frozenset(reasons.split()), frozenset(states.split()), frozenset(also.split()), told
    )


FAULTS = (
    # --- the way to a server
    _fault("the server is gone", NETWORK, "its process ends: nobody listens on its port", "refused", "down", "reset"),
    _fault("connections break", NETWORK, "RST before, in and after the head of an answer", "reset", "down"),
    _fault("connections end early", NETWORK, "FIN before, in and after the head of an answer, half-closed or whole, in a chunk and between two; fewer bytes than Content-Length says", "reset", "down"),
    _fault("half-open connections", NETWORK, "the peer is gone without a FIN: from its network namespace nothing comes back any more", "connect_timeout timeout", "down"),
    _fault("the link is down", NETWORK, "the interface towards the server is taken down", "unreachable", "down", "reset"),
    _fault("silence", NETWORK, "the server takes connections and requests, and says nothing", "timeout", "starting"),
    _fault("the name flaps", NETWORK, "the DNS server says NXDOMAIN, SERVFAIL or a wrong address", "dns refused", "down"),
    _fault("the DNS server is silent", NETWORK, "eight names at once, each lookup hangs for four seconds", "connect_timeout", "down", "dns"),
    _fault("an HTTP proxy between", NETWORK, "the proxy is gone, hangs, answers 407, 502, and 200 with a page of its own", "decode http_4xx http_5xx refused timeout", "down starting", "reset"),
    _fault("a TCP proxy between", NETWORK, "it closes connections that are idle for 0.3 s, and for exactly a poll, by FIN and by RST", "", "ok", told="nothing is lost: a poll is tried once more on a new connection"),
    # --- TLS
    _fault("a certificate expires", NETWORK, "the server's certificate ends while the exporter watches", "tls", "down"),
    _fault("the CA is rotated", NETWORK, "the server shows a certificate of a new CA; later `ca_file` is replaced and the configuration is reloaded", "tls", "down", told="with the new `ca_file` the server's counters start anew"),
    _fault("the TLS handshake hangs", NETWORK, "the server takes the connection and never answers the client's hello", "connect_timeout", "down", "tls"),
    _fault("a server without TLS", NETWORK, "something on the port of https answers in plain HTTP, or hangs up", "tls", "down"),
    # --- answers
    _fault("slow loris", NETWORK, "a byte of the answer every 50 ms; heads without an end; 100 Continue again and again", "timeout", "starting"),
    _fault("a body that stops", NETWORK, "half of the body, then nothing", "timeout", "starting"),
    _fault("a body without end", NETWORK, "chunks without end; no length and no end; a length of 10^15; one byte above the cap", "too_large", "down"),
    _fault("a head without end", NETWORK, "header lines without end", "decode", "down"),
    _fault("a wrong content length", NETWORK, "a length of words, below zero, twice and different, shorter than the body", "decode", "down"),
    _fault("garbage", NETWORK, "an SSH banner, chunks without a size, compression that nobody asked for", "decode", "down"),
    _fault("an empty 200", NETWORK, "200 without a body", "decode", "down"),
    _fault("HTML instead of JSON", NETWORK, "a welcome page; the words `Ollama is running`", "decode", "down"),
    _fault("broken JSON", NETWORK, "truncated, two documents, invalid UTF-8, UTF-16", "decode", "down"),
    _fault("NaN and Infinity", NETWORK, "numbers that JSON does not have, and one of 5,000 digits", "decode", "down"),
    _fault("deep nesting", NETWORK, "a million opened lists, 300,000 opened objects", "decode", "down"),
    _fault("another shape", NETWORK, "JSON of another shape: null, a number, a list, other types, rows without names", "malformed", "down"),
    _fault("numbers out of range", NETWORK, "/api/ps with sizes below zero, above 2^63, 1e400, and a moment in 1960", "", "ok", told="the value is absent and counted; the rest of the answer stands"),
    _fault("401 and 403", NETWORK, "a proxy asks who we are; Ollama refuses our Host", "forbidden_host http_4xx", "down"),
    _fault("5xx in bursts", NETWORK, "every second answer is 500, 502 or 503; errors with a body without end", "http_5xx", told="the state changes with the answers"),
    _fault("redirect loops", NETWORK, "302 to itself, to another host, to nowhere", "redirect", "down", told="nobody is followed"),
    _fault("the scheduler hangs", NETWORK, "/api/version answers, /api/ps does not, or fails", "http_5xx timeout", "stalled"),
    _fault("the inventory fails", NETWORK, "/api/tags, of which a newly loaded model makes us ask, answers 500 or HTML", "decode http_5xx", "ok"),
    # --- other servers under the same name
    _fault("duplicate models", NETWORK, "/api/ps lists a model twice, with two sizes", "", "ok", told="one series, the first; the second is counted as rejected"),
    _fault("a model is renamed", NETWORK, "what was loaded under one name is loaded under another", "", "ok"),
    _fault("the version goes back", NETWORK, "0.33.0 becomes 0.1.30, which has no /api/ps", "", "ok", told="what it does not tell is absent"),
    _fault("another program on the port", NETWORK, "the server ends, and a web server, which knows no such path, takes its port", "http_4xx", "down", "refused reset"),
    # --- the machine of a server
    _fault("a server is stopped", MACHINE, "SIGSTOP for 6 s, then SIGCONT", "timeout", "starting"),
    _fault("a server is killed", MACHINE, "SIGKILL, and later another process on the same port", "refused", "down", "reset"),
    _fault("a runner is killed", MACHINE, "SIGKILL to the process that holds the model; Ollama goes on listing it", "", "ok", told="counted in `ollama_runner_ends_seen_total`, as died"),
    _fault("dockerd restarts", MACHINE, "the engine's socket goes and comes back", "unavailable", also="malformed"),
    _fault("dockerd hangs", MACHINE, "eight servers' containers are asked for, and the engine says nothing", "timeout", also="unavailable"),
    _fault("the disk of the models is full", MACHINE, "the last byte of the model store's file system is written", told="`ollama_host_model_store_available_bytes` says 0"),
    _fault("the disk of the models hangs", MACHINE, "a file system whose server answers nothing (FUSE) lies over the model store", "timeout", told="only the store's series go; CPU, memory, network and processes of the machine stay"),
    _fault("a storm of log rotations", MACHINE, "300 renames of the log under full writing", told="no line is counted twice; what stood in a file that came and went between two looks is not seen"),
    _fault("the log's disk is full", MACHINE, "a server's log is cut off in the middle of a line by a full disk, then truncated", told="the half line is not counted; the truncation is counted as a gap"),
    # --- the exporter itself
    _fault("clocks jump", SELF, "the exporter's wall clock jumps 3 hours ahead and 5 hours back (libfaketime)", "", "ok"),
    _fault("no file descriptors", SELF, "RLIMIT_NOFILE is lowered below what is open", "unreachable", "down", "reset unavailable", told="who is connected already is polled and served; new connections wait"),
    _fault("little memory", SELF, "RLIMIT_AS leaves 64 MB; two servers list 150,000 models, two 1,300,000 empty lists, as many as 4 MB can hold", "too_large", "stalled"),
    _fault("the exporter is stopped", SELF, "SIGSTOP for 6 s, then SIGCONT", "", "ok", "reset", told="nothing that was missed is asked for afterwards"),
    _fault("scrapers vanish", SELF, "200 scrapers ask for the page and break off: before, in and after their request, or read nothing"),
    _fault("Prometheus restarts", SELF, "a real Prometheus is killed and started anew on its data"),
    _fault("the exporter's log is full", SELF, "the exporter's standard error is a file on a full disk", "refused", "down"),
    # --- a fleet
    _fault("a thousand servers die at once", THOUSAND, "1,000 servers reset every connection and refuse new ones, and come back at once", "refused", "down", "reset"),
)  # fmt: skip
