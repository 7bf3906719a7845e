"""The gate decides as promote would, and touches nothing."""

import json

import pytest

from limner.adapters import connect, find_server
from limner.errors import LimnerError
from limner.ports import ModelVersion
from limner.steps.gate import gate
from tests.mlflow_stand import database, third_party_warnings, write_export
from tests.steps.test_promote import PROTOCOL, evaluation

pytestmark = third_party_warnings


@pytest.fixture
def uri(tmp_path, tmp_path_factory) -> str:
    return database(tmp_path, tmp_path_factory)


@pytest.fixture
def champion(uri, tmp_path):
    """Version 1 of `toy` is the champion at 4.0."""
    registry = connect(tracking_uri=uri).registry
    candidate = ModelVersion("toy", "", (), {"fd_classifier": 4.0}, PROTOCOL, "0" * 64)
    version = registry.register(candidate, write_export(tmp_path / "champion", digest="0" * 64), run_id="")
    registry.promote(version, instead_of=None, reason="It is the first.")


def decide(catalog, uri, folder, **policy):
    settings = catalog.model("toy")
    changed = settings.model_copy(update={"promote": settings.promote.model_copy(update=policy)})
    return gate(changed, name="toy", evaluation=folder, ports=connect(tracking_uri=uri))


@pytest.mark.parametrize(("value", "verdict"), [(3.0, "promote"), (5.0, "hold")])
def test_a_model_is_judged_against_the_champion(catalog, uri, champion, tmp_path, value, verdict):
    found = decide(catalog, uri, evaluation(tmp_path / "evaluation", fd_classifier=value))
    assert found.verdict == verdict
    assert "champion version 1 has 4" in found.reasons[0]
    assert len(find_server(uri).client.search_model_versions()) == 1, "nothing was registered"


def test_a_model_beyond_a_limit_is_rejected_whatever_the_champion(catalog, uri, champion, tmp_path):
    folder = evaluation(tmp_path / "evaluation", fd_classifier=1.0)
    assert decide(catalog, uri, folder, at_most={"fd_classifier": 0.5}).verdict == "reject"


def test_budgets_are_for_the_export_which_is_not_there_yet(catalog, uri, champion, tmp_path):
    folder = evaluation(tmp_path / "evaluation", fd_classifier=3.0)
    assert decide(catalog, uri, folder, budgets={"latency_ms": 1.0}).verdict == "promote"


def test_the_champion_itself_is_promoted_again(catalog, uri, champion, tmp_path):
    found = decide(catalog, uri, evaluation(tmp_path / "evaluation", digest="0" * 64, fd_classifier=4.0))
    assert found.verdict == "promote"
    assert "the champion already" in found.reasons[0]


def test_the_policy_may_name_the_registered_model(catalog, uri, champion, tmp_path):
    folder = evaluation(tmp_path / "evaluation", fd_classifier=5.0)
    assert decide(catalog, uri, folder, registered_name="other").verdict == "promote"


def test_what_is_no_evaluation_is_refused(catalog, uri, tmp_path):
    folder = evaluation(tmp_path / "evaluation")
    (folder / "metrics.json").write_text(json.dumps([]))
    with pytest.raises(LimnerError, match="is not an evaluation"):
        decide(catalog, uri, folder)
