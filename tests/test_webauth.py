"""The door: passwords, tokens, rate, headers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import bcrypt
import pytest

from exporter import webauth
from exporter.model import Secret
from exporter.webauth import FREE, Door, Passwords
from exporter.webconfig import Rate, WebConfig
from tests.test_web import Answer, Desk, ask, create_app

HASHED = Secret(bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode())
USERS = {"anna": HASHED}
TOKENS = {
    "/-/reload": Secret("a-token-of-some-length"),
    "/config": Secret("another-token-of-some"),
    "/sd": Secret("the-token-of-the-list"),
}


def basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def door(web: WebConfig, tokens: Mapping[str, Secret] | None = None, **more: Any) -> Door:
    return Door(create_app(Desk()), lambda: web, lambda: tokens or {}, **more)  # type: ignore[arg-type]


def get(app: Door, path: str, *credentials: bytes, method: str = "GET") -> Answer:
    return asyncio.run(ask(app, path, method, *[(b"authorization", each) for each in credentials]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        ([basic("anna", "right")], 200),
        ([basic("anna", "right").replace(b"Basic", b"bAsIc")], 200),
        ([basic("anna", "wrong")], 401),
        ([basic("anna", "")], 401),
        ([basic("bob", "right")], 401),
        ([basic("", "right")], 401),
        ([basic("anna", "right\0")], 401),
        ([basic("anna", "x" * 10_000)], 401),
        ([basic("anna", "right"), basic("anna", "right")], 401),
        ([b"Basic " + base64.b64encode(b"anna")], 401),
        ([b"Basic " + base64.b64encode(b"\xff:right")], 401),
        ([b"Basic !!!"], 401),
        ([b"Bearer right"], 401),
        ([b""], 401),
        ([], 401),
    ],
)
def test_only_the_right_password_opens(credentials: list[bytes], code: int) -> None:
    answer = get(door(WebConfig(users=USERS)), "/metrics", *credentials)
    assert answer.code == code
    assert answer.headers.get("www-authenticate", "").startswith("Basic") is (code == 401)


@pytest.mark.parametrize("path", sorted(FREE))
def test_health_asks_for_nothing(path: str) -> None:
    rate = Rate(interval=60.0, burst=1)
    app = door(WebConfig(users=USERS, rate=rate))
    assert [get(app, path).code for _ in range(3)] == [200, 200, 200]


def test_what_was_right_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    real = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda *given: checked.append(given[0]) or real(*given))

    async def check() -> None:
        passwords = Passwords()
        for _ in range(3):
            assert await passwords.right(USERS, basic("anna", "right")) is True
        assert checked == [b"right"]
        assert await passwords.right(USERS, basic("anna", "wrong")) is False
        assert await passwords.right(USERS, basic("anna", "wrong")) is False
        assert await passwords.right(USERS, basic("nobody", "right")) is False
        assert checked == [b"right", b"wrong", b"wrong", b"right"]
        renewed = {"anna": Secret(bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode())}
        assert await passwords.right(renewed, basic("anna", "right")) is False

    asyncio.run(check())


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webauth, "_REMEMBERED", 2)
    users = dict.fromkeys("abc", HASHED)

    async def check() -> None:
        passwords = Passwords()
        for name in users:
            assert await passwords.right(users, basic(name, "right"))
        assert len(passwords._known) == 2

    asyncio.run(check())


def test_guessers_queue_up_to_a_bound_and_the_known_pass_by(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        passwords = Passwords()
        assert await passwords.right(USERS, basic("anna", "right"))
        guesses = [asyncio.create_task(passwords.right(USERS, basic("anna", f"guess {n}"))) for n in range(20)]
        assert await passwords.right(USERS, basic("anna", "right")) is True
        answers = await asyncio.gather(*guesses)
        assert (answers.count(None), answers.count(False)) == (4, 16)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("path", "method", "credentials", "code"),
    [
        ("/-/reload", "POST", b"Bearer a-token-of-some-length", 200),
        ("/-/reload", "POST", b"bearer  a-token-of-some-length ", 200),
        ("/-/reload", "POST", b"Bearer another-token-of-some", 401),
        ("/-/reload", "POST", b"Bearer a-token-of-some-lengt", 401),
        ("/-/reload", "POST", b"Bearer", 401),
        ("/-/reload", "POST", b"a-token-of-some-length", 401),
        ("/-/reload", "POST", basic("anna", "right"), 401),
        ("/-/reload", "GET", b"", 401),
        ("/config", "GET", b"Bearer another-token-of-some", 200),
        ("/sd", "GET", b"Bearer the-token-of-the-list", 200),
        ("/sd", "GET", b"Bearer another-token-of-some", 401),
        ("/sd", "GET", b"", 401),
        ("/config", "HEAD", b"", 401),
        ("/metrics", "GET", b"Bearer another-token-of-some", 401),
        ("/metrics", "GET", basic("anna", "right"), 200),
    ],
)
def test_a_page_with_a_token_takes_that_and_nothing_else(path: str, method: str, credentials: bytes, code: int) -> None:
    assert get(door(WebConfig(users=USERS), TOKENS), path, credentials, method=method).code == code


def test_without_tokens_pages_are_as_open_as_the_rest() -> None:
    assert get(door(WebConfig()), "/-/reload", method="POST").code == 200


def test_a_bucket_of_requests() -> None:
    now = 0.0
    app = door(WebConfig(rate=Rate(interval=10.0, burst=2)), clock=lambda: now)
    assert [get(app, "/metrics").code for _ in range(3)] == [200, 200, 429]
    now = 9.9
    assert get(app, "/metrics").code == 429
    now = 10.0
    assert [get(app, "/metrics").code for _ in range(2)] == [200, 429]
    now = 1000.0
    assert [get(app, "/metrics").code for _ in range(3)] == [200, 200, 429]


def test_configured_headers_are_on_every_answer_once() -> None:
    app = door(WebConfig(headers=(("Content-Security-Policy", "sandbox"), ("X-Frame-Options", "deny")), users=USERS))
    for answer in (get(app, "/"), get(app, "/", basic("anna", "right"))):
        assert (answer.headers["content-security-policy"], answer.headers["x-frame-options"]) == ("sandbox", "deny")
