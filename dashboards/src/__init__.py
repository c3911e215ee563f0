"""The dashboards' sources: one file per board, `panels` for what they are made of, `names` for what they ask.

`python -m dashboards.src` writes dashboards/*.json.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # The SDK would rather have the V2 model, which no Grafana provisions from files. Later imports find this one.
    warnings.simplefilter("ignore", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.models.dashboard
    import grafana_foundation_sdk.models.dashboardv2beta1  # noqa: F401
