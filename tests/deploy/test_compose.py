"""deploy/compose.yaml, offline: against the Compose specification and against deploy/.env.example."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from tests.deploy.manifests import Json, documents, schema_faults
from tests.mlflow_stand import third_party_warnings

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@pytest.fixture
def compose() -> Json:
    (document,) = documents(DEPLOY / "compose.yaml")
    return document


def example() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_it_is_a_compose_file(compose: Json) -> None:
    assert schema_faults(compose, "compose") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [({"restart_policy": "always"}, "restart_policy"), ({"cap_drop": "ALL"}, "cap_drop"), ({"ports": [None]}, "ports")],
)
def test_a_planted_fault_is_found(compose: Json, change: Json, said: str) -> None:
    broken = copy.deepcopy(compose)
    broken["services"]["s3"].update(change)
    assert [fault for fault in schema_faults(broken, "compose") if said in fault]


def test_every_service_comes_back_and_says_how_it_is(compose: Json) -> None:
    for service in compose["services"].values():
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert all(mount.partition(":")[0] in compose["volumes"] for mount in service.get("volumes", ()))
        assert all(each["condition"] == "service_healthy" for each in service.get("depends_on", {}).values())
        image = VARIABLE.sub(lambda found: found[3], service["image"])
        assert image.rpartition(":")[2] not in ("", "latest")
        assert ":" in image


def test_nothing_is_open_to_the_network_unless_somebody_says_so(compose: Json) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in ports)


def test_the_example_has_the_variables_that_are_asked_for_and_no_secret() -> None:
    asked = VARIABLE.findall((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert example().keys() == {name for name, _, _ in asked}
    must = {name for name, kind, _ in asked if kind == "?"}
    assert must == {"S3_ACCESS_KEY", "S3_SECRET_KEY", "POSTGRES_PASSWORD", "HOST"}
    assert not [name for name in must if example()[name]], "what is secret, or differs everywhere, is not filled in"


@third_party_warnings
def test_mlflow_is_asked_by_the_name_of_the_machine(compose: Json) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    text = compose["services"]["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    allowed = VARIABLE.sub("team.example.org", text).split(",")
    for host in ("team.example.org:5000", "localhost:5000", "mlflow:5000"):
        assert is_allowed_host_header(allowed, host)
    assert not is_allowed_host_header(allowed, "evil.example.org:5000")


def test_all_have_the_same_bucket_and_the_same_database(compose: Json) -> None:
    services = compose["services"]
    assert "-bucket=limner" in services["s3"]["command"]
    assert "--artifacts-destination=s3://limner/mlflow" in services["mlflow"]["command"]
    user, database = (services["postgresql"]["environment"][key] for key in ("POSTGRES_USER", "POSTGRES_DB"))
    assert f"--backend-store-uri=postgresql://{user}@postgresql:5432/{database}" in services["mlflow"]["command"]


def test_the_object_store_does_not_report_home(compose: Json) -> None:
    words = compose["services"]["s3"]["command"]
    assert {"-master.telemetry=false", "-admin.ui=false", "-webdav=false"} <= set(words)
