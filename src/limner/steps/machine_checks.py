"""What a training would miss on this machine: Python and libraries, GPU, memory, disks.

Every check takes what it judges as arguments, so that a test can be on any machine; `look` reads them off this one.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from limner.findings import Finding, Status

GIB = 2**30
ENOUGH_SHARED = GIB
"""What NVIDIA advises for NCCL in a container: https://docs.nvidia.com/deeplearning/nccl, "Sharing Data"."""
FAIR_MEMORY = 2 * GIB
LEAST_DISK, FAIR_DISK = GIB, 10 * GIB
"""Bytes that have to be free, and bytes below which it is worth a word; what is known to be needed comes on top."""


def python(version: tuple[int, int, int], *, supported: str) -> Finding:
    """Whether this Python is one that Limner supports, in the words of its metadata (`>=3.11`)."""
    from packaging.specifiers import SpecifierSet

    text = ".".join(map(str, version))
    if SpecifierSet(supported).contains(text):
        return Finding("python", "ok", text)
    return Finding(
        "python",
        "error",
        f"Python {text}, but Limner needs {supported}.",
        "Make .venv anew with another one: make PYTHON=python3.12 run",
    )


def libraries(needed: Iterable[str], *, version_of: Callable[[str], str]) -> Iterator[Finding]:
    """Whether what is installed is what the package's metadata ask for (`name>=1; extra == "pipeline"`).

    `version_of` a package that is not installed is empty.
    """
    from packaging.requirements import Requirement

    found = 0
    missing: dict[str, list[str]] = {"": [], "pipeline": []}
    unfit: list[str] = []
    for line in needed:
        need = Requirement(line)
        extra = next((name for name in missing if need.marker is None or need.marker.evaluate({"extra": name})), None)
        if extra is None:  # of contributors, or of another system
            continue
        version = version_of(need.name)
        if not version:
            missing[extra].append(need.name)
        elif not need.specifier.contains(version, prereleases=True):
            unfit.append(f"{need.name} {version} is not {need.specifier}")
        else:
            found += 1
    if missing[""] or unfit:
        what = "; ".join([*(f"{name} is missing" for name in missing[""]), *unfit])
        yield Finding("libraries", "error", f"{what}.", "pip install --upgrade 'limner[pipeline]'")
    else:
        yield Finding("libraries", "ok", f"{found} in the versions that Limner supports")
    if missing["pipeline"]:
        what = f"Not installed: {', '.join(missing['pipeline'])}. Without them nothing is tracked, piped or kept on S3."
        yield Finding("pipeline libraries", "warning", what, "pip install 'limner[pipeline]'")


@dataclass(frozen=True)
class Gpus:
    """What PyTorch says of this machine's GPUs."""

    built_for: str
    """The CUDA version that PyTorch was built with; empty: none."""
    names: tuple[str, ...] = ()
    too_old: tuple[str, ...] = ()
    """Those that this build has no code for."""
    driver: bool = False
    """Whether the system has an NVIDIA driver or device."""
    complaint: str = ""
    """PyTorch's warning where it could not begin to use them."""
    precision: str = ""
    """What `precision: auto` comes to."""


def gpu(found: Gpus) -> Finding:
    """Whether the GPUs of this machine can be used."""
    if found.too_old:
        what = f"PyTorch, built for CUDA {found.built_for}, has no code for {', '.join(found.too_old)}."
        return Finding(
            "gpu", "error", what, "Install a PyTorch that still supports it: https://pytorch.org/get-started"
        )
    if found.names:
        what = f"{', '.join(found.names)} with CUDA {found.built_for}; precision auto is {found.precision}"
        return Finding("gpu", "ok", what)
    if not found.driver:
        return Finding("gpu", "ok", f"none: training is on the CPU; precision auto is {found.precision}")
    if not found.built_for:
        what = "There is an NVIDIA GPU, but this PyTorch is built for the CPU alone."
        return Finding("gpu", "error", what, "Install the CUDA build of torch and torchvision, of the same version.")
    return Finding(
        "gpu",
        "error",
        f"There is an NVIDIA driver, but PyTorch (built for CUDA {found.built_for}) sees no GPU."
        + (f" It says: {found.complaint}" if found.complaint else ""),
        "See nvidia-smi and CUDA_VISIBLE_DEVICES. A driver older than that CUDA wants has to be updated; "
        "a container needs --gpus all, a pod a limit of nvidia.com/gpu.",
    )


def shared_memory(size: int, *, gpus_together: int) -> Finding:
    """Whether /dev/shm is large enough.

    Limner's loader reads in the training's own process, so DataLoader's notorious workers do not exist. NCCL is what
    needs shared memory, where several GPUs of one machine train together.
    """
    what = f"/dev/shm has {_size(size)}"  # noqa: S108 - asked, not used
    if gpus_together < 2:
        return Finding("shared memory", "ok", f"{what}; one process needs none")
    if size >= ENOUGH_SHARED:
        return Finding("shared memory", "ok", f"{what} for NCCL between {gpus_together} GPUs")
    return Finding(
        "shared memory",
        "warning",
        f'{what}, and NCCL between {gpus_together} GPUs wants {_size(ENOUGH_SHARED)}: "Bus error" is how it fails.',
        "docker run --shm-size=1g; on Kubernetes a volume `emptyDir: {medium: Memory}` at /dev/shm.",
    )


