"""Is this machine fit to run a node? Its processor, memory, disk, clock and libraries; the network is checkup.py's."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import zmq

from gossip.data.store import cache_folder
from gossip.findings import BAD, OK, UNKNOWN, WARN, Finding
from gossip.spec import Experiment

LIBZMQ_MIN = (4, 3, 5)
PYTHON_MIN = (3, 11)
BARE_BYTES = 250e6  # of a node with a small model: measured 160 to 220 MB
FILES_MIN, FILES_BAD = 1024, 256
DISK_MIN, DISK_BAD = 2e9, 3e8
TEST_BYTES = 16 * 2**20
SLOW_FSYNC_S = 1.0


def check_machine(experiment: Experiment | None, run_parent: Path) -> Iterator[Finding]:
    """One finding each. experiment: what it shall train, where that is known. run_parent: where runs are kept."""
    yield _python()
    yield _libzmq()
    yield _processor()
    yield _cores()
    yield _memory(experiment)
    yield _disk(run_parent)
    yield _disk_speed(run_parent)
    yield _kernel_cache()
    yield _data(experiment)
    yield _open_files()
    yield _clock()
    yield _ipv6()


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < PYTHON_MIN:
        return Finding("python", BAD, found, "sudo apt install python3.12 (3.11 or later)")
    return Finding("python", OK, found)


def _libzmq() -> Finding:
    found = f"libzmq {zmq.zmq_version()}, pyzmq {zmq.pyzmq_version()}"
    fix = "pip install --upgrade --force-reinstall --only-binary :all: pyzmq"
    if not zmq.has("curve"):
        return Finding("libzmq", BAD, f"{found}, without CURVE: links cannot be encrypted", fix)
    if zmq.zmq_version_info() < LIBZMQ_MIN:
        return Finding("libzmq", BAD, f"{found}; expected 4.3.5 or later", fix)
    return Finding("libzmq", OK, f"{found}, with CURVE")


def _processor() -> Finding:
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    has = [name for name in ("avx512f", "avx2", "neon") if features.get(name)]
    found = f"{binding.get_host_cpu_name()}, {platform.machine()}, {', '.join(has) or 'no wide vectors'}"
    if not has and platform.machine() not in ("aarch64", "arm64"):  # there NEON is always
        return Finding("processor", WARN, found, "in a virtual machine: choose CPU type host")
    return Finding("processor", OK, found)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    found = f"{cores} for us, load {load:.1f}"
    if load > cores:
        return Finding("cores", WARN, f"{found}: others keep them busy", "top -o %CPU")
    return Finding("cores", OK, found)


def _memory(experiment: Experiment | None) -> Finding:
    free, needed = psutil.virtual_memory().available, memory_needed(experiment)
    limit = _cgroup_limit()
    free = min(free, limit) if limit else free
    found = f"{free / 1e9:.1f} GB free, a node takes about {needed / 1e9:.2f} GB"
    if free < needed:
        return Finding("memory", BAD, found, "sudo fallocate -l 2G /swap && sudo mkswap /swap && sudo swapon /swap")
    return Finding("memory", WARN if free < 2 * needed else OK, found, "top -o %MEM" if free < 2 * needed else "")


def memory_needed(experiment: Experiment | None) -> float:
    """Bytes of one node, by the formula `gossip plan` prints; of a small one where nothing is known."""
    if experiment is None:
        return BARE_BYTES
    from gossip.training.building import model_of

    recipe = experiment.recipe
    height, width, channels = recipe.shape
    data = (recipe.train_samples + recipe.test_samples) * (height * width * channels + 1)
    each = 36.2 if experiment.train.optimizer == "adamw" else 28.2  # it keeps one vector more, and a copy to save
    return BARE_BYTES + data + each * model_of(experiment).dim


def _cgroup_limit() -> int:
    """Of a container; 0 where there is none."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return 0


def _disk(parent: Path) -> Finding:
    try:
        free = shutil.disk_usage(parent).free
    except OSError as error:
        return Finding("disk", BAD, f"{parent}: {error.strerror}", f"mkdir -p {parent}")
    found = f"{free / 1e9:.1f} GB free at {parent}"
    if free < DISK_MIN:
        return Finding("disk", BAD if free < DISK_BAD else WARN, found, f"du -xh {parent} | sort -h | tail")
    return Finding("disk", OK, found)


