"""Lists the packages, for setuptools. Everything else about the package is in pyproject.toml."""

from setuptools import find_packages, setup

# setuptools finds no package outside singlestrip/: the weights in models/ become singlestrip.models.
setup(packages=[*find_packages(include=["singlestrip", "singlestrip.*"]), "singlestrip.models"])
