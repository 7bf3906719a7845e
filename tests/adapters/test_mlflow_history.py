"""The champion's movements: each one written down, undone exactly, and by one at a time."""

import json
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limner.adapters import mlflow_history
from limner.adapters.mlflow_history import Champion
from limner.adapters.mlflow_registry import MlflowRegistry
from limner.adapters.mlflow_server import MlflowServer
from limner.errors import LimnerError
from limner.ports import ModelVersion, Movement
from limner.promotion import UNKNOWN
from tests.mlflow_stand import third_party_warnings

pytestmark = third_party_warnings


def create_versions(server: MlflowServer, count: int, name: str = "digits") -> list[ModelVersion]:
    """Versions that nobody has judged; they can be moved all the same."""
    server.client.create_registered_model(name)
    for _ in range(count):
        server.client.create_model_version(name, "s3://nowhere/model")
    return [ModelVersion(name, str(number + 1)) for number in range(count)]


@pytest.fixture
def registry(server: MlflowServer) -> MlflowRegistry:
    return MlflowRegistry(server)


@pytest.fixture
def versions(server: MlflowServer) -> list[ModelVersion]:
    return create_versions(server, 4)


def moves(registry, name: str = "digits") -> list[tuple[str, str, str]]:
    return [(movement.kind, movement.version, movement.before) for movement in registry.history(name)]


def aliases(registry, name: str = "digits") -> dict[str, str]:
    return {alias: version.number for version in registry.versions(name) for alias in version.aliases}


def test_promotion_says_who_when_why_and_what_before(registry, versions, server):
    first = registry.promote(versions[0], instead_of=None, reason="It is the first.")
    second = registry.promote(versions[1], instead_of=versions[0], reason="It is\n  better.")
    assert registry.history("digits") == (first, second)
    assert (second.kind, second.version, second.before, second.why) == ("promotion", "2", "1", "It is better.")
    assert "@" in second.who
    assert second.when.endswith("+00:00")
    tags = server.client.get_model_version("digits", "2").tags
    assert (tags["promotion.previous_version"], tags["promotion.reason"]) == ("1", "It is better.")
    assert (tags["promotion.at"], tags["promotion.by"]) == (second.when, second.who)
    stored = server.client.get_registered_model("digits").tags
    assert sorted(stored) == ["limner.history.0001", "limner.history.0002"]
    assert json.loads(stored["limner.history.0002"])["why"] == "It is better."


def test_who_is_the_pipeline_run_where_it_is_one(server, versions):
    movement = MlflowRegistry(server, "run-7").promote(versions[0], instead_of=None, reason="first")
    assert movement.who == "Kubeflow run run-7"


def test_long_reason_fits_into_every_database(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason='"' * 9000)
    (value,) = server.client.get_registered_model("digits").tags.values()
    assert len(value) <= 5000
    assert registry.history("digits")[0].why.endswith(" ...")


