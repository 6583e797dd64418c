"""The winner on the Hugging Face hub, if asked for: the only place that writes to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.config import Publish
from src.runtime.errors import UserError, printable_lines
from src.runtime.terminal import warn


def check(settings: Publish) -> None:
    """Refuse what could not be uploaded at the end: a name that the hub refuses, no token, or the hub switched off."""
    if settings.repo_id is None:
        return
    from huggingface_hub import constants, get_token  # half a second, and only who publishes needs it
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(settings.repo_id)
    except HFValidationError:
        raise UserError(
            f"publish.repo_id is {settings.repo_id!r}; expected OWNER/NAME of letters, digits and ._-, 96 at most"
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"publish.repo_id is {settings.repo_id}, but HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise UserError(
            f"publish.repo_id is {settings.repo_id}, but there is no token for the hub; log in with `hf auth login`, "
            "or set HF_TOKEN (it is written nowhere)"
        )


def upload(folder: Path, settings: Publish) -> None:
    """Upload a folder, into a new repository if need be; a failure costs a warning that says how to try again."""
    import huggingface_hub

    assert settings.repo_id is not None
    hub = huggingface_hub.HfApi()
    try:
        with _quiet():
            repo = hub.create_repo(settings.repo_id, private=settings.private, exist_ok=True)
            hub.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message="The winner of a kinmerge run")
    except Exception as error:  # the hub's own errors, those of its HTTP client and of sockets
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        warn(f"the winner was not uploaded ({type(error).__name__}: {why}); the same command again tries again")
        return
    print(f"uploaded to {printable_lines(repo)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub client's own messages within; the outcome is reported once."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
