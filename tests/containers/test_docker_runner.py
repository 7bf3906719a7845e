"""Guards the pipeline's test: a container that fails must not pass for one that succeeded.

kfp reads the annotations as they are: no `from __future__ import annotations` here.
"""

from pathlib import Path

import pytest

from tests.containers.docker_runner import run_docker_container, steps_as_containers
from tests.containers.engine import Image

pytestmark = [pytest.mark.containers, pytest.mark.timeout(4000)]


@pytest.mark.parametrize("attempt", range(5))
def test_a_step_that_fails_at_once_is_reported_as_failed(image: Image, tmp_path: Path, attempt: int) -> None:
    from kfp import dsl

    @dsl.component(base_image=image.name, install_kfp_package=False, packages_to_install=[])
    def fails() -> None:
        raise SystemExit(3)

    with steps_as_containers(image.engine.host, tmp_path), pytest.raises(RuntimeError, match="FAILURE"):
        fails()
    assert not image.engine("ps", "--all", "--quiet", "--filter", f"ancestor={image.name}").strip()


def test_a_container_that_is_gone_in_an_instant_keeps_its_status(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """kfp's own function takes some of these for a success."""
    import docker

    if image.engine.host:
        monkeypatch.setenv("DOCKER_HOST", image.engine.host)
    client = docker.from_env()
    try:
        statuses = [run_docker_container(client, image.name, ["sh", "-c", "exit 3"], {}) for _ in range(20)]
    finally:
        client.close()
    assert statuses == [3] * 20


def test_a_step_that_works_is_reported_as_done(image: Image, tmp_path: Path) -> None:
    from kfp import dsl

    @dsl.component(base_image=image.name, install_kfp_package=False, packages_to_install=[])
    def works() -> str:
        import os

        return f"user {os.getuid()}"

    with steps_as_containers(image.engine.host, tmp_path):
        assert works().output == "user 1000"
