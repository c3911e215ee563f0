"""Answers are taken for what they were at their end, in whatever pieces they came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.loadtest.answers import Answer

FINAL: dict[str, Any] = {
    "model": "m", "response": "", "done": True, "done_reason": "stop", "total_duration": 900_000_000,
    "load_duration": 100_000_000, "prompt_eval_count": 7, "prompt_eval_duration": 200_000_000, "eval_count": 3,
    "eval_duration": 400_000_000,
}  # fmt: skip


def lines(*objects: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in objects)


def token(text: str = "a") -> dict[str, Any]:
    return {"model": "m", "response": text, "done": False}


WHOLE = lines(token(), token(), token(), FINAL)


def heard(body: bytes, api: str = "generate", streamed: bool = True, step: int = 0) -> Answer:
    """Fed in pieces of `step` bytes, one a second; 0: all at once."""
    answer = Answer(api, streamed, lambda gap: None, keeps_text=True)
    step = step or max(1, len(body))
    for number, start in enumerate(range(0, len(body), step)):
        answer.feed(body[start : start + step], float(number))
    answer.end(float(len(body)))
    return answer


@pytest.mark.parametrize("step", [1, 2, 3, 7, 40, 1000])
def test_an_answer_is_the_same_however_it_is_cut(step: int) -> None:
    answer = heard(WHOLE, step=step)
    assert answer.outcome(0) == "ok"
    assert (answer.text, answer.tokens, answer.prompt_tokens) == ("aaa", 3, 7)
    assert answer.load == pytest.approx(0.1)
    assert answer.queue == pytest.approx(0.2)


def test_the_first_token_is_the_first_piece_with_something_in_it() -> None:
    answer, gaps = None, []
    answer = Answer("generate", True, gaps.append)
    for moment, line in ((1.0, token("")), (2.0, token()), (2.5, token()), (4.0, token()), (4.5, FINAL)):
        answer.feed(lines(line), moment)
    assert (answer.first, answer.last, answer.longest_gap) == (2.0, 4.0, 1.5)
    assert gaps == [0.5, 1.5]


def test_thinking_and_tool_calls_are_tokens_too() -> None:
    for message in ({"content": "", "thinking": "hm"}, {"content": "", "tool_calls": [{}]}):
        answer = Answer("chat", True, lambda gap: None)
        answer.feed(lines({"message": message, "done": False}), 1.0)
        assert answer.first == 1.0


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (lines(token(), {"error": "an error was encountered while running the model: unexpected EOF"}), "stream_error"),
        (lines(token(), token()), "truncated"),
        (b"", "truncated"),
        (lines({**FINAL, "eval_count": 0}), "truncated"),
        (b"<html>\n", "malformed"),
        (lines(token()) + b'{"response":"a","do', "malformed"),
        (WHOLE[:-1], "ok"),
        (lines({"response": "a", "done": False}, {"done": True}), "ok"),
    ],
    ids=["error line", "no done", "nothing", "not a token", "html", "half a line", "no last line break", "no counts"],
)
def test_how_a_stream_ended(body: bytes, outcome: str) -> None:
    assert heard(body).outcome(0) == outcome


def test_an_error_in_a_token_is_no_error() -> None:
    assert heard(lines(token('{"error":"no"}'), token('"done":true'), FINAL)).outcome(0) == "ok"


def test_a_prompt_of_which_fewer_tokens_were_read_than_words_were_sent_was_cut() -> None:
    assert heard(WHOLE).outcome(cut_below=8) == "prompt_cut"
    assert heard(WHOLE).outcome(cut_below=7) == "ok"


def test_one_object_without_streaming() -> None:
    assert heard(json.dumps(FINAL).encode(), streamed=False, step=5).outcome(0) == "ok"
    assert heard(json.dumps({**FINAL, "done": False}).encode(), streamed=False).outcome(0) == "truncated"
    assert heard(b'{"error":"no"}', streamed=False).outcome(0) == "stream_error"


def test_an_embedding() -> None:
    vector = {"embeddings": [[0.1, 0.2]], "total_duration": 5, "prompt_eval_count": 4}
    answer = heard(json.dumps(vector).encode(), api="embed", step=4)
    assert (answer.outcome(0), answer.prompt_tokens, answer.queue) == ("ok", 4, None)
    assert heard(b'{"embeddings":[]}', api="embed").outcome(0) == "truncated"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


SSE = (
    event(choices=[{"delta": {"role": "assistant", "content": ""}}])
    + event(choices=[{"delta": {"content": "a"}}])
    + event(choices=[{"delta": {"content": "b"}}])
    + event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 2})
)


@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_server_sent_events_of_v1(step: int) -> None:
    answer = heard(SSE + b"data: [DONE]\n\n", api="openai", step=step)
    assert (answer.outcome(0), answer.text, answer.tokens, answer.prompt_tokens) == ("ok", "ab", 2, 9)
    # Ollama swallows an error in the middle of such a stream: the missing end is its only sign.
    assert heard(SSE, api="openai", step=step).outcome(0) == "truncated"


def test_v1_without_streaming() -> None:
    body = json.dumps({"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": 1}}).encode()
    assert heard(body, api="openai", streamed=False).outcome(0) == "ok"


@given(st.binary(max_size=200), st.sampled_from(["generate", "chat", "embed", "openai"]), st.booleans())
def test_no_bytes_break_the_reader(body: bytes, api: str, streamed: bool) -> None:
    assert heard(body, api, streamed, step=3).outcome(5) != "ok"
