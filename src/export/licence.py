"""Under which licence a checkpoint is, as its model card says, and what that makes of a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from src.pages.markdown import plain

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Licence:
    """A licence in the hub's words."""

    id: str
    """apache-2.0, mit, llama3 …; `other` has a name of its own."""
    name: str | None = None
    link: str | None = None
    """Of the text of a licence that the hub does not know."""

    def __str__(self) -> str:
        return self.name or self.id


def declared_licence(folder: Path, repo: str | None = None) -> Licence | None:
    """Return the licence that the card in a checkpoint's folder declares, or None.

    `repo` is the checkpoint's name on the hub, where it has one: the text of a licence of its own lies there.
    """
    from huggingface_hub.repocard import metadata_load

    try:
        card: dict[str, Any] = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one whose metadata cannot be read
        return None
    declared = card.get("license")
    if isinstance(declared, list) and len(declared) == 1:
        declared = declared[0]
    if not isinstance(declared, str) or not declared.strip():
        return None
    name, link = (card.get(key) if isinstance(card.get(key), str) else None for key in ("license_name", "license_link"))
    if link is not None and "://" not in link:
        link = f"{HUB}/{repo}/blob/main/{link}" if repo else None
    return Licence(declared.strip().lower(), name, link)


def merged_fields(licences: Mapping[str, Licence | None]) -> dict[str, str]:
    """Return the hub's metadata of a merge of these: their shared licence, else `other`; none if one is unknown."""
    found = {licence for licence in licences.values() if licence is not None}
    if not found or None in licences.values():
        return {}
    if len(found) > 1:
        names = "-and-".join(sorted({str(licence) for licence in found}))
        return {"license": "other", "license_name": names, "license_link": "LICENSE.md"}
    (licence,) = found
    fields = {"license": licence.id, "license_name": licence.name, "license_link": licence.link}
    return {key: value for key, value in fields.items() if value is not None}


def describe(licences: Mapping[str, Licence | None]) -> str:
    """Describe the licence of a merge of these in Markdown: a sentence or a list."""
    unknown = [name for name, licence in licences.items() if licence is None]
    listed = "\n".join(f"- {plain(name)}: {plain(licence or 'not known')}" for name, licence in licences.items())
    if not unknown and len(set(licences.values())) == 1:
        return f"As all its founders: {plain(next(iter(licences.values())))}."
    if len(unknown) == len(licences):
        return "Not known: no founder's card names one. Ask their authors before passing this model on."
    if unknown:
        return f"Not known, since that of {plain(', '.join(unknown))} is not:\n\n{listed}"
    return f"Its founders' licences differ; whoever uses this model is bound by each of them:\n\n{listed}"
