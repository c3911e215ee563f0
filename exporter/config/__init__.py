"""What the operator wants: `load` reads it or tells every mistake, `plan` says what is to be watched.

`sections.py` declares every setting, `kinds.py` knows how values are read, `document.py` reads YAML, `loading.py` puts
file, environment and flags together, `planning.py` makes watches, `manual.py` the page docs/config.md.
"""

from exporter.config.loading import ConfigError, load, with_found
from exporter.config.manual import config_markdown
from exporter.config.planning import endpoint_of, plan
from exporter.config.sections import CONFIG_FILE, FLAGS, SERVERS, Config, Discover, Server, variable

__all__ = [
    "CONFIG_FILE", "FLAGS", "SERVERS", "Config", "ConfigError", "Discover", "Server", "config_markdown", "endpoint_of",
    "load", "plan", "variable", "with_found",
]  # fmt: skip
