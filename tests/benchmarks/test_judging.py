"""The benchmark of judging runs from end to end on a small catalog."""

import json

from benchmarks.judging import main


def test_every_model_that_is_judged_on_the_way_has_its_share(tmp_path, project, capsys):
    text = (project / "tests" / "tiny.yaml").read_text()
    params = tmp_path / "params.yaml"
    params.write_text(text.replace("checkpoint_kimg: 0.32}", "checkpoint_kimg: 0.32, judge_kimg: 0.32}"))
    main(["--params", str(params), "--json", str(tmp_path / "result.json")])
    (row,) = json.loads((tmp_path / "result.json").read_text())["models"]
    assert row["model"] == "tiny-gan"
    assert row["pictures"] == 500
    assert 0 < row["share"] < 1
    assert len(row["seconds"]) == 3
    assert "of the time" in capsys.readouterr().out
