"""Parts of W&B that are not public, as of wandb 0.31: its look-up of API keys, its reading of variables and sys.argv.

The public wandb.login would write the key that it finds to a file, and report neither a missing key nor a bad variable
without a prompt or a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from src.runtime.errors import UserError
from src.runtime.secrets import masked_command


def has_wandb_key() -> bool:
    """Return whether W&B would find an API key.

    Raises:
        UserError: there is one, and it cannot be one of W&B's.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb_settings()
    try:
        host = wbauth.HostUrl(settings.base_url)
        return wbauth.authenticate_session(host=host, source="kinmerge", prompt=False, update_session=False) is not None
    except wandb.errors.Error as error:
        message = f"W&B's API key cannot be used ({first_line(error)}); mend it, or take track.mode=offline"
        raise UserError(message) from error


def wandb_settings() -> Any:
    """Return W&B's settings as its files and variables have them.

    Raises:
        UserError: W&B does not take what one of them says. It is not repeated: it may be a key.
    """
    import wandb
    from pydantic import ValidationError

    found = wandb.Settings(silent=True)
    found.update_from_system_settings()
    try:
        found.update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        wrong = error.errors()[0]
        variable = f"WANDB_{'_'.join(map(str, wrong['loc'])).upper()}"
        message = f"{variable} is nothing that W&B takes ({first_line(wrong['msg'])}); mend or unset it"
        raise UserError(message) from error
    return found


@contextmanager
def masked_command_line() -> Iterator[None]:
    """Have W&B, which keeps sys.argv with a run, see it without secrets."""
    given = sys.argv
    sys.argv = [*given[:1], *masked_command(given[1:])]
    try:
        yield
    finally:
        sys.argv = given


def first_line(error: object) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
