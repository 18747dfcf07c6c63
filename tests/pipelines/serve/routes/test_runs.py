"""Several runs under names: which answers, what each lets in, who may change them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.api_keys import Keys, hashed
from pipelines.serve.app import make_app
from pipelines.serve.runs.served import ONLY
from tests.pipelines.serve.fake import LIMITS, Fake, OneRun

ADMIN, PLAIN = "an administrator's key", "an ordinary client's key"


@pytest.fixture
def client() -> TestClient:
    app = make_app(LIMITS, OneRun(Fake()), Keys(admins=[hashed(ADMIN)]))
    return TestClient(app, headers={"X-API-Key": ADMIN})


def test_a_second_run_answers_under_its_name_by_its_own_limits(client: TestClient) -> None:
    assert client.post("/v1/runs/two", json={"run_dir": "runs/two"}).json()["name"] == "two"
    names = [run["name"] for run in client.get("/v1/runs").json()["runs"]]
    assert names == [ONLY, "two"]
    for run, avatars, longest in (("", True, 20), (ONLY, True, 20), ("two", False, 10)):
        asked = {"run": run} if run else {}
        assert client.get("/v1", params=asked).json()["avatars"] == avatars
        assert (client.get("/v1/avatars/3", params=asked).status_code == 200) == avatars
        for length, status in ((longest, 200), (longest + 1, 422)):
            body = {"concept": "x" * length}
            assert client.post("/v1/adapters", params=asked, json=body).status_code == status
    fields = {"concept": "a", "editor": "avatar"}
    started = client.post("/v1/finetunes", params={"run": "two"}, data=fields)
    assert started.headers["location"].endswith("?run=two")
    assert client.delete("/v1/runs/two").status_code == 200
    for path in ("/v1", "/v1/concepts", "/readyz"):
        assert client.get(path, params={"run": "two"}).status_code == 404


def test_what_cannot_be_served_or_removed_leaves_all_as_it_was(client: TestClient) -> None:
    before = client.get("/v1/runs").json()
    for method, name, body, status in (
        ("POST", "two", {"run_dir": "runs/bad"}, 409),
        ("POST", "two", None, 404),  # there is none that could be loaded again
        ("POST", "Two", {"run_dir": "runs/two"}, 422),
        ("POST", "a" * 41, {"run_dir": "runs/two"}, 422),
        ("POST", "two", {"run_dir": "runs/two", "more": 1}, 422),
        ("DELETE", ONLY, None, 409),
        ("DELETE", "two", None, 404),
    ):
        reply = client.request(method, f"/v1/runs/{name}", json=body)
        assert reply.status_code == status, (method, name, reply.text)
        assert reply.json()["detail"]
    assert client.get("/v1/runs").json() == before
    assert client.post(f"/v1/runs/{ONLY}").status_code == 200  # the same, as it is now
    assert client.get("/v1/runs").json() != before


def test_only_an_administrator_changes_runs_and_sees_where_they_lie(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{PLAIN}\nadmin:{ADMIN} # rotated yearly\n")
    everybody = Keys(admins=[hashed(ADMIN)])
    for keys, anonymous in ((Keys(file=str(file)), 401), (everybody, 200)):
        client = TestClient(make_app(LIMITS, OneRun(Fake()), keys))
        for key, status, changed in (
            ("", anonymous, 401),
            (PLAIN, 200, 403 if anonymous == 401 else 401),
            (ADMIN, 200, 200),
        ):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            seen = client.get("/v1/runs", headers=headers)
            assert seen.status_code == status
            assert ("run_dir" in seen.text) == (key == ADMIN)
            for method, path in (("POST", f"/v1/runs/{ONLY}"), ("DELETE", "/v1/runs/none")):
                reply = client.request(method, path, headers=headers)
                assert reply.status_code == (404 if changed == 200 and "none" in path else changed)
    below = TestClient(make_app(LIMITS, OneRun(Fake()), everybody), root_path="/api")
    for key, status in (("", 401), (PLAIN, 401), (ADMIN, 200)):  # mounted under a prefix, too
        headers = {"X-API-Key": key} if key else {}
        assert below.post(f"/api/v1/runs/{ONLY}", headers=headers).status_code == status
    nobody = TestClient(make_app(LIMITS, OneRun(Fake()), Keys([hashed(PLAIN)])))
    refused = nobody.post(f"/v1/runs/{ONLY}", headers={"X-API-Key": PLAIN})
    assert refused.status_code == 403 and "DENOISED_WEIGHTS_ADMIN_KEYS" in refused.text
