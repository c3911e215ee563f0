"""Sockets: connections to a server's port, as the kernel of its machine sees them."""

from __future__ import annotations

from exporter.model import Family

_S = ("server",)

SOCKETS_UNANSWERED = Family(
    "ollama_sockets_unanswered_requests", "gauge",
    "Connections to the server whose last request had got no byte of an answer at the last poll, as the kernel saw it:"
    " they wait for a load or a slot, have their prompt read, or get an answer that is not streamed. Any request counts,"
    " also a quick /api/tags at that moment; the exporter's own do not, unless they come through docker-proxy. A proxy's"
    " connections count as its users' do. An answer and the next request within one tick of the kernel's clock are told apart"
    " by what was before, and while a full queue refuses by counting segments: one who asks again at once, and whose requests"
    " take now more of them and now less, can be taken for waiting then.",
    _S,
)  # fmt: skip
SOCKETS_UNANSWERED_MAX = Family(
    "ollama_sockets_unanswered_requests_max", "gauge",
    "The highest ollama_sockets_unanswered_requests of all looks since the poll before, five a poll (25 while a full queue refuses): what comes and goes"
    " between two polls.",
    _S,
)  # fmt: skip
SOCKETS_UNANSWERED_SECONDS = Family(
    "ollama_sockets_unanswered_seconds_total", "counter",
    "Time that requests spent without any byte of an answer, summed over requests, by ollama_sockets_unanswered_requests"
    " of each look, five a poll. Its rate is how many there were on average.",
    _S, "seconds",
)  # fmt: skip
SOCKETS_OLDEST = Family(
    "ollama_sockets_oldest_unanswered_seconds", "gauge",
    "How long the oldest of ollama_sockets_unanswered_requests had been without an answer at the last poll; 0 when there"
    " is none.",
    _S, "seconds",
)  # fmt: skip
SOCKETS_STREAMING = Family(
    "ollama_sockets_streaming_answers", "gauge",
    "Connections on which the server had sent something within a moment before the last poll (0.05 to 5 s, by the pace at"
    " which its tokens are seen to come): streamed answers, and those that have just ended.",
    _S,
)  # fmt: skip
SOCKETS_IDLE = Family(
    "ollama_sockets_idle_connections", "gauge",
    "Open connections on which nothing was being asked or answered at the last poll.",
    _S,
)  # fmt: skip
SOCKETS_OWN = Family(
    "ollama_sockets_exporter_requests", "gauge",
    "Requests of this exporter, unanswered or being answered at the last poll: the canary, and for milliseconds the"
    " others. In none of the other ollama_sockets families.",
    _S,
)  # fmt: skip
SOCKETS_ACCEPT_QUEUE = Family(
    "ollama_sockets_accept_queue_connections", "gauge",
    "Connections that the kernel holds because the server had not taken them at the last poll. More than a moment above 0"
    " means that the process itself hangs or starves.",
    _S,
)  # fmt: skip
SOCKETS_ACCEPT_QUEUE_MAX = Family(
    "ollama_sockets_accept_queue_limit_connections", "gauge",
    "How many connections the kernel holds for the server at most; further ones get no answer at all.",
    _S,
)  # fmt: skip
SOCKETS_WAITING_LOW = Family(
    "ollama_sockets_waiting_requests_lower_bound", "gauge",
    "Requests without an answer that had no slot at the last poll, at least: unanswered ones less all busy slots of the"
    " server's runners. Absent when the runners do not tell.",
    _S,
)  # fmt: skip
SOCKETS_WAITING_HIGH = Family(
    "ollama_sockets_waiting_requests_upper_bound", "gauge",
    "Requests without an answer that had no slot at the last poll, at most: unanswered ones less those slots of the"
    " server's runners that have not made a token yet, where these are told.",
    _S,
)  # fmt: skip
SOCKETS_WAITING = Family(
    "ollama_sockets_waiting_requests_estimate", "gauge",
    "Requests that waited for a slot or a load at the last poll, estimated: a busy slot belongs to a streamed answer or"
    " to the oldest unanswered requests; those left over wait. The lower bound while every runner has a slot to spare."
    " Absent when the runners do not tell.",
    _S,
)  # fmt: skip
