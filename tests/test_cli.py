"""The command line: what it prints, where, and its exit codes. What it serves is tested elsewhere."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter import __version__, app, catalog, check, series
from exporter.__main__ import main
from exporter.config import Config, ConfigError, load, plan
from exporter.exposition import encode
from exporter.gaps import ADVICE
from exporter.model import REASONS, CanarySettings, Failed, Lacking, Reading, Reason, Sample, Source, Watch
from exporter.sources import SOURCES, Surroundings, build
from exporter.sources.own import OwnSource, Vitals
from tests.scene import ENDPOINT, stage, virtually

ROOT = Path(__file__).parent.parent
SECRET = "hunter2-is-not-a-word"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and none of the variables that we read."""
    for name in os.environ:
        if name.startswith("OLLAMA"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "exporter.yml").write_text(text)
        return "exporter.yml"

    return write


# --- run and demo ----------------------------------------------------------------------------------------------------


class Called:
    """Stands in for a running program: what it was given."""

    def __init__(self, load: Callable[..., Config], seed: int | None = None) -> None:
        self.load, self.seed = load, seed


def called(monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]) -> Called:
    calls: list[Called] = []

    def stand_in(load: Callable[..., Config], seed: int | None = None) -> int:
        calls.append(Called(load, seed))
        return 7

    monkeypatch.setattr(app, name, stand_in)
    assert main(arguments) == 7
    return calls[0]


@pytest.mark.parametrize("command", [[], ["run"]])
def test_run_is_the_default_and_reads_everything_anew_at_each_load(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], str], command: list[str]
) -> None:
    path = write("poll: {interval: 5s}")
    monkeypatch.setenv("OLLAMA_EXPORTER_LOG_LEVEL", "debug")
    load = called(monkeypatch, "run", [*command, "--config.file", path, "--web.listen-address=:1"]).load
    config = load()
    assert (config.poll.interval, config.log.level, str(config.web.listen_address)) == (5.0, "debug", ":1")
    write("poll: {interval: 6s}")
    assert load().poll.interval == 6.0


def test_mistakes_at_start_are_told_one_a_line_on_stderr(
    write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("poll: {interval: -5s}\nlog: {lvel: info}\n")
    assert main(["--config.file", path, "--log.format", "xml"]) == 2
    assert capsys.readouterr() == (
        "",
        "--log.format: must be one of text, json; got 'xml'\n"
        "log.lvel: unknown key, did you mean level?\n"
        "poll.interval: must be > 0, got -5s\n",
    )


def test_the_demo_takes_its_servers_from_the_simulator_and_only_its_own_settings_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLLAMA_EXPORTER_SERVERS", "real=http://real:11434")
    monkeypatch.setenv("OLLAMA_EXPORTER_CONFIG_FILE", "/nowhere.yml")
    monkeypatch.setenv("OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS", ":2")
    call = called(monkeypatch, "demo", ["demo", "--seed", "0", "--log.level", "error"])
    config = call.load("sim=http://127.0.0.1:9")
    assert [server.name for server in config.servers] == ["sim"]
    assert (str(config.web.listen_address), config.log.level, call.seed) == (":2", "error", 0)


def test_mistakes_that_the_demo_finds_are_told_like_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--log.level", "loud"]) == 2
    assert capsys.readouterr().err == "--log.level: must be one of debug, info, warning, error; got 'loud'\n"


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["chekc"], "invalid choice: 'chekc'"),
        (["--log=debug"], "unrecognized arguments: --log=debug"),
        (["run", "--online"], "--online means nothing to run"),
        (["--format", "text"], "--format means nothing to run"),
        (["check", "--seed", "0"], "--seed means nothing to check"),
        (["demo", "--config.file", "x"], "--config.file means nothing to demo"),
    ],
)
def test_arguments_that_make_no_sense_exit_with_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    # The usage comes first, and choices are listed behind in words that differ between versions of Python.
    assert complaint in re.sub(r"\n\s*", " ", capsys.readouterr().err)


