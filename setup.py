"""Build step: the wheel carries the recipes of datasets/ inside the package, as gossip/_datasets/*.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies into the build folder only: a checkout keeps one copy of each recipe, in datasets/."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        goal = Path(self.build_lib) / "gossip" / "_datasets"
        goal.mkdir(parents=True, exist_ok=True)
        for recipe in sorted(Path(__file__).parent.glob("datasets/*.toml")):
            shutil.copyfile(recipe, goal / recipe.name)


setup(cmdclass={"build_py": BuildWithRecipes})
