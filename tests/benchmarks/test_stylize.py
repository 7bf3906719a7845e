"""The plain loop makes the same pictures, and the benchmark runs from end to end."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.machine import STATUS
from benchmarks.stylize import CPU, build_model, draw_pictures, limner_loop, main, open_plain, plain_loop
from limner.inference import open_translator


def test_both_loops_make_the_same_pictures(tmp_path):
    model, exported = build_model(tmp_path / "model", width=4, blocks=1)
    draw_pictures(tmp_path / "pictures", 2, (40, 32))
    plain_loop(open_plain(model), tmp_path / "pictures", tmp_path / "plain")
    ours = open_translator(exported, precision="fp32", device=CPU)
    limner_loop(ours, tmp_path / "pictures", tmp_path / "limner")
    for name in ("0000.jpg", "0001.jpg"):
        with Image.open(tmp_path / "plain" / name) as plain, Image.open(tmp_path / "limner" / name) as ours:
            assert plain.size == ours.size == (40, 32)
            # Rounding may differ by one level before the JPEG encoder.
            assert np.abs(np.asarray(plain).astype(int) - np.asarray(ours)).max() <= 4


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux to tell a process's peak")
def test_quick_run_writes_speed_memory_and_machine(tmp_path, capsys):
    main(["--quick", "--json", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["machine"]["torch"]
    (row,) = result["speed"]
    assert set(row["over_plain"]) == {"plain", "limner", "limner-fp32"}
    assert row["over_plain"]["plain"] == 1
    assert result["memory"]["done"] == 1
    assert 0 < result["memory"]["growth_mib"] < result["memory"]["budget_mib"]
    assert "peak growth" in capsys.readouterr().out
