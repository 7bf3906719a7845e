"""What a real `dvc add` and `dvc push` leave in a bucket, for tests that fetch from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# In a process of its own, because what DVC leaves open is closed by its end only.
PROGRAM = """
import json, os, sys
from dvc.repo import Repo
url, *targets = sys.argv[1:]
repo = Repo(".") if os.path.isdir(".dvc") else Repo.init(".", no_scm=True)
with repo.config.edit() as config:
    config["remote"] = {"store": {"url": url}}
    config["core"] = {"remote": "store", "analytics": False, "check_update": False, "no_scm": True}
with Repo(".") as repo:
    stages = repo.add(targets)
    repo.push()
    print(json.dumps({target: stage.outs[0].hash_info.value for target, stage in zip(targets, stages)}))
"""


def push(folder: Path, *targets: str, remote: str) -> dict[str, str]:
    """Add files and folders of a repository at `folder` to DVC and push them; returns the md5 of each.

    `remote` is s3://bucket/prefix on the server that the environment leads to.
    """
    nothing = folder / ".dvc-aws-config"  # /dev/null is no file to DVC
    nothing.touch()
    surroundings = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        "DVC_NO_ANALYTICS": "true",
        "AWS_CONFIG_FILE": str(nothing),
    }
    words = [sys.executable, "-c", PROGRAM, remote, *targets]
    said = subprocess.run(words, cwd=folder, env=surroundings, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 0, said.stdout + said.stderr
    md5s: dict[str, str] = json.loads(said.stdout.splitlines()[-1])
    return md5s
