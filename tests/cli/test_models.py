"""A product owner's view of the registry: look, promote, roll back, read the history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from limner.adapters import find_server
from limner.cli import models
from limner.ports import ModelVersion
from tests.cli.conftest import Said
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings

program = typer.Typer(pretty_exceptions_enable=False)
program.add_typer(models.app, name="models")


@pytest.fixture
def ask(say: Callable[..., Said]) -> Callable[..., Said]:
    """`ask("status")` runs `limner models status`."""
    return lambda *words: say("models", *words, program=program)


@pytest.fixture
def uri(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = database(tmp_path, tmp_path_factory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def digits(uri: str) -> str:
    """Three versions of `digits`: at 4, which is the champion, at 3, and at 5, which is the challenger."""
    from limner.adapters.mlflow_registry import MlflowRegistry
    from limner.adapters.mlflow_versions import figure_tags

    server = find_server(uri)
    server.client.create_registered_model("digits")
    for value in (4.0, 3.0, 5.0):
        judged = ModelVersion("digits", "", metrics={"fd_classifier": value, "fd_classifier_se": 0.1})
        tags = {**figure_tags(judged), "limner.costs": '{"latency_ms": 12.5}'}
        server.client.create_model_version("digits", "/somewhere", tags=tags)
    registry = MlflowRegistry(server)
    registry.promote(ModelVersion("digits", "1"), instead_of=None, reason="It is the first.")
    registry.challenge(ModelVersion("digits", "3"))
    return "digits"


def champion(ask: Callable[..., Said]) -> str:
    (state,) = ask("status", "digits", "--json").document
    return next((v["number"] for v in state["versions"] if "champion" in v["aliases"]), "")


def test_status_shows_all_models_and_the_versions_of_one(ask, digits) -> None:
    said = ask("status")
    assert said.status == 0
    for word in ("digits", "champion", "challenger", "It is the first."):
        assert word in " ".join(said.out.split())
    said = ask("status", "digits")
    for word in ("champion", "challenger", "latency_ms 12.5", "fd_classifier 4.00 ± 0.10", "Last change: promotion"):
        assert word in said.out


def test_status_as_json_has_everything(ask, digits) -> None:
    (state,) = ask("status", "--json").document
    assert state["name"] == "digits"
    assert [(v["number"], v["aliases"]) for v in state["versions"]] == [
        ("3", ["challenger"]),
        ("2", []),
        ("1", ["champion"]),
    ]
    assert state["versions"][0]["costs"] == {"latency_ms": 12.5}
    assert state["last_movement"]["why"] == "It is the first."


def test_status_of_an_empty_registry_says_what_to_do(ask, uri) -> None:
    assert "limner promote MODEL" in ask("status").out
    assert ask("status", "--json").document == []


def test_a_better_version_is_promoted_and_the_history_says_so(ask, digits) -> None:
    said = ask("promote", "digits", "2", "--reason", "The grids are better.")
    assert said.status == 0
    assert "The champion of digits is version 2; before: version 1." in said.out
    assert champion(ask) == "2"
    said = ask("history", "digits")
    for word in ("promotion", "1 → 2", "The grids are better.", "none → 1", "It is the first."):
        assert word in " ".join(said.out.split())
    assert [entry["version"] for entry in ask("history", "digits", "--json").document] == ["1", "2"]


@pytest.mark.parametrize(
    "words", [("promote", "digits", "2"), ("rollback", "digits"), ("promote", "digits", "@champion")]
)
def test_a_dry_run_says_what_would_happen_and_changes_nothing(ask, digits, uri, words) -> None:
    before = vars(find_server(uri).client.get_registered_model("digits"))
    said = ask(*words, "--dry-run")
    assert said.status == 0
    assert "would be" in said.out or "Nothing has to move" in said.out
    document = ask(*words, "--dry-run", "--json").document
    assert (document["movement"], document["dry_run"]) == (None, True)
    assert vars(find_server(uri).client.get_registered_model("digits")) == before


def test_a_worse_challenger_is_refused_unless_it_is_forced_with_a_reason(ask, digits) -> None:
    said = ask("promote", "digits")
    assert said.status == 2
    assert "Version 3 of digits is not promoted; the policy says hold." in said.err
    assert "does not beat the champion" in said.err
    assert "--force --reason" in said.err
    said = ask("promote", "digits", "--force")
    assert said.status == 2
    assert "needs a reason" in said.err
    assert champion(ask) == "1"
    document = ask("promote", "digits", "--force", "--reason", "The other one leaks.", "--json").document
    assert (document["version"], document["before"], document["verdict"]) == ("3", "1", "hold")
    assert document["movement"]["why"] == "The other one leaks. (The policy: hold.)"
    assert champion(ask) == "3"
    assert "challenger" not in ask("status", "digits").out


def test_the_policy_is_that_of_the_model_which_is_registered_under_the_name(ask, digits, tiny_params, tmp_path) -> None:
    params = tmp_path / "params.yaml"
    params.write_bytes(tiny_params.read_bytes())
    policy = "models.tiny-gan.promote"
    words = ("promote", "digits", "2", "--dry-run", "--params", params, "--set", f"{policy}.registered_name=digits")
    assert ask(*words).status == 0
    said = ask(*words, "--set", f"{policy}.budgets={{latency_ms: 10}}")
    assert said.status == 2
    assert "latency_ms is 12.5; promote.budgets allows 10." in said.err


def test_rollback_goes_back_one_promotion_each_time(ask, digits) -> None:
    ask("promote", "digits", "2")
    said = ask("rollback", "digits", "--reason", "Its sevens look like ones.")
    assert "The champion of digits is version 1; before: version 2." in said.out
    assert champion(ask) == "1"
    assert "The champion of digits is none; before: version 1." in ask("rollback", "digits").out
    said = ask("rollback", "digits")
    assert said.status == 2
    assert "digits has no champion: nothing can be rolled back." in said.err
    kinds = [(entry["kind"], entry["version"]) for entry in ask("history", "digits", "--json").document]
    assert kinds == [("promotion", "1"), ("promotion", "2"), ("rollback", "1"), ("rollback", "")]
    said = ask("promote", "digits", "2")
    assert said.status == 2
    assert "Version 2 was rolled back by" in said.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("status", "digit"), "no such model"),
        (("history", "digit"), "no such model"),
        (("rollback", "digit"), "no such model"),
        (("promote", "digit"), "no such model"),
        (("promote", "digits", "9"), "digits has no version 9."),
        (("promote", "digits", "@best"), "digits has no version @best."),
    ],
)
def test_what_does_not_exist_is_told_with_what_does(ask, digits, words, problem) -> None:
    said = ask(*words)
    assert said.status == 2
    assert problem in said.err
    assert "limner models status" in said.err
    assert champion(ask) == "1"


def test_a_rollback_to_a_deleted_version_moves_nothing(ask, digits, uri) -> None:
    ask("promote", "digits", "2")
    find_server(uri).client.delete_model_version("digits", "1")
    for words in (("rollback", "digits"), ("rollback", "digits", "--dry-run")):
        said = ask(*words)
        assert said.status == 2
        assert "Version 1 of digits, the champion before, has been deleted: nothing has moved." in said.err
    assert champion(ask) == "2"
