"""The command line: arguments and exit codes, nothing else. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exporter import __version__

if TYPE_CHECKING:
    from exporter.config import Config

COMMANDS = {
    "run": "watch the servers and serve /metrics (the default)",
    "check": "tell what the configuration comes to, or every mistake in it",
    "demo": "run against a simulated fleet; needs no Ollama",
    "metrics": "list every metric",
    "load": "offer a load to servers and judge it; see load --help",
}
_FLAGS = {
    "config.file": ("FILE", "configuration file (YAML)"),
    "web.listen-address": ("ADDRESS", "where to serve /metrics, such as :8082"),
    "web.config.file": ("FILE", "TLS, users, headers and rate, in the format of Prometheus' exporters"),
    "log.level": ("LEVEL", "debug, info, warning or error"),
    "log.format": ("FORMAT", "text or json"),
}
_ONLY = {"online": {"check"}, "format": {"metrics"}, "seed": {"demo"}, "config.file": {"run", "check"}}
"""Flags that mean nothing to the other commands, where they are refused."""


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["load"]:  # has flags of its own
        from exporter.loadtest import cli

        return cli.main(argv[1:])
    parser = _parser()
    given = vars(parser.parse_args(argv))
    if given["command"] == "load":
        parser.error("load comes first: ollama-exporter load ...")
    command = given.pop("command") or "run"
    for flag, commands in _ONLY.items():
        if given[flag] is not None and given[flag] is not False and command not in commands:
            parser.error(f"--{flag} means nothing to {command}")
    try:
        code = _COMMANDS[command](given)
        sys.stdout.flush()
    except BrokenPipeError:  # `ollama-exporter metrics | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<9}{help}" for name, help in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="ollama-exporter",
        description=f"Prometheus exporter for fleets of Ollama servers.\n\ncommands:\n{commands}",
        epilog="Every flag of the configuration has a variable: --log.level is OLLAMA_EXPORTER_LOG_LEVEL. Without any,"
        "\nOLLAMA_HOST or http://localhost:11434 is watched. Exit codes: 0 well; 1 failed; 2 mistakes in configuration"
        "\nor arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="command", help=", ".join(COMMANDS))
    for flag, (value, help) in _FLAGS.items():
        parser.add_argument(f"--{flag}", dest=flag, metavar=value, help=help)
    parser.add_argument("--online", action="store_true", help="check: look at every server once, generating nothing")
    parser.add_argument("--format", choices=("text", "markdown"), help="metrics: how to list them")
    parser.add_argument("--seed", type=int, help="demo: what happens is the same for the same number")
    parser.add_argument("--version", action="version", version=f"ollama-exporter {__version__}")
    return parser


def _run(given: dict[str, Any]) -> int:
    from exporter import app
    from exporter.config import ConfigError

    try:
        return app.run(lambda: _load(given))
    except ConfigError as error:
        return _mistaken(error.mistakes)


def _check(given: dict[str, Any]) -> int:
    from exporter.config import ConfigError

    try:
        config = _load(given)
    except ConfigError as error:
        return _mistaken(error.mistakes)
    from exporter import check

    print(check.plan_text(config, check.look_here(config)), end="")
    if not given["online"]:
        return 0
    print(f"\n{check.online(config)}", end="")
    return 0


def _demo(given: dict[str, Any]) -> int:
    from exporter import app
    from exporter.config import SERVERS, ConfigError

    # The fleet is simulated: what is said of a real one does not matter.
    ours = ("OLLAMA_EXPORTER_WEB_", "OLLAMA_EXPORTER_LOG_")
    env = {name: value for name, value in os.environ.items() if name.startswith(ours)}
    try:
        return app.demo(lambda servers: _load(given, env | {SERVERS: servers}), given["seed"])
    except ConfigError as error:
        return _mistaken(error.mistakes)


def _metrics(given: dict[str, Any]) -> int:
    from exporter import check

    print(check.catalogue_markdown() if given["format"] == "markdown" else check.catalogue_text(), end="")
    return 0


_COMMANDS = {"run": _run, "check": _check, "demo": _demo, "metrics": _metrics}


def _load(given: dict[str, Any], env: Mapping[str, str] = os.environ) -> Config:
    from exporter import webconfig
    from exporter.config import FLAGS, load

    flags = {flag: given[flag] for flag in FLAGS if given[flag] is not None}
    config = load(given["config.file"], env, flags)
    if config.web.config_file is not None:
        webconfig.load(config.web.config_file)  # a mistake in it is one of the configuration
    return config


def _mistaken(mistakes: Sequence[str]) -> int:
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
