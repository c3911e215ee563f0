"""The web configuration file: what is taken and refused, beside promtool, and that it is read again."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config import ConfigError
from exporter.webconfig import Watched, load
from tests.certificates import make

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
PAIR = "cert_file: server.pem, key_file: server.key"
MUTUAL = f"{PAIR}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem"


def tls(more: str = "", first: str = PAIR) -> str:
    return f"tls_server_config: {{{first}{', ' + more if more else ''}}}"


GOOD = {
    "nothing": "",
    "a pair": tls(),
    "sections without a word": "tls_server_config:\nhttp_server_config:\nbasic_auth_users:\n",
    "mutual": tls("client_allowed_sans: [a.example, 10.0.0.1]", MUTUAL),
    "a client's certificate if given": tls("client_auth_type: VerifyClientCertIfGiven, client_ca_file: ca.pem"),
    "no client's certificate": tls("client_auth_type: NoClientCert"),
    "versions": tls("min_version: TLS12, max_version: TLS13"),
    "suites": tls("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA]"),
    "a suite of TLS 1.3": tls("min_version: TLS13, cipher_suites: [TLS_AES_128_GCM_SHA256]"),
    "P256": tls("curve_preferences: [CurveP256]"),
    "P384": tls("curve_preferences: [CurveP384]"),
    "X25519": tls("curve_preferences: [X25519]"),
    "the client's order": tls("prefer_server_cipher_suites: false"),
    "http2": "http_server_config: {http2: false}",
    "headers": "http_server_config: {headers: {X-Frame-Options: deny, X-Content-Type-Options: nosniff,"
    " Content-Security-Policy: \"default-src 'none'\", X-XSS-Protection: '0', Strict-Transport-Security: max-age=1}}",
    "users": f"basic_auth_users: {{a: {HASH}, b: {HASH}}}",
    "rate": "rate_limit: {interval: 1m30s, burst: 5}",
    "no rate": "rate_limit: {interval: 0s, burst: 0}",
}
# What Prometheus 2.42 does not know yet, alone in a file that is right otherwise.
YOUNG = {
    "mutual": tls("client_allowed_sans: [a.example]", MUTUAL),
    "rate": "rate_limit: {interval: 1s, burst: 1}",
    "no rate": "rate_limit: {interval: 1s, burst: 1}",
}
BAD = {
    "an unknown section": ("tls: {}", "tls: unknown key"),
    "an unknown key": (tls("certfile: x"), "tls_server_config.certfile: unknown key"),
    "no key": ("tls_server_config: {cert_file: server.pem}", "tls_server_config.key_file: is missing"),
    "no certificate": ("tls_server_config: {key_file: server.key}", "tls_server_config.cert_file: is missing"),
    "another's key": (tls(first="cert_file: server.pem, key_file: ca.key"), "the key is that of another certificate"),
    "a file that is not there": (
        tls(first="cert_file: ./not.pem, key_file: server.key"),
        "tls_server_config.cert_file",
    ),
    "no PEM": (tls(first="cert_file: web.yml, key_file: server.key"), "is not a PEM file"),
    "an unknown auth type": (tls("client_auth_type: Maybe"), "client_auth_type: must be one of"),
    "an authority that nobody asks": (tls("client_ca_file: ca.pem"), "client_auth_type: is missing"),
    "an unknown version": (tls("min_version: TLS14"), "min_version: must be TLS12 or TLS13"),
    "an unknown suite": (tls("cipher_suites: [RC4]"), "is no cipher suite"),
    "an unknown curve": (tls("curve_preferences: [P256]"), "curve_preferences[0]: must be one of"),
    "another header": ("http_server_config: {headers: {Server: x}}", "headers.Server: is no header"),
    "a wrong value": ("http_server_config: {headers: {X-Frame-Options: allow}}", "must be deny or sameorigin"),
    "http2 in words": ("http_server_config: {http2: maybe}", "http2: must be true or false"),
    "a password in clear": ("basic_auth_users: {a: secret-word}", "basic_auth_users.a: is not a bcrypt hash"),
    "a list": ("- a", "must be a mapping"),
    "twice": ("rate_limit: {}\nrate_limit: {}", "is given twice"),
    "no duration": ("rate_limit: {interval: often, burst: 1}", "rate_limit.interval: must be a duration"),
    "a day": ("rate_limit: {interval: 1d, burst: 1}", "rate_limit.interval: must be a duration"),
}
STRICTER = {
    "old TLS": (tls("min_version: TLS10"), "TLS10 is broken"),
    "any certificate": (tls("client_auth_type: RequireAnyClientCert"), "believes any"),
    "a certificate if there is one": (tls("client_auth_type: RequestClientCert"), "believes any"),
    "no authority": (tls("client_auth_type: RequireAndVerifyClientCert"), "client_ca_file: is missing"),
    "settings without a certificate": ("tls_server_config: {min_version: TLS13}", "cert_file: is missing"),
    "upside down": (tls("min_version: TLS13, max_version: TLS12"), "is above max_version"),
    "two curves": (tls("curve_preferences: [X25519, CurveP256]"), "takes one curve"),
    "nothing for TLS 1.2": (tls("cipher_suites: [TLS_AES_128_GCM_SHA256]"), "names none for TLS 1.2"),
    "nanoseconds": ("rate_limit: {interval: 5, burst: 1}", "must be a duration"),
    "an empty bucket": ("rate_limit: {interval: 1s, burst: 0}", "burst: must be at least 1"),
    "a colon": (f"basic_auth_users: {{'a:b': {HASH}}}", "is no user name"),
}


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pems")
    make(folder, "ca")
    make(folder, "server", by="ca")
    make(folder, "later", by="ca")
    return folder


@pytest.fixture
def write(pems: Path, tmp_path: Path) -> Callable[[str], str]:
    for file in pems.iterdir():
        shutil.copy(file, tmp_path)

    def write(text: str) -> str:
        (tmp_path / "web.yml").write_text(text)
        return str(tmp_path / "web.yml")

    return write


def accepts(promtool: Path, path: str) -> bool:
    answer = subprocess.run([promtool, "check", "web-config", path], capture_output=True, check=False)
    return answer.returncode == 0


def knows(promtool: Path, write: Callable[[str], str], case: str) -> bool:
    """Whether this promtool has heard of the youngest key of a case at all."""
    text = YOUNG.get(case)
    return text is None or accepts(promtool, write(text))


@pytest.mark.parametrize("case", GOOD)
def test_what_is_good_here_is_good_for_promtool(promtool: Path, write: Callable[[str], str], case: str) -> None:
    expected = knows(promtool, write, case)
    path = write(GOOD[case])
    load(path)
    assert accepts(promtool, path) is expected


@pytest.mark.parametrize("case", BAD)
def test_what_is_bad_for_promtool_is_bad_here(promtool: Path, write: Callable[[str], str], case: str) -> None:
    text, words = BAD[case]
    path = write(text)
    assert not accepts(promtool, path)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("case", STRICTER)
def test_what_would_not_hold_is_refused_on_top(promtool: Path, write: Callable[[str], str], case: str) -> None:
    text, words = STRICTER[case]
    known = "rate_limit" not in text or knows(promtool, write, "rate")
    path = write(text)
    assert accepts(promtool, path) is known
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in str(caught.value)


def test_every_mistake_is_told_and_no_secret(write: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write("basic_auth_users: {a: hunter2}\nrate_limit: {interval: x, burst: -1}\nother: 1"))
    assert len(caught.value.mistakes) == 4
    assert "hunter2" not in str(caught.value)


def test_the_context_is_what_was_asked_for(write: Callable[[str], str]) -> None:
    suites = "cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]"
    context = load(write(tls(f"max_version: TLS12, prefer_server_cipher_suites: false, {suites}", MUTUAL))).tls
    assert context is not None
    assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    older = [each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert older == ["ECDHE-ECDSA-AES128-GCM-SHA256"]


@pytest.mark.parametrize(("name", "allowed"), [("DNS", "a.example"), ("URI", "spiffe://a/b"), ("IP Address", "::1")])
def test_a_certificate_needs_one_of_the_names(write: Callable[[str], str], name: str, allowed: str) -> None:
    config = load(write(tls(f"client_allowed_sans: [b.example, '{allowed}']", MUTUAL)))
    shown = "0:0:0:0:0:0:0:1" if allowed == "::1" else allowed
    assert config.admits({"subjectAltName": ((name, shown),)})
    assert not config.admits({"subjectAltName": ((name, "c.example"),)})
    assert not config.admits({})
    assert not config.admits(None)


def test_a_new_file_holds_at_once_and_a_broken_one_changes_nothing(
    write: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bool] = []
    path = write(f"basic_auth_users: {{a: {HASH}}}")
    watched = Watched(path, told.append)
    assert set(watched.current().users) == {"a"}
    write(f"basic_auth_users: {{bob: {HASH}}}")
    assert set(watched.current().users) == {"bob"}
    write("basic_auth_users: {carol: in-clear}")
    assert set(watched.current().users) == {"bob"}
    assert set(watched.current().users) == {"bob"}
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    write(tls())
    assert watched.current().tls is None
    assert "comes and goes only with a start" in caplog.text
    Path(path).unlink()
    assert set(watched.current().users) == {"bob"}
    write("")
    assert watched.current().users == {}
    assert told == [True, True, False, False, False, True]


def test_certificates_are_read_again_when_both_halves_are_there(write: Callable[[str], str], tmp_path: Path) -> None:
    watched = Watched(write(tls()))
    first = watched.current().tls
    shutil.copy(tmp_path / "later.pem", tmp_path / "server.pem")
    assert watched.current().tls is first
    shutil.copy(tmp_path / "later.key", tmp_path / "server.key")
    assert watched.current().tls is not first


def test_a_file_that_was_missing_is_seen_when_it_comes(write: Callable[[str], str], tmp_path: Path) -> None:
    watched = Watched(write(tls()))
    first = watched.current().tls
    write(tls(first="cert_file: ./new.pem, key_file: ./new.key"))
    assert watched.current().tls is first
    shutil.copy(tmp_path / "later.pem", tmp_path / "new.pem")
    shutil.copy(tmp_path / "later.key", tmp_path / "new.key")
    assert watched.current().tls is not first


def test_a_locked_key_asks_nobody(write: Callable[[str], str], tmp_path: Path) -> None:
    lock = ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", "server.key", "-out", "locked.key"]
    subprocess.run(lock, cwd=tmp_path, check=True, capture_output=True)
    with pytest.raises(ConfigError, match="locked with a password"):
        load(write(tls(first="cert_file: server.pem, key_file: locked.key")))
