"""kfp's local runner for containers, with the one function replaced that takes a failed container for a success."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from kfp import local
from kfp.local import docker_task_handler


def run_docker_container(
    client: DockerClient, image: str, command: list[str], volumes: Mapping[str, Any], **arguments: Any
) -> int:
    """Exit status of a container that runs to its end; what it says is printed.

    kfp 2.17 lets the engine remove a container that has ended, and takes one that is gone before its status was asked
    for as a success. Here it is removed when its status is known.
    """
    container = client.containers.create(image=image, command=command, volumes=dict(volumes), **arguments)
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


@contextmanager
def steps_as_containers(host: str, root: Path, **arguments: Any) -> Iterator[None]:
    """Within the block kfp's local runs are containers, with these arguments of `docker run`; outputs lie in `root`.

    Containers run as the image's own user, so the folders that they share with this process are open to everybody.
    """
    for folder in (root / "outputs", root / "workspace"):  # kfp deletes the workspace at the end of a run
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
    runner = local.DockerRunner(network_mode="host", **arguments)
    local.init(runner, pipeline_root=str(root / "outputs"), workspace_root=str(root / "workspace"))
    mask = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            if host:
                patch.setenv("DOCKER_HOST", host)
            patch.setattr(docker_task_handler, "run_docker_container", run_docker_container)
            yield
    finally:
        os.umask(mask)
