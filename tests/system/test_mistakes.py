"""Whatever a user gets wrong ends in one line that says what to do, within five seconds."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import GossipProcess

from gossip.errors import SpecError
from gossip.live.security import KeyPair
from gossip.live.tickets import mint, parse_ticket
from gossip.spec import load

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]


def complaint(process: GossipProcess) -> str:
    """The one line on standard error."""
    assert process.wait(5.0) == 1, process.story()
    lines = process.err.read_text().splitlines()
    assert len(lines) == 1, process.story()
    assert lines[0].startswith("gossip: ")
    return lines[0]


def text_of(spec: Path, *replacements: tuple[str, str]) -> None:
    text = spec.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("batch =", "bach =", ["train.bach = 32", "unknown key", "did you mean train.batch?"]),
        ("[model]", "[modle]", ["modle", "did you mean model?"]),
        ("batch = 32", 'batch = "32"', ["train.batch = '32'", "expected a whole number from 1 to 65536, or \"auto\""]),
        ("learning_rate = 0.03", "learning_rate = -1", ["train.learning_rate = -1", "above 0"]),
        ("blocks = 0.25", "blocks = 1.5", ["exchange.blocks = 1.5", "at most 1"]),
        ('preset = "mlp"', 'preset = "mpl"', ["model.preset = 'mpl'", "mlp"]),
        ('preset = "mlp"', 'layers = ["dense 10", "conv 6 5x5"]', ["model.layers", "conv 6 5x5"]),
        ('preset = "mlp"', 'layers = ["dense 7"]', ["model.layers", "dense 7", "10"]),
        ('recipe = "glyphs"', 'recipe = "glyfs"', ["data.recipe = 'glyfs'", "glyphs"]),
        ('partition = "iid"', 'partition = "classes(0)"', ["data.partition = 'classes(0)'", "classes(k)"]),
        ("seed = 1", "seed = ", ["not valid TOML", "line 2"]),
        ('name = "test"', 'name = "te/st"', ["name = 'te/st'", "letters, digits"]),
        ("[exchange]", '[node]\nlisten = 7\n[exchange]', ["node.listen = 7", "tcp://"]),
        ("[exchange]", '[node]\nlisten = "tcp://[::1]:65536"\n[exchange]', ["[::1]:65536'", "0 to 65535"]),
        ("[exchange]", '[node]\nadvertise = "home:0"\n[exchange]', ["node.advertise = 'home:0'", "HOST:PORT"]),
    ],
)  # fmt: skip
def test_a_wrong_experiment_file(write_spec: WriteSpec, old: str, new: str, expected: list[str]) -> None:
    """File, key, value, and what was expected or the nearest right name, in one line."""
    spec = write_spec()
    text_of(spec, (old, new))
    with pytest.raises(SpecError) as raised:
        load(spec)
    line = str(raised.value)
    assert "\n" not in line
    for part in [str(spec), *expected]:
        assert part in line


def test_every_command_that_reads_an_experiment_says_so(start: Start, start_node: Start, write_spec: WriteSpec) -> None:
    spec = write_spec(train_batch=0)
    expected = 'expected a whole number from 1 to 65536, or "auto"'
    for process in (start_node(spec), start("train", spec)):
        assert complaint(process) == f"gossip: {spec}: train.batch = 0: {expected}"


def test_no_experiment_file_at_all(start: Start, tmp_path: Path) -> None:
    assert "nowhere.toml: cannot read the experiment file" in complaint(start("train", "nowhere.toml", name="a"))
    assert "--join TICKET" in complaint(start("node", "--listen", "tcp://127.0.0.1:0", name="b"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "binary.toml: cannot read the experiment file" in complaint(start("node", "binary.toml", name="c"))


def test_missing_data(start: Start, start_node: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """No file, no network: where it looked, and where else it may lie; no run is left, a program is told too."""
    spec = write_spec(data_recipe="offline.toml")
    recipe = (Path(__file__).parents[2] / "datasets" / "mnist.toml").read_text()
    spec.with_name("offline.toml").write_text(recipe.replace("https://", "http://127.0.0.1:9/"))
    places = {"GOSSIP_DATA": str(tmp_path / "a"), "GOSSIP_CACHE": str(tmp_path / "b")}
    for process in (start_node(spec, **places), start("train", spec, "--json", **places)):
        line = complaint(process)
        assert "images" in line
        assert "--data-dir" in line or "GOSSIP_DATA" in line
    assert json.loads(process.out.read_text().splitlines()[-1]) == {"error": line.removeprefix("gossip: ")}
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_port_in_use_and_addresses_that_are_none(start_node: Start, start: Start, write_spec: WriteSpec) -> None:
    spec = write_spec()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = complaint(start("node", spec, "--listen", f"tcp://127.0.0.1:{port}"))
        assert str(port) in line
        assert "in use" in line
    assert "7700" in complaint(start("node", spec, "--listen", "localhost:7700"))
    assert "tcp://127.0.0.1:99999" in complaint(start("node", spec, "--listen", "tcp://127.0.0.1:99999"))
    assert "expected tcp://HOST:PORT" in complaint(start("node", spec, "--listen", f"ipc://{spec}.socket"))
    for words in (["--listen", "none"], ["--advertise", "none"]):
        assert "cannot begin a swarm" in complaint(start_node(spec, *words))
    assert "192.0.2.1" in complaint(start("node", spec, "--listen", "tcp://192.0.2.1:7700"))
    for advertise in ("nonsense", "h" * 150 + ":7700"):
        assert "HOST:PORT" in complaint(start_node(spec, "--advertise", advertise))


def test_key_files(start_node: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """Malformed, readable by others, not a file, in a folder that is not there."""
    spec, key = write_spec(), tmp_path / "node.key"
    key.write_text("not a key\n")
    key.chmod(0o600)
    assert f"{key}: not a gossip key file; delete it" in complaint(start_node(spec, "--key", key))
    key.unlink()
    first = start_node(spec, "--key", key)
    identity = first.wait_for("started")["key"]
    first.close()
    again = start_node(spec, "--key", key)
    assert again.wait_for("started")["key"] == identity
    again.close()
    key.chmod(0o644)
    assert f"chmod 600 {key}" in complaint(start_node(spec, "--key", key))
    assert "cannot read the key file" in complaint(start_node(spec, "--key", tmp_path))
    assert "cannot create the key file" in complaint(start_node(spec, "--key", tmp_path / "none" / "node.key"))


@pytest.mark.slow
def test_tickets_that_admit_nobody(start_node: Start, write_spec: WriteSpec) -> None:
    """A typo, no ticket at all, another swarm's, an expired one, and one whose members are gone."""
    member = start_node(write_spec(), name="member")
    ticket = member.ticket()
    address = member.wait_for("started")["address"]
    seeds = [(address, KeyPair.new().public)]

    typo = ("A" if ticket[20] != "A" else "B").join([ticket[:20], ticket[21:]])
    assert "typo or a missing piece" in complaint(start_node("--join", typo))
    assert "typo or a missing piece" in complaint(start_node("--join", ticket[:-10]))
    assert "not a ticket" in complaint(start_node("--join", "hello, world!"))

    expired = mint(b"k" * 32, seeds, 10.0, now=time.time() - 1000).text()
    assert "expired on" in complaint(start_node("--join", expired))

    foreign = mint(b"k" * 32, [(address, _key_in(ticket))], 600.0, now=time.time()).text()
    line = complaint(start_node("--join", foreign))
    assert address in line
    assert "BAD_TICKET" in line
    refusal = member.wait_for("link_refused")
    assert refusal["code"] == "BAD_TICKET"

    with socket.create_server(("127.0.0.1", 0)) as deaf, socket.create_server(("127.0.0.1", 0)) as nobody:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (deaf, nobody)]
        nobody.close()
        lost = [mint(b"k" * 32, [(address, _key_in(ticket))], 600.0, now=time.time()).text() for address in addresses]
        joiners = [start_node("--join", text) for text in lost]
        for address, joiner in zip(addresses, joiners, strict=True):
            assert address in complaint(joiner)

    assert member.process.poll() is None


def test_joining_with_another_experiment_is_refused_on_both_sides(start_node: Start, write_spec: WriteSpec) -> None:
    """What a swarm must share it shares: the reason is said to the newcomer, and logged by the member."""
    member = start_node(write_spec(), name="member")
    ticket = member.ticket()
    other = write_spec("other.toml", train_learning_rate=0.01)
    line = complaint(start_node(other, "--join", ticket))
    assert "BAD_SPEC" in line
    assert "join without a spec" in line
    assert member.wait_for("link_refused")["code"] == "BAD_SPEC"
    same = start_node(write_spec("same.toml"), "--join", ticket, name="same")
    same.wait_for("training")


def test_runs_and_images_that_are_not_there(start: Start, tmp_path: Path) -> None:
    assert "nothing: no run there" in complaint(start("eval", "nothing"))
    assert "nothing: no run there" in complaint(start("predict", "nothing", "image.png"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert "run.json: cannot be read" in complaint(start("eval", "broken"))


def test_a_run_folder_that_cannot_be_made(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = complaint(start("train", write_spec(), "--run-dir", tmp_path / "file" / "run"))
    assert "cannot make the run's folder" in line


def _key_in(ticket: str) -> bytes:
    return parse_ticket(ticket).seeds[0][1]
