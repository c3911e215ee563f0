"""What the operator wants: `load` reads it or tells every mistake, `plan` says what is to be watched.

`sections.py` and its parts (`access`, `members`, `places`, `discovery`, `probes`) declare every setting, `kinds.py`
knows how values are read, `document.py` reads YAML, `loading.py` puts file, environment and flags together,
`planning.py` makes watches, `manual.py` the page docs/config.md.
"""

from exporter.config.discovery import Discovery
from exporter.config.loading import ConfigError, load, with_found
from exporter.config.manual import config_markdown
from exporter.config.members import Server
from exporter.config.planning import endpoint_of, plan, plan_probe, probed, without_canary
from exporter.config.probes import DEFAULT_MODULE, Module
from exporter.config.sections import CONFIG_FILE, FLAGS, SERVERS, Config, variable

__all__ = [
    "CONFIG_FILE", "DEFAULT_MODULE", "FLAGS", "SERVERS", "Config", "ConfigError", "Discovery", "Module", "Server",
    "config_markdown", "endpoint_of", "load", "plan", "plan_probe", "probed", "variable", "with_found",
    "without_canary",
]  # fmt: skip
