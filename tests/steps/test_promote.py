"""What becomes the champion, and what is written about it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from limner.adapters import connect, find_server
from limner.errors import LimnerError
from limner.lineage import read_lineage, write_lineage
from limner.steps.promote import promote
from tests.mlflow_stand import database, third_party_warnings, write_export

pytestmark = third_party_warnings
PROTOCOL = {"features": "classifier", "weights": "ab", "reference": "cd", "samples": "2000", "resize": "none"}


@pytest.fixture
def uri(tmp_path, tmp_path_factory, monkeypatch) -> str:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return database(tmp_path, tmp_path_factory)


@pytest.fixture
def tracked_ports(uri):
    return connect(tracking_uri=uri)


@pytest.fixture
def run_id(tracked_ports) -> str:
    with tracked_ports.tracker.run("toy") as run:
        run.metrics({"loss/generator": 1.0}, images_seen=320)
    return run.id


@pytest.fixture
def settings(catalog):
    return catalog.model("toy")


def evaluation(
    folder: Path,
    *,
    digest: str = "1" * 64,
    chosen: str = "best",
    protocol: dict[str, str] = PROTOCOL,
    **metrics: object,
) -> Path:
    folder.mkdir(parents=True)
    other = {"best": "last", "last": "best"}[chosen]
    document = {"protocol": protocol, "chosen": chosen, chosen: metrics, other: {"fd_classifier": 99.0}}
    (folder / "metrics.json").write_text(json.dumps(document))
    write_lineage(folder, {"export_digest": digest})
    return folder


@pytest.fixture
def submit(settings, tracked_ports, run_id, tmp_path):
    """Promote a model with the given digest and figures, in a place of its own."""

    def submit(
        digest: str,
        *,
        policy: dict | None = None,
        at: str = "",
        judged: str = "",
        costs: dict[str, float] | None = None,
        **figures: object,
    ):
        place = tmp_path / "submitted" / (at or digest)
        if not place.exists():
            write_export(place / "export", digest=digest * 64, run_id=run_id, costs=costs)
            evaluation(place / "evaluation", digest=judged or digest * 64, **figures)
        changed = settings.model_copy(update={"promote": settings.promote.model_copy(update=policy or {})})
        return promote(
            changed,
            name="toy",
            evaluation=place / "evaluation",
            export=place / "export",
            output=place / "promotion",
            ports=tracked_ports,
        )

    return submit


def written(promoted) -> dict:
    return json.loads((promoted.output / "promotion.json").read_text())


def test_first_good_model_becomes_the_champion(submit, tracked_ports, run_id, uri):
    promoted = submit("1", fd_classifier=4.0, recall=0.5)
    assert (promoted.verdict, promoted.version, promoted.alias) == ("promote", "1", "champion")
    assert promoted.run_id == run_id
    champion = tracked_ports.registry.champion("toy")
    assert (champion.number, champion.metrics, champion.protocol) == (
        "1",
        {"fd_classifier": 4.0, "recall": 0.5},
        PROTOCOL,
    )
    assert find_server(uri).client.get_model_version("toy", "1").run_id == run_id


def test_better_model_takes_over_and_a_worse_one_does_not(submit, tracked_ports):
    submit("1", fd_classifier=4.0)
    assert submit("2", fd_classifier=3.0).alias == "champion"
    held = submit("3", fd_classifier=3.5)
    assert (held.verdict, held.version, held.alias) == ("hold", "3", "challenger")
    assert "champion version 2 has 3" in held.reasons[0]
    assert tracked_ports.registry.champion("toy").number == "2"


def test_what_was_decided_and_why_is_written(submit):
    submit("1", fd_classifier=4.0)
    document = written(submit("2", fd_classifier=5.0))
    assert document["verdict"] == "hold"
    assert document["alias"] == "challenger"
    assert document["movement"] is None
    assert document["compared_metric"] == "fd_classifier"
    assert (document["version"]["number"], document["version"]["metrics"]) == ("2", {"fd_classifier": 5.0})
    assert (document["champion_before"]["number"], document["champion_before"]["protocol"]) == ("1", PROTOCOL)
    assert "does not beat the champion" in document["reasons"][0]


def test_lineage_goes_on_from_the_export(submit, run_id):
    record = read_lineage(submit("1", fd_classifier=4.0).output)
    assert (record["step"], record["model"], record["version"]) == ("promote", "toy", "1")
    assert (record["dataset_digest"], record["export_digest"], record["run_id"]) == ("d" * 64, "1" * 64, run_id)


def test_training_run_tells_what_became_of_its_model(submit, uri, run_id):
    submit("1", fd_classifier=4.0)
    run = find_server(uri).client.get_run(run_id)
    tags = {name: value for name, value in run.data.tags.items() if "promotion" in name or "version" in name}
    assert tags["limner.version"] == "toy/1"
    assert tags["limner.promotion.verdict"] == "promote"
    assert tags["limner.promotion.alias"] == "champion"
    assert "no champion yet" in tags["limner.promotion.reasons"]
    assert run.info.status == "FINISHED"


def test_twice_is_once(submit, uri):
    client = find_server(uri).client
    first = submit("1", fd_classifier=4.0)
    tags = client.get_model_version("toy", "1").tags
    again = submit("1", fd_classifier=4.0)
    assert (again.verdict, again.version, again.alias) == (first.verdict, first.version, first.alias)
    assert again.reasons == ("It is the champion already, as version 1.",)
    assert client.get_model_version("toy", "1").tags == tags
    assert len(client.search_model_versions("name = 'toy'")) == 1
    assert len(client.search_runs([client.get_experiment_by_name("limner").experiment_id])) == 1
    third = submit("1", fd_classifier=4.0)
    assert written(third) == written(again)


def test_figures_are_those_of_the_weights_that_were_chosen(submit, tracked_ports, tmp_path):
    submit("1", fd_classifier=4.0)  # the other weights have 99
    assert tracked_ports.registry.champion("toy").metrics == {"fd_classifier": 4.0}


def test_model_with_other_weights_than_were_judged_is_refused(submit, tracked_ports):
    with pytest.raises(LimnerError, match=r"is not of the weights that were exported[\s\S]*Evaluate and export again"):
        submit("1", judged="2" * 64, fd_classifier=4.0)
    assert tracked_ports.registry.champion("toy") is None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_metric_that_is_no_number_is_rejected_and_written_as_null(submit, tracked_ports, value):
    promoted = submit("1", fd_classifier=value)
    assert (promoted.verdict, promoted.alias) == ("reject", "")
    assert tracked_ports.registry.champion("toy") is None
    assert "NaN" not in (promoted.output / "promotion.json").read_text()
    assert written(promoted)["version"]["metrics"] == {"fd_classifier": None}


def test_policy_is_obeyed(submit):
    assert submit("1", policy={"at_most": {"fd_classifier": 3.0}}, fd_classifier=4.0).verdict == "reject"
    assert submit("2", policy={"registered_name": "elsewhere"}, fd_classifier=4.0).version == "1"
    assert (
        submit("3", policy={"registered_name": "elsewhere", "min_improvement": 2.0}, fd_classifier=3.0).verdict
        == "hold"
    )


def test_movement_is_written_where_something_moved(submit, tracked_ports):
    submit("1", fd_classifier=4.0)
    document = written(submit("2", fd_classifier=3.0))
    assert document["movement"] == asdict(tracked_ports.registry.history("toy")[-1])
    assert (document["movement"]["version"], document["movement"]["before"]) == ("2", "1")
    assert "beats the champion" in document["movement"]["why"]


def test_costs_are_judged_by_the_budgets_and_written(submit):
    policy = {"budgets": {"latency_ms": 20.0}}
    rejected = submit("1", policy=policy, costs={"latency_ms": 25.0}, fd_classifier=4.0)
    assert (rejected.verdict, rejected.reasons) == ("reject", ("latency_ms is 25; promote.budgets allows 20.",))
    assert written(rejected)["version"]["costs"] == {"latency_ms": 25.0}
    assert submit("2", policy=policy, costs={"latency_ms": 15.0}, fd_classifier=5.0).verdict == "promote"
    assert "No latency_ms is recorded" in submit("3", policy=policy, fd_classifier=3.0).reasons[0]


def test_challenger_is_the_newest_that_is_good_enough_and_never_a_rejected_one(submit, tracked_ports):
    def challenger() -> str:
        found = tracked_ports.registry.versions("toy")
        return next((version.number for version in found if "challenger" in version.aliases), "")

    limit = {"at_most": {"fd_classifier": 9.0}}
    submit("1", policy=limit, fd_classifier=4.0)
    assert challenger() == ""  # it is the champion
    assert submit("2", policy=limit, fd_classifier=10.0).alias == ""
    assert challenger() == ""
    submit("3", policy=limit, fd_classifier=5.0)
    assert challenger() == "3"
    submit("2", policy={}, fd_classifier=10.0)  # good enough now, but older
    assert challenger() == "3"
    submit("3", policy={"at_most": {"fd_classifier": 4.5}}, fd_classifier=5.0)
    assert challenger() == ""
    submit("4", fd_classifier=3.0)
    assert challenger() == ""
    assert tracked_ports.registry.champion("toy").number == "4"


def test_version_that_a_person_rolled_back_does_not_return_by_itself(submit, tracked_ports):
    submit("1", fd_classifier=4.0)
    submit("2", fd_classifier=3.0)
    tracked_ports.registry.roll_back("toy", expected="2", reason="Its sevens look like ones.")
    again = submit("2", fd_classifier=3.0)
    assert (again.verdict, again.alias) == ("hold", "")
    assert "Its sevens look like ones." in again.reasons[0]
    assert tracked_ports.registry.champion("toy").number == "1"
    assert submit("3", fd_classifier=2.0).verdict == "promote"


def test_champion_that_is_now_too_bad_stays_until_something_better_comes(submit, tracked_ports):
    submit("1", fd_classifier=4.0)
    again = submit("1", policy={"at_most": {"fd_classifier": 3.0}}, fd_classifier=4.0)
    assert (again.verdict, again.alias) == ("reject", "champion")
    assert tracked_ports.registry.champion("toy").number == "1"


def test_unlike_protocol_holds_until_the_champion_is_evaluated_again(submit, tracked_ports):
    other = {**PROTOCOL, "samples": "5000"}
    submit("1", fd_classifier=4.0)
    held = submit("2", fd_classifier=3.0, protocol=other)
    assert held.verdict == "hold"
    assert "samples was 2000, is 5000" in held.reasons[0]
    assert submit("1", at="1 again", fd_classifier=4.1, protocol=other).version == "1"
    assert submit("2", fd_classifier=3.0, protocol=other).verdict == "promote"
    assert tracked_ports.registry.champion("toy").number == "2"


def test_without_tracking_it_decides_and_records_nothing(settings, ports, tmp_path):
    promoted = promote(
        settings,
        name="toy",
        evaluation=evaluation(tmp_path / "evaluation", fd_classifier=4.0),
        export=write_export(tmp_path / "export", digest="1" * 64),
        output=tmp_path / "promotion",
        ports=ports,
    )
    assert (promoted.verdict, promoted.version, promoted.alias, promoted.run_id) == ("promote", "", "", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is not an evaluation"),
        ("{", "is not an evaluation"),
        ("[]", "is not an evaluation"),
        ('{"chosen": "best", "protocol": {}}', "is not an evaluation"),
        ('{"chosen": "best", "protocol": {}, "best": {"fd": "low"}}', "is not an evaluation"),
    ],
)
def test_bad_evaluation_is_refused_before_anything_is_registered(submit, uri, tmp_path, run_id, text, problem):
    place = tmp_path / "submitted" / "1"
    write_export(place / "export", digest="1" * 64, run_id=run_id)
    (place / "evaluation").mkdir()
    if text is not None:
        (place / "evaluation" / "metrics.json").write_text(text)
    with pytest.raises(LimnerError, match=rf"{problem}[\s\S]*limner evaluate"):
        submit("1")
    assert not find_server(uri).client.search_registered_models()
    assert not (place / "promotion").exists()


def test_export_without_lineage_is_refused(submit, tmp_path):
    place = tmp_path / "submitted" / "1"
    (place / "export").mkdir(parents=True)
    evaluation(place / "evaluation", fd_classifier=4.0)
    with pytest.raises(LimnerError, match=r"has no lineage\.json"):
        submit("1")


def test_export_that_names_no_digest_is_refused(submit, tmp_path):
    place = tmp_path / "submitted" / "1"
    write_export(place / "export", digest="")
    evaluation(place / "evaluation", fd_classifier=4.0)
    with pytest.raises(LimnerError, match=r"no export_digest[\s\S]*limner export"):
        submit("1")


def test_dead_registry_leaves_no_output(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LimnerError, match="cannot be used"):
        promote(
            settings,
            name="toy",
            evaluation=evaluation(tmp_path / "evaluation", fd_classifier=4.0),
            export=write_export(tmp_path / "export", digest="1" * 64),
            output=tmp_path / "promotion",
            ports=connect(tracking_uri="http://127.0.0.1:9"),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation", "export"}
