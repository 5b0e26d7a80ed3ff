"""The run folder a node lives in: a new one, or one it has lived in before and goes on in.

A folder in which a node has begun holds its key, swarm.json (how it is let into its swarm again) and, after a while,
checkpoints. Whoever names such a folder goes on in it; whoever names none goes on in the newest one under runs/ that
fits, is not finished, and in which nobody runs. Knows files; does not know sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gossip import spec
from gossip.errors import GossipError, NetworkError, RunIsFinishedError, SpecError
from gossip.keyfiles import create_secret
from gossip.live.security import KEY_FILE_HEAD, KeyPair, load_keys, load_or_create_keys
from gossip.live.tickets import SEEDS_MAX, Ticket, swarm_id
from gossip.protocol.node import Node
from gossip.runs import RunFolder, RunLock
from gossip.spec import Experiment
from gossip.swarmfile import DOORS_MAX, Door, SwarmFile, read_swarm_file, write_swarm_file

LOOK_EVERY_S = 10.0  # at the members, for swarm.json
NEW_EVERY_S = 1.0  # where there are more of them: whoever is killed soon after its first must know where to knock


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A node's former life, as its run folder tells."""

    run: RunFolder
    experiment: Experiment
    keys: KeyPair
    swarm: SwarmFile
    options: dict[str, Any]  # what the command line said then

    def swarm_now(self, ticket: Ticket | None) -> SwarmFile:
        """For the life that begins: the next incarnation, and a new ticket's seeds beside the old."""
        fresh = tuple(Door(address, key.hex()) for address, key in ticket.seeds) if ticket is not None else ()
        old = tuple(door for door in self.swarm.seeds if door.key not in {seed.key for seed in fresh})
        return msgspec.structs.replace(
            self.swarm, incarnation=self.swarm.incarnation + 1, seeds=(*fresh, *old)[:SEEDS_MAX]
        )

    def story(self) -> str:
        """Where it goes on, for a person."""
        paths = self.run.checkpoints.paths()
        step = paths[0].stem.removeprefix("checkpoint-") if paths else "0"
        return f"resuming {self.run.path} at step {int(step):,}; --fresh starts a new one"


@dataclass(slots=True)
class Home:
    """A run folder that is ours alone. `past` is None where nothing has happened in it yet."""

    lock: RunLock | None = None  # None: no folder is chosen yet
    past: Past | None = None
    made: Path | None = None  # a folder that was not there before

    def move_in(self, run: RunFolder) -> None:
        """A folder we have just made."""
        if self.lock is None:
            self.lock = _locked(run.path)

    def leave(self) -> None:
        """Let go of it. What was made for a run that could not begin is taken away."""
        if self.made is not None and [file.name for file in self.made.iterdir()] == [RunLock.NAME]:
            (self.made / RunLock.NAME).unlink()
            self.made.rmdir()
        if self.lock is not None:
            self.lock.release()


def find_home(
    experiment: Experiment | None,
    ticket: Ticket | None,
    *,
    run_dir: Path | None,
    key_file: Path | None,
    fresh: bool,
    under: Path = Path("runs"),
) -> Home:
    """The folder to go on in, or none where a new one is to be made. Raises GossipError, one sentence."""
    if run_dir is not None:
        return _home_at(run_dir, experiment, ticket, key_file, fresh)
    if experiment is None and ticket is None:
        raise SpecError(
            "expected an experiment file, --join TICKET to take the swarm's, or --run-dir of a run to go on with"
        )
    for folder in [] if fresh else _runs_newest_first(under):
        with contextlib.suppress(GossipError, OSError):  # another's, damaged, or somebody runs in it: not ours
            # First without the lock: to hold it for only a moment would make somebody fail who names that folder.
            _read_past(RunFolder(folder), experiment, ticket, key_file)
            lock = RunLock.take(folder)
            try:
                past = _read_past(RunFolder(folder), experiment, ticket, key_file)
            except GossipError:
                lock.release()
                raise
            return Home(lock, past)
    return Home()


def new_keys(key_file: Path | None, run_dir: Path | None) -> KeyPair:
    """Who we are when we begin: from the given file, the folder's, or new. Raises NetworkError."""
    if key_file is None and run_dir is not None and RunFolder(run_dir).node_key.exists():
        key_file = RunFolder(run_dir).node_key
    return load_or_create_keys(key_file) if key_file else KeyPair.new()


def keep_keys(run: RunFolder, keys: KeyPair) -> None:
    """Into the run's folder, for its owner's eyes only. Raises NetworkError."""
    with contextlib.suppress(FileExistsError):
        create_secret(run.node_key, KEY_FILE_HEAD, keys.secret)


