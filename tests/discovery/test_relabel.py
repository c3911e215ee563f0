"""Relabel rules by themselves. What they mean is compared with Prometheus in test_prometheus.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import ConfigError, load
from exporter.discovery.targets import Answer, Found, Seen, Target, answered
from exporter.relabel import ACTIONS, Rule, compiled, relabelled

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LABELS = st.dictionaries(NAMES, VALUES, max_size=6)
REGEXES = st.sampled_from(["(.*)", "a.*", "", "(a|b)+(.*)", r"(\w+):(\d+)", "(?i)x", "(?P<n>.)(.*)"])
TEMPLATES = st.one_of(st.sampled_from(["$1", "${1}x", "$n", "$$", "$", "${", "$9$0", "a"]), VALUES)
RULES = st.builds(
    Rule,
    st.sampled_from(ACTIONS),
    st.lists(NAMES, max_size=3).map(tuple),
    st.sampled_from([";", "", "/"]),
    REGEXES,
    st.integers(1, 2**64 - 1),
    NAMES,
    TEMPLATES,
)


@given(LABELS, st.lists(RULES, max_size=5))
def test_any_rules_end_and_leave_only_labels_that_say_something(labels: dict[str, str], rules: list[Rule]) -> None:
    before = dict(labels)
    found = relabelled(labels, rules)
    assert labels == before, "what was found is not changed"
    assert found is None or all(found.values())
    assert relabelled(labels, rules) == found


@given(LABELS, NAMES, VALUES, TEMPLATES)
def test_what_does_not_match_changes_nothing(labels: dict[str, str], name: str, value: str, to: str) -> None:
    labels = {key: each for key, each in {**labels, name: f"x{value}"}.items() if each}
    assert relabelled(labels, [Rule("replace", (name,), regex="y.*", target_label="z", replacement=to)]) == labels


@given(LABELS, RULES)
def test_keep_and_drop_are_opposites(labels: dict[str, str], rule: Rule) -> None:
    for keep, drop in (("keep", "drop"), ("keepequal", "dropequal")):
        both = [
            Rule(each, rule.source_labels, rule.separator, rule.regex, 0, rule.target_label) for each in (keep, drop)
        ]  # type: ignore[arg-type]
        assert (relabelled(labels, both[:1]) is None) != (relabelled(labels, both[1:]) is None)


@given(st.lists(st.text("abc", max_size=4), min_size=1, max_size=20), st.integers(1, 7))
def test_each_target_is_in_one_part_of_a_fleet_that_is_spread_by_hash(names: list[str], parts: int) -> None:
    def kept(name: str, part: int) -> bool:
        hashed = Rule("hashmod", ("name",), modulus=parts, target_label="part")
        return relabelled({"name": name, "x": "y"}, [hashed, Rule("keep", ("part",), regex=str(part))]) is not None

    for name in names:
        assert sum(kept(name, part) for part in range(parts)) == 1


def test_the_hash_is_the_last_eight_bytes_of_md5() -> None:
    rule = Rule("hashmod", ("a",), modulus=2**64 - 1, target_label="h")
    expected = int(hashlib.md5(b"gpu1").hexdigest()[16:], 16) % (2**64 - 1)  # noqa: S324
    assert relabelled({"a": "gpu1"}, [rule]) == {"a": "gpu1", "h": str(expected)}


def test_no_pattern_takes_more_than_linear_time() -> None:
    """A backtracking engine would not come to its end."""
    assert compiled("(a*)*b").fullmatch("a" * 5000) is None


# --- from targets to servers -----------------------------------------------------------------------------------------


def servers(labels: dict[str, str], *rules: Rule) -> Answer:
    return answered(Seen((Target(labels),)), rules)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"__address__": "gpu1:11434"}, Found("gpu1:11434", "http://gpu1:11434")),
        ({"__address__": "gpu1:80"}, Found("gpu1:80", "http://gpu1")),
        ({"__address__": "GPU1"}, Found("gpu1:80", "http://gpu1")),
        ({"__address__": "[fd00::1]:1"}, Found("fd00::1:1", "http://[fd00::1]:1")),
        ({"__address__": "a:1", "server": "primary"}, Found("primary", "http://a:1")),
        ({"__address__": "a:1", "instance": "x", "rack": "r1"}, Found("a:1", "http://a:1")),
        ({"__address__": "a:1", "__scheme__": "https", "__path__": "ollama/"}, Found("a:1", "https://a:1/ollama")),
        ({"__address__": "a:1", "__path__": "/x"}, Found("a:1", "http://a:1/x")),
    ],
)
def test_labels_make_a_name_and_a_url(labels: dict[str, str], found: Found) -> None:
    assert servers(labels) == Answer((found,))


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"__address__": ""},
        {"__address__": "user:secret@gpu1:11434"},
        {"__address__": "gpu1:99999"},
        {"__address__": "gpu1:1/path?query"},
        {"__address__": "gpu1", "__scheme__": "ftp"},
        {"__address__": "a:1", "server": "two words"},
        {"__address__": "a:1", "server": "x" * 65},
        {"__address__": f"{'a' * 70}:1"},
    ],
)
def test_what_makes_no_server_is_left_out_with_its_reason(labels: dict[str, str]) -> None:
    assert servers(labels) == Answer((), ("invalid",))


def test_a_target_that_a_rule_drops_is_not_left_out_and_one_told_twice_is_one() -> None:
    twice = Seen(
        (Target({"__address__": "a:1"}), Target({"__address__": "a:1", "x": "y"}), Target({"__address__": "b:1"}))
    )
    assert answered(twice, [Rule("drop", ("__address__",), regex="b:1")]) == Answer(
        (Found("a:1", "http://a:1"),), (), 1
    )


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{action: explode}", "action: must be one of"),
        ("{sourcelabels: [a]}", "sourcelabels: unknown key, did you mean source_labels?"),
        ("{source_labels: [a-b], target_label: x}", "source_labels[0]: must be the name of a label, got 'a-b'"),
        ("{source_labels: a, target_label: x}", "source_labels: must be a list"),
        ("{regex: '(', target_label: x}", "regex: must be a regular expression of RE2: missing ): ("),
        ("{regex: '(?=a)', target_label: x}", "regex: must be a regular expression of RE2: invalid perl operator: (?="),
        (
            r"{regex: '(a)\1', target_label: x}",
            r"regex: must be a regular expression of RE2: invalid escape sequence: \1",
        ),
        ("{regex: 5, target_label: x}", "regex: must be text, got 5 (put it in quotes)"),
        ("{action: replace}", "target_label: is missing for action: replace"),
        ("{action: replace, target_label: a-b}", "target_label: must be the name of a label, may hold $1, got 'a-b'"),
        ("{action: hashmod, target_label: x}", "modulus: must be above 0 for action: hashmod"),
        ("{action: hashmod, target_label: x, modulus: -1}", "modulus: must be a whole number from 0"),
        ("{action: lowercase, target_label: $1}", "target_label: must be the name of a label, got '$1'"),
        ("{action: lowercase, target_label: x, regex: y}", "regex: has no effect with action: lowercase"),
        ("{action: keepequal, target_label: x, separator: y}", "separator: has no effect with action: keepequal"),
        ("{action: labeldrop, source_labels: [x]}", "source_labels: has no effect with action: labeldrop"),
        ("{action: labelmap, replacement: a-b}", "replacement: must be the name of a label, got 'a-b'"),
    ],
)
def test_a_mistake_in_a_rule_is_told_with_its_path(tmp_path: Path, rule: str, told: str) -> None:
    path = tmp_path / "exporter.yml"
    path.write_text(f"discovery: [{{files: {{paths: [a.yml]}}, relabel_configs: [{{action: keep}}, {rule}]}}]")
    with pytest.raises(ConfigError) as error:
        load(str(path), {})
    (mistake,) = error.value.mistakes
    assert mistake.startswith(f"discovery[0].relabel_configs[1].{told}")
