"""What is deployed where, on the user's own machine: .gossip-deploy/NAME/.

state.json (mode 0600: it holds a ticket), the owner's key, the experiment and the wheel that all hosts run, so that
whoever is added later runs the same. What a host really does is asked there; this file only says what is meant to be.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
from hostfile import Host

from gossip import spec
from gossip.errors import SpecError
from gossip.owner import OwnerKey, load_owner_key
from gossip.spec import Experiment

VERSION = 2
NODES_MAX = 1_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How hosts are reached and made ready."""

    python: str = "python3"
    wheelhouse: str = ""
    system_site_packages: bool = False
    data_dir: str = ""
    ssh_options: tuple[str, ...] = ()


class PlannedNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node, running or not."""

    name: str  # n0, n1, ...
    host: str  # its label
    slot: int  # on the host
    shard: int


class Deployment(msgspec.Struct, kw_only=True):
    """One swarm on its hosts."""

    version: int = VERSION
    name: str
    spec_hash: str
    options: Options
    hosts: list[Host]
    nodes: list[PlannedNode]
    has_begun: bool = False  # a first node was started: from then on nodes join
    ticket: str = ""
    unreached: list[str] = []  # labels of hosts that have never answered: nothing of ours can be there

    def host(self, label: str) -> Host:
        return next(host for host in self.hosts if host.label == label)

    def nodes_on(self, host: Host) -> list[PlannedNode]:
        return [node for node in self.nodes if node.host == host.label]

    def plan(self, host: Host, shards: int) -> None:
        """Add the host, or to its slots. Nodes get the first free names, and shards by them. Raises SpecError."""
        known = [other for other in self.hosts if other.label == host.label]
        have = len(self.nodes_on(host))
        if host.slots < have:
            raise SpecError(
                f"{host.target}: {have} nodes are deployed there, slots={host.slots} would be fewer; down --purge first"
            )
        if len(self.nodes) + host.slots - have > NODES_MAX:
            raise SpecError(f"more than {NODES_MAX} nodes in one deployment; use fewer slots")
        self.hosts = [host if other.label == host.label else other for other in self.hosts] + [host] * (not known)
        if not known:
            self.unreached.append(host.label)
        taken = {node.name for node in self.nodes}
        free = (number for number in range(NODES_MAX) if f"n{number}" not in taken)
        for slot, number in zip(range(have, host.slots), free, strict=False):
            self.nodes.append(PlannedNode(name=f"n{number}", host=host.label, slot=slot, shard=number % shards))

    def has_reached(self, labels: Collection[str]) -> None:
        """These hosts have answered."""
        self.unreached = [label for label in self.unreached if label not in labels]

    def forget_unreached(self, but: Collection[str] = ()) -> None:
        """Hosts that never answered, and their nodes: a name mistyped once must not be asked for ever."""
        gone = [label for label in self.unreached if label not in but]
        self.hosts = [host for host in self.hosts if host.label not in gone]
        self.nodes = [node for node in self.nodes if node.host not in gone]
        self.unreached = [label for label in self.unreached if label not in gone]


class StateFolder:
    """One deployment's folder."""

    def __init__(self, base: Path, name: str) -> None:
        if not NAME.fullmatch(name):
            raise SpecError(f"--name {name!r}: expected 1 to 32 letters, digits, '.', '_' or '-'")
        self.path, self.name = base / name, name
        self.file, self.spec, self.wheels = self.path / "state.json", self.path / "spec.toml", self.path / "wheel"
        self.owner_key = self.path / "owner.key"

    @classmethod
    def only_one(cls, base: Path) -> StateFolder:
        """The deployment, where there is but one. Raises SpecError."""
        names = sorted(file.parent.name for file in base.glob("*/state.json"))
        if len(names) != 1:
            known = f"there are {', '.join(names)}: say which with --name" if names else "begin one with up"
            raise SpecError(f"no single deployment in {base}; {known}")
        return cls(base, names[0])

    def exists(self) -> bool:
        return self.file.is_file()

    def load(self) -> Deployment:
        """Raises SpecError."""
        try:
            deployment = msgspec.json.decode(self.file.read_bytes(), type=Deployment)
        except OSError as error:
            raise SpecError(f"no deployment {self.name} ({self.file}: {error.strerror}); begin it with up") from error
        except msgspec.DecodeError as error:
            raise SpecError(f"{self.file}: cannot be read ({error}); was it written by another version?") from error
        if deployment.version != VERSION:
            raise SpecError(
                f"{self.file}: version {deployment.version}, expected {VERSION}; use the checkout that wrote it"
            )
        return deployment

    def save(self, deployment: Deployment) -> None:
        """Whole or not at all, readable by nobody else. Raises SpecError."""
        text = msgspec.json.format(msgspec.json.encode(deployment), indent=1) + b"\n"
        part = self.file.with_suffix(".part")
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.file)
        except OSError as error:
            raise SpecError(
                f"{self.file}: cannot be written ({error.strerror}); make room, or set GOSSIP_DEPLOY_STATE"
            ) from error

    def owned(self, experiment: Experiment) -> Experiment:
        """The experiment with an owner: its file's, or else whoever has this folder. Raises GossipError."""
        if experiment.owner:
            return experiment
        if not self.owner_key.exists():
            OwnerKey.new().save(self.owner_key)
        return experiment.owned_by(load_owner_key(self.owner_key).public)

    def keep_experiment(self, experiment: Experiment) -> None:
        """What the hosts are sent. Raises SpecError: a model to begin with is not sent along."""
        if experiment.model.init:
            raise SpecError(
                f"model.init = {experiment.model.init!r}: is not sent to hosts; begin the swarm here with gossip node, "
                "and let the hosts join it"
            )
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.path / "recipe.toml").write_text(spec.recipe_to_toml(experiment.recipe), encoding="utf-8")
        self.spec.write_text(experiment.to_toml("recipe.toml"), encoding="utf-8")

    def shards(self) -> int:
        """Of the deployed experiment. Raises SpecError."""
        return spec.load(self.spec).data.shards

    def experiment_files(self) -> dict[str, str]:
        return {path.name: path.read_text(encoding="utf-8") for path in (self.spec, self.path / "recipe.toml")}

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes this deployment meanwhile. Raises SpecError at once where somebody does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise SpecError(
                f"{self.path}: cannot be written ({error.strerror}); set GOSSIP_DEPLOY_STATE to another folder"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SpecError(f"another command is at work on {self.name}; let it end, then try again") from error
            yield
