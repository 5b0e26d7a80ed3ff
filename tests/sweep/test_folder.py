"""What a sweep keeps: every trial that ended, whatever ended the sweep; and never two sweeps in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip.errors import SpecError
from gossip.sweep.folder import open_folder, read_folder
from gossip.sweep.plan import Base, Trial, trials_of

TEXT = '[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"  # small\n'
POINTS = [{"train.batch": 16}, {"train.batch": 32}]
RECORD = {"trial": 1, "point": POINTS[0], "seed": 1, "end": "finished", "why": "", "accuracy": 0.9, "loss": 0.3,
          "samples": 10, "seconds": 1.0, "looks": [0.5, 0.9]}  # fmt: skip


def base(tmp_path: Path, text: str = TEXT, samples: int = 0) -> Base:
    return Base(text, tmp_path / "small.toml", {"data.sample": "10%"}, samples)


def test_what_ended_is_there_again_and_half_a_line_is_not(tmp_path: Path) -> None:
    """Killed while it wrote: that trial is trained again, and the line after it is whole."""
    folder = open_folder(tmp_path / "s", base(tmp_path))
    folder.keep(POINTS)
    folder.add(RECORD)
    folder.close()
    with (tmp_path / "s" / "trials.jsonl").open("a") as file:
        file.write('{"trial": 2, "point": {"train.ba')
    again = open_folder(tmp_path / "s", base(tmp_path))
    assert list(again.records) == [Trial(1, POINTS[0], 1).key]
    again.add(RECORD | {"trial": 2, "point": POINTS[1]})
    again.close()
    assert len(read_folder(tmp_path / "s").records) == 2


def test_a_wider_sweep_adds_rows_and_changes_no_number(tmp_path: Path) -> None:
    """Somebody may have written down that trial 2 was good."""
    folder = open_folder(tmp_path / "s", base(tmp_path))
    assert folder.keep(POINTS) == [(1, POINTS[0]), (2, POINTS[1])]
    folder.close()
    again = open_folder(tmp_path / "s", base(tmp_path))
    assert again.keep([{"train.batch": 8}, POINTS[1]]) == [(2, POINTS[1]), (3, {"train.batch": 8})]
    again.close()
    assert read_folder(tmp_path / "s").base.text == TEXT


@pytest.mark.parametrize(("text", "samples"), [(TEXT.replace("mlp", "lenet"), 0), (TEXT, 5000)])
def test_another_sweep_is_refused(tmp_path: Path, text: str, samples: int) -> None:
    """One table of trials that trained on different things would lie."""
    folder = open_folder(tmp_path / "s", base(tmp_path))
    folder.keep(POINTS)
    folder.close()
    with pytest.raises(SpecError, match="another experiment, --sample or --samples; choose another --folder"):
        open_folder(tmp_path / "s", base(tmp_path, text, samples))
    open_folder(tmp_path / "s", base(tmp_path, "# a new comment\n" + TEXT)).close()


def test_two_do_not_sweep_in_one_folder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "s", base(tmp_path))
    with pytest.raises(SpecError, match="another process sweeps in this folder"):
        open_folder(tmp_path / "s", base(tmp_path))
    folder.close()
    open_folder(tmp_path / "s", base(tmp_path)).close()


@pytest.mark.parametrize("content", [None, "", "[]", '{"rows": 5}', "{"])
def test_what_is_no_sweep_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(SpecError, match=r"no sweep there|cannot be read"):
        read_folder(tmp_path)


def test_every_row_has_its_first_seed_before_any_has_its_second() -> None:
    """The table says something early."""
    trials = trials_of(list(enumerate(POINTS, 1)), first_seed=2**32 - 1, seeds=2)
    assert [(trial.number, trial.seed) for trial in trials] == [(1, 2**32 - 1), (2, 2**32 - 1), (1, 0), (2, 0)]