class Addresses:
    """Keeps swarm.json true: the incarnation we use, and whom we know."""

    def __init__(self, run: RunFolder, content: SwarmFile) -> None:
        """Writes `content` at once: nobody may hear of an incarnation that the disk does not know. Raises SpecError."""
        self._run = run
        self._content = content
        self._look_at = self._look_at_new = 0.0
        self._members = 0  # when we last looked
        try:
            write_swarm_file(run.path, content)
        except OSError as error:
            raise SpecError(
                f"{run.path}: cannot be written ({error.strerror}); make room or choose another folder"
            ) from error

    def look(self, node: Node, now: float) -> Callable[[], None] | None:
        """Now and then: what to do where the file is no longer true. The job may run on another thread."""
        members = len(node.membership.members)
        if now < (self._look_at_new if members > self._members else self._look_at):
            return None
        self._look_at, self._look_at_new, self._members = now + LOOK_EVERY_S, now + NEW_EVERY_S, members
        content = self._seen_by(node)
        if content == self._content:
            return None
        self._content = content
        return lambda: self._write(content)

    def _write(self, content: SwarmFile) -> None:
        with contextlib.suppress(OSError):  # an older list is good enough; a full disk is said with the checkpoint
            write_swarm_file(self._run.path, content)

    def _seen_by(self, node: Node) -> SwarmFile:
        """Members we have links with first, then others alive, then those we knew before: each once, the newest."""
        alive = sorted(
            (member for member in node.membership.alive() if member.address),
            key=lambda member: (member.key not in node.links.up, member.key),
        )
        doors = [Door(member.address, member.key.hex()) for member in alive]
        keys = {door.key for door in doors}
        doors += [door for door in self._content.members if door.key not in keys]
        doors = sorted(doors[:DOORS_MAX], key=lambda door: door.key)
        return msgspec.structs.replace(
            self._content,
            address=node.settings.address,
            members=tuple(doors),
            incarnation=max(node.membership.incarnation, self._content.incarnation),
        )


# -- Reading a folder -----------------------------------------------------------------------------------


def _home_at(
    path: Path, experiment: Experiment | None, ticket: Ticket | None, key_file: Path | None, fresh: bool
) -> Home:
    made = None if path.exists() else path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{path}: cannot make the run's folder ({error.strerror}); choose another") from error
    run, lock = RunFolder(path), _locked(path)
    try:
        run.clear_if_half_made()
        if not (path / "run.json").exists():
            if experiment is None and ticket is None:
                raise SpecError(f"{path}: no run there to go on with; expected an experiment file or --join TICKET")
            return Home(lock, made=made)
        if fresh:
            raise SpecError(f"{path}: holds a run already; choose another --run-dir or remove it")
        return Home(lock, _read_past(run, experiment, ticket, key_file))
    except GossipError:
        lock.release()
        raise


def _locked(path: Path) -> RunLock:
    try:
        return RunLock.take(path)
    except BlockingIOError as error:
        raise SpecError(f"{path}: another process runs in this folder; stop it, or choose another --run-dir") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def _runs_newest_first(under: Path) -> Iterator[Path]:
    found = [file.parent for file in under.glob("*/swarm.json")]
    yield from sorted(found, key=lambda folder: (folder / "swarm.json").stat().st_mtime, reverse=True)


def _read_past(run: RunFolder, experiment: Experiment | None, ticket: Ticket | None, key_file: Path | None) -> Past:
    """Raises GossipError where the folder holds no former life of this very node in this very swarm."""
    if run.is_finished:
        raise RunIsFinishedError(f"{run.path}: this run is finished (gossip eval shows it); choose another --run-dir")
    swarm = read_swarm_file(run.path)
    if swarm is None:
        raise SpecError(f"{run.path}: holds a run already, but not one node's; choose another --run-dir or remove it")
    if ticket is not None and ticket.swarm_id.hex() != swarm.swarm_id:
        raise SpecError(f"{run.path}: holds a run of another swarm than this ticket's; choose another --run-dir")
    keys = _keys_of(run, swarm, key_file)
    return Past(
        run=run,
        experiment=_experiment_of(run, experiment),
        keys=keys,
        swarm=swarm,
        options=run.notes().get("node", {}),
    )


def _keys_of(run: RunFolder, swarm: SwarmFile, key_file: Path | None) -> KeyPair:
    path = key_file or run.node_key
    if not path.exists():
        raise NetworkError(f"{path}: no key there, but this run's node has one; give it with --key FILE")
    keys = load_keys(path)
    if keys.public.hex() != swarm.key:
        raise NetworkError(f"{path}: not the key of this run's node {swarm.key[:8]}; give that one, or use --fresh")
    return keys


def _experiment_of(run: RunFolder, brought: Experiment | None) -> Experiment:
    """The run's experiment; [node] from the file that is brought, or else from the run's own spec.toml."""
    own = run.experiment()
    found = brought or spec.load(run.path / "spec.toml")
    if found.owner in ("", own.owner):
        found = found.owned_by(own.owner)
    if found.hash != own.hash:
        given = "the experiment given" if brought else "its spec.toml, which was changed,"
        raise SpecError(
            f"{run.path}: holds a run of experiment {own.hash.hex()}, and {given} is {found.hash.hex()}; "
            "choose another --run-dir"
        )
    return found


def first_swarm_file(experiment: Experiment, swarm_key: bytes, keys: KeyPair, seeds: tuple[Door, ...]) -> SwarmFile:
    """What a node that begins has to remember."""
    return SwarmFile(
        swarm_id=swarm_id(swarm_key).hex(),
        swarm_key=swarm_key.hex(),
        spec_hash=experiment.hash.hex(),
        key=keys.public.hex(),
        seeds=seeds,
    )
