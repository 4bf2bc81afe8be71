"""Makes a folder the content of a repository of the Hub, in one commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from trainer.config.safe_text import shortened
from trainer.errors import UsageError

_MESSAGE = "Export of a Regime W run"
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def require_pushable(repository: str, *, force: bool) -> None:
    """Ask the Hub, before any work is done, whether a push can begin.

    Args:
        repository: ``owner/name``.
        force: Whether the repository may have files already.

    Raises:
        UsageError: There is no token, the Hub cannot be reached, or the repository has files.
    """
    with _hub_errors(repository):
        api = HfApi()
        api.whoami()
        has_files = api.repo_exists(repository) and _files_in(api, repository)
    if has_files and not force:
        raise UsageError(
            f"to: hub:{repository} has files already; choose another name, or let --force replace them by a "
            "commit"
        )


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Make a folder's files the content of a repository, which is created if it is missing.

    Args:
        folder: Its files are pushed, and those in its folders, such as a tokenizer's further chat templates.
        repository: ``owner/name``; files of it that the folder lacks are removed by the same commit.
        private: Whether a repository that is created is private.

    Returns:
        The repository's address.

    Raises:
        UsageError: The Hub refuses the push or cannot be reached; then none of the files are there.
    """
    with _hub_errors(repository):
        api = HfApi()
        url = str(api.create_repo(repository, private=private, exist_ok=True))
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        others = _files_in(api, repository) - files.keys()
        api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in sorted(others)),
            ],
            commit_message=_MESSAGE,
        )
    return url


def _files_in(api: HfApi, repository: str) -> set[str]:
    """Names of a repository's files, except for the one that every repository is created with."""
    return set(api.list_repo_files(repository)) - {".gitattributes"}


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn the library's errors into one line without the token."""
    try:
        yield
    except Exception as error:  # The errors' types depend on the library's version.
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if get_token() is None or status in _REFUSED:
            hint = "set HF_TOKEN to a token that may write there"
        else:
            hint = "the same command tries again"
        # The library wraps some errors, and an error's text may have a line for each file.
        causes = [str(each) or type(each).__name__ for each in (error, error.__cause__) if each]
        reason = shortened(" ".join(": ".join(causes).split()).replace(get_token() or "\0", "…"))
        raise UsageError(f"to: hub:{repository}: {reason}; {hint}") from None
