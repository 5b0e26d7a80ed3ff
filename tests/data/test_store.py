"""Data files: believed by hash only, found in the folders promised, fetched when missing."""

import gzip
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gossip.data.recipes import ROLES, Recipe, RecipeFile, find_recipe
from gossip.data.store import load_dataset
from gossip.errors import DataError

CONTENT = {
    "train_images": gzip.compress(struct.pack(">4I", 0x0803, 3, 2, 2) + bytes(range(12)), mtime=0),
    "train_labels": gzip.compress(struct.pack(">2I", 0x0801, 3) + bytes([0, 1, 0]), mtime=0),
    "test_images": gzip.compress(struct.pack(">4I", 0x0803, 1, 2, 2) + bytes(4), mtime=0),
    "test_labels": gzip.compress(struct.pack(">2I", 0x0801, 1) + bytes([1]), mtime=0),
}


def tiny(url: str = "") -> Recipe:
    """A recipe of four images; its files are at `url`/NAME if there is one."""
    files = tuple(
        RecipeFile(
            role=role,
            name=f"{role}.gz",
            bytes=len(CONTENT[role]),
            sha256=hashlib.sha256(CONTENT[role]).hexdigest(),
            urls=(f"{url}/{role}.gz",) if url else (),
        )
        for role in ROLES
    )
    return Recipe(
        name="tiny", format="idx", shape=(2, 2, 1), classes=("dark", "light"), mean=(0.0,), std=(1.0,),
        train_samples=3, test_samples=1, files=files,
    )  # fmt: skip


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for role, content in CONTENT.items():
        (folder / f"{role}.gz").write_bytes(content)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test here may read or write the user's own cache."""
    monkeypatch.delenv("GOSSIP_DATA", raising=False)
    monkeypatch.setenv("GOSSIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of tmp_path/site on loopback; yields its url."""
    (tmp_path / "site").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site")))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize("place", ["given", "given/tiny", "environment", "environment/tiny", "cache", "cache/tiny"])
def test_files_are_found_wherever_the_manual_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The folder given, $GOSSIP_DATA, the cache; in each also the recipe's own subfolder."""
    monkeypatch.setenv("GOSSIP_DATA", str(tmp_path / "environment"))
    write_files(tmp_path / place)
    dataset = load_dataset(tiny(), str(tmp_path / "given"))
    assert dataset.train_images.shape == (3, 2, 2, 1) and dataset.train_images.flags.c_contiguous
    assert dataset.train_images.ravel().tolist() == list(range(12))
    assert dataset.train_labels.tolist() == [0, 1, 0] and dataset.test_labels.tolist() == [1]


def test_missing_data_says_what_where_and_how_to_get_it(tmp_path: Path, cache: Path) -> None:
    """One line, and the user knows what to do; port 9 on loopback stands for an unreachable network."""
    with pytest.raises(DataError) as caught:
        load_dataset(tiny("http://127.0.0.1:9"), str(tmp_path / "given"))
    text = str(caught.value)
    assert "tiny: train_images.gz" in text and str(tmp_path / "given") in text and str(cache) in text
    assert "get it from http://127.0.0.1:9/train_images.gz" in text and "--data-dir" in text
    assert "\n" not in text


def test_a_file_with_the_right_name_and_wrong_content_is_named(tmp_path: Path) -> None:
    """Another version of the file must not be trained on, nor reported as missing."""
    write_files(tmp_path)
    (tmp_path / "train_labels.gz").write_bytes(CONTENT["train_labels"][:-1] + b"!")
    with pytest.raises(DataError, match=r"train_labels\.gz has the right name but another size or sha256"):
        load_dataset(tiny(), str(tmp_path))


def test_a_sound_copy_elsewhere_makes_up_for_a_wrong_one(tmp_path: Path, cache: Path) -> None:
    """The hash decides, not the order of the folders."""
    write_files(tmp_path)
    write_files(cache)
    (tmp_path / "train_labels.gz").write_bytes(b"wrong")
    assert load_dataset(tiny(), str(tmp_path)).train_labels.tolist() == [0, 1, 0]


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    """They would index past the end of the model's outputs."""
    write_files(tmp_path)
    labels = gzip.compress(struct.pack(">2I", 0x0801, 3) + bytes([0, 2, 0]), mtime=0)
    (tmp_path / "train_labels.gz").write_bytes(labels)
    recipe = tiny()
    files = tuple(
        msgspec.structs.replace(file, bytes=len(labels), sha256=hashlib.sha256(labels).hexdigest())
        if file.role == "train_labels"
        else file
        for file in recipe.files
    )
    with pytest.raises(DataError, match=r"train_labels\.gz holds the label 2, expected 0 to 1"):
        load_dataset(msgspec.structs.replace(recipe, files=files), str(tmp_path))


def test_missing_files_are_downloaded_once(tmp_path: Path, server: str, cache: Path) -> None:
    """Into the cache, watched, verified; the next start needs no network."""
    write_files(tmp_path / "site")
    seen: list[tuple[str, int, int]] = []
    load_dataset(tiny(server), progress=lambda *report: seen.append(report))
    sizes = {f"{role}.gz": len(content) for role, content in CONTENT.items()}
    assert {name: done for name, done, total in seen if done == total} == sizes
    assert sorted(path.name for path in (cache / "tiny").iterdir()) == sorted(sizes)
    seen.clear()
    load_dataset(tiny(server), progress=lambda *report: seen.append(report))
    assert not seen


def test_the_default_progress_goes_to_stderr(tmp_path: Path, server: str, capsys: pytest.CaptureFixture) -> None:
    """stdout belongs to results."""
    write_files(tmp_path / "site")
    load_dataset(tiny(server))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("served", "explained"),
    [
        (CONTENT["train_images"] + bytes(1 << 20), "more bytes"),
        (CONTENT["train_images"][:-1], "fewer bytes"),
        (bytes(len(CONTENT["train_images"])), "not the sha256"),
        (None, "File not found"),
    ],
    ids=["long", "short", "other", "gone"],
)
def test_a_wrong_download_leaves_nothing_behind(
    tmp_path: Path, server: str, cache: Path, served: bytes | None, explained: str
) -> None:
    """A mirror may serve an error page, a cut file, or something made to look alike."""
    if served is not None:
        (tmp_path / "site" / "train_images.gz").write_bytes(served)
    with pytest.raises(DataError, match=explained):
        load_dataset(tiny(server), progress=lambda *_: None)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_the_second_url_stands_in_for_the_first(tmp_path: Path, server: str) -> None:
    """That is what mirrors are for."""
    write_files(tmp_path / "site")
    recipe = tiny(server)
    files = tuple(msgspec.structs.replace(file, urls=("http://127.0.0.1:9/gone", *file.urls)) for file in recipe.files)
    recipe = msgspec.structs.replace(recipe, files=files)
    assert load_dataset(recipe, progress=lambda *_: None).test_labels.tolist() == [1]


MNIST_FOLDER = os.environ.get("GOSSIP_DATA", "")


@pytest.mark.skipif(not MNIST_FOLDER, reason="set GOSSIP_DATA to a folder that holds MNIST's four files")
def test_mnist_is_the_mnist_everybody_knows() -> None:
    """The counts per class and the mean that every paper rests on."""
    recipe = find_recipe("mnist")
    dataset = load_dataset(recipe, MNIST_FOLDER)
    assert np.bincount(dataset.train_labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert dataset.test_images.shape == (10_000, 28, 28, 1)
    assert dataset.train_images.mean() / 255 == pytest.approx(recipe.mean[0], abs=1e-5)
