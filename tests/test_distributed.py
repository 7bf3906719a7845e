"""What several processes do together, seen from each of them. Training in company: tests/faults/test_distributed.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limner import distributed

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from limner import distributed

folder, parts = Path(sys.argv[1]), int(sys.argv[2])
with distributed.joined(torch.device("cpu")):
    here = []

    def work(part):
        here.append(part)
        return torch.full((part % 3, 2), float(part))  # parts of different sizes, some of them empty

    found = distributed.divided(work, parts)

    def leave_behind():
        there = (folder / "left").exists()
        time.sleep(0.3 if distributed.is_first() else 0)
        (folder / "left").touch()
        return there

    there = distributed.first_alone(leave_behind)
    same = distributed.same_everywhere("a"), distributed.same_everywhere(str(distributed.rank()))
    (folder / str(distributed.rank())).write_text(repr((here, found.tolist(), there, same)))
"""


@pytest.mark.parametrize("parts", [1, 5])
def test_work_is_shared_out_and_everybody_gets_all_of_it_in_order(tmp_path, parts):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, tmp_path, parts]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = torch.cat([torch.full((part % 3, 2), float(part)) for part in range(parts)]).tolist()
    for rank in (0, 1):
        here, found, there, same = eval((tmp_path / str(rank)).read_text())
        assert here == list(range(parts))[rank::2]
        assert found == expected
        assert same == (True, False)
        assert same == (True, False)
        assert there == (rank == 1), "the others look only when the first has left something behind"


def test_alone_it_is_all_ones_own_work(tmp_path: Path):
    assert distributed.divided(lambda part: torch.tensor([part]), 3).tolist() == [0, 1, 2]
    assert distributed.first_alone(lambda: "done") == "done"
