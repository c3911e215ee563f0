"""Which targets of /probe are let through: a red team's table of ways to say an address that must not be asked."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.kinds import Wrong
from exporter.config.targets import Allowed, Target, lets_through, may_lead_to, parse_allowed, parse_target


def allow(*entries: str) -> tuple[Allowed, ...]:
    return tuple(map(parse_allowed, entries))


# --- what a target means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "url", "address"),
    [
        ("gpu1", "http://gpu1:11434", None),
        ("gpu1:8080", "http://gpu1:8080", None),
        ("http://gpu1", "http://gpu1", None),
        ("https://gpu1/", "https://gpu1", None),
        ("HTTPS://GPU1.Example.ORG:443", "https://gpu1.example.org", None),
        ("gpu1.example.org.", "http://gpu1.example.org:11434", None),
        ("http://gpu1.example.org.:11434", "http://gpu1.example.org:11434", None),
        ("xn--bcher-kva.example", "http://xn--bcher-kva.example:11434", None),
        ("10.0.0.7", "http://10.0.0.7:11434", "10.0.0.7"),
        ("10.0.0.7.", "http://10.0.0.7:11434", "10.0.0.7"),
        ("[fd00::0007]:11434", "http://[fd00::7]:11434", "fd00::7"),
        ("[fd00::7]", "http://[fd00::7]:11434", "fd00::7"),
        ("http://[::ffff:10.0.0.7]:11434", "http://10.0.0.7:11434", "10.0.0.7"),
        ("http://[::ffff:a00:7]:11434", "http://10.0.0.7:11434", "10.0.0.7"),
    ],
)
def test_a_target_has_one_canonical_url(written: str, url: str, address: str | None) -> None:
    target = parse_target(written)
    assert target.url == url
    assert target.address == (None if address is None else ipaddress.ip_address(address))


NO_TARGETS = {
    "nothing": "",
    "no_host": "http://",
    "no_host_but_a_port": ":11434",
    "another_scheme": "ftp://gpu1",
    "a_file": "file:///etc/passwd",
    "gopher": "gopher://gpu1:11434/_GET",
    "javascript": "javascript:alert(1)",
    "a_unix_socket": "unix:///var/run/docker.sock",
    "an_encoded_socket": "http+unix://%2Fvar%2Frun%2Fdocker.sock",
    "user_and_password": "http://user:s3cret@gpu1:11434",
    "an_at_that_hides_the_host": "http://allowed@169.254.169.254",
    "an_encoded_at": "http://allowed%40169.254.169.254",
    "a_backslash": "http://allowed\\@169.254.169.254",
    "a_path": "http://gpu1:11434/api/delete",
    "dots_in_a_path": "http://gpu1:11434/..",
    "a_query": "http://gpu1:11434?x=1",
    "a_fragment": "http://gpu1:11434#x",
    "a_line_break": "http://gpu1\r\nX-Evil: 1",
    "a_line_break_at_the_end": "http://gpu1\n",
    "a_nul": "http://gpu1\0.example.org",
    "a_space": "http://gpu1 :11434",
    "a_tab": "http://gpu\t1",
    "port_0": "gpu1:0",
    "port_too_high": "gpu1:65536",
    "port_huge": "gpu1:" + "9" * 40,
    "negative_port": "gpu1:-1",
    "port_in_words": "gpu1:http",
    "two_ports": "gpu1:80:11434",
    "port_of_other_digits": "gpu1:１１４３４",
    "two_dots_at_the_end": "gpu1..",
    "an_empty_label": "gpu1..example.org",
    "a_dot_at_the_front": ".gpu1",
    "a_dash_at_the_front": "-gpu1",
    "a_long_label": "a" * 64 + ".example.org",
    "a_long_name": "a." * 130 + "org",
    "very_long": "http://" + "a" * 5000,
    "a_wildcard": "*.example.org",
    "a_network": "10.0.0.0/8",
    "a_list": "gpu1,gpu2",
    "decimal": "http://2130706433",
    "decimal_of_metadata": "http://2852039166",
    "octal": "http://0177.0.0.1",
    "octal_whole": "http://017700000001",
    "hex": "http://0x7f000001",
    "hex_parts": "http://0x7f.0x0.0x0.0x1",
    "short": "http://127.1",
    "shorter": "http://0",
    "short_of_metadata": "http://169.254.43518",
    "leading_zeros": "http://127.000.000.001",
    "too_many_parts": "http://127.0.0.0.1",
    "overflow": "http://127.0.0.257",
    "wide_digits": "http://１２７.０.０.１",
    "circled_digits": "http://①②⑦.⓪.⓪.①",
    "ideographic_full_stops": "http://127。0。0。1",
    "percent_encoded": "http://%31%32%37.0.0.1",
    "unicode_name": "http://bücher.example",
    "soft_hyphen": "http://local­host",
    "ipv6_without_brackets": "http://::1",
    "ipv6_with_a_zone": "http://[fe80::1%25eth0]",
    "ipv6_with_a_plain_zone": "http://[fe80::1%eth0]",
    "ipv6_unclosed": "http://[::1",
    "ipvfuture": "http://[v1.fe80::a]",
}


@pytest.mark.parametrize("case", NO_TARGETS)
def test_what_others_may_read_in_another_way_is_no_target(case: str) -> None:
    with pytest.raises(Wrong) as wrong:
        parse_target(NO_TARGETS[case])
    assert "s3cret" not in str(wrong.value)


@given(st.text(max_size=60))
def test_any_text_is_a_canonical_target_or_none(text: str) -> None:
    try:
        target = parse_target(text)
    except Wrong:
        return
    again = parse_target(target.url)
    assert again == target
    assert target.url.startswith(("http://", "https://"))
    assert not set(target.url) & set("@\\ \r\n\t?#%")


# --- who is let through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "10.0.0.1/8",
        "10.0.0.0/33",
        "*",
        "*.",
        "a.*.b",
        "http://gpu1",
        "gpu1:11434",
        "",
        "127.1",
        "0x7f.1",
        "bücher",
        1,
        None,
    ],
)
def test_what_is_no_entry_is_a_mistake(written: object) -> None:
    with pytest.raises(Wrong):
        parse_allowed(written)


@pytest.mark.parametrize(
    "written", ["gpu1", "*.gpu.example.org", "10.0.0.0/8", "10.0.0.7", "fd00::/8", "fd00::7", "localhost"]
)
def test_an_entry_is_shown_as_it_was_written(written: str) -> None:
    assert str(parse_allowed(written)) == written


EVERYTHING = ("0.0.0.0/0", "::/0")
FORBIDDEN = (
    "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.1.2.3", "169.254.0.1", "169.254.169.254", "169.254.170.2", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.0.192", "100.100.100.200", "168.63.129.16",
    "::", "::1", "fe80::1", "fec0::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::ffff:7f00:1",
)  # fmt: skip


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_wide_network_opens_a_special_address(address: str) -> None:
    shown = f"[{address}]" if ":" in address else address
    assert not lets_through(allow(*EVERYTHING, "126.0.0.0/7", "fe00::/7"), parse_target(shown))
    assert not may_lead_to(allow(*EVERYTHING, "gpu1"), "gpu1", address)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_a_special_address_is_opened_by_its_very_name(address: str) -> None:
    shown = f"[{address}]" if ":" in address else address
    assert lets_through(allow(address), parse_target(shown))
    assert may_lead_to(allow(address, "gpu1"), "gpu1", address)


@pytest.mark.parametrize(
    ("entry", "opens", "leaves"),
    [
        ("127.0.0.0/8", "127.0.0.1", "128.0.0.1"),
        ("127.0.0.0/30", "127.0.0.1", "127.0.0.4"),
        ("169.254.0.0/16", "169.254.7.7", "169.254.169.254"),
        ("fe80::/64", "[fe80::1]", "[fe80:0:0:1::1]"),
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.1"),
        ("fd00::/8", "[fd00::7]", "[fd00:ec2::254]"),
        ("gpu1", "gpu1", "gpu11"),
        ("gpu1", "gpu1.", "gpu1.example.org"),
        ("*.example.org", "gpu1.example.org", "example.org"),
        ("*.example.org", "a.b.example.org", "evilexample.org"),
        ("*.example.org", "https://gpu1.example.org", "gpu1.example.org.evil.net"),
        ("GPU1.Example.org", "gpu1.example.ORG", "gpu2.example.org"),
        ("localhost", "localhost", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", "localhost"),
    ],
)
def test_an_entry_opens_what_it_says_and_no_more(entry: str, opens: str, leaves: str) -> None:
    assert lets_through(allow(entry), parse_target(opens))
    assert not lets_through(allow(entry), parse_target(leaves))


def test_without_entries_nothing_is_let_through() -> None:
    assert not lets_through((), parse_target("gpu1"))
    assert not lets_through((), parse_target("8.8.8.8"))


@pytest.mark.parametrize(
    ("name", "address", "may"),
    [
        ("gpu1", "10.0.0.7", True),
        ("gpu1", "fd00::7", True),
        ("gpu1", "127.0.0.1", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost", "10.0.0.7", False),
        ("localhost", "169.254.169.254", False),
        ("gpu1", "fe80::1%eth0", False),
        ("gpu1", "nonsense", False),
        ("gpu1", "", False),
    ],
)
def test_a_name_leads_anywhere_but_to_special_addresses(name: str, address: str, may: bool) -> None:
    assert may_lead_to(allow("gpu1", "localhost"), name, address) is may


def test_the_ways_to_write_loopback_that_libc_knows_are_none_of_ours() -> None:
    """What getaddrinfo would take for an address must not pass as a name."""
    for written in ("2130706433", "0x7f000001", "017700000001", "127.1", "0177.1", "0x7f.1", "1", "0"):
        assert socket.inet_aton(written)
        with pytest.raises(Wrong):
            parse_target(written)
        with pytest.raises(Wrong):
            parse_allowed(written)


def test_the_address_of_a_target_is_what_is_judged() -> None:
    target = parse_target("http://[::ffff:127.0.0.1]")
    assert target == Target("http://127.0.0.1", "127.0.0.1", 80, ipaddress.ip_address("127.0.0.1"))