def _disk_speed(parent: Path) -> Finding:
    """What a checkpoint does: write, then wait for the disk."""
    try:
        with tempfile.NamedTemporaryFile(dir=parent) as file:
            data, began = os.urandom(TEST_BYTES), time.perf_counter()
            file.write(data)
            file.flush()
            written_s = time.perf_counter() - began
            os.fsync(file.fileno())
            synced_s = time.perf_counter() - began - written_s
    except OSError as error:
        return Finding("disk speed", BAD, f"{parent}: {error.strerror}", f"chmod u+w {parent}, or --run-dir elsewhere")
    rate = TEST_BYTES / (written_s + synced_s)
    found = f"{rate / 1e6:,.0f} MB/s, 16 MB on the disk after {written_s + synced_s:.2f} s"
    slow = synced_s > SLOW_FSYNC_S
    return Finding("disk speed", WARN if slow else OK, found, "checkpoint_every_s = 600 under [node]" if slow else "")


def _kernel_cache() -> Finding:
    from gossip.kernels import step

    folder = Path(step.loss_and_grad.stats.cache_path)
    if os.access(folder if folder.exists() else folder.parent, os.W_OK):
        return Finding("kernel cache", OK, str(folder))
    return Finding("kernel cache", WARN, f"{folder} cannot be written: each start compiles for half a minute",
                   "export NUMBA_CACHE_DIR=~/.cache/numba")  # fmt: skip


def _data(experiment: Experiment | None) -> Finding:
    if experiment is None:
        return Finding("data", UNKNOWN, "no experiment: give one, or a ticket", "gossip doctor experiment.toml")
    from gossip.data.store import load_dataset
    from gossip.errors import DataError

    name = experiment.recipe.name
    if all(_is_here(experiment, file.name, file.bytes) for file in experiment.recipe.files):
        try:
            load_dataset(experiment.recipe, experiment.node.data_dir)
        except DataError as error:
            return Finding("data", BAD, str(error), f"gossip node --data-dir FOLDER, the one that holds {name}")
        return Finding("data", OK, f"{name} is here, and whole")
    total = sum(file.bytes for file in experiment.recipe.files)
    return Finding("data", WARN, f"{name} is not here: {total / 1e6:.1f} MB are fetched when the node starts",
                   "gossip node --data-dir FOLDER, where you have it already")  # fmt: skip


def _is_here(experiment: Experiment, file: str, size: int) -> bool:
    folders = [Path(text).expanduser() for text in (experiment.node.data_dir, os.environ.get("GOSSIP_DATA")) if text]
    places = [
        folder / name for folder in (*folders, cache_folder()) for name in (file, f"{experiment.recipe.name}/{file}")
    ]
    return any(place.is_file() and place.stat().st_size == size for place in places)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} at most"
    if soft < FILES_MIN:
        wanted = FILES_MIN if hard == resource.RLIM_INFINITY else min(hard, FILES_MIN)
        return Finding("open files", BAD if soft < FILES_BAD else WARN, found, f"ulimit -n {wanted}")
    return Finding("open files", OK, found)


def _clock() -> Finding:
    """Tickets expire by it; nothing else looks at it."""
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    fix = "sudo timedatectl set-ntp true"
    if time.time() < newest - 86_400:
        return Finding("clock", BAD, f"{now}: before this program was installed", fix)
    synchronized = _said(["timedatectl", "show", "-p", "NTPSynchronized", "--value"])
    if synchronized == "no":
        return Finding("clock", WARN, f"{now}, not synchronized", fix)
    return Finding("clock", OK, f"{now}, {'synchronized' if synchronized == 'yes' else 'whether by NTP is not known'}")


def _ipv6() -> Finding:
    import socket

    from gossip.live.tcp import source_address

    address = source_address(socket.AF_INET6, "2001:db8::1")
    return Finding("ipv6", OK, address or "no route: over IPv4 alone, which is enough")


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=3, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