def test_promoting_the_champion_again_moves_nothing_and_adds_no_history(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    tags = server.client.get_model_version("digits", "1").tags
    assert registry.promote(versions[0], instead_of=versions[0], reason="again") is None
    assert registry.promote(versions[0], instead_of=None, reason="again") is None
    assert moves(registry) == [("promotion", "1", "")]
    assert server.client.get_model_version("digits", "1").tags == tags


def test_promotion_is_refused_where_the_champion_has_changed_and_says_who_changed_it(registry, versions):
    registry.promote(versions[0], instead_of=None, reason="first")
    done = registry.promote(versions[1], instead_of=versions[0], reason="It is better.")
    said = rf"champion of digits is version 2, no longer version 1[\s\S]*promotion by {done.who} at "
    with pytest.raises(LimnerError, match=rf"{said}[\s\S]*It is better[\s\S]*try again: limner models status digits"):
        registry.promote(versions[2], instead_of=versions[0], reason="late")
    with pytest.raises(LimnerError, match="version 2, no longer no version"):
        registry.promote(versions[2], instead_of=None, reason="late")
    assert aliases(registry) == {"champion": "2"}
    assert len(moves(registry)) == 2


def test_champion_that_was_moved_there_and_back_meanwhile_is_another_one(registry, versions):
    registry.promote(versions[0], instead_of=None, reason="first")
    seen = registry.history("digits")
    registry.promote(versions[1], instead_of=versions[0], reason="better", seen=seen)
    registry.roll_back("digits", expected="2", reason="Its sevens look like ones.")
    with pytest.raises(
        LimnerError, match=r"moved since this was decided[\s\S]*rollback by [\s\S]*sevens look like ones"
    ):
        registry.promote(versions[1], instead_of=versions[0], reason="better", seen=seen)
    assert aliases(registry) == {"champion": "1"}


# -- rollback ---------------------------------------------------------------------------------------------------------


def test_rollback_undoes_the_last_promotion_that_stands(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    registry.promote(versions[1], instead_of=versions[0], reason="better")
    registry.promote(versions[2], instead_of=versions[1], reason="better still")
    undone = registry.roll_back("digits", expected="3", reason="Its sevens look like ones.")
    assert (undone.kind, undone.version, undone.before) == ("rollback", "2", "3")
    registry.roll_back("digits", expected="2", reason="too")
    assert aliases(registry) == {"champion": "1"}
    registry.promote(versions[3], instead_of=versions[0], reason="new")
    registry.roll_back("digits", expected="4", reason="worse")
    assert aliases(registry) == {"champion": "1"}
    registry.roll_back("digits", expected="1", reason="all of them")
    assert registry.champion("digits") is None
    assert moves(registry)[-1] == ("rollback", "", "1")
    tags = server.client.get_model_version("digits", "3").tags
    assert tags["promotion.reason"] == "better still"  # its record stays
    assert (tags["rollback.to_version"], tags["rollback.reason"]) == ("2", "Its sevens look like ones.")


def test_rollback_without_a_champion_is_refused(registry, versions):
    with pytest.raises(LimnerError, match=r"no longer version 1"):
        registry.roll_back("digits", expected="1", reason="")
    with pytest.raises(LimnerError, match="has no champion: nothing can be rolled back"):
        registry.roll_back("digits", expected="", reason="")


def test_rollback_of_another_champion_than_one_saw_is_refused(registry, versions):
    registry.promote(versions[0], instead_of=None, reason="first")
    registry.promote(versions[1], instead_of=versions[0], reason="better")
    with pytest.raises(LimnerError, match=r"is version 2, no longer version 1[\s\S]*promotion by"):
        registry.roll_back("digits", expected="1", reason="")
    assert aliases(registry) == {"champion": "2"}


def test_rollback_to_a_version_that_was_deleted_moves_nothing(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    registry.promote(versions[1], instead_of=versions[0], reason="better")
    server.client.delete_model_version("digits", "1")
    with pytest.raises(LimnerError, match=r"Version 1 of digits[\s\S]*deleted: nothing has moved[\s\S]*Promote anoth"):
        registry.roll_back("digits", expected="2", reason="")
    assert aliases(registry) == {"champion": "2"}
    assert len(moves(registry)) == 2


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_rollbacks_after_any_promotions_restore_every_champion_there_was(registry, server, wanted):
    name = f"model-{time.monotonic_ns()}"
    versions, before = create_versions(server, 5, name), [registry_champion(registry, name)]
    for index in wanted:
        registry.promote(versions[index], instead_of=registry.champion(name), reason="because")
        if registry_champion(registry, name) != before[-1]:
            before.append(registry_champion(registry, name))
    recorded = registry.history(name)
    while len(before) > 1:
        registry.roll_back(name, expected=before.pop(), reason="undo")
        assert registry_champion(registry, name) == before[-1]
    assert registry.history(name)[: len(recorded)] == recorded  # nothing is ever rewritten
    with pytest.raises(LimnerError, match="no champion"):
        registry.roll_back(name, expected="", reason="undo")


def registry_champion(registry, name: str) -> str:
    champion = registry.champion(name)
    return champion.number if champion else ""


# -- the challenger ---------------------------------------------------------------------------------------------------


def test_challenger_is_the_newest_and_goes_when_it_becomes_the_champion(registry, versions):
    registry.challenge(versions[0])
    registry.challenge(versions[2])
    registry.challenge(versions[1])  # judged again
    assert aliases(registry) == {"challenger": "3"}
    registry.promote(versions[2], instead_of=None, reason="first")
    assert aliases(registry) == {"champion": "3"}
    registry.challenge(versions[1])  # older than the champion
    assert aliases(registry) == {"champion": "3"}
    registry.challenge(versions[3])
    registry.dismiss(versions[1])
    assert aliases(registry) == {"champion": "3", "challenger": "4"}
    registry.dismiss(versions[3])
    assert aliases(registry) == {"champion": "3"}


# -- what others do ---------------------------------------------------------------------------------------------------


def test_movement_by_hand_is_told_and_written_down_before_the_next_one(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    server.client.set_registered_model_alias("digits", "champion", "3")
    by_hand = registry.history("digits")[-1]
    assert (by_hand.version, by_hand.before, by_hand.who) == ("3", "1", UNKNOWN)
    assert len(server.client.get_registered_model("digits").tags) == 1  # who reads does not write
    registry.promote(versions[3], instead_of=versions[2], reason="better")
    assert moves(registry) == [("promotion", "1", ""), ("promotion", "3", "1"), ("promotion", "4", "3")]
    registry.roll_back("digits", expected="4", reason="")
    registry.roll_back("digits", expected="3", reason="")
    assert aliases(registry) == {"champion": "1"}


def test_champion_of_which_nothing_is_recorded_cannot_be_rolled_back(registry, versions, server):
    server.client.set_registered_model_alias("digits", "champion", "3")
    with pytest.raises(LimnerError, match=r"before version 3 is not recorded: nothing has moved"):
        registry.roll_back("digits", expected="3", reason="")
    assert aliases(registry) == {"champion": "3"}


def test_damaged_entry_of_the_history_is_passed_over_and_never_overwritten(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    server.client.set_registered_model_tag("digits", "limner.history.0002", "{")
    registry.promote(versions[1], instead_of=versions[0], reason="better")
    assert moves(registry) == [("promotion", "1", ""), ("promotion", "2", "1")]
    assert server.client.get_registered_model("digits").tags["limner.history.0002"] == "{"


@pytest.mark.parametrize(
    "act",
    [
        lambda registry: registry.versions("digit"),
        lambda registry: registry.history("digit"),
        lambda registry: registry.promote(ModelVersion("digit", "1"), instead_of=None, reason=""),
        lambda registry: registry.promote(ModelVersion("digits", "9"), instead_of=None, reason=""),
        lambda registry: registry.roll_back("digit", expected="1", reason=""),
        lambda registry: registry.challenge(ModelVersion("digit", "1")),
    ],
)
def test_model_or_version_that_does_not_exist_is_told_in_words(registry, versions, act):
    with pytest.raises(LimnerError, match=r"no such model[\s\S]*models status[\s\S]*digits"):
        act(registry)
    assert aliases(registry) == {}


# -- one at a time ----------------------------------------------------------------------------------------------------


def race(uri: str, versions, expected) -> list[Movement | LimnerError]:
    """Promote all versions at once, each with a client of its own."""
    start, outcomes = threading.Barrier(len(versions)), []

    def promote(version):
        registry = MlflowRegistry(MlflowServer(uri))
        registry.names()  # connected
        start.wait()
        try:
            outcomes.append(registry.promote(version, instead_of=expected, reason=f"I am {version.number}."))
        except LimnerError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=promote, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_racing_promotions_one_wins_and_the_others_say_who_did(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    outcomes = race(server.uri, versions[1:], versions[0])
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Movement)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, LimnerError)]
    assert len(lost) == 2
    for error in lost:
        assert (
            error.problem == f"The champion of digits is version {won.version}, no longer version 1: nothing has moved."
        )
        assert f"A promotion by {won.who} at {won.when}: I am {won.version}." in error.why
        assert "try again" in error.fix
    assert aliases(registry) == {"champion": won.version}
    assert registry.history("digits")[1:] == (won,)
    assert registry.names() == ("digits",)
    assert [model.name for model in server.client.search_registered_models()] == ["digits"]


def hold_lock(server, intent: Movement, *, seconds_ago: float = 0) -> None:
    """Leave the lock that a killed process leaves."""
    tags = {"limner.token": "another", "limner.movement": json.dumps(vars(intent))}
    server.client.create_registered_model("digits.promoting", tags=tags)
    with closing(sqlite3.connect(server.uri.removeprefix("sqlite:///"))) as database:
        born = round((time.time() - seconds_ago) * 1000)
        database.execute("UPDATE registered_models SET creation_time=? WHERE name='digits.promoting'", (born,))
        database.commit()


INTENT = Movement("promotion", "2", "1", "ann@studio", "2026-01-02T03:04:05+00:00", "It is better.")


def test_one_that_waits_too_long_says_for_whom(registry, versions, server, monkeypatch):
    monkeypatch.setattr(mlflow_history, "WAIT_SECONDS", 0.3)
    hold_lock(server, INTENT)
    with pytest.raises(
        LimnerError,
        match=r"Somebody else[\s\S]*ann@studio, with a promotion to version 2, since 2026-01-02[\s\S]*delete",
    ):
        registry.promote(versions[0], instead_of=None, reason="first")
    assert aliases(registry) == {}
    assert server.client.get_registered_model("digits.promoting")  # it is not ours
    assert registry.names() == ("digits",)


def test_lock_of_a_killed_process_ends(registry, versions, server):
    hold_lock(server, INTENT, seconds_ago=700)
    registry.promote(versions[0], instead_of=None, reason="first")
    assert moves(registry) == [("promotion", "1", "")]
    assert [model.name for model in server.client.search_registered_models()] == ["digits"]


def test_what_a_killed_process_had_moved_is_written_down_as_its_own(registry, versions, server):
    registry.promote(versions[0], instead_of=None, reason="first")
    hold_lock(server, INTENT, seconds_ago=700)
    server.client.set_registered_model_alias("digits", "champion", "2")  # it came that far
    with pytest.raises(LimnerError, match=r"is version 2, no longer version 1"):
        registry.promote(versions[2], instead_of=versions[0], reason="late")
    registry.promote(versions[2], instead_of=versions[1], reason="better")
    assert registry.history("digits")[1] == INTENT
    assert moves(registry)[2] == ("promotion", "3", "2")
    assert server.client.get_model_version("digits", "2").tags["promotion.by"] == "ann@studio"


def test_of_many_that_find_a_dead_lock_one_wins(registry, versions, server):
    hold_lock(server, INTENT, seconds_ago=700)
    outcomes = race(server.uri, versions, None)
    assert len([outcome for outcome in outcomes if isinstance(outcome, Movement)]) == 1
    assert [model.name for model in server.client.search_registered_models()] == ["digits"]


def test_takeover_that_was_killed_itself_is_left_to_a_person(registry, versions, server, monkeypatch):
    monkeypatch.setattr(mlflow_history, "WAIT_SECONDS", 0.3)
    hold_lock(server, INTENT, seconds_ago=700)
    server.client.create_registered_model("digits.promoting.takeover")
    with pytest.raises(LimnerError, match=r"delete the registered models[\s\S]*digits.promoting.takeover"):
        registry.promote(versions[0], instead_of=None, reason="first")
    assert registry.names() == ("digits",)


def test_one_that_has_become_too_late_does_not_move(registry, versions, monkeypatch):
    monkeypatch.setattr(mlflow_history, "LATE_SECONDS", -1.0)
    with pytest.raises(LimnerError, match=r"too slow[\s\S]*Try again"):
        registry.promote(versions[0], instead_of=None, reason="first")
    assert aliases(registry) == {}
    assert registry.names() == ("digits",)


def test_one_whose_lock_was_taken_does_not_move(registry, versions, server, monkeypatch):
    before = Champion._catch_up

    def sleep_through_a_takeover(champion):
        before(champion)
        server.client.delete_registered_model("digits.promoting")
        hold_lock(server, INTENT)

    monkeypatch.setattr(Champion, "_catch_up", sleep_through_a_takeover)
    with pytest.raises(LimnerError, match="somebody has taken the lock"):
        registry.promote(versions[0], instead_of=None, reason="first")
    assert aliases(registry) == {}
    assert server.client.get_registered_model("digits.promoting").tags["limner.token"] == "another"


# -- a server that fails in the middle --------------------------------------------------------------------------------


def refuse_writes(server: MlflowServer, table: str, condition: str = "1") -> None:
    """The database refuses new rows of a table from now on."""
    with closing(sqlite3.connect(server.uri.removeprefix("sqlite:///"))) as database:
        database.execute(
            f"CREATE TRIGGER broken BEFORE INSERT ON {table} WHEN {condition} "
            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        database.commit()


def repair(server: MlflowServer) -> None:
    with closing(sqlite3.connect(server.uri.removeprefix("sqlite:///"))) as database:
        database.execute("DROP TRIGGER broken")
        database.commit()


def test_server_that_fails_before_the_move_leaves_the_champion_and_no_lock(registry, versions, server):
    refuse_writes(server, "registered_model_aliases")
    with pytest.raises(LimnerError, match=r"cannot be used[\s\S]*disk is full"):
        registry.promote(versions[0], instead_of=None, reason="first")
    assert registry.champion("digits") is None
    assert registry.history("digits") == ()
    assert [model.name for model in server.client.search_registered_models()] == ["digits"]


def test_server_that_fails_after_the_move_is_told_and_caught_up_with(registry, versions, server):
    refuse_writes(server, "registered_model_tags", "NEW.key LIKE 'limner.history%'")
    with pytest.raises(LimnerError, match=r"is version 1 now, but this is not written down[\s\S]*disk is full"):
        registry.promote(versions[0], instead_of=None, reason="first")
    repair(server)
    registry.promote(versions[1], instead_of=versions[0], reason="better")
    assert moves(registry) == [("promotion", "1", ""), ("promotion", "2", "1")]


def test_dead_server_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = MlflowRegistry(MlflowServer("http://127.0.0.1:9"))
    for act in (
        registry.names,
        lambda: registry.versions("digits"),
        lambda: registry.history("digits"),
        lambda: registry.promote(ModelVersion("digits", "1"), instead_of=None, reason=""),
        lambda: registry.roll_back("digits", expected="1", reason=""),
        lambda: registry.challenge(ModelVersion("digits", "1")),
        lambda: registry.fetch("models:/digits@champion", Path(tmp_path)),
    ):
        with pytest.raises(LimnerError, match=r"cannot be used[\s\S]*Look at the server"):
            act()
