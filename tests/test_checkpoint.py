"""Checkpoints: exact, whole, two of them, and never worse than before a save that failed."""

from __future__ import annotations

import array
import errno
import io
import json
import os
import random
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from msgspec.structs import replace

from gossip import observe
from gossip.checkpoint import HEADER_BYTES_MAX, Checkpoint, Checkpoints, read_checkpoint
from gossip.data.store import load_dataset
from gossip.errors import DataError, SpecError
from gossip.models.model import build_model
from gossip.spec import load
from gossip.training.trainer import Trainer, TrainerState

EXPERIMENT = load(Path(__file__).parents[1] / "deploy" / "experiments" / "two-machines.toml")
NOTES = {"a": [1, 2.5, "ä"], "b": {"c": None}}


def arrays(step: int) -> dict[str, np.ndarray]:
    return {"x": np.full(1000, step, np.float32), "mixed_at": np.arange(step, step + 10, dtype=np.int32)}


def steps_of(checkpoints: Checkpoints) -> list[int]:
    return [read_checkpoint(path).step for path in checkpoints.paths()]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


# -- The file ---------------------------------------------------------------------------------------


def test_it_comes_back_bit_for_bit_and_two_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 9, 10, 100):
        checkpoints.save(step, arrays(step), NOTES)
    assert steps_of(checkpoints) == [100, 10]
    found, wrong = checkpoints.load()
    assert found is not None and not wrong
    assert (found.step, found.notes) == (100, NOTES)
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in arrays(100).items()
    }
    assert (
        sorted(path.name for path in checkpoints.folder.iterdir()) == [path.name for path in checkpoints.paths()][::-1]
    )


def test_others_can_read_it_too(checkpoints: Checkpoints) -> None:
    """It is plain safetensors: no tool of ours is needed to get at the parameters."""
    import safetensors

    path = checkpoints.save(7, arrays(7), NOTES)
    with safetensors.safe_open(path, "numpy") as file:
        assert (file.get_tensor("x") == 7).all()
        assert json.loads(file.metadata()["notes"]) == NOTES


