"""What a server can answer instead of an answer, and what may stand on the page then."""

from __future__ import annotations

from dataclasses import dataclass

from exporter import catalog
from exporter.model import Reason
from exporter.ollama import BODY_MAX
from tests.wire import (
    CHUNKED_HEAD,
    CLOSE,
    HALF_CLOSE,
    HANG,
    RESET,
    Endless,
    Script,
    Trickle,
    answer,
    chunk,
    json_answer,
)

# What may stand on a page in each condition. Everything else describes a present that nobody has seen.
WHEN_DOWN = {
    catalog.SERVER_INFO, catalog.UP, catalog.STATE, catalog.API_DURATION, catalog.REJECTED_VALUES,
    catalog.USES_SEEN, catalog.LOADS_SEEN, catalog.UNLOADS_SEEN, catalog.RECONFIGURATIONS_SEEN,
    catalog.SOURCE_UP, catalog.SOURCE_DURATION, catalog.SOURCE_LAST_ATTEMPT, catalog.SOURCE_LAST_SUCCESS,
    catalog.SOURCE_FAILURES,
}  # fmt: skip
NEVER_SEEN = WHEN_DOWN - {
    catalog.SOURCE_LAST_SUCCESS, catalog.USES_SEEN, catalog.LOADS_SEEN, catalog.UNLOADS_SEEN,
    catalog.RECONFIGURATIONS_SEEN,
}  # fmt: skip
WHEN_STALLED = WHEN_DOWN | {catalog.BUILD_INFO, catalog.CLOCK_OFFSET}
LOADED = {
    catalog.LOADED_MODELS, catalog.LOADED_SIZE, catalog.LOADED_VRAM, catalog.LOADED_CONTEXT, catalog.LOADED_EXPIRY,
    catalog.LOADED_INFO, catalog.KNOWN_BUSY,
}  # fmt: skip
INSTALLED = {catalog.INSTALLED_MODELS, catalog.REMOTE_MODELS, catalog.INSTALLED_SIZE, catalog.INSTALLED_INFO}
WITHOUT_INVENTORY = WHEN_STALLED | LOADED | {catalog.EXPORTER_DROPPED}
WHEN_WELL = WITHOUT_INVENTORY | INSTALLED


@dataclass(frozen=True)
class Fault:
    """What the server does with a request, and the reason that must come of it. A reset is tried once more."""

    script: Script
    reason: Reason

    @property
    def hangs(self) -> bool:
        return self.reason == "timeout"


