"""What CITATION.cff and CHANGELOG.md say is what is installed."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def test_the_version_is_cited_and_its_changes_are_told() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"cff-version", "message", "title", "authors"}
    assert required <= cited.keys()
    assert (cited["title"], cited["version"], cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
