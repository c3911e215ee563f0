"""Servers in files: written whole or in half, replaced, moved away, found by a pattern."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from exporter.config.places import FileSd
from exporter.discovery import groups
from exporter.discovery.files import FileFinder
from exporter.discovery.targets import Seen, Trouble

LATER = 4e9  # so that no file is too fresh to be trusted


def finder(folder: Path, *patterns: str, now: float = LATER) -> FileFinder:
    return FileFinder(FileSd(paths=tuple(str(folder / pattern) for pattern in patterns)), lambda: now)


def look(finder: FileFinder) -> Seen:
    return asyncio.run(finder.look(()))


def addresses(seen: Seen) -> list[str]:
    return [target.labels["__address__"] for target in seen.targets]


def targets(*names: str) -> str:
    return json.dumps([{"targets": names}])


def replaced(path: Path, text: str) -> None:
    """As programs do that never leave half a file."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.rename(path)


def test_yaml_and_json_are_read_as_prometheus_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "- targets: ['a:1', b:2]\n  labels: {rack: 7, on: true, none: ~, hex: 0x10}\n- targets:\n"
    )
    (tmp_path / "b.json").write_text('[{"targets": ["c:3"], "labels": {"rack": "8", "odd": "\\ud800"}}]')
    seen = look(finder(tmp_path, "a.yml", "b.json"))
    assert addresses(seen) == ["a:1", "b:2", "c:3"]
    first, _, last = (dict(target.labels) for target in seen.targets)
    meta = {"__address__": "a:1", "__meta_filepath": str(tmp_path / "a.yml")}
    assert first == {**meta, "rack": "7", "on": "true", "none": "", "hex": "0x10"}, "scalars are as they were written"
    assert (last["rack"], last["odd"]) == ("8", "?")
    assert not seen.troubles


def test_an_empty_file_has_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("")
    (tmp_path / "b.json").write_text("[]")
    assert look(finder(tmp_path, "a.yml", "b.json")) == Seen()


def test_a_file_is_read_again_when_it_was_replaced_and_not_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text(targets("a:1"))
    reads: list[bytes] = []
    read = groups.from_json
    monkeypatch.setattr(groups, "from_json", lambda body, more: (reads.append(body), read(body, more))[1])
    it = finder(tmp_path, "a.json")
    assert addresses(look(it)) == addresses(look(it)) == ["a:1"]
    assert len(reads) == 1
    times = path.stat()
    replaced(path, targets("b:1"))  # as long as before
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert addresses(look(it)) == ["b:1"], "another inode"


def test_a_file_that_was_just_written_may_change_unseen_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(targets("a:1"))
    times = path.stat()
    it = finder(tmp_path, "a.json", now=times.st_mtime + 0.5)
    assert addresses(look(it)) == ["a:1"]
    path.write_text(targets("b:1"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert addresses(look(it)) == ["b:1"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", '[{"targets": ["a:1", "b', "decode"),
        ("a.yml", "- targets: ['a:1', 'b", "decode"),
        ("a.yml", "- targets: [a:1]\n  targets: [b:1]", "decode"),
        ("a.json", '[{"targets": ["a:1"], "targets": []}]', "malformed"),
        ("a.json", '{"targets": ["a:1"]}', "malformed"),
        ("a.json", '[{"target": ["a:1"]}]', "malformed"),
        ("a.json", '[{"targets": "a:1"}]', "malformed"),
        ("a.json", '[{"targets": [1]}]', "malformed"),
        ("a.json", '[{"targets": ["a:1"], "labels": {"a": 1}}]', "malformed"),
        ("a.json", '[{"targets": ["a:1"], "labels": {"a-b": "x"}}]', "malformed"),
        ("a.json", "[null]", "malformed"),
        ("a.yml", "- [a:1]", "malformed"),
        ("a.yml", "- targets: [!!python/object:os.system a]", "decode"),
        ("a.json", "[" * 100_000, "decode"),
        ("a.json", "\xff\xfe", "decode"),
    ],
)
def test_a_file_with_a_mistake_keeps_what_it_had_and_its_neighbours_go_on(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    bad, good = tmp_path / name, tmp_path / "good.json"
    bad.write_text(targets("old:1"))
    good.write_text(targets("good:1"))
    it = finder(tmp_path, name, "good.json")
    assert addresses(look(it)) == ["old:1", "good:1"]
    replaced(bad, text) if "\xff" not in text else bad.write_bytes(text.encode("latin-1"))
    replaced(good, targets("good:1", "new:1"))
    seen = look(it)
    assert addresses(seen) == ["old:1", "good:1", "new:1"]
    (trouble,) = seen.troubles
    assert trouble.reason == reason
    assert trouble.what.startswith(f"{bad}: ")
    replaced(bad, targets("mended:1"))
    assert look(it) == Seen(look(it).targets), "all is well again"
    assert addresses(look(it))[0] == "mended:1"


def test_a_mistake_after_a_start_finds_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[")
    seen = look(finder(tmp_path, "a.json"))
    assert (seen.targets, [trouble.reason for trouble in seen.troubles]) == ((), ["decode"])


def test_what_a_pattern_no_longer_matches_is_gone_and_a_file_named_by_itself_is_missed(tmp_path: Path) -> None:
    for name in ("x-1.yml", "x-2.yml", "own.yml", "other.txt"):
        (tmp_path / name).write_text(targets(f"{name}:1"))
    it = finder(tmp_path, "x-*.yml", "own.yml")
    assert addresses(look(it)) == ["x-1.yml:1", "x-2.yml:1", "own.yml:1"]
    (tmp_path / "x-1.yml").unlink()
    (tmp_path / "own.yml").unlink()
    seen = look(it)
    assert addresses(seen) == ["x-2.yml:1", "own.yml:1"]
    assert [trouble.reason for trouble in seen.troubles] == ["unavailable"]
    assert addresses(look(it)) == ["x-2.yml:1", "own.yml:1"], "for as long as it takes"


def test_a_pattern_of_its_folder_means_itself(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    (folder / "b.yml").write_text(targets("a:1"))
    assert addresses(look(finder(folder, "*.yml"))) == ["a:1"]


def test_a_pipe_and_a_folder_hold_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").mkdir()
    seen = look(finder(tmp_path, "*.json"))
    assert seen.targets == ()
    assert "unavailable" in [trouble.reason for trouble in seen.troubles]


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "BODY_MAX", 100)
    (tmp_path / "a.json").write_text(targets("a" * 200))
    assert [trouble.reason for trouble in look(finder(tmp_path, "a.json")).troubles] == ["too_large"]


def test_more_targets_than_anybody_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.discovery.files.TARGETS_MAX", 3)
    for name in "abcd":
        (tmp_path / f"{name}.json").write_text(targets(f"{name}:1"))
    with pytest.raises(Trouble, match="more than 3 targets"):
        look(finder(tmp_path, "*.json"))