GZIP, CHUNKED = "Content-Encoding: gzip", "Transfer-Encoding: chunked"
FAULTS: dict[str, Fault] = {
    # connections that break
    "reset_before_headers": Fault([RESET], "reset"),
    "closed_before_headers": Fault([CLOSE], "reset"),
    "half_closed_before_headers": Fault([HALF_CLOSE], "reset"),
    "reset_in_headers": Fault([b"HTTP/1.1 200 OK\r\nContent-Le", RESET], "reset"),
    "closed_in_headers": Fault([b"HTTP/1.1 200 OK\r\nContent-Le", CLOSE], "reset"),
    "reset_in_body": Fault([answer(b'{"models":[', length=100), RESET], "reset"),
    "closed_in_body": Fault([answer(b'{"models":[', length=100), CLOSE], "reset"),
    "half_closed_in_body": Fault([answer(b'{"models":[', length=100), HALF_CLOSE], "reset"),
    "closed_in_chunk": Fault([CHUNKED_HEAD, b"ff\r\n{", CLOSE], "reset"),
    "closed_between_chunks": Fault([CHUNKED_HEAD, chunk(b"{"), CLOSE], "reset"),
    # answers with another status
    "400": Fault([answer(b'{"error":"bad"}', status=400)], "http_4xx"),
    "401": Fault([answer(b"who?", "WWW-Authenticate: Basic", status=401)], "http_4xx"),
    "403_with_a_body": Fault([answer(b"no", status=403)], "http_4xx"),
    "403_with_a_chunked_body": Fault([answer(b"2\r\nno\r\n0\r\n\r\n", CHUNKED, status=403)], "http_4xx"),
    "403_empty": Fault([answer(b"", status=403)], "forbidden_host"),
    "403_empty_chunked": Fault([answer(b"0\r\n\r\n", CHUNKED, status=403)], "forbidden_host"),
    "404": Fault([answer(b"404 page not found", status=404)], "http_4xx"),
    "405": Fault([answer(b"405 method not allowed", status=405)], "http_4xx"),
    "429": Fault([answer(b"", "Retry-After: 60", status=429)], "http_4xx"),
    "500": Fault([answer(b'{"error":"x"}', status=500)], "http_5xx"),
    "500_without_end": Fault([answer(b"", CHUNKED, status=500), Endless(chunk(b"x" * 4096))], "http_5xx"),
    "502": Fault([answer(b"<html>", status=502)], "http_5xx"),
    "503": Fault([answer(b'{"error":"server busy"}', status=503)], "http_5xx"),
    "200_hidden_in_204": Fault([answer(b"", status=204)], "malformed"),
    "redirect_without_place": Fault([answer(b"", status=302)], "redirect"),
    # silence
    "no_headers": Fault([HANG], "timeout"),
    "no_end_of_headers": Fault([b"HTTP/1.1 200 OK\r\nX: y\r\n", HANG], "timeout"),
    "no_end_of_body": Fault([answer(b'{"models":[', length=100), HANG], "timeout"),
    "no_body_of_an_error": Fault([answer(b"", CHUNKED, status=500), HANG], "timeout"),
    "a_byte_now_and_then": Fault([Trickle(answer(b'{"models":[],"version":"0.33.0"}'), 0.05)], "timeout"),
    "continue_without_end": Fault([Trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 40, 0.002)], "timeout"),
    # too much
    "endless_chunks": Fault([CHUNKED_HEAD, Endless(chunk(b" " * 65536))], "too_large"),
    "endless_without_length": Fault([b"HTTP/1.1 200 OK\r\n\r\n", Endless(b" " * 65536)], "too_large"),
    "endless_for_its_length": Fault([answer(b"", length=10**15), Endless(b" " * 65536)], "too_large"),
    "one_byte_too_many": Fault([answer(b"[" + b" " * (BODY_MAX - 1) + b"]")], "too_large"),
    "endless_headers": Fault([b"HTTP/1.1 200 OK\r\n", Endless(b"X-A: " + b"a" * 4000 + b"\r\n")], "decode"),
    # what is no HTTP, or not this one
    "ssh": Fault([b"SSH-2.0-OpenSSH_9.6\r\n\r\n", CLOSE], "decode"),
    "length_of_words": Fault([answer(b"{}", "Content-Length: many"), CLOSE], "decode"),
    "length_below_zero": Fault([answer(b"{}", "Content-Length: -1"), CLOSE], "decode"),
    "two_lengths": Fault([answer(b"{}", "Content-Length: 2", "Content-Length: 3"), CLOSE], "decode"),
    "chunk_of_words": Fault([CHUNKED_HEAD, b"many\r\n", CLOSE], "decode"),
    "gzip_not_asked_for": Fault([answer(b"\x1f\x8b\x08\x00", GZIP)], "decode"),
    "gzip_that_is_none": Fault([answer(b'{"models":[],"version":"0.33.0"}', GZIP)], "decode"),
    "length_too_short": Fault([answer(b'{"models":[],"version":"0.33.0"}', length=5), CLOSE], "decode"),
    # bodies that are no JSON
    "empty": Fault([answer(b"")], "decode"),
    "truncated": Fault([answer(b'{"version":"0.33.0","models":[{"name":"a"')], "decode"),
    "html": Fault([answer(b"<html><body>Welcome</body></html>", "Content-Type: text/html")], "decode"),
    "ollama_is_running": Fault([answer(b"Ollama is running")], "decode"),
    "invalid_utf8": Fault([answer(b'{"version":"\xff","models":[{"name":"\xc3\x28"}]}')], "decode"),
    "utf16": Fault([answer('{"version":"0.33.0","models":[]}'.encode("utf-16"))], "decode"),
    "nan": Fault([answer(b'{"version":"0.33.0","models":[],"x":NaN}')], "decode"),
    "infinity": Fault([answer(b'{"version":"0.33.0","models":[],"x":-Infinity}')], "decode"),
    "5000_digits": Fault([answer(b'{"version":"0.33.0","models":[],"x":' + b"9" * 5000 + b"}")], "decode"),
    "nested_lists": Fault([answer(b"[" * 1_000_000)], "decode"),
    "nested_objects": Fault([answer(b'{"models":' * 300_000)], "decode"),
    "two_documents": Fault([answer(b'{"version":"0.33.0","models":[]}\n{}')], "decode"),
    # bodies that are JSON, and no answer
    "null": Fault([answer(b"null")], "malformed"),
    "number": Fault([answer(b"7")], "malformed"),
    "list": Fault([answer(b"[]")], "malformed"),
    "wrong_types": Fault([json_answer({"version": 33, "models": "none"})], "malformed"),
    "wrong_types_inside": Fault([json_answer({"version": ["0.33.0"], "models": [1, 2]})], "malformed"),
    "without_names": Fault([json_answer({"version": "", "models": [{"size": 1}]})], "malformed"),
    "nulls": Fault([json_answer({"version": None, "models": [{"name": None, "model": None}]})], "malformed"),
}  # fmt: skip
