"""What a wheel has: the package `kinmerge`, with `src` and `conf` in it. Everything else is said in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=["kinmerge", "kinmerge.conf", *(f"kinmerge.{room}" for room in find_packages(include=["src", "src.*"]))],
    package_dir={"kinmerge": "kinmerge", "kinmerge.src": "src", "kinmerge.conf": "conf"},
    package_data={"": ["*.c", "*.css", "*.h", "*.html", "*.js", "*.json"], "kinmerge.conf": ["**/*.yaml"]},
)
