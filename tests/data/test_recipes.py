"""A recipe is found by one look-up, and a wrong one is explained in one line."""

import json
from pathlib import Path

import msgspec
import pytest

from gossip.data.recipes import ROLES, Recipe, find_recipe, recipe_folder
from gossip.errors import SpecError

GOOD = """
name = "tiny"
format = "idx"
shape = [2, 2, 1]
classes = ["dark", "light"]
mean = [0.5]
std = [1.0]
train_samples = 4
test_samples = 2
""" + "".join(f'[[files]]\nrole = "{role}"\nname = "{role}.gz"\nbytes = 10\nsha256 = "{"0" * 64}"\n' for role in ROLES)


@pytest.mark.parametrize("name", sorted(path.stem for path in recipe_folder().glob("*.toml")))
def test_every_shipped_recipe_reads_and_survives_the_way_to_a_joiner(name: str) -> None:
    """The spec carries the recipe as JSON: what arrives must equal what was sent."""
    recipe = find_recipe(name)
    assert recipe.name == name
    sent = json.dumps(msgspec.to_builtins(recipe))
    assert msgspec.convert(json.loads(sent), Recipe) == recipe


def test_a_path_is_relative_to_the_experiment_file(tmp_path: Path) -> None:
    """An experiment and its recipe move together."""
    (tmp_path / "tiny.toml").write_text(GOOD)
    assert find_recipe("tiny.toml", beside=tmp_path).shape == (2, 2, 1)
    assert find_recipe(str(tmp_path / "tiny.toml")).classes == ("dark", "light")


def test_a_misspelt_name_gets_the_nearest_and_the_list() -> None:
    """The user must not have to look for the names."""
    with pytest.raises(SpecError, match=r"mean mnist\? expected one of cifar10-jpg, glyphs, mnist, or the path"):
        find_recipe("mnits")


@pytest.mark.parametrize(
    ("good", "bad", "explained"),
    [
        ("std =", "stdd =", r"tiny\.toml: stdd: unknown key; expected one of name, format, shape"),
        ("bytes = 10", "size = 10", r"files\[0\]\.size: unknown key; expected one of role, name, bytes"),
        ('name = "tiny"\n', "", r"tiny\.toml: name: missing"),
        ("train_samples = 4", 'train_samples = "4"', r"train_samples: expected int, got str"),
        ("shape = [2, 2, 1]", "shape = [2, 2]", r"shape: expected array of length 3"),
        ('"train_labels.gz"', '"../../.bashrc"', r"files\[1\]\.name: expected str matching regex"),
        ('"train_labels.gz"', '"a/.b/c.gz"', r"files\[1\]\.name: expected str matching regex"),
        ('"train_labels.gz"', r'"a.gz\n"', r"files\[1\]\.name: expected str matching regex"),
        ('role = "test_labels"', 'role = "train_labels"', r"four files, one per role"),
        ("mean = [0.5]", "mean = [0.5, 0.5]", r"one number per channel"),
        ("train_samples = 4", "train_samples = 9000000000", r"train_samples: expected int <= 10000000"),
        ('format = "idx"', 'format = "glyphs"', r"format glyphs expects"),
        ('format = "idx"', 'format = "zips"', r"format zips expects files of the roles test_images, train_images"),
        ('"light"', '"dark"', r"every class once"),
        ("std = [1.0]", "std = [1.0", r"tiny\.toml: not valid TOML"),
    ],
)
def test_a_wrong_recipe_names_file_key_and_what_was_expected(
    tmp_path: Path, good: str, bad: str, explained: str
) -> None:
    """One line the author of a recipe can act on, whatever the mistake."""
    assert good in GOOD
    (tmp_path / "tiny.toml").write_text(GOOD.replace(good, bad, 1))
    with pytest.raises(SpecError, match=explained) as caught:
        find_recipe("tiny.toml", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_a_spec_error(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(SpecError, match=r"gone\.toml: cannot read the recipe"):
        find_recipe("gone.toml", tmp_path)
