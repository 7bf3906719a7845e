"""A container engine for tests: the one that is there, else Debian's dockerd, started here and ended afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BASE = "python:3.11-slim"
FREE_GB = 25
"""What a build takes while it runs: PyTorch's packages, installed in one stage and copied into the last."""
START_SECONDS = 60


COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Baked into the test's image."""


@dataclass(frozen=True)
class Engine:
    """A container engine, and the client that talks to it."""

    client: str
    host: str
    """Its address; empty for the client's own default."""

    def __call__(self, *words: str | Path, timeout: float = 120, check: bool = True) -> str:
        """What `docker WORDS` says. Fails with all it said where it fails."""
        said = subprocess.run(
            [self.client, *words], env=self._environment(), capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and said.returncode:
            raise AssertionError(f"docker {' '.join(map(str, words))}: {said.stdout}{said.stderr}")
        return said.stdout

    def answers(self, *words: str, timeout: float = 120) -> bool:
        """Whether `docker WORDS` succeeds."""
        try:
            self(*words, timeout=timeout)
        except (AssertionError, subprocess.TimeoutExpired):
            return False
        return True

    def build(self, project: Path, tag: str, arguments: Mapping[str, str]) -> None:
        """Build the project's Dockerfile; what the build says is shown."""
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        # On loopback only, an engine without a bridge of its own reaches nothing but by the host's network.
        command = [self.client, "build", "--network=host", "--progress=plain", "--tag", tag, *words, str(project)]
        subprocess.run(command, env=self._environment() | {"DOCKER_BUILDKIT": "1"}, check=True, timeout=3600)

    def inspect(self, image: str) -> dict[str, object]:
        """The engine's record of an image."""
        record: dict[str, object] = json.loads(self("image", "inspect", image))[0]
        return record

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}


@dataclass(frozen=True)
class Image:
    """The project's image, and the engine that has it."""

    name: str
    engine: Engine
    index: str
    """The mirror of PyPI that it was built from; empty for PyPI itself."""

    def run(self, *words: str, arguments: tuple[str, ...] = ("--network=none",), timeout: float = 300) -> str:
        """What a command says in a new container."""
        return self.engine("run", "--rm", *arguments, self.name, *words, timeout=timeout)


@contextmanager
def running() -> Iterator[Engine]:
    """An engine that answers. Fails where there is none and none can be started."""
    client = _client()
    there = Engine(client, os.environ.get("DOCKER_HOST", ""))
    if there.answers("info"):
        yield there
        return
    daemon = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert daemon, "No container engine answers, and dockerd is not installed."
    assert os.geteuid() == 0, "No container engine answers, and only root can start one."
    folder = Path(tempfile.mkdtemp(prefix="limner-docker-"))
    free = shutil.disk_usage(folder).free / 1e9
    assert free > FREE_GB, f"{folder} has {free:.0f} GB free; the image needs {FREE_GB} while it is built."
    words = [daemon, f"--host=unix://{folder}/docker.sock", f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    words += [f"--pidfile={folder}/docker.pid", "--storage-driver=overlay2", "--oom-score-adjust=0"]
    words += ["--bridge=none", "--iptables=false", "--ip6tables=false"]  # nothing of this machine's network is touched
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        started = Engine(client, f"unix://{folder}/docker.sock")
        deadline = time.monotonic() + START_SECONDS
        while not started.answers("info"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        for left in folder.glob("exec/netns/*"):  # a daemon whose containers had the host's network leaves it mounted
            subprocess.run(["umount", left], check=False)
        shutil.rmtree(folder)


@contextmanager
def base_image(engine: Engine) -> Iterator[str]:
    """The slim Python image: the engine's, or a registry's, or a stand-in made of Debian's packages under its name."""
    own = not engine.answers("image", "inspect", BASE) and not engine.answers("pull", BASE, timeout=300)
    if own:
        _stand_in(engine)
    try:
        # Whatever it is: from here on all relies on it.
        version = engine("run", "--rm", "--network=none", BASE, "python3", "--version")
        print(f"base image {BASE}: {'a stand-in of Debian packages' if own else 'as the engine has it'}, {version}")
        yield BASE
    finally:
        if own:
            engine("image", "rm", "--force", BASE, check=False)


def _client() -> str:
    """A `docker` that can build: newer ones need a plug-in for that, which is not always installed beside them."""
    found = [Path(folder) / "docker" for folder in [*os.environ["PATH"].split(os.pathsep), "/usr/bin"]]
    for path in filter(Path.exists, found):
        asked = subprocess.run(
            [path, "build", "--help"], env=os.environ | {"DOCKER_BUILDKIT": "1"}, capture_output=True, check=False
        )
        if asked.returncode == 0:
            return str(path)
    raise AssertionError("There is no docker client that can build images with BuildKit.")


def _stand_in(engine: Engine) -> None:
    assert shutil.which("mmdebstrap"), f"{BASE} cannot be pulled, and mmdebstrap is not there to make a stand-in."
    sources = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    source = next(path for path in sources if path.exists() and path.read_text().strip())
    certificates = "/etc/ssl/certs/ca-certificates.crt"  # packages may be reached through a proxy of the host's trust
    packages = "python3,python3-pip,python3-venv,python-is-python3,ca-certificates"
    with tempfile.TemporaryDirectory(prefix="limner-base-") as folder:
        archive = Path(folder, "base.tar")
        words: Sequence[str | Path] = [
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}",
            '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
            f"--customize-hook=upload {certificates} {certificates}",
            f'--customize-hook=printf "[global]\\ncert = {certificates}\\n" > "$1"/etc/pip.conf',
            "bookworm", archive, source,
        ]  # fmt: skip
        subprocess.run(words, check=True, timeout=900)
        engine("import", "--change", 'CMD ["python3"]', archive, BASE, timeout=300)
