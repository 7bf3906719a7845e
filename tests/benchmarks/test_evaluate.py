"""The benchmark of the evaluation runs from end to end, and its own numbers are right."""

import json

import pytest
import torch
from PIL import Image

from benchmarks.evaluate import draw_folders, main, measure_last_step, random_weights
from benchmarks.machine import STATUS


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux to tell a process's peak")
def test_quick_run_finds_the_same_distance_as_pytorch_fid(tmp_path, capsys):
    main(["--quick", "--json", str(tmp_path / "result.json"), "--tools", "pytorch-fid", "limner pytorch-fid"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["machine"]["torch"]
    assert result["pictures"] == [12, 12]
    theirs = result["tools"]["pytorch-fid"]
    assert theirs["value"] > 0
    # Of 12 pictures the matrix root of 2,048 features is hardly known: SciPy's is the less exact one.
    assert theirs["relative_difference"] < 0.01
    assert theirs["times_as_long"] > 0
    assert theirs["peak_mib"] > 100
    assert "relative difference" in capsys.readouterr().out


def test_both_last_steps_find_the_same_distance():
    found = measure_last_step(dimensions=24, pictures=200, rounds=1)
    assert found["relative_difference"] < 1e-9


def test_the_folders_hold_pictures_in_no_order_of_classes(tmp_path):
    for folder in draw_folders(tmp_path, count=30):
        paths = sorted(folder.iterdir())
        assert len(paths) == 30
        with Image.open(paths[0]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (28, 28))


def test_random_weights_have_the_published_layout():
    state = random_weights()
    assert len(state) == 566
    assert state["fc.weight"].shape == (1008, 2048)
    assert all(value.isfinite().all() for value in state.values())
    assert all(
        torch.equal(value, again) for value, again in zip(state.values(), random_weights().values(), strict=True)
    )


def test_an_unknown_tool_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--tools", "fid"])
    assert "invalid choice: 'fid'" in capsys.readouterr().err
