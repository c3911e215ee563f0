"""docs/incidents.md: what was seen, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.incidents.table import Incident
from tests.incidents.verdict import Told

HEAD = """\
# Incidents

Every alert of `alerts/alerting.rules.yml` with the incidents in which it was seen to fire. An incident happens to
[simulated servers](../exporter/simulator); the real exporter looks at them; its page is scraped into samples; promtool
evaluates the real rules over them, all at their true durations, in virtual time. `tests/test_incidents.py` plays them
and fails if another alert fires than those that are listed, or at another time. Inhibition is Alertmanager's business:
causes stand here beside their symptoms.

What is seen from inside of a server's machine is seen by the real sources, too: connections, runners and settings of
the simulated machine, and logs that the simulated servers write into files. A Docker Engine and NVIDIA's driver are not
simulated: in the stories that say so, their answers are played, to the real `docker` and `pynvml` packages.

Made by `pytest tests/test_incidents.py --update-golden`; change `tests/incidents/table.py`.

*Fired after* counts from the beginning of the incident, *silent after* from its end; a negative number is an alert that
fell silent while the incident went on. *On and off*: not all the time between.

## Alerts

"""
_COLUMNS = "| alert | severity | incident | fired after | silent after |\n|---|---|---|---|---|\n"


def page(incidents: Sequence[Incident], seen: Mapping[str, Sequence[Told]], watchdog: str) -> str:
    rows = sorted(row for incident in incidents for row in _rows(incident, seen[incident.name]))
    return "".join((HEAD, _COLUMNS, *rows, "\n", watchdog, "\n## Stories\n", *_stories(incidents, seen)))


def _rows(incident: Incident, seen: Sequence[Told]) -> Iterator[str]:
    for told in seen:
        severity, alert, *about = told.key.split()
        after = minutes(incident.fired_after(told))
        name = " ".join([f"`{alert}`", *(part for part in about if part in _WINDOWS)])
        yield f"| {name} | {severity} | [{incident.name}](#{incident.name}) | {after} | {_silence(incident, told)} |\n"


_WINDOWS = ("1h", "6h", "1d", "3d")


def _silence(incident: Incident, told: Told) -> str:
    silent = incident.silent_after(told)
    return ("it stays" if silent is None else minutes(silent)) + ("" if told.steady else ", on and off")


def minutes(seconds: float) -> str:
    sign, whole = "-" if seconds < 0 else "", abs(round(seconds))
    hours, rest = divmod(whole, 3600)
    clock = f"{hours}h " if hours else ""
    return f"{sign}{clock}{rest // 60}m" + (f" {rest % 60}s" if rest % 60 else "")


def _stories(incidents: Sequence[Incident], seen: Mapping[str, Sequence[Told]]) -> Iterator[str]:
    for incident in incidents:
        yield f"\n### {incident.name}\n\n{incident.told}\n\n"
        for told in seen[incident.name]:
            severity, alert, *about = told.key.split()
            yield f"- {' '.join((severity, f'`{alert}`', *about))}: {told.said or '(not heard)'}\n"
