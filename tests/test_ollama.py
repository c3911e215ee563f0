"""What the client of Ollama's API accepts, what it refuses, and how it behaves on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import json
import math
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.model import Endpoint, PinnedFile, Reason, Secret
from exporter.ollama import (
    BadAnswer,
    Client,
    HttpError,
    InstalledModel,
    LoadedModel,
    OllamaError,
    TimedOut,
    Unreachable,
    canonical,
    is_cloud,
    parse_embedding,
    parse_generation,
    parse_moment,
    parse_ps,
    parse_tags,
    parse_version,
    translate,
    version_number,
)
from exporter.simulator import run_virtual
from tests.wire import (
    CLOSE,
    HANG,
    PS,
    RESET,
    SAMPLES,
    TAGS,
    VERSION,
    Authority,
    Script,
    Wire,
    answer,
    free_port,
    full_backlog,
    healthy,
    json_answer,
    make_authority,
    recorded,
    recorded_status,
)

Parser = Callable[[bytes], Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


# --- recorded answers of real servers --------------------------------------------------------------------------------


def test_the_recorded_version_is_read() -> None:
    assert parse_version(recorded("ollama-version.txt")) == "0.33.0-rc2"


def test_two_loaded_models_are_read_field_by_field() -> None:
    rows = parse_ps(recorded("ollama-ps.txt"))
    gemma, smollm = rows.models
    assert rows.rejected == 0
    assert gemma.name == "gemma3-270m:latest"
    assert gemma.digest == "14f8ac0fb3c4d0781f89e8e94fb0f50f6074e4433c57f2974444117109948bb3"
    assert dataclasses.astuple(gemma.details) == ("gemma3", "268.10M", "Q4_K_M")
    assert (gemma.size, gemma.vram, gemma.context) == (393960488, 0, 4096)
    assert gemma.expires == pytest.approx(datetime(2026, 11, 23, 17, 43, 36, 774829, tzinfo=UTC).timestamp(), abs=1e-6)
    assert smollm.name == "smollm2:latest"
    assert smollm.size == 511568772


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("ollama-ps-empty.txt", {}, id="nothing_loaded"),
        pytest.param(
            "ollama-ps-forever.txt", {"gemma3-270m:latest": (0, 2319), "smollm2:latest": (0, 2026)}, id="pinned"
        ),
        pytest.param(
            "ollama-ps-before-cold.txt",
            {"gemma3-270m:latest": (0, 2319), "smollm2:latest": (0, 2026)},
            id="before_cold",
        ),
        pytest.param(
            "ollama-ps-after-runner-kill.txt", {"gemma3-270m:latest": (0, 2026)}, id="dead_runner_still_listed"
        ),
        pytest.param(
            "ollama-ps-amx-runner-sizevram-quirk.txt", {"smol1t:latest": (99971235, 2026)}, id="vram_without_gpu"
        ),
    ],
)
def test_every_recorded_ps_is_read_without_a_rejected_value(name: str, expected: dict[str, tuple[int, int]]) -> None:
    rows = parse_ps(recorded(name))
    assert rows.rejected == 0
    assert {m.name: (m.vram, datetime.fromtimestamp(m.expires or 0, UTC).year) for m in rows.models} == expected


def test_the_recorded_timeline_is_read_at_every_step_and_its_expiry_slides_while_the_request_runs() -> None:
    steps = json.loads(recorded("ollama-ps-timeline-cold-keepalive2s.json"))
    expiries = []
    for _, models, _ in steps:
        rows = [{"name": name, "size": size, "expires_at": expires} for name, size, expires in models]
        parsed = parse_ps(json.dumps({"models": rows}).encode())
        assert parsed.rejected == 0
        assert len(parsed.models) == len(models)
        expiries += [model.expires for model in parsed.models]
    assert len(expiries) > 20
    assert all(expiry is not None for expiry in expiries)
    assert expiries == sorted(expiries)
    assert expiries[0] < expiries[-1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("ollama-tags-empty.txt", [], id="nothing_installed"),
        pytest.param(
            "ollama-tags.txt", [("gemma3-270m:latest", 253113180), ("smollm2:latest", 98362745)], id="two_installed"
        ),
    ],
)
def test_every_recorded_tags_is_read_without_a_rejected_value(name: str, expected: list[tuple[str, int]]) -> None:
    rows = parse_tags(recorded(name))
    assert rows.rejected == 0
    assert [(model.name, model.size) for model in rows.models] == expected
    assert all(model.capabilities == {"completion"} and not model.remote for model in rows.models)


GENERATIONS = {
    "ollama-generate-warm-1tok-smollm2.txt": (0.017053078, 0.001237665, 0.013076, 1e-6, 15, 1),
    "ollama-preload.txt": (0, 0, 0, 0, 0, 0),
    "ollama-unload.txt": (0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_recorded_generation_is_read_in_seconds_and_tokens_and_what_it_leaves_out_is_zero(name: str) -> None:
    done, *numbers = dataclasses.astuple(parse_generation(recorded(name)))
    assert done
    assert numbers == pytest.approx(GENERATIONS[name])


@pytest.mark.parametrize(
    "name",
    sorted(path.name for path in SAMPLES.glob("ollama-generate-*.txt") if "stream" not in path.name)
    or ["ollama-generate-swap.txt"],
)
def test_in_every_recorded_generation_the_parts_fit_into_the_whole(name: str) -> None:
    if recorded_status(name) != 200:
        pytest.skip("the server answered with an error")
    generation = parse_generation(recorded(name))
    assert generation.done
    assert generation.tokens >= 1
    assert 0 < generation.prompt + generation.decode + generation.load <= generation.total * 1.05


def test_the_recorded_embedding_is_done_and_has_no_decode_time() -> None:
    embedding = parse_embedding(recorded("ollama-embed-ok.txt"))
    assert embedding.done
    assert embedding.total > 0
    assert embedding.prompt_tokens > 0
    assert (embedding.decode, embedding.tokens) == (0, 0)


@pytest.mark.parametrize(
    "body", [b'{"error":"x"}', b'{"embeddings":[]}', b'{"embeddings":[5]}', b'{"embeddings":null}']
)
def test_an_answer_without_vectors_is_no_finished_embedding(body: bytes) -> None:
    assert not parse_embedding(body).done


def test_an_error_under_200_is_no_generation() -> None:
    with pytest.raises(BadAnswer, match="malformed"):
        parse_generation(b'{"error":"llama runner process has terminated","done":true}')


def test_a_stream_of_several_documents_is_no_generation() -> None:
    with pytest.raises(BadAnswer, match="decode"):
        parse_generation(recorded("ollama-generate-stream.txt"))


# --- no body in the world ---------------------------------------------------------------------------------------------

PARSERS: dict[str, tuple[Parser, Any]] = {
    "version": (parse_version, VERSION),
    "ps": (parse_ps, PS),
    "tags": (parse_tags, TAGS),
    "generation": (
        parse_generation,
        {"done": True, "total_duration": 17053078, "load_duration": 1237665, "prompt_eval_count": 15, "eval_count": 1},
    ),
    "embedding": (parse_embedding, {"embeddings": [[0.1, -0.2]], "total_duration": 591, "prompt_eval_count": 2}),
}
each_parser = pytest.mark.parametrize("parser", PARSERS)
thorough = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

any_text = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    [
        "",
        ":",
        "a:b",
        "Ä/ö:x",
        "\ud800",
        "a\udfffb",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "sha256:" + "A" * 64,
    ]
)
any_number = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([-1, 0, 2**63 - 1, 2**63, True, 10**400])
)
any_json = st.recursive(
    st.none() | st.booleans() | any_number | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
known_keys = st.sampled_from(
    [
        "models", "name", "model", "size", "size_vram", "digest", "details", "family", "expires_at", "context_length",
        "capabilities", "remote_model", "version", "embeddings", "eval_count", "total_duration", "done",
    ]
)  # fmt: skip
near_miss = st.dictionaries(
    known_keys, any_json | st.lists(st.dictionaries(known_keys, any_json, max_size=5), max_size=4), max_size=5
)


@each_parser
@given(body=st.binary(max_size=200) | any_json.map(lambda value: json.dumps(value).encode()[:60]))
@thorough
def test_arbitrary_bytes_are_refused_as_a_bad_answer_and_nothing_else(parser: str, body: bytes) -> None:
    assert_sound_or_refused(parser, body)


@each_parser
@given(value=any_json | near_miss, ascii_only=st.booleans())
@thorough
def test_arbitrary_json_gives_sound_values_or_a_bad_answer(parser: str, value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert_sound_or_refused(parser, text.encode("utf-8", "surrogatepass"))


@each_parser
@given(data=st.data())
@thorough
def test_a_mutated_good_body_gives_sound_values_or_a_bad_answer(parser: str, data: st.DataObject) -> None:
    value = copy.deepcopy(PARSERS[parser][1])
    for _ in range(data.draw(st.integers(1, 4))):
        mutate(value, data)
    body = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    assert_sound_or_refused(parser, bytes(body))


def mutate(value: Any, data: st.DataObject) -> None:
    """Replace, remove or repeat something somewhere inside."""
    places = [place for place in walk(value) if isinstance(place[0], dict | list)]
    if not places:
        return
    container, key = data.draw(st.sampled_from(places))
    match data.draw(st.sampled_from(["replace", "remove", "repeat"])):
        case "replace":
            container[key] = data.draw(any_json)
        case "remove":
            del container[key]
        case "repeat" if isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        case "repeat":
            container[data.draw(any_text | known_keys)] = copy.deepcopy(container[key])


def walk(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in items] + [place for _, inner in items for place in walk(inner)]


def assert_sound_or_refused(parser: str, body: bytes) -> None:
    try:
        value = PARSERS[parser][0](body)
    except BadAnswer as refusal:
        assert refusal.reason in ("decode", "malformed")  # noqa: PT017 - both ends are right
        return
    assert_sound(value)
    if parser in ("ps", "tags"):
        assert value.rejected >= 0
        names = [model.name for model in value.models]
        assert len(names) == len(set(names))
        assert [canonical(name) for name in names] == names
        assert all(re.fullmatch("[0-9a-f]{12,128}|", model.digest) for model in value.models)


def assert_sound(value: Any) -> None:
    """No number that a page could not honestly carry, no text that is not UTF-8."""
    match value:
        case bool() | None:
            pass
        case int():
            assert 0 <= value < 2**63
        case float():
            assert math.isfinite(value)
            assert value >= 0
        case str():
            value.encode("utf-8")
        case tuple() | frozenset():
            for inner in value:
                assert_sound(inner)
        case _:
            for field in dataclasses.fields(value):
                inner = getattr(value, field.name)
                assert not isinstance(inner, bool) or field.type == "bool"
                assert_sound(inner)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(field, value, id=f"{field}={label}")
        for field in ("size", "size_vram", "context_length")
        for label, value in {
            "minus_one": "-1", "2**63": str(2**63), "2**70": str(2**70), "1e400": "1e400", "float": "1.5",
            "true": "true", "text": '"5"', "list": "[5]", "object": '{"a":1}',
        }.items()
    ]
    + [
        pytest.param("expires_at", value, id=f"expires_at={value}")
        for value in ("5", "true", '"soon"', '"2026-11-23"', '"1960-01-01T00:00:00Z"', '"2026-13-01T00:00:00Z"', "[]")
    ]
    + [pytest.param("digest", value, id=f"digest={value}") for value in ("5", '"xyz"', '"sha1:00"', '""', "[]")]
    + [pytest.param("details", value, id=f"details={value}") for value in ("5", '"x"', "[]", '{"family": 5}')],
)  # fmt: skip
def test_an_impossible_value_is_left_out_and_counted_and_its_neighbours_stay(field: str, value: str) -> None:
    row = {"name": "a:b", "size": 10, "size_vram": 5, "context_length": 7, "expires_at": "2026-11-23T17:43:36Z"}
    good = {**row, "digest": "a" * 64, "details": {"family": "llama"}}
    body = json.dumps({"models": [{**good, field: None}]}).replace(f'"{field}": null', f'"{field}": {value}')
    rows = parse_ps(body.encode())
    assert rows.rejected == 1
    (model,) = rows.models
    attribute = {"size_vram": "vram", "context_length": "context", "expires_at": "expires"}.get(field, field)
    assert not getattr(model, attribute) or model.details.family == ""
    others = {"size": 10, "vram": 5, "context": 7, "digest": "a" * 64}
    others.pop(attribute, None)
    if field == "size":
        del others["vram"]  # part of a whole that is not known
    assert {name: getattr(model, name) for name in others} == others


@pytest.mark.parametrize("field", ["size", "size_vram", "context_length", "expires_at", "digest", "details"])
@pytest.mark.parametrize("how", ["missing", "null"])
def test_what_a_server_does_not_tell_is_unknown_and_no_rejected_value(field: str, how: str) -> None:
    row = {**PS["models"][0], field: None}
    if how == "missing":
        del row[field]
    rows = parse_ps(json.dumps({"models": [row]}).encode())
    assert rows.rejected == 0
    assert len(rows.models) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"models":5}', b'{"models":{}}', b'{"models":"x"}', b'{"models":[5]}', b'{"models":[null]}',
        b'{"models":[{}]}', b'{"models":[{"name":5}]}', b'{"models":[{"name":""}]}', b'{"models":[{"name":null}]}',
        b'{"models":[{"name":"","model":""}]}', b"[]", b'"models"', b"null", b"7",
    ],
    ids=bytes.decode,
)  # fmt: skip
@pytest.mark.parametrize("parser", ["ps", "tags"])
def test_a_list_of_models_without_its_frame_is_malformed(parser: str, body: bytes) -> None:
    with pytest.raises(BadAnswer) as caught:
        PARSERS[parser][0](body)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("body", [b"{}", b'{"models":null}', b'{"models":[]}'], ids=bytes.decode)
def test_no_list_of_models_is_an_empty_one(body: bytes) -> None:
    assert parse_ps(body).models == parse_tags(body).models == ()


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b'{"version":null}', b'{"version":5}', b'{"version":""}', b'{"version":["0.33"]}', b"[]", b'"0.33"',
        json.dumps({"version": "9" * 129}).encode(),
    ],
    ids=lambda body: body[:24].decode(),
)  # fmt: skip
def test_a_version_that_is_no_short_text_is_malformed(body: bytes) -> None:
    with pytest.raises(BadAnswer, match="malformed"):
        parse_version(body)


@pytest.mark.parametrize(
    "field", ["total_duration", "load_duration", "prompt_eval_count", "eval_count", "eval_duration"]
)
@pytest.mark.parametrize("value", ["-1", "1e400", "1.5", "true", '"5"', "null", str(2**63), "[]"])
def test_a_generation_with_an_impossible_number_is_malformed(field: str, value: str) -> None:
    with pytest.raises(BadAnswer, match="malformed"):
        parse_generation(b'{"done":true,"%s":%s}' % (field.encode(), value.encode()))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b'{"models":[', b'{"models":[]}}', b'{"models":NaN}', b'{"models":[],"x":-Infinity}', b"\xff\xfe{}",
        b'{"models":[{"name":"\xc3\x28"}]}', b"\xef\xbb\xbf{}", b"[" * 200_000, b'{"a":' * 200_000,
        b'{"models":[],"x":' + b"9" * 5000 + b"}", b"<html>", b'{"models":[]}\n{"models":[]}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
@each_parser
def test_what_is_no_json_is_a_decode_error(parser: str, body: bytes) -> None:
    with pytest.raises(BadAnswer) as caught:
        PARSERS[parser][0](body)
    assert caught.value.reason == "decode"


def test_the_same_model_twice_is_one_row_the_first_and_counted() -> None:
    rows = parse_ps(b'{"models":[{"name":"llama3","size":1},{"name":"llama3:latest","size":2},{"name":"x:y"}]}')
    assert [(model.name, model.size) for model in rows.models] == [("llama3:latest", 1), ("x:y", None)]
    assert rows.rejected == 1


def test_the_field_model_stands_in_for_a_missing_name() -> None:
    assert parse_ps(b'{"models":[{"model":"llama3"}]}').models[0].name == "llama3:latest"


@pytest.mark.parametrize(
    ("row", "remote"),
    [
        ({"name": "gpt-oss:120b-cloud"}, True),
        ({"name": "x", "remote_host": "https://ollama.com"}, True),
        ({"name": "x", "remote_model": "gpt-oss:120b"}, True),
        ({"name": "x", "remote_model": "", "remote_host": ""}, False),
        ({"name": "x"}, False),
    ],
)
def test_a_stub_of_a_model_that_runs_elsewhere_is_remote(row: dict[str, str], remote: bool) -> None:
    assert parse_tags(json.dumps({"models": [row]}).encode()).models[0].remote is remote


def test_lone_surrogates_are_replaced_wherever_text_is_taken() -> None:
    row = rb'{"name":"a\ud800","details":{"family":"\udc00"},"capabilities":["\ud800x"]}'
    (model,) = parse_tags(b'{"models":[' + row + b"]}").models
    assert (model.name, model.details.family, model.capabilities) == ("a?:latest", "?", {"?x"})
    assert parse_version(rb'{"version":"1\ud800"}') == "1?"


# --- moments, names, versions ----------------------------------------------------------------------------------------

MOMENTS = {
    "nine_digits": ("2026-11-23T17:43:36.774829428Z", 1795455816.774829428),
    "three_digits": ("2026-11-23T17:43:36.774Z", 1795455816.774),
    "no_digits": ("2026-11-23T17:43:36Z", 1795455816.0),
    "eighteen_digits": ("2026-11-23T17:43:36.774829428000000001Z", 1795455816.774829428),
    "small_letters": ("2026-11-23t17:43:36z", 1795455816.0),
    "a_space": ("2026-11-23 17:43:36Z", 1795455816.0),
    "offset_east": ("2026-11-23T18:43:36+01:00", 1795455816.0),
    "offset_west": ("2026-11-23T10:13:36.5-07:30", 1795455816.5),
    "epoch": ("1970-01-01T00:00:00Z", 0.0),
    "year_1": ("0001-01-01T00:00:00Z", -62135596800.0),
    "year_1_with_an_offset": ("0001-01-01T00:00:00+12:00", -62135596800.0 - 43200),
    "year_2318": ("2318-01-01T00:00:00Z", 10981785600.0),
    "year_2319": ("2319-03-05T17:26:28.693587369Z", 11018827588.693587369),
    "year_9999": ("9999-12-31T23:59:59.999999999Z", 253402300799.999999999),
    "year_9999_with_an_offset": ("9999-12-31T23:59:59-12:00", 253402300799.0 + 43200),
    "leap_day": ("2028-02-29T00:00:00Z", 1835395200.0),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_moment_is_read_as_unix_time(name: str) -> None:
    text, expected = MOMENTS[name]
    assert parse_moment(text) == pytest.approx(expected, rel=1e-15, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "0", "2026-11-23", "17:43:36", "2026-11-23T17:43Z", "2026-11-23T17:43:36", "2026-11-23T17:43:36.Z",
        "2026-11-23T17:43:36,5Z", "2026-02-30T00:00:00Z", "2027-02-29T00:00:00Z", "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z", "2026-11-23T25:00:00Z", "2026-11-23T17:60:00Z", "2016-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-2026-11-23T17:43:36Z", "2026-11-23T17:43:36Z\n",
        " 2026-11-23T17:43:36Z", "2026-11-23T17:43:36ZZ", "2026-11-23T17:43:36+1:00", "2026-11-23T17:43:36+0100",
        "2026-11-23T17:43:36.5.5Z", "2026-11-23T17:43:36." + "1" * 5000 + "Z", "1e9", "NaN", "٢٠٢٦-11-23T17:43:36Z",
        "2026-11-23T17:43:36.٣Z", "2026-11-23T17:43:36+٠١:00",
    ],
    ids=lambda text: ascii(text)[1:40] or "empty",
)  # fmt: skip
def test_what_is_no_moment_is_none(text: str) -> None:
    assert parse_moment(text) is None


@given(
    moment=st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 31)),  # noqa: DTZ001 - the zone comes below
    minutes=st.integers(-12 * 60, 14 * 60),
    nanoseconds=st.integers(0, 999),
)
@settings(deadline=None)
def test_every_moment_that_datetime_writes_is_read_back(moment: datetime, minutes: int, nanoseconds: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = aware.isoformat(timespec="microseconds")
    assert parse_moment(text) == pytest.approx(aware.timestamp(), rel=1e-15, abs=1e-6)
    assert parse_moment(text[:26] + f"{nanoseconds:03}" + text[26:]) == pytest.approx(
        aware.timestamp() + nanoseconds / 1e9, rel=1e-15, abs=1e-6
    )


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,20})?(Z|[+-]\d\d:\d\d)", fullmatch=True))
@settings(deadline=None)
def test_any_text_is_a_finite_moment_or_none(text: str) -> None:
    moment = parse_moment(text)
    assert moment is None or math.isfinite(moment)


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        ("0001-01-01T00:00:00Z", None),
        ("0001-06-01T00:00:00.5+02:00", None),
        ("2318-01-01T00:00:00Z", 10981785600.0),
        ("2319-03-05T17:26:28Z", 11018827588.0),
    ],
)
def test_an_expiry_in_year_1_is_not_set_and_one_in_300_years_is_kept(expires: str, expected: float | None) -> None:
    rows = parse_ps(json.dumps({"models": [{"name": "a", "expires_at": expires}]}).encode())
    assert (rows.models[0].expires, rows.rejected) == (expected, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:latest", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("user/llama3", "user/llama3:latest"),
        ("localhost:5000/user/llama3", "localhost:5000/user/llama3:latest"),
        ("localhost:5000/user/llama3:8b", "localhost:5000/user/llama3:8b"),
        ("hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M", "hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M"),
        ("LLaMA3", "LLaMA3:latest"),
    ],
)
def test_a_name_always_carries_its_tag(name: str, expected: str) -> None:
    assert canonical(name) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_a_canonical_name_is_canonical_already(name: str) -> None:
    assert canonical(canonical(name)) == canonical(name)


@pytest.mark.parametrize(
    ("name", "cloud"),
    [
        ("gpt-oss:120b-cloud", True),
        ("gpt-oss:120B-CLOUD", True),
        ("gpt-oss:cloud", True),
        ("qwen3-coder:480b-cloud", True),
        ("someone/gpt-oss:120b-cloud", True),
        ("gpt-oss-cloud", True),
        ("gpt-oss-cloud:latest", True),
        ("gpt-oss:120b", False),
        ("cloudy:latest", False),
        ("cloud-atlas:7b", False),
        ("nimbus-clouds:7b", False),
    ],
)
def test_a_name_that_may_be_sent_to_the_cloud_is_known_as_such(name: str, cloud: bool) -> None:
    assert is_cloud(name) is cloud


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.33.0-rc2", (0, 33, 0)),
        ("0.33.0", (0, 33, 0)),
        ("v0.6.1", (0, 6, 1)),
        ("0.1.38+build", (0, 1, 38)),
        ("1.2", (1, 2, 0)),
        ("10.200.3000", (10, 200, 3000)),
        ("0.0.0", None),
        ("", None),
        ("dev", None),
        ("release-0.33", None),
        ("9999999.1.1", None),
        ("1", None),
    ],
)
def test_a_version_is_three_numbers_or_unknown(version: str, expected: tuple[int, int, int] | None) -> None:
    assert version_number(version) == expected


# --- exceptions, provoked on real sockets ----------------------------------------------------------------------------


async def provoke(
    endpoint: str, *, scripts: Script = (), tls: ssl.SSLContext | None = None, **limits: float
) -> Exception:
    """The exception of a real transport that GETs `endpoint`, or a server that follows `scripts`."""
    timeout = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0} | limits
    async with contextlib.AsyncExitStack() as stack:
        if not endpoint:
            endpoint = (await stack.enter_async_context(Wire({"/": scripts}, tls=tls))).url
        transport = await stack.enter_async_context(httpx.AsyncHTTPTransport(trust_env=False))
        request = httpx.Request("GET", endpoint, extensions={"timeout": timeout})
        with pytest.raises(httpx.TransportError) as caught:
            await read(transport, request)
    return caught.value


async def read(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> None:
    response = await transport.handle_async_request(request)
    try:
        await response.aread()
    finally:
        await response.aclose()


def told(error: Exception) -> tuple[type[OllamaError], Reason]:
    translated = translate(error)
    return type(translated), translated.reason


WIRE_ERRORS: dict[str, tuple[Script, type[OllamaError], Reason]] = {
    "reset_instead_of_an_answer": ([RESET], Unreachable, "reset"),
    "closed_instead_of_an_answer": ([CLOSE], Unreachable, "reset"),
    "reset_in_the_headers": ([b"HTTP/1.1 200 OK\r\nCont", RESET], Unreachable, "reset"),
    "closed_in_the_headers": ([b"HTTP/1.1 200 OK\r\nCont", CLOSE], Unreachable, "reset"),
    "reset_in_the_body": ([answer(b"{", length=10), RESET], Unreachable, "reset"),
    "closed_in_the_body": ([answer(b"{", length=10), CLOSE], Unreachable, "reset"),
    "not_http": ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n", HANG], BadAnswer, "decode"),
    "endless_header": ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, HANG], BadAnswer, "decode"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", WIRE_ERRORS)
async def test_what_happens_on_the_wire_is_told_apart(case: str) -> None:
    script, kind, reason = WIRE_ERRORS[case]
    assert told(await provoke("", scripts=script)) == (kind, reason)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://nosuchhost.invalid", "dns"),
        ("http://a..invalid", "dns"),
        (f"http://{'a' * 64}.invalid", "dns"),
        ("http://127.0.0.1:{port}", "refused"),
        ("http://localhost:{port}", "refused"),
        ("http://255.255.255.255", "unreachable"),
    ],
)
async def test_what_happens_before_the_wire_is_told_apart(url: str, reason: Reason) -> None:
    assert told(await provoke(url.format(port=free_port()))) == (Unreachable, reason)


@pytest.mark.anyio
async def test_a_connection_that_nobody_accepts_is_told_from_an_answer_that_does_not_come() -> None:
    with full_backlog() as port:
        assert told(await provoke(f"http://127.0.0.1:{port}", connect=0.05)) == (Unreachable, "connect_timeout")
    assert told(await provoke("", scripts=[HANG], read=0.05)) == (TimedOut, "timeout")


@pytest.mark.anyio
async def test_a_certificate_nobody_vouches_for_is_a_tls_error(authority: Authority) -> None:
    assert told(await provoke("", tls=authority.server("selfsigned"))) == (Unreachable, "tls")


def test_a_chain_of_causes_that_bites_its_tail_is_followed_once() -> None:
    one, two = httpx.ConnectError("one"), ConnectionRefusedError("two")
    one.__cause__, two.__context__ = two, one
    assert translate(one).reason == "refused"


def test_one_of_several_failed_addresses_gives_the_reason() -> None:
    error = httpx.ConnectError("All connection attempts failed")
    error.__cause__ = ExceptionGroup("tried", [OSError("no route"), ConnectionRefusedError("refused")])
    assert translate(error).reason == "refused"


# --- the client on the wire ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def client(url: str, **settings: Any) -> AsyncIterator[Client]:
    it = Client(Endpoint(url, **settings))
    try:
        yield it
    finally:
        await it.aclose()


@pytest.mark.anyio
async def test_a_poll_says_who_asks_and_wants_the_body_as_it_is() -> None:
    async with healthy() as wire, client(wire.url) as it:
        assert (await it.version()).value == "0.33.0"
    (request,) = wire.requests
    assert (request.method, request.target, request.body) == ("GET", "/api/version", b"")
    assert request.header("Host") == [f"127.0.0.1:{wire.port}"]
    assert request.header("Accept-Encoding") == ["identity"]
    assert request.header("User-Agent")[0].startswith("ollama-exporter/")
    for absent in ("Origin", "Referer", "Authorization", "Cookie", "Content-Type"):
        assert request.header(absent) == []


@pytest.mark.anyio
async def test_the_host_header_can_be_another_than_the_address() -> None:
    async with healthy() as wire, client(wire.url, host="ollama.example:8443") as it:
        await it.version()
    assert wire.requests[0].header("Host") == ["ollama.example:8443"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({"bearer": Secret("s3cret")}, "Authorization", ["Bearer s3cret"]),
        ({"basic": ("user", Secret("pa:ss"))}, "Authorization", ["Basic dXNlcjpwYTpzcw=="]),
        ({"basic": ("üser", Secret("pässword"))}, "Authorization", ["Basic w7xzZXI6cMOkc3N3b3Jk"]),
        ({"headers": (("X-Api-Key", Secret("k")), ("X-Other", Secret("o")))}, "X-Api-Key", ["k"]),
    ],
    ids=["bearer", "basic", "basic_beyond_ascii", "headers"],
)
async def test_credentials_are_sent_as_configured(settings: dict[str, Any], name: str, expected: list[str]) -> None:
    async with healthy() as wire, client(wire.url, **settings) as it:
        await it.version()
        await it.post("/api/version", {}, 5.0, parse_version)
    assert [request.header(name) for request in wire.requests] == [expected, expected]


@pytest.mark.anyio
async def test_a_path_before_the_api_is_kept() -> None:
    routes: Any = {"/gpu1/ollama/api/version": [json_answer(VERSION)]}
    async with Wire(routes) as wire, client(f"{wire.url}/gpu1/ollama") as it:
        assert (await it.version()).value == "0.33.0"


@pytest.mark.anyio
async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with healthy() as wire, client(wire.url) as it:
        assert (await it.version()).value == "0.33.0"


@pytest.mark.anyio
async def test_a_configured_proxy_is_asked() -> None:
    url = "http://ollama.invalid:11434"
    routes: Any = {f"{url}/api/version": [json_answer(VERSION)]}
    async with Wire(routes) as proxy, client(url, proxy=Secret(proxy.url)) as it:
        assert (await it.version()).value == "0.33.0"


@pytest.mark.anyio
async def test_a_post_carries_its_json_and_its_answer_is_parsed() -> None:
    payload = {"model": "smollm2", "stream": False}
    async with Wire({"/api/generate": [json_answer({"done": True, "eval_count": 3})]}) as wire, client(wire.url) as it:
        assert (await it.post("/api/generate", payload, 5.0, parse_generation)).value.tokens == 3
    (request,) = wire.requests
    assert request.method == "POST"
    assert json.loads(request.body) == payload
    assert request.header("Content-Type") == ["application/json"]


@pytest.mark.anyio
async def test_polls_share_one_connection() -> None:
    async with healthy() as wire, client(wire.url) as it:
        for _ in range(3):
            await it.version()
            await it.ps()
            await it.tags()
    assert len(wire.requests) == 9
    assert wire.connections == 1


@pytest.mark.anyio
async def test_a_poll_that_meets_a_connection_closed_at_that_moment_is_sent_once_more_on_a_new_one() -> None:
    scripts = iter([[json_answer(VERSION)], [CLOSE], [json_answer(VERSION)]])
    async with Wire({"/api/version": lambda _: next(scripts)}) as wire, client(wire.url) as it:
        await it.version()
        assert (await it.version()).value == "0.33.0"
    assert [request.connection for request in wire.requests] == [1, 1, 2]


@pytest.mark.anyio
async def test_a_connection_closed_while_idle_costs_no_request() -> None:
    async with Wire({"/api/version": [json_answer(VERSION), CLOSE]}) as wire, client(wire.url) as it:
        await it.version()
        await wire.idle()
        await it.version()
    assert [request.connection for request in wire.requests] == [1, 2]


@pytest.mark.anyio
async def test_a_poll_is_sent_at_most_twice() -> None:
    async with Wire({"/api/version": [RESET]}) as wire, client(wire.url) as it:
        with pytest.raises(Unreachable, match="reset"):
            await it.version()
    assert len(wire.requests) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("end", [CLOSE, RESET, HANG], ids=["closed", "reset", "hung"])
async def test_a_post_is_never_sent_twice(end: Any) -> None:
    async with healthy() as wire, client(wire.url) as it:
        await it.version()
        wire.routes["/api/generate"] = [end]
        with pytest.raises(OllamaError):
            await it.post("/api/generate", {}, 0.3 if end is HANG else 5.0, parse_generation)
        await it.version()
    assert wire.paths.count("/api/generate") == 1


@pytest.mark.anyio
async def test_a_post_after_the_idle_connection_was_closed_is_sent_exactly_once() -> None:
    async with Wire({"/api/version": [json_answer(VERSION), CLOSE]}) as wire, client(wire.url) as it:
        wire.routes["/api/generate"] = [json_answer({"done": True})]
        await it.version()
        await wire.idle()
        assert (await it.post("/api/generate", {}, 5.0, parse_generation)).value.done
    assert wire.paths == ["/api/version", "/api/generate"]


@pytest.mark.anyio
async def test_an_error_status_is_not_asked_for_again() -> None:
    async with Wire({"/api/version": [answer(b"busy", status=503)]}) as wire, client(wire.url) as it:
        with pytest.raises(HttpError) as caught:
            await it.version()
    assert caught.value.status == 503
    assert len(wire.requests) == 1


@pytest.mark.anyio
async def test_an_unchanged_body_is_not_parsed_again_and_a_changed_one_is() -> None:
    async with healthy() as wire, client(wire.url) as it:
        first, second = (await it.ps()).value, (await it.ps()).value
        wire.routes["/api/ps"] = [json_answer({"models": []})]
        third = (await it.ps()).value
        wire.routes["/api/ps"] = [json_answer(PS)]
        fourth = (await it.ps()).value
    assert second is first
    assert third.models == ()
    assert fourth == first


@pytest.mark.anyio
async def test_a_bad_body_is_refused_each_time_and_does_not_hide_behind_the_last_good_one() -> None:
    async with healthy() as wire, client(wire.url) as it:
        await it.ps()
        wire.routes["/api/ps"] = [answer(b"{")]
        for _ in range(2):
            with pytest.raises(BadAnswer, match="decode"):
                await it.ps()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        *((status, b"{}", "malformed") for status in (201, 202, 204, 206, 226, 299)),
        *((status, b"", "redirect") for status in (300, 301, 302, 303, 304, 307, 308, 399)),
        *((status, b"x", "http_4xx") for status in (400, 401, 403, 404, 405, 407, 429, 499)),
        (403, b"", "forbidden_host"),
        *((status, b"x", "http_5xx") for status in (500, 501, 502, 503, 504, 599)),
    ],
)
async def test_every_status_but_200_has_its_reason(status: int, body: bytes, reason: Reason) -> None:
    script = [answer(b"" if status in (204, 304) else body, status=status)]
    async with Wire({"/api/version": script}) as wire, client(wire.url) as it:
        with pytest.raises(HttpError) as caught:
            await it.version()
    assert (caught.value.reason, caught.value.status) == (reason, status)


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-05:45")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.anyio
async def test_the_clock_offset_is_the_servers_date_minus_ours() -> None:
    now = datetime(2026, 11, 23, 17, 38, 5, tzinfo=UTC).timestamp()
    async with Wire({"/api/version": [json_answer(VERSION, "Date: Mon, 23 Nov 2026 17:40:05 GMT")]}) as wire:
        it = Client(Endpoint(wire.url), now=lambda: now)
        assert (await it.version()).clock_offset == 120.0
        await it.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Mon, 23 Nov 2026 17:38:05 -0000", 0.0),
        ("Mon, 23 Nov 2026 18:38:05 +0100", 0.0),
        ("", None),
        ("tomorrow", None),
        ("2026-11-23T17:38:05Z", None),
        ("Mon, 99 Nov 2026 17:38:05 GMT", None),
        ("Mon, 23 Nov 99999999999999 17:38:05 GMT", None),
        ("Mon, 23 Nov 2026 17:38:05 +9999", None),
        (",,,", None),
        ("\xff\xfe\x80", None),
        ("1 " * 5000, None),
    ],
    ids=lambda date: repr(date)[:30],
)
async def test_a_date_that_makes_no_sense_is_no_clock_offset(
    date: str, expected: float | None, far_from_greenwich: None
) -> None:
    now = datetime(2026, 11, 23, 17, 38, 5, tzinfo=UTC).timestamp()
    async with Wire({"/api/version": [json_answer(VERSION, f"Date: {date}")]}) as wire:
        it = Client(Endpoint(wire.url), now=lambda: now)
        assert (await it.version()).clock_offset == expected
        await it.aclose()


@given(date=st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60) | st.from_regex(
    r"(Mon, )?[0-9]{1,3} (Jan|Nov|May) [0-9]{1,6} [0-9]{1,3}:[0-9]{1,3}(:[0-9]{1,3})? ([A-Z]{3}|[+-][0-9]{1,6})",
    fullmatch=True,
))  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_no_date_header_whatever_breaks_a_poll(date: str) -> None:
    class Fixed(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers=[(b"Date", date.encode("latin-1"))], content=b'{"version":"1"}')

    offset = asyncio.run(Client(Endpoint("http://a"), Fixed()).version()).clock_offset
    assert offset is None or math.isfinite(offset)


@pytest.mark.anyio
async def test_a_hung_answer_ends_at_the_deadline_and_closes_its_connection() -> None:
    async with healthy(version=[HANG]) as wire, client(wire.url, timeout=0.1) as it:
        with pytest.raises(TimedOut):
            await it.version()
        await wire.idle()
    assert wire.connections == 1


@pytest.mark.anyio
async def test_a_connection_that_nobody_accepts_is_no_silent_server_even_with_a_short_deadline() -> None:
    with full_backlog() as port:
        async with client(f"http://127.0.0.1:{port}", timeout=0.1, connect_timeout=2.0) as it:
            with pytest.raises(Unreachable, match="connect_timeout"):
                await it.version()


@pytest.mark.anyio
async def test_tls_with_a_ca_and_a_client_certificate_works_and_each_is_needed(authority: Authority) -> None:
    certificate, key = (PinnedFile(str(path), "1") for path in authority.certificate("good"))
    ca = PinnedFile(str(authority.ca), "1")
    routes: Any = {"/api/version": [json_answer(VERSION)]}
    async with Wire(routes, tls=authority.server("good", ask_client=True)) as wire:
        async with client(wire.url, ca=ca, certificate=certificate, key=key) as it:
            assert (await it.version()).value == "0.33.0"
        async with client(wire.url, insecure=True, certificate=certificate, key=key) as it:
            assert (await it.version()).value == "0.33.0"
        for settings in ({"ca": ca}, {"certificate": certificate, "key": key}, {}):
            async with client(wire.url, **settings) as it:
                with pytest.raises(Unreachable, match="tls"):
                    await it.version()


def test_rows_hold_values_of_their_own_kind_only() -> None:
    assert all(isinstance(model, LoadedModel) for model in parse_ps(json.dumps(PS).encode()).models)
    assert all(isinstance(model, InstalledModel) for model in parse_tags(json.dumps(TAGS).encode()).models)


def test_an_error_never_shows_a_secret(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", bearer=Secret("s3cret"), basic=("u", Secret("s3cret")))
    assert "s3cret" not in repr(endpoint)
    assert "s3cret" not in repr(Client(endpoint)._request("GET", "/", b"", 1.0))


class ResetThenSilent(httpx.AsyncBaseTransport):
    """Resets the first request after 4 s, and never answers the second."""

    sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        await asyncio.sleep(4.0 if self.sent == 1 else math.inf)
        raise httpx.ReadError("", request=request)


def test_a_poll_that_is_sent_again_still_ends_within_its_time() -> None:
    """Two timeouts in a row would outlast the watch, and the reading would lose even `ollama_up 0`."""

    async def poll() -> float:
        transport = ResetThenSilent()
        with pytest.raises(TimedOut, match="timeout"):
            await Client(Endpoint("http://a", timeout=5.0), transport).version()
        assert transport.sent == 2
        return asyncio.get_running_loop().time()

    assert run_virtual(poll()) == pytest.approx(5.0)
