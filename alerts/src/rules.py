"""All rules, in the order in which they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator

import alerting
import inside
import recording


def recorded() -> list[recording.Group]:
    return [*inside.recorded(), *recording.groups()]


def alerts() -> Iterator[alerting.Alert]:
    for _, members in groups_of_alerts():
        yield from members


def groups_of_alerts() -> tuple[tuple[str, tuple[alerting.Alert, ...]], ...]:
    return (*alerting.groups(), *inside.alerting())