def memory(free: int, limit: int) -> Finding:
    """Whether there is memory to work with. `limit` is the container's, in bytes; 0: none."""
    what = f"{_size(free)} free" + (f" of the container's {_size(limit)}" if limit else "")
    if free >= FAIR_MEMORY:
        return Finding("memory", "ok", what)
    # Never an error: it may be a training that has it, beside which this is asked.
    fix = "Raise the container's memory limit, or end other programs."
    return Finding("memory", "warning", f'Only {what}: "OOMKilled" may come.', fix)


@dataclass(frozen=True)
class Disk:
    """A folder that Limner writes to, existing or not yet."""

    path: Path
    free: int
    writable: bool
    needed: int = 0
    """Bytes that are known to come."""


def disk(name: str, found: Disk) -> Finding:
    """Whether a folder can be written to, and has room."""
    check = f"disk: {name}"
    if not found.writable:
        fix = "Give this user the right to write there, or name another folder."
        return Finding(check, "error", f"{found.path} cannot be written to.", fix)
    needed = f"; {_size(found.needed)} will be needed" if found.needed else ""
    what = f"{_size(found.free)} free at {found.path}{needed}"
    if found.free >= FAIR_DISK + found.needed:
        return Finding(check, "ok", what)
    status: Status = "error" if found.free < LEAST_DISK + found.needed else "warning"
    return Finding(check, status, f"Only {what}.", "Free some space, or put it on another disk or a larger volume.")


def look(places: Mapping[str, Path], *, needed: Mapping[str, int], processes: int) -> Iterator[Finding]:
    """Examine this machine. `places` are the folders written to, by name, and `needed` bytes that are known to come."""
    try:
        about = metadata.distribution("limner")
    except metadata.PackageNotFoundError:
        yield Finding("libraries", "warning", "Limner is not installed but run from its source.", "pip install -e .")
    else:
        yield python(sys.version_info[:3], supported=about.metadata["Requires-Python"])
        yield from libraries(about.requires or (), version_of=version)
    try:
        gpus = _ask_torch()
    except (ImportError, OSError) as error:  # OSError: a shared library that it wants
        yield Finding("torch", "error", f"PyTorch cannot be imported: {error}", "pip install --force-reinstall torch")
    else:
        yield Finding("torch", "ok", version("torch"))
        yield gpu(gpus)
        together = min(processes, len(gpus.names))
        yield shared_memory(shutil.disk_usage("/dev/shm").total, gpus_together=together)  # noqa: S108 - asked, not used
    yield _onnxruntime()
    yield memory(*_free_memory())
    for name, path in places.items():
        yield disk(name, _ask_disk(path, needed.get(name, 0)))


def version(package: str) -> str:
    """The installed version of a package; empty where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _ask_torch() -> Gpus:
    import torch

    from limner.distributed import local_device
    from limner.precision import choose_precision

    driver = Path("/proc/driver/nvidia/version").exists() or any(Path("/dev").glob("nvidia[0-9]*"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        built = torch.cuda.get_arch_list() if count else []
        too_old = tuple(
            torch.cuda.get_device_name(n) for n in range(count) if not _fits(torch.cuda.get_device_capability(n), built)
        )
    return Gpus(
        built_for=torch.version.cuda or "",
        names=tuple(torch.cuda.get_device_name(n) for n in range(count)),
        too_old=too_old,
        driver=driver,
        complaint=str(said[0].message).splitlines()[0] if said else "",
        precision=str(choose_precision("auto", local_device())).removeprefix("torch."),
    )


def _fits(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether a GPU can run code built for these: binaries of its generation up to its number, or PTX of any before."""
    major, minor = capability
    for entry in built:
        kind, _, digits = entry.partition("_")
        number = int("".join(filter(str.isdigit, digits)) or 0)
        older = divmod(number, 10) <= (major, minor)
        if older and (kind == "compute" or number // 10 == major):
            return True
    return not built


def _onnxruntime() -> Finding:
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        fix = "pip install --force-reinstall onnxruntime"
        return Finding("onnxruntime", "error", f"ONNX Runtime cannot be imported: {error}", fix)
    return Finding(
        "onnxruntime", "ok", f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"
    )


def _free_memory() -> tuple[int, int]:
    """Bytes that are free, and the container's limit; 0: none."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), sys.maxsize)
    groups = Path("/sys/fs/cgroup")
    for folder, most, used in (
        (groups, "memory.max", "memory.current"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit = _read(folder / most).strip()
        if limit.isdigit() and int(limit) < 2**60:  # a number beyond all memory is the older way to say "max"
            # What the kernel has read ahead counts as used, but goes when memory is wanted.
            words = _read(folder / "memory.stat").split()
            spare = int(words[words.index("inactive_file") + 1]) if "inactive_file" in words else 0
            return min(free, int(limit) - int(_read(folder / used) or 0) + spare), int(limit)
    return free, 0


def _ask_disk(path: Path, needed: int) -> Disk:
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return Disk(path, shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK), needed)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"