def test_help_tells_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    words = ("run", "check", "demo", "metrics", "--config.file", "--web.listen-address", "--log.level", "--log.format")
    assert [word for word in words if word not in told] == []


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def test_version_and_help_import_nothing_that_takes_time() -> None:
    code = (
        "import sys; from exporter.__main__ import main\n"
        "try: main(['--version'])\n"
        "finally: print(sorted({'yaml', 'httpx', 'psutil', 'asyncio', 'exporter.config'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout == f"ollama-exporter {__version__}\n[]\n"


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "metrics"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_lists_every_family_with_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", head) == ["name", "type", "labels", "unit", "help"]
    assert [line.split()[:4] for line in lines] == [
        [family.name, family.kind, ",".join(family.labels) or "-", family.unit or "-"] for family in catalog.FAMILIES
    ]
    assert all(line.endswith(family.help) for line, family in zip(lines, catalog.FAMILIES, strict=True))


def test_metrics_as_markdown_is_a_table_with_a_row_for_each_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--format", "markdown"]) == 0
    page = capsys.readouterr().out
    assert page == check.catalogue_markdown()
    rows = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| `")]
    assert [row[1].strip(" `") for row in rows] == [family.name for family in catalog.FAMILIES]
    assert {len(row) for row in rows} == {7}


# --- check -----------------------------------------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["check", *arguments]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


FLEET = """
servers:
- {name: primary, url: 'http://localhost:11434', canary: {models: {tinyllama: loaded}}}
- {name: secondary, url: 'http://gpu2:11434', bearer_token_file: token, poll_interval: 1m, canary: {mode: off}}
- {name: tertiary, url: 'https://gpu3', bearer_token_file: token, canary: {every: 5m, models: {llama3: always}}}
host: {name: here, models_dir: /nowhere/at/all}
"""


@pytest.fixture
def fleet(write: Callable[[str], str], tmp_path: Path) -> str:
    (tmp_path / "token").write_text(SECRET)
    return write(FLEET)


def test_check_tells_the_plan(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "--config.file", fleet).splitlines()
    assert lines[0] == "The configuration is right. 3 servers (from exporter.yml); listens on :8082."
    assert [re.split(r"\s{2,}", line) for line in lines[2:6]] == [
        ["server", "url", "poll", "inventory", "timeout", "canary", "credentials"],
        ["primary", "http://localhost:11434", "15s", "5m", "5s", "loaded; tinyllama:latest loaded; every 1m", "none"],
        ["secondary", "http://gpu2:11434", "1m", "5m", "5s", "off", "bearer token, UNENCRYPTED"],
        ["tertiary", "https://gpu3", "15s", "5m", "5s", "loaded; llama3:latest always; every 5m", "bearer token"],
    ]


def test_check_tells_what_each_source_is_blind_to_and_why(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(r"\n +", " ", told(capsys, "--config.file", fleet))
    assert [line for line in text.splitlines() if re.match(r"(api|canary|host|exporter): ", line)] == [
        "api: every 15s, within 16s; every 1m, within 16s sees      whether a server answers, its version, its loaded"
        " and installed models, their memory and expiry. is blind  to the queue, to single requests and to their"
        " latency: Ollama tells none of it over HTTP.",
        "canary: every 15s, within 26s sees      time to first token, wait and decode speed of one tiny generation on"
        " models that are in use anyway. is blind  to servers before 0.30, where probing can reload a model, unless the"
        " model is named (tinyllama:latest on primary, llama3:latest on tertiary); to models that nobody uses; to the"
        " speed of reading prompts. is off    for secondary. costs     memory for good: always keeps llama3:latest on"
        " tertiary loaded.",
        "host: every 15s, within 10s sees      this machine, as here: CPU, memory, swap, network, Ollama's processes."
        " is blind  to the model store: /nowhere/at/all is not there or not open to us (host.models_dir says where it"
        " is). is blind  to the machines of secondary, tertiary: run an exporter on each for that.",
        "exporter: every 5s, within 5s sees      itself: build, reloads, the event loop's lag, its own process.",
    ]


def test_check_finds_the_model_store_where_it_is_said_to_be(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "--config.file", write(f"host: {{models_dir: {tmp_path}}}"))
    assert f"the file system of the model store at {tmp_path}." in re.sub(r"\n +", " ", text)


def test_check_tells_which_sources_are_off(write: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--config.file", write("canary: {mode: off}\nhost: {enabled: false}"))
    assert "canary: off\n  is blind  to everything: its mode is off for every server.\n" in text
    assert "host: off\n  is blind  to this machine: host.enabled is false.\n" in text
    table = dict(re.findall(r"^(api|canary|host|exporter) +(\d+) .* \d+$", text, re.M))
    assert table == {"api": "1", "canary": "0", "host": "0", "exporter": "1"}


def test_the_expected_number_of_series_follows_from_the_rows(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--config.file", fleet)
    rows = re.findall(r"^(?:api|canary|host|exporter) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", text, re.M)
    numbers = [tuple(map(int, row)) for row in rows]
    assert [watches for watches, *_ in numbers] == [3, 2, 1, 1]
    for watches, fixed, loaded, installed, total in numbers:
        assert total == watches * (fixed + 3 * loaded + 10 * installed)
    assert f"About {sum(total for *_, total in numbers)} series at most" in text
    assert "assuming 3 loaded" in text


def test_check_tells_every_mistake_and_nothing_else(
    write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--config.file", write("servers: [{name: a b}]\ncanary: {every: -5s}")]) == 2
    assert capsys.readouterr() == (
        "",
        "canary.every: must be > 0, got -5s\n"
        "servers[0].name: must be 1 to 64 letters, digits, `.`, `_`, `:` or `-` (it is a label value), got 'a b'\n"
        "servers[0].url: is missing\n",
    )


# --- what is counted out of the catalogue is what sources emit --------------------------------------------------------


def answers(loaded: int, installed: int, version: str = "0.33.0") -> httpx.MockTransport:
    """A server with so many models."""

    def row(number: int) -> dict[str, Any]:
        return {
            "name": f"m{number}:latest",
            "digest": f"{number:064x}",
            "size": 5,
            "size_vram": 5,
            "context_length": 4096,
            "expires_at": "2030-01-01T00:00:00Z",
        }

    bodies: dict[str, object] = {
        "/api/version": {"version": version},
        "/api/ps": {"models": [row(number) for number in range(loaded)]},
        "/api/tags": {"models": [row(number) for number in range(installed)]},
    }
    # Anything else that is asked for, a generation above all, is a KeyError and so a bug.
    date = {"Date": "Mon, 23 Nov 2026 20:00:00 GMT"}
    return httpx.MockTransport(lambda request: httpx.Response(200, headers=date, json=bodies[request.url.path]))


def seen_through(transport: httpx.AsyncBaseTransport) -> Callable[[Watch], Source]:
    return lambda watch: build(watch, Surroundings(transport=lambda _: transport))


def count_of(text: str) -> int:
    match = re.search(r"^(\d+) series now", text, re.M)
    assert match
    return int(match[1])


@pytest.mark.parametrize(("loaded", "installed"), [(0, 0), (1, 1), (3, 10)])
def test_the_api_source_emits_as_many_series_as_are_counted(loaded: int, installed: int) -> None:
    config = load(None, {"OLLAMA_EXPORTER_SERVERS": "a=http://a:11434"})
    text = check.online(config, only_api(seen_through(answers(loaded, installed))))
    others = [watch for watch in plan(config) if watch.source not in ("api", "canary", "exporter")]
    beside = sum(
        encode(Reading(watch, 0.0, 0.0, (), None, dict.fromkeys(SOURCES[watch.source].reasons, 0), 0.0)).series
        for watch in others
    )
    exporter = series.count("exporter").fixed
    assert count_of(text) - beside - exporter == series.count("api").total(loaded, installed)


@virtually
async def test_the_canary_emits_as_many_series_per_model_as_are_counted() -> None:
    async with stage("canary", settings=CanarySettings(ENDPOINT, every=15.0)) as it:
        await it.ask()
        seen = await it.run(60.0)
        assert seen.total(catalog.CANARY_ATTEMPTS, model="tinyllama:latest", outcome="ok") == 1.0
        assert seen(catalog.CANARY_PENDING, model="tinyllama:latest") is None  # the one series that is not there now
        assert seen.entry().series == series.count("canary").total(1, 0) - 1


def test_the_exporter_emits_as_many_series_about_itself_as_are_counted() -> None:
    source = OwnSource(Vitals(config_hash="x", reload_succeeded_at=1.0, web_config_successful=True, render_seconds=0.1))
    samples = tuple(asyncio.run(source.collect()))
    failures = dict.fromkeys(SOURCES["exporter"].reasons, 0)
    reading = Reading(Watch("", "exporter", 5.0, 5.0), 0.0, 0.0, samples, None, failures, 0.0)
    assert encode(reading).series == series.count("exporter").fixed


# --- check --online --------------------------------------------------------------------------------------------------


class Script:
    """A source that does as it is told."""

    def __init__(self, samples: Iterable[Sample] = (), failure: Reason | None = None) -> None:
        self._samples, self._failure, self.closed = tuple(samples), failure, False

    async def collect(self) -> Iterable[Sample]:
        if self._failure:
            raise Failed(self._failure, self._samples)
        return self._samples

    async def aclose(self) -> None:
        self.closed = True


def only_api(build: Callable[[Watch], Source]) -> Callable[[Watch], Source]:
    """All other sources see nothing, so that what is counted does not hang on this machine."""
    return lambda watch: build(watch) if watch.source == "api" else Script()


def cells(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in text.partition("\n\n")[0].splitlines()[1:]]


@pytest.mark.parametrize(
    ("version", "canary", "verdict"),
    [
        ("0.33.0", "{}", "able: m0:latest, m1:latest"),
        ("0.30.0-rc1", "{}", "able: m0:latest, m1:latest"),
        ("0.24.0", "{}", "not before 0.30 unless named: m0:latest, m1:latest"),
        ("0.0.0", "{}", "not before 0.30 unless named: m0:latest, m1:latest"),
        ("0.24.0", "{models: {m1: loaded}}", "not before 0.30 unless named: m0:latest; able: m1:latest"),
        ("0.33.0", "{mode: off, models: {m1: loaded}}", "off: m0:latest; able: m1:latest"),
        ("0.33.0", "{models: {m7: always}}", "able: m0:latest, m1:latest, m7:latest"),
        ("0.33.0", "{mode: off}", "off"),
    ],
)
def test_online_tells_whether_the_canary_could_run_and_runs_none(
    write: Callable[[str], str], version: str, canary: str, verdict: str
) -> None:
    config = load(write(f"servers: [{{name: a, url: 'http://a'}}]\ncanary: {canary}"), {})
    built: list[str] = []

    def build(watch: Watch) -> Source:
        built.append(watch.source)
        return only_api(seen_through(answers(2, 2, version)))(watch)

    text = check.online(config, build)
    ((server, state, told_version, took, failure, loaded, told_canary),) = cells(text)
    assert (server, state, told_version, failure, loaded) == ("a", "ok", version, "none", "m0:latest, m1:latest")
    assert re.fullmatch(r"\d+ms", took)
    assert told_canary == verdict
    assert sorted(built) == ["api", "audit", "docker", "gpu", "host", "logs", "native", "runner", "sockets"]


def test_online_tells_reasons_with_advice_and_looks_on() -> None:
    config = load(None, {"OLLAMA_EXPORTER_SERVERS": "a=http://a,b=http://b"})
    script = {
        "a": Script([catalog.STATE(1.0, server="a", state="down")], "forbidden_host"),
        "b": Script(),
        "": Script(),
    }
    text = check.online(config, lambda watch: script[watch.server])
    assert [(row[0], row[1], row[4], row[5], row[6]) for row in cells(text)] == [
        ("a", "down", "forbidden_host", "unknown", "unknown"),
        ("b", "unknown", "none", "unknown", "unknown"),
    ]
    assert text.split("\n\n")[1] == (
        "a: forbidden_host: it refuses this Host, because it is bound to a loopback address; host_header: localhost"
        " helps."
    )
    assert all(source.closed for source in script.values())


def test_online_tells_what_cannot_be_seen_with_the_line_that_enables_it() -> None:
    config = load(None, {"OLLAMA_EXPORTER_SERVERS": "a=http://a,b=http://b"})

    class Blind(Script):
        async def collect(self) -> Iterable[Sample]:
            raise Lacking("its machine is another one", "run an exporter there")

    text = check.online(config, lambda watch: Blind() if watch.source == "api" else Script())
    assert "api of a, b: its machine is another one\n  to enable it: run an exporter there" in text


def test_there_is_advice_for_every_reason() -> None:
    assert set(ADVICE) == set(REASONS)


def test_check_online_tells_why_a_server_is_not_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:1")  # tcpmux: nobody listens there
    text = told(capsys, "--online")
    assert "127.0.0.1:1: refused: nothing listens on this port" in text


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_printed(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("API_KEY", SECRET)
    good = (
        "servers:\n- {url: 'http://127.0.0.1:1', bearer_token_file: token, headers: {X-Api-Key: '${API_KEY}'},"
        " proxy_url: 'http://u:${API_KEY}@127.0.0.1:1'}\n"
    )
    shown = told(capsys, "--config.file", write(good), "--online")
    assert main(["check", "--config.file", write(good + f"x: *{SECRET}")]) == 2
    shown += "".join(capsys.readouterr())
    assert (
        main(["check", "--config.file", write(f"servers: [{{url: 'http://u:{SECRET}@a', password: {SECRET}}}]")]) == 2
    )
    shown += "".join(capsys.readouterr())
    assert "bearer token, headers" in shown
    assert "found undefined alias" in shown
    assert "must hold no user or password" in shown
    assert SECRET not in shown


def test_a_configuration_error_reads_as_its_lines() -> None:
    with pytest.raises(ConfigError, match=re.escape("OLLAMA_HOST: must be a URL")):
        load(None, {"OLLAMA_HOST": "ftp://x"})
