"""The Grafana dashboard of stages and service: `python -m cluster.dashboard` writes grafana.json.

Its data source is a Prometheus that scrapes Ray's nodes (the stages, `ray_…`) and the service's
/metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana.json"
STAGE = "ray_denoised_weights_stage_"
SERVICE = "denoised_weights_request"
REFUSED = '{status=~"429|503|500"}'
# a stage is counted by its driver, and its training by a worker, which knows more
PANELS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "Stages": [
        (
            "Done",
            "percentunit",
            {"{{stage}}": f"max by (stage) ({STAGE}done / clamp_min({STAGE}total, 1))"},
        ),
        ("Units a second", "short", {"{{stage}}, {{unit}}": f"max by (stage, unit) ({STAGE}rate)"}),
        (
            "Time left",
            "s",
            {
                "{{stage}}": f"max by (stage) (({STAGE}total - {STAGE}done)"
                f" / clamp_min({STAGE}rate, 0.000001) and {STAGE}rate > 0)"
            },
        ),
        ("Bad units", "short", {"{{stage}}": f"max by (stage) ({STAGE}bad)"}),
        ("Hours run", "h", {"{{stage}}": f"max by (stage) ({STAGE}seconds) / 3600"}),
        ("Times begun", "short", {"{{stage}}": f"max by (stage) ({STAGE}attempts)"}),
    ],
    "Service": [
        (
            "Requests a second",
            "reqps",
            {"{{route}} {{status}}": f"sum by (route, status) (rate({SERVICE}s_total[1m]))"},
        ),
        (
            "Seconds, median and 99th percentile",
            "s",
            {
                f"{{{{route}}}} p{round(100 * q)}": f"histogram_quantile({q},"
                f" sum by (le, route) (rate({SERVICE}_seconds_bucket[5m])))"
                for q in (0.5, 0.99)
            },
        ),
        ("Requests at work", "short", {"{{copy}}": f"sum by (copy) ({SERVICE}s_ongoing)"}),
        (
            "Turned away (429, 503) and failed (500)",
            "percentunit",
            {
                "{{status}}": f"sum by (status) (rate({SERVICE}s_total{REFUSED}[5m]))"
                f" / scalar(clamp_min(sum(rate({SERVICE}s_total[5m])), 0.000001))"
            },
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """As Grafana imports it (schema 39), three panels in a row."""
    source = {"type": "prometheus", "uid": "${source}"}
    panels: list[dict[str, Any]] = []
    top = 0
    for row, of_row in PANELS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            }
        )
        top += 1
        for i, (title, unit, queries) in enumerate(of_row):
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "timeseries",
                    "title": title,
                    "datasource": source,
                    "gridPos": {"x": 8 * (i % 3), "y": top + 8 * (i // 3), "w": 8, "h": 8},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
                    "targets": [
                        {"refId": chr(65 + n), "expr": query, "legendFormat": legend}
                        for n, (legend, query) in enumerate(queries.items())
                    ],
                }
            )
        top += 8 * -(-len(of_row) // 3)
    variable = {
        "name": "source",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
    }
    return {
        "uid": "denoised-weights",
        "title": "denoised-weights",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": panels,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(FILE)
