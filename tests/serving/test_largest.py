"""A worker at the largest sizes that service.yaml accepts."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from lastgood.service import schema
from tests.serving.conftest import Home, wait_ready
from tests.serving.test_app import Odd, odd


def largest(name: str) -> int:
    """The largest value that `serving.NAME` may have."""
    (limit,) = (one.le for one in schema.Serving.model_fields[name].metadata if hasattr(one, "le"))
    return int(limit)


@pytest.mark.timeout(240)
def test_the_largest_request_is_answered_and_the_worker_stays_healthy(home: Home) -> None:
    """The most rows, in the largest body, get their answers; one row or byte more is refused by number; the worker goes on."""
    sizes = {name: largest(name) for name in ("max_batch", "max_body_bytes", "user_requests")}
    with TestClient(odd(home, Odd(), serving=sizes), raise_server_exceptions=False) as client:
        wait_ready(client)
        rows = [{"do": "answer"}] * sizes["max_batch"]
        body = json.dumps({"rows": rows}).encode()
        assert len(body) < sizes["max_body_bytes"], "so many rows fit"
        whole = client.post("/predict", content=body + b" " * (sizes["max_body_bytes"] - len(body)))
        assert whole.status_code == 200
        assert len(whole.json()["predictions"]) == sizes["max_batch"]
        assert client.post("/predict", content=body + b" " * (sizes["max_body_bytes"] - len(body) + 1)).status_code == 413
        assert client.post("/predict", json={"rows": [*rows, rows[0]]}).status_code == 422
        outcomes = {"rows": [{"request_id": f"r{number}", "label": 1.0} for number in range(sizes["max_batch"])]}
        assert client.post("/feedback", json=outcomes, headers={"x-user-id": "one"}).status_code == 202, (
            "one user's largest batch is no flood"
        )
        assert client.get("/healthz").status_code == 200
        about = client.get("/readyz").json()
        assert about["in_flight"] == 0
        assert about["warm_up_s"] >= 0
