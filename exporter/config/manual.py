"""docs/config.md, made from the declarations."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.config.kinds import Row, rows
from exporter.config.sections import CONFIG_FILE, FLAGS, SERVERS, Config, variable

_TOP = f"""\
# Configuration

<!-- Made from the sections in exporter/config/; change it there. -->

Without any configuration the exporter watches `OLLAMA_HOST`, read as Ollama's own client reads it, or
`http://localhost:11434`, and the machine it runs on; it serves `:8082`.

For a fleet, name the servers in the environment:

```sh
{SERVERS}="primary=http://gpu1:11434,secondary=http://gpu2:11434" ollama-exporter
```

or write a file and pass it with `--config.file`; `exporter.example.yml` shows every key. `ollama-exporter check`
reads the configuration as a start would, prints what it comes to, or every mistake in it.

## Precedence

A flag beats its environment variable, which beats the file, which beats the default. `{SERVERS}`
replaces the file's `servers` as a whole: nothing of theirs is used, while `poll`, `canary` and the other sections hold
for the servers it names. An empty variable counts as not set. Whatever is overridden must be right all the same.

A variable that starts with `OLLAMA_EXPORTER_` and is neither in this table nor used by a `${{...}}` in the file is a
mistake, except for those that Kubernetes sets for a Service of this name.

| flag | variable | key in the file | help |
|---|---|---|---|
| `--config.file` | `{CONFIG_FILE}` | | The file (YAML). |
"""

_NOTATION = f"""
`{SERVERS}` takes `name=url` or `url`, separated by commas; a server without a name is called `host:port`.

## Notation

- A **duration** is `15s`, `500ms`, `5m`, `1h30m`, `1d`, or a number of seconds.
- A **path** that is not absolute starts at the folder of the configuration file.
- **Secrets** come from files (`*_file`) or from the environment (`${{VAR}}` in header values and in `proxy_url`;
  replaced nowhere else). They appear neither in logs nor in `check`, nor on `/config`, nor in messages about mistakes.
- An unknown key and a key that is given twice are mistakes. Two servers may not have the same name, nor the same URL
  and `Host`.

## Reload

SIGHUP or `POST /-/reload` reads everything again. If there is a mistake anywhere, all of the old configuration stays in
force. Only the servers whose settings changed are watched anew; the others keep their counters. A secret or certificate
file with new content is a change. `web` and `log` take effect at the next start, `web.tokens` at once; the file of
`web.config_file` and its certificates need no reload.
"""


def config_markdown() -> str:
    return _TOP + "".join(f"{line}\n" for line in _flags()) + _NOTATION + "".join(_sections())


def _flags() -> Iterator[str]:
    helps = {row.path: row.help for _, section in rows(Config) for row in section}
    for flag, (_, name, key) in FLAGS.items():
        yield f"| `--{flag}` | `{variable(flag)}` | `{name}.{key}` | {helps[f'{name}.{key}']} |"
    yield f"| | `{SERVERS}` | `servers` | {helps['servers']} |"


def _sections() -> Iterator[str]:
    for path, section in rows(Config):
        yield f"\n## {f'`{path}`' if path else 'The file'}\n\n| key | takes | default | help |\n|---|---|---|---|\n"
        yield from (_line(row, path) for row in section)


def _line(row: Row, path: str) -> str:
    key = row.path.removeprefix(f"{path}.")
    return f"| `{key}` | {row.kind} | {row.default} | {row.help} |\n"