def test_nothing_is_not_an_error(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() == (None, [])


@pytest.mark.parametrize("where", ["start", "header", "notes", "tensor", "end", "cut", "empty"])
def test_a_rotten_file_costs_one_interval(checkpoints: Checkpoints, where: str) -> None:
    """Wherever a byte has changed or is missing, the one before is taken; and what was wrong is said."""
    checkpoints.save(1, arrays(1), NOTES)
    path = checkpoints.save(2, arrays(2), NOTES)
    data = bytearray(path.read_bytes())
    at = {"start": 0, "header": 40, "notes": data.index(b"2.5"), "tensor": len(data) - 900, "end": len(data) - 1}
    if where in at:
        data[at[where]] ^= 0x10
    path.write_bytes(data[:-7] if where == "cut" else b"" if where == "empty" else data)
    found, wrong = checkpoints.load()
    assert found is not None and found.step == 1
    assert len(wrong) == 1 and "checkpoint-2.safetensors: damaged" in wrong[0]


def test_every_single_byte_counts(checkpoints: Checkpoints) -> None:
    """A changed byte anywhere is noticed, or changes nothing that is read."""
    small = {"x": np.arange(4, dtype=np.float32)}
    path = checkpoints.save(1, small, {"n": 1})
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except SpecError:
            continue
        assert found.notes == {"n": 1} and found.arrays["x"].tobytes() == small["x"].tobytes(), position


def test_two_rotten_files_are_no_silent_fresh_start(checkpoints: Checkpoints) -> None:
    """Hours of training are not to be thrown away without a word."""
    for step in (1, 2):
        checkpoints.save(step, arrays(step), NOTES).write_bytes(b"rotten")
    with pytest.raises(SpecError, match=r"(?s)checkpoint-2.*checkpoint-1.*start anew with --fresh"):
        checkpoints.load()


def test_what_does_not_fit_is_refused_like_what_is_rotten(checkpoints: Checkpoints) -> None:
    """A file of another model, copied here by hand."""
    for step in (1, 2):
        checkpoints.save(step, arrays(step), NOTES)

    def accept(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 2:
            raise DataError("another model's")

    found, wrong = checkpoints.load(accept)
    assert found is not None and found.step == 1 and "another model's" in wrong[0]


def test_a_refused_file_takes_no_good_ones_place(checkpoints: Checkpoints) -> None:
    """After a fallback steps count from the older file: the rotten newer one must not be kept instead of it."""
    for step in (1, 2):
        checkpoints.save(step, arrays(step), NOTES)
    checkpoints.paths()[0].write_bytes(b"rotten")
    found, _ = checkpoints.load()
    assert found is not None
    checkpoints.set_aside(newer_than=found.step)
    assert steps_of(checkpoints) == [1]
    checkpoints.save(2, arrays(2), NOTES)
    assert steps_of(checkpoints) == [2, 1]


# -- Resuming exactly ---------------------------------------------------------------------------------


def make_trainer(order_seed: int = 3, **changed: Any) -> Trainer:
    dataset = load_dataset(EXPERIMENT.recipe)
    model = build_model(EXPERIMENT.layers, EXPERIMENT.recipe.mean, EXPERIMENT.recipe.std)
    shard = np.arange(100, 400)
    train = replace(EXPERIMENT.train, **changed)
    return Trainer(train, EXPERIMENT.seed, model, dataset, shard, order_seed=order_seed)


def exchange(asker: Trainer, other: Trainer, exchange_id: int) -> None:
    request = asker.offer(exchange_id, 0.3, skip_in_flight=True, with_momentum=True)
    assert request is not None
    asker.apply(exchange_id, other.respond(request)[0])


def bits_of(trainer: Trainer) -> dict[str, Any]:
    state = trainer.state()
    return {**{name: array.tobytes() for name, array in state.arrays.items()}, "counters": state.counters}


def test_a_resumed_trainer_is_the_one_that_never_stopped(checkpoints: Checkpoints) -> None:
    """Bit for bit: parameters, momentum, batches across an epoch's end, a newcomer's ramp, and exchanges."""
    trainer, peer = make_trainer(), make_trainer(order_seed=4)
    trainer.progress = 0.1
    trainer.begin(20)
    for number in range(12):
        trainer.step()
        peer.step()
        exchange(trainer, peer, number)
    state = trainer.state()
    checkpoints.save(trainer.steps, state.arrays, {"trainer": state.counters})
    peer_state = peer.state()

    def go_on(one: Trainer, other: Trainer) -> dict[str, Any]:
        for number in range(100, 115):
            one.step()
            exchange(one, other, number)
            exchange(other, one, number)
        return bits_of(one)

    never_stopped = go_on(trainer, peer)
    found, _ = checkpoints.load()
    assert found is not None
    again, other = make_trainer(), make_trainer(order_seed=4)
    again.restore(TrainerState(found.arrays, found.notes["trainer"]))
    other.restore(peer_state)
    assert go_on(again, other) == never_stopped
    assert again.steps == 27 and again.batches.sampler.epoch > 0


def test_a_batch_that_follows_the_speed_is_resumed() -> None:
    """A slow node would otherwise take far too long over its first steps, a fast one stray from the others."""
    trainer = make_trainer(batch="auto")
    trainer.batch = 96
    again = make_trainer(batch="auto")
    again.restore(trainer.state())
    assert again.batch == 96


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = make_trainer().state()
    with pytest.raises(DataError, match="another key"):
        make_trainer(order_seed=5).restore(state)
    short = TrainerState(state.arrays | {"ref": state.arrays["ref"][:-1]}, state.counters)
    with pytest.raises(DataError, match="state's ref is float32"):
        make_trainer().restore(short)
    broken = TrainerState(state.arrays | {"x": np.full_like(state.arrays["x"], np.inf)}, state.counters)
    with pytest.raises(DataError, match="not finite"):
        make_trainer().restore(broken)
    with pytest.raises(DataError, match="another version"):
        make_trainer().restore(TrainerState(state.arrays, {"order_seed": 3}))


# -- Disks that fill up -------------------------------------------------------------------------------


class Disk:
    """A disk that fails at its k-th operation, and counts them."""

    def __init__(self, fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations = 0
        self._fails_at = fails_at
        real_open, real_fsync, real_replace = observe.open_new, os.fsync, Path.replace

        def open_new(path: Path, mode: int) -> BinaryIO:
            self.operate()
            return FailingFile(self, real_open(path, mode))  # type: ignore[return-value]

        def fsync(fd: int) -> None:
            self.operate()
            real_fsync(fd)

        def replace(source: Path, target: Path) -> Path:
            self.operate()
            return real_replace(source, target)

        monkeypatch.setattr(observe, "open_new", open_new)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)

    def operate(self) -> None:
        self.operations += 1
        if self.operations == self._fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FailingFile(io.RawIOBase):
    """Writes of which one fails, half done."""

    def __init__(self, disk: Disk, file: BinaryIO) -> None:
        self._disk, self._file = disk, file

    def write(self, part: Any) -> int:
        try:
            self._disk.operate()
        except OSError:
            self._file.write(memoryview(part)[: len(part) // 2])
            raise
        return self._file.write(part)

    def flush(self) -> None:
        if not self._file.closed:
            self._disk.operate()
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def test_wherever_a_save_fails_the_last_good_one_stays(checkpoints: Checkpoints) -> None:
    """Opening, every write, flushing, syncing, renaming, syncing the folder: fail each in turn."""
    checkpoints.save(1, arrays(1), NOTES)
    total = 99
    for fails_at in range(1, 100):
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(fails_at, monkeypatch)
            try:
                checkpoints.save(2, arrays(2), NOTES)
            except OSError as error:
                assert error.errno == errno.ENOSPC
            else:
                total = fails_at
                break
        found, wrong = checkpoints.load()
        # Only the very last operation, syncing the folder, comes after the rename: the new file is whole then.
        assert found is not None and not wrong and found.step in (1, 2)
        assert not [path for path in checkpoints.folder.iterdir() if path not in checkpoints.paths()]
        if found.step == 2:
            found.path.unlink()
    assert 7 < total == disk.operations + 1 and steps_of(checkpoints) == [2, 1]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel's own refusal, which needs no root: EFBIG beyond this size. (Python ignores SIGXFSZ.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_may_not_grow_leaves_the_last_good_one(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, arrays(1), NOTES)
    size = path.stat().st_size
    for limit in range(0, size, 97):
        with files_of_at_most(limit), pytest.raises(OSError):
            checkpoints.save(2, arrays(2), NOTES)
        assert steps_of(checkpoints) == [1]
        assert list(checkpoints.folder.iterdir()) == [path]


@pytest.mark.root
def test_a_disk_that_is_full_leaves_the_last_good_one(tmp_path: Path) -> None:
    """A small tmpfs, filled further and further, so that a save fails at every place there is."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "gossip-test", tmp_path], check=True)
    try:
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        big = {"x": np.ones(60_000, np.float32)}
        checkpoints.save(1, big, NOTES)
        ballast, failed = tmp_path / "ballast", 0
        for kilobytes in range(0, 1800, 4):
            with suppress(OSError):  # as much as there is room for
                ballast.write_bytes(bytes(1024 * kilobytes))
            try:
                checkpoints.save(2 + kilobytes, big, NOTES)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failed += 1
            found, wrong = checkpoints.load()
            assert found is not None and not wrong
            assert not [path for path in checkpoints.folder.iterdir() if path not in checkpoints.paths()]
        assert 20 < failed < 450
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# -- Processes that are killed ------------------------------------------------------------------------

SAVES_FOR_EVER = """
import array, sys
from pathlib import Path
from gossip.checkpoint import Checkpoints

checkpoints, step = Checkpoints(Path(sys.argv[1])), int(sys.argv[2])
checkpoints.sweep()
sys.stdout.write("ready")
sys.stdout.flush()
while True:
    step += 1
    arrays = {name: array.array("f", [step]) * 50_000 for name in ("momentum", "ref", "x")}
    checkpoints.save(step, arrays, {"step": step})
"""


def kill_often(folder: Path, kills: int, seed: int, side_by_side: int = 8) -> None:
    """Start processes that do nothing but save, kill each at a random moment, and load what is there, each time."""
    draw = random.Random(seed)
    lanes = [folder / f"lane{number}" for number in range(side_by_side)]
    for lane in lanes:
        Checkpoints(lane).save(0, {"x": array.array("f", [0.0])}, {"step": 0})
    last, half_done = dict.fromkeys(lanes, 0), 0
    for first in range(0, kills, side_by_side):
        savers = {
            lane: subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", SAVES_FOR_EVER, lane, str(last[lane])],
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parents[1],
            )
            for lane in lanes[: kills - first]
        }
        for saver in savers.values():
            assert saver.stdout is not None and select.select([saver.stdout], [], [], 30.0)[0]
        for lane in draw.sample(list(savers), len(savers)):
            saver = savers[lane]
            try:
                saver.wait(draw.uniform(0.0, 0.02))  # a save takes some milliseconds
                pytest.fail("it ended by itself")
            except subprocess.TimeoutExpired:
                saver.kill()
            saver.communicate()
        for lane in savers:
            half_done += any(path.name.startswith(".") for path in lane.iterdir())
            found, wrong = Checkpoints(lane).load()
            assert not wrong, f"seed {seed}, kill {first}: {wrong}"
            assert found is not None and found.step >= last[lane]
            assert all((array == found.step).all() for array in found.arrays.values())
            last[lane] = found.step
    assert half_done > kills // 10, "hardly any of them was killed while it wrote: this proves nothing"


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """The old file or the new one, whatever the moment."""
    kill_often(tmp_path, kills=48, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_kills_corrupt_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=1000, seed=2)


def test_what_a_killed_process_left_is_swept_away(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, arrays(1), NOTES)
    (checkpoints.folder / ".checkpoint-2.safetensors.123").write_bytes(b"half")
    checkpoints.sweep()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["checkpoint-1.safetensors"]


def test_notes_too_long_to_be_read_back_are_not_written(checkpoints: Checkpoints) -> None:
    """A checkpoint that its own reader refuses would take the good ones' place."""
    checkpoints.save(1, arrays(1), {})
    with pytest.raises(OSError, match="can be read back"):
        checkpoints.save(2, arrays(2), {"long": "x" * HEADER_BYTES_MAX})
    assert steps_of(checkpoints) == [1]
