"""up, add, status, logs, collect and down: the same steps on every host, in parallel, each host for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from board import Board
from collecting import Collection
from deployment import Deployment, PlannedNode, StateFolder
from hostfile import Host
from rich.console import Console
from ssh import HostError, News, Ssh, Upload
from wheels import build_wheel, fingerprint, wheels_in

from gossip.console import counted
from gossip.errors import GossipError, NetworkError
from gossip.live.tickets import parse_ticket
from gossip.observe import Event

AT_ONCE_MAX = 32  # hosts
READY_WITHIN_S = 300.0  # a node compiles and loads its data first
GOODBYE_S = 60.0  # to save, to copy a last backup and to say it; then it is killed
TICKET_LEFT_S = 300.0  # a ticket about to expire is none
OVER = ("finished",)  # nodes in these states are not started again

T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """What every host answered, or why it did not. By label."""

    answers: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, HostError] = field(default_factory=dict)

    def nodes(self) -> list[Event]:
        return [node for answer in self.answers.values() for node in answer["nodes"]]


class Operations:
    """One deployment and the connections to its hosts."""

    def __init__(self, state: StateFolder, deployment: Deployment, console: Console) -> None:
        self.state, self.deployment, self.console = state, deployment, console
        self.ssh = Ssh(deployment.options.ssh_options)

    # -- up and add ----------------------------------------------------------------------------------

    def bring_up(self, only: Sequence[str] = ()) -> Outcome:
        """Make hosts ready and start what does not run. only: labels of the hosts to touch; () for all.

        May be called again and again: what is done is found done. Raises GossipError where no host can go on.
        """
        wheel = self._kept_wheel()
        self._wheelhouse()  # what is wrong there is said before a wheel is built
        built = wheel if only and wheel else self._build()
        with self._board() as board:
            seen = self._on_hosts(self.deployment.hosts, board, lambda host, news: self._call(host, news, "probe"))
            self.deployment.has_reached(seen.answers)
            self.state.save(self.deployment)
            live = [node for node in seen.nodes() if node["pid"]]
            wheel = self._choose_wheel(built, bool(live))
            wheels = self._wheels_to_send(wheel)
            touched = [
                h for h in self.deployment.hosts if h.label in seen.answers and h.label in (only or seen.answers)
            ]
            work = lambda host, news: self._prepare(host, news, seen.answers[host.label], wheel, wheels)  # noqa: E731
            ready = self._on_hosts(touched, board, work)
            started = self._start(board, seen, [host for host in touched if host.label in ready.answers])
            for outcome in (ready, started):
                seen.failures |= outcome.failures
            for host in touched:
                if host.label not in seen.failures:
                    board.done(host.target, self._summary(host, seen, started))
        return seen

    def _prepare(
        self, host: Host, news: News, found: dict[str, Any], wheel: Path, wheels: list[Upload]
    ) -> dict[str, Any]:
        """The environment there, unless it is as it should be already."""
        options = self.deployment.options
        stamp = {
            "wheel": fingerprint(wheel),
            "wheelhouse": sorted(upload.sha256 for upload in wheels[1:]),
            "system_site_packages": options.system_site_packages,
            "python": host.python or options.python,
        }
        if found["stamp"] == stamp:
            news("is up to date")
            return found
        uploads = [upload for upload in wheels if found["wheels"].get(upload.path.name) != upload.sha256]
        return self._call(
            host, news, "install", uploads,
            files=[upload.header() for upload in uploads], wheels=[upload.path.name for upload in wheels],
            wheel=wheel.name, stamp=stamp, offline=bool(options.wheelhouse),
            system_site_packages=options.system_site_packages,
        )  # fmt: skip

    def _build(self) -> Path:
        self.console.print("building the wheel of this checkout", style="dim")
        return build_wheel(self.state.path / "built")

    def _kept_wheel(self) -> Path | None:
        """The one that the hosts have."""
        return next(iter(sorted(self.state.wheels.glob("*.whl"))), None)

    def _choose_wheel(self, built: Path, is_alive: bool) -> Path:
        """The new one, unless nodes run: then all go on with theirs."""
        kept = self._kept_wheel()
        if kept is None or (not is_alive and kept != built):
            if kept is not None:
                kept.unlink()
            self.state.wheels.mkdir(exist_ok=True)
            return built.rename(self.state.wheels / built.name)
        if fingerprint(kept) != fingerprint(built):
            self.console.print(
                "the swarm runs an earlier gossip, and goes on with that: down, then up, deploys this one"
            )
        return kept

    def _wheels_to_send(self, wheel: Path) -> list[Upload]:
        """Ours first, then the wheelhouse's."""
        return [Upload.of(path) for path in (wheel, *self._wheelhouse())]

    def _wheelhouse(self) -> list[Path]:
        """The wheels of the dependencies. Raises SpecError where there are none."""
        house = self.deployment.options.wheelhouse
        return [path for path in wheels_in(Path(house)) if not path.name.startswith("gossip_sgd-")] if house else []

    def _start(self, board: Board, seen: Outcome, hosts: list[Host]) -> Outcome:
        """Start the nodes that should run on these hosts.

        First those that can go on by themselves, or where there is nothing yet the first of a swarm; then all others,
        who join them.
        """
        state_of = {node["node"]: node for node in seen.nodes()}
        is_over = any(node["state"] in OVER for node in state_of.values())
        live = [node for node in state_of.values() if node["pid"]]
        if is_over and not live:
            self.console.print("the run is over: nothing to start (collect fetches the models)")
            return Outcome()
        wanted = {
            host.label: [
                node for node in self.deployment.nodes_on(host)
                if not state_of.get(node.name, {}).get("pid") and state_of.get(node.name, {}).get("state") not in OVER
            ]
            for host in hosts
        }  # fmt: skip
        hosts = [host for host in hosts if wanted[host.label]]
        if not hosts:
            return Outcome()
        ticket, outcome = self._ticket(live) or self._fresh_ticket(seen), Outcome()
        able = {
            label: [node for node in nodes if state_of.get(node.name, {}).get("has_state")]
            for label, nodes in wanted.items()
        }
        if any(able.values()):
            outcome = self._start_all(board, hosts, able, ticket)
            wanted = {label: [node for node in nodes if node not in able[label]] for label, nodes in wanted.items()}
        elif not ticket and not live:
            ticket = self._stored_ticket(seen)
            if not ticket:
                outcome = self._begin(board, hosts, wanted)
        ticket = ticket or self._ticket(outcome.nodes())
        joiners = [host for host in hosts if wanted[host.label] and host.label not in outcome.failures]
        if joiners and not ticket:
            raise GossipError(
                "nobody can join: the nodes that run have no ticket that is good; they start, or cannot: "
                "see status, and try again"
            )
        joined = self._start_all(board, joiners, wanted, ticket)
        outcome.failures |= joined.failures
        for label, answer in joined.answers.items():
            outcome.answers.setdefault(label, {"nodes": []})["nodes"] += answer["nodes"]
        self.deployment.ticket = self._ticket(outcome.nodes()) or ticket
        self.state.save(self.deployment)
        return outcome

    def _stored_ticket(self, seen: Outcome) -> str:
        """Of a swarm that may live on where nobody can be asked; "" where there is none. Raises GossipError."""
        lost = seen.failures.keys() - set(self.deployment.unreached)
        if not (self.deployment.has_begun and lost):
            return ""
        if self._seconds_left(self.deployment.ticket) > 0:
            return self.deployment.ticket
        names = ", ".join(sorted(self.deployment.host(label).name for label in lost))
        raise GossipError(
            f"the swarm may live on where nobody can be asked ({names}); bring those back, or begin anew: down --purge"
        )

    def _start_all(self, board: Board, hosts: list[Host], nodes: dict[str, list[PlannedNode]], ticket: str) -> Outcome:
        """On each host its nodes, all at once."""
        return self._on_hosts(
            [host for host in hosts if nodes[host.label]], board,
            lambda host, news: self._start_on(host, news, nodes[host.label], ticket),
        )  # fmt: skip

    def _begin(self, board: Board, hosts: list[Host], wanted: dict[str, list[PlannedNode]]) -> Outcome:
        """Start a swarm's first node: on the first host that can. Takes it out of what is wanted."""
        self.deployment.has_begun = True
        self.state.save(self.deployment)
        outcome = Outcome()
        for host in hosts:
            first = wanted[host.label][0]
            tried = self._start_all(board, [host], {host.label: [first]}, "")
            outcome.answers |= tried.answers
            outcome.failures |= tried.failures
            if tried.answers:
                wanted[host.label].remove(first)
                return outcome
        failed = ", ".join(self.deployment.host(label).target for label in outcome.failures)
        raise GossipError(f"no first node: none started on {failed}, see above; put one right and run the same again")

    def _start_on(self, host: Host, news: News, nodes: list[PlannedNode], ticket: str) -> dict[str, Any]:
        """Start these nodes there. Raises HostError where one of them did not get ready."""
        started = [{"node": node.name, "words": self._words(host, node)} for node in nodes]
        names = ", ".join(node.name for node in nodes)
        answer = self._call(
            host, lambda text: news(f"{names}: {text}"), "start", nodes=started, ticket=ticket,
            ready_within_s=READY_WITHIN_S, files=self.state.experiment_files(),
            data_dir=self.deployment.options.data_dir,
        )  # fmt: skip
        bad = [node for node in answer["nodes"] if not node["ticket"]]
        if bad:
            raise HostError("node failed", "; ".join(
                f"{node['node']}: {node['why'] or ('is not ready yet' if node['pid'] else 'ended without a word')}"
                for node in bad
            ))  # fmt: skip
        return answer

    @staticmethod
    def _words(host: Host, node: PlannedNode) -> list[str]:
        advertise = host.advertised_address(node.slot)
        return [
            "spec.toml", "--listen", host.listen_endpoint(node.slot), "--shard", str(node.shard),
            *(["--advertise", advertise] if advertise else []),
        ]  # fmt: skip

    def _ticket(self, nodes: Sequence[Event]) -> str:
        """The one that is good for longest; "" for none."""
        tickets = [node["ticket"] for node in nodes if node["ticket"]]
        best = max(tickets, key=self._seconds_left, default="")
        return best if best and self._seconds_left(best) > TICKET_LEFT_S else ""

    def ticket(self) -> str:
        """Into the running swarm. Raises GossipError."""
        seen = self.look()
        ticket = self._fresh_ticket(seen) or self._ticket(seen.nodes())  # a fresh one names more doors
        if not ticket:
            raise GossipError(f"{self.deployment.name}: no node that runs can be asked; see status")
        return ticket

    def _fresh_ticket(self, seen: Outcome) -> str:
        """Made from a living node's run folder: the printed ones are for a day. "" where that cannot be."""
        alive = [label for label, answer in seen.answers.items() if any(node["pid"] for node in answer["nodes"])]
        hosts = [self.deployment.host(label) for label in alive]
        made = self._on_hosts(hosts, None, lambda host, news: self._call(host, news, "ticket"))
        return self._ticket(list(made.answers.values()))

    @staticmethod
    def _seconds_left(ticket: str) -> float:
        try:
            return parse_ticket(ticket).expiry - time.time()
        except NetworkError:
            return 0.0

    def _summary(self, host: Host, seen: Outcome, started: Outcome) -> str:
        state_of = {node["node"]: node["state"] for node in (seen.answers[host.label]["nodes"])}
        state_of |= {node["node"]: node["state"] for node in started.answers.get(host.label, {"nodes": []})["nodes"]}
        return ", ".join(
            f"{node.name} {state_of.get(node.name, 'not started')}" for node in self.deployment.nodes_on(host)
        )

    # -- While it runs -------------------------------------------------------------------------------

    def look(self) -> Outcome:
        """What every node does."""
        return self._on_hosts(self.deployment.hosts, None, lambda host, news: self._call(host, news, "status"))

    def follow(
        self, hosts: list[Host], nodes: list[str], lines: int, follow: bool, show: Callable[[str, str], None]
    ) -> Outcome:
        """show(node, line) for the lines of the nodes' logs."""

        def work(host: Host, news: News) -> dict[str, Any]:
            piece = lambda message, read: show(message["node"], message["line"])  # noqa: E731
            return self._call(host, news, "logs", nodes=nodes, lines=lines, follow=follow, on_piece=piece)

        return self._on_hosts(hosts, None, work)

    def collect(self, folder: Path, checkpoints: bool) -> Outcome:
        """Fetch what the nodes keep, but their keys; checkpoints: the newest one of each, too."""

        def work(host: Host, news: News) -> dict[str, Any]:
            collection = Collection(folder, [node.name for node in self.deployment.nodes_on(host)], news, checkpoints)
            self._call(
                host, news, "collect", have=collection.have(), checkpoints=checkpoints, on_piece=collection.on_piece
            )
            return {"bytes": collection.bytes, "files": collection.files}

        with self._board() as board:
            outcome = self._on_hosts(self.deployment.hosts, board, work)
            for label, answer in outcome.answers.items():
                what = f"{counted(answer['files'], 'file')}, {answer['bytes'] / 1e6:.1f} MB fetched"
                board.done(self.deployment.host(label).target, what if answer["files"] else "nothing new")
        return outcome

    # -- The end -------------------------------------------------------------------------------------

    def take_down(self, purge: bool) -> Outcome:
        """Every node says goodbye; purge also removes what was installed and kept there."""
        with self._board() as board:
            work = lambda host, news: self._call(host, news, "stop", goodbye_s=GOODBYE_S, purge=purge)  # noqa: E731
            hosts = [host for host in self.deployment.hosts if host.label not in self.deployment.unreached]
            outcome = self._on_hosts(hosts, board, work)
            for label, answer in outcome.answers.items():
                goodbyes = [name for name in answer["stopped"] if name not in answer["killed"]]
                parts = [f"{', '.join(goodbyes)} said goodbye"] if goodbyes else []
                parts += [f"{', '.join(answer['killed'])} killed after {GOODBYE_S:.0f} s"] if answer["killed"] else []
                parts += ["removed"] if purge else []
                board.done(self.deployment.host(label).target, "; ".join(parts) or "nothing ran")
        self.ssh.hang_up([self.deployment.host(label) for label in outcome.answers])
        if not outcome.failures:
            self.deployment.ticket = ""
            self.state.remove() if purge else self.state.save(self.deployment)
        return outcome

    # -- On hosts ------------------------------------------------------------------------------------

    def _call(
        self, host: Host, news: News, action: str, uploads: Sequence[Upload] = (), on_piece: Any = None, **fields: Any
    ) -> dict[str, Any]:
        request = {"action": action, "root": f"~/.gossip/{self.deployment.name}/{host.label}", **fields}
        python = host.python or self.deployment.options.python
        more = {"on_piece": on_piece} if on_piece else {}
        return self.ssh.call(host, python, request, uploads=uploads, on_news=news, **more)

    def _on_hosts(self, hosts: Sequence[Host], board: Board | None, work: Callable[[Host, News], T]) -> Outcome:
        """work(host, news) for all, at once. A KeyboardInterrupt ends every connection and is raised on."""
        outcome = Outcome()
        if not hosts:
            return outcome
        with ThreadPoolExecutor(min(AT_ONCE_MAX, len(hosts))) as pool:
            waiting = {}
            for host in hosts:
                news = (lambda text, name=host.target: board.news(name, text)) if board else (lambda text: None)
                if board:
                    board.connecting(host.target)
                waiting[pool.submit(work, host, news)] = host
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        host = waiting.pop(future)
                        try:
                            outcome.answers[host.label] = future.result()
                        except HostError as error:
                            outcome.failures[host.label] = error
                            if board:
                                board.failed(host.target, str(error))
            except BaseException:
                self.ssh.close()
                raise
        return outcome

    @contextmanager
    def _board(self) -> Iterator[Board]:
        with Board(self.console, [host.target for host in self.deployment.hosts]) as board:
            yield board
