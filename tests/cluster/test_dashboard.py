"""The Grafana dashboard: Prometheus understands its queries, and what they ask for is exported."""

from __future__ import annotations

import re

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from cluster.dashboard import FILE, dashboard, text
from pipelines.runtime.stage_metrics import GAUGES, PREFIX
from pipelines.serve.middleware import Counts

PANELS = dashboard()["panels"]
QUERIES = [t["expr"] for p in PANELS for t in p.get("targets", [])]


def test_the_file_is_its_output() -> None:
    assert FILE.read_text() == text(), "write it by `python -m cluster.dashboard`"


def test_the_queries_are_promql() -> None:
    assert len(QUERIES) > 8
    for query in QUERIES:
        promql_parser.parse(query)


def test_what_is_asked_for_is_exported() -> None:
    counts = Counts("a")
    counts.requests.labels("/v1", "GET", "200", "a").inc()
    counts.seconds.labels("/v1", "a").observe(0.1)
    counts.ongoing.labels("a").inc()
    found = {
        s.name: s.labels
        for f in text_string_to_metric_families(counts.text().decode())
        for s in f.samples
    }
    found |= {f"ray_{PREFIX}{name}": {"stage": "", "unit": ""} for name in GAUGES}
    asked = {n for q in QUERIES for n in re.findall(r"(?:ray_)?denoised_weights_\w+", q)}
    assert asked and asked <= set(found)
    # and has the labels that it is summed by
    for query in QUERIES:
        names = re.findall(r"(?:ray_)?denoised_weights_\w+", query)
        for labels in re.findall(r"by \(([\w, ]+)\)", query):
            assert set(labels.split(", ")) <= set(found[names[0]])


def test_panels_stand_beside_one_another() -> None:
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells
    assert len({p["id"] for p in PANELS}) == len(PANELS)
