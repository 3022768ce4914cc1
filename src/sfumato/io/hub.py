"""The Hugging Face Hub: model folders go there and come from there, through huggingface_hub (the extra ``hub``).

Only when asked for by name. The token is huggingface_hub's own business (``hf auth login``, ``HF_TOKEN``): it is
neither taken nor written here. What comes from there is a stranger's: three files of fixed names are fetched, each of a
bounded size, and read as any model folder is.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError, UserError
from sfumato.io.folder import CONFIG, WEIGHTS
from sfumato.io.store import MANIFEST, explained

PREFIX = "hf://"
MOST_BYTES = 2**33
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_.-]{1,96}")
_REVISION = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]{0,199}")


def parse_address(address: str) -> tuple[str, str | None]:
    """Return (owner/name, revision or None) of "hf://owner/name" or "hf://owner/name@revision".

    Raises:
        UserError: another form.

    >>> parse_address("hf://ada/photos@v1")
    ('ada/photos', 'v1')
    """
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    if not _NAME.fullmatch(name) or ".." in name or (revision and not _REVISION.fullmatch(revision)):
        raise UserError(f"'{address[:200]}' should be hf://OWNER/NAME or hf://OWNER/NAME@REVISION. Check the name.")
    return name, revision or None


def is_address(source: Any) -> bool:
    """Whether ``source`` names a model on the Hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def push(name: str, files: Mapping[str, bytes], *, private: bool, message: str) -> str:
    """Send files to a model repository, made if it is not there, in one commit.

    Args:
        name: owner/name.
        files: name -> content.
        private: of a repository that is made.
        message: of the commit.

    Returns:
        the address of the commit.

    Raises:
        UserError: not logged in, or not allowed to. SfumatoError: the Hub cannot be reached.
    """
    hub = needed()
    name, _ = parse_address(name)
    with explained_hub(name, writing=True):
        api = hub.HfApi(endpoint=endpoint())
        if not api.repo_exists(name):
            api.create_repo(name, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(path, content) for path, content in files.items()]
        return str(api.create_commit(name, operations, commit_message=message).commit_url)


def pull(name: str, revision: str | None, folder: Path, most: int = MOST_BYTES) -> None:
    """Fetch the files of a model folder into an empty folder, from the Hub or, offline, from its cache.

    Args:
        name: owner/name.
        revision: a branch, tag or commit; None: the newest.
        folder: where to.
        most: the largest number of bytes of the weights.

    Raises:
        UserError: no such repository, no model folder in it, too large. SfumatoError: the Hub cannot be reached.
    """
    hub = needed()
    for file, limit in ((CONFIG, strict_json.MAX_BYTES), (MANIFEST, strict_json.MAX_BYTES), (WEIGHTS, most)):
        with explained_hub(name):
            if not offline():
                url = hub.hf_hub_url(name, file, revision=revision, endpoint=endpoint())
                size = hub.get_hf_file_metadata(url).size
                _refuse_size(name, file, size, limit)
            found = Path(hub.hf_hub_download(name, file, revision=revision, endpoint=endpoint()))
        with explained(found, "read"):
            _refuse_size(name, file, found.stat().st_size, limit)
            shutil.copyfile(found, folder / file)


def endpoint() -> str | None:
    """Return ``HF_ENDPOINT`` as it is now, or None for the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def offline() -> bool:
    """Whether huggingface_hub was told not to use the network."""
    return bool(importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE)


def needed() -> Any:
    """Import huggingface_hub.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            "the Hub needs huggingface_hub, which is not installed. Run: pip install 'sfumato[hub]'."
        ) from None


@contextlib.contextmanager
def explained_hub(name: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises inside the block into one sentence about a repository."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except (UserError, SfumatoError):
        raise
    except errors.LocalEntryNotFoundError as error:
        raise SfumatoError(f"{name} is not in the cache, and the Hub cannot be reached. Go online once.") from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is given only to those who asked for it. Ask on its page, then: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:  # also what 401 becomes
        if writing:
            raise UserError(f"the Hub does not let you write {name}. Log in with: hf auth login") from error
        raise UserError(
            f"there is no model {name} on the Hub, or it is not yours to see. Check the name, or log in: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no such revision. Leave out what follows the @, or choose another.") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{name} holds no model of sfumato ({CONFIG}, {WEIGHTS}, {MANIFEST}). Give another.") from error
    except errors.HFValidationError as error:
        raise UserError(f"'{name}' cannot be the name of a model on the Hub. Use OWNER/NAME.") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE forbids the network. Unset it to reach the Hub.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UserError(f"the Hub does not let you write {name}. Log in with: hf auth login") from error
        raise SfumatoError(f"the Hub answered {status or 'nothing'} about {name}. Try again later.") from error
    except errors.HTTPError as error:
        raise SfumatoError(f"the Hub cannot be reached ({type(error).__name__}). Check the network.") from error
    except OSError as error:
        raise SfumatoError(f"the Hub cannot be reached ({type(error).__name__}). Check the network.") from error


def _refuse_size(name: str, file: str, size: int | None, limit: int) -> None:
    if size is None or size > limit:
        has = "of unknown size" if size is None else f"{size:,} bytes long"
        raise UserError(f"{file} of {name} is {has}; at most {limit:,} bytes are fetched. Use another model.")
