"""One look into every place, in words for people: what `check --online` tells of discovery."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from exporter.config import Config, with_found
from exporter.config import Discovery as Entry
from exporter.discovery import Answer, Trouble, admitted, finder, look
from exporter.discovery.targets import Found

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """`fleet`: the configuration with those that were found. `blocks`: a text for each place."""

    fleet: Config
    blocks: tuple[str, ...]


async def report(config: Config) -> Report:
    looks = await asyncio.gather(*(_looked(entry, config) for entry in config.discovery))
    answers = {entry.name: answer for entry, (answer, _) in zip(config.discovery, looks, strict=True)}
    found: list[tuple[str, str, str, str]] = []
    blocks: list[str] = []
    kept = admitted(config.servers, answers, config.limits.servers)
    for entry, (answer, troubles) in zip(config.discovery, looks, strict=True):
        members, left_out = kept[entry.name]
        found += [(one.name, one.url, one.container, entry.name) for one in members]
        blocks.append(_block(entry, answer, members, left_out, troubles))
    return Report(with_found(config, found), tuple(blocks))


async def _looked(entry: Entry, config: Config) -> tuple[Answer, tuple[Trouble, ...]]:
    it = finder(entry, config.docker.address or "")
    try:
        looked = await look(it, entry, config.servers)
        return looked.answer, looked.seen.troubles
    except Trouble as trouble:
        return Answer(), (trouble,)
    finally:
        await it.aclose()


def _block(
    entry: Entry, answer: Answer, members: tuple[Found, ...], left_out: tuple[str, ...], troubles: tuple[Trouble, ...]
) -> str:
    count = f"{len(members)} server{'' if len(members) == 1 else 's'}"
    rest = [f"{number} left out ({reason})" for reason, number in sorted(Counter(left_out).items())]
    rest += [f"{answer.dropped} dropped by its rules"] if answer.dropped else []
    lines = [f"discovery {entry.name} ({entry.kind}): {', '.join([count, *rest])}"]
    lines += [f"  {one.name}  {one.url}" for one in members[:_SHOWN]]
    if len(members) > _SHOWN:
        lines.append(f"  and {len(members) - _SHOWN} more")
    if _has_credentials(entry) and any(one.url.startswith("http:") for one in members):
        lines.append("  credentials go UNENCRYPTED to those with http://")
    lines += [f"  failed ({trouble.reason}): {trouble.what}" for trouble in troubles]
    return "\n".join(lines)


def _has_credentials(entry: Entry) -> bool:
    return any((entry.server.bearer_token_file, entry.server.basic_auth, entry.server.headers))
