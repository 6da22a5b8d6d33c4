"""The Hugging Face Hub: a repository at one commit, its files fetched and checked, a folder sent.

Files are streamed here and not by `hf_hub_download`: that one (2.4.0) begins a cut download anew in every process.
"""

import hashlib
import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    get_session,
    hf_hub_url,
    hf_raise_for_status,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not listed
from huggingface_hub.utils.tqdm import disable_progress_bars

from registry.errors import (
    BadConfig,
    BadInput,
    BadParameter,
    Conflict,
    Corrupt,
    KronosError,
    NotFound,
)
from registry.files import locked
from registry.settings import Settings
from registry.versions.manifest import sha256

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
TIMEOUT_S = 30.0
ATTEMPTS, PAUSE_S = 5, 1.0  # that bring nothing new, before a download is given up

_COMMIT = re.compile(r"[0-9a-f]{40}")

Progress = Callable[[str, int, int], None]  # what is moved, bytes done, bytes in all


@dataclass(frozen=True)
class File:
    """A file of a repository as the Hub describes it: large ones by sha256, small ones by git's name of a blob."""

    name: str
    size: int
    sha256: str = ""
    blob: str = ""

    def digest(self, path: Path) -> tuple[str, str, str]:
        """(algorithm, found, expected) of the file at `path`."""
        if self.sha256:
            return "sha256", sha256(path), self.sha256
        content = path.read_bytes()
        return (
            "git sha1",
            hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest(),
            self.blob,
        )


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit: everything is fetched from there, wherever its branches move."""

    repo: str
    commit: str
    files: Mapping[str, File]
    licence: Any = None  # what the Hub says; the card is asked first
    folder: Path = field(default=Path(), compare=False)  # where fetched files lie

    def __str__(self) -> str:
        return f"{self.repo} at {self.commit[:12]}"


class Hub:
    """What HF_ENDPOINT names, else huggingface.co; files are kept under var/hub until somebody removes them."""

    def __init__(
        self, settings: Settings, pinned: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """`pinned` are sha256 of files by commit, which then count instead of what the Hub says."""
        token = settings.hf_token.get_secret_value().strip()
        if not re.fullmatch(
            r"[!-~]*", token
        ):  # in a header, the HTTP library would quote it in its error
            raise BadConfig("HF_TOKEN holds a blank or a character that no token has; copy it anew")
        # The library asks the Hub which coding agent calls it and keeps the answer in the user's home, and sends
        # files in a way of its own that reports no progress per file.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        constants.HF_HUB_DISABLE_XET = True
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(
            logging.ERROR
        )  # its warnings repeat URLs with their passwords
        self._url = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.endpoint = re.sub(
            r"^(\w+://)?.*@", r"\1", self._url
        )  # to be shown: without user and password
        self.folder = settings.var_dir / "hub"
        self._token, self._pinned = token, pinned or {}
        self._api = HfApi(
            endpoint=self._url, token=token or False
        )  # False: none from the user's home

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Wait until no other process does `what`, a name for a file, and keep others waiting."""
        with ExitStack() as stack:
            with self._explained(what):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / f"{what}.lock"))
            yield

    # --- fetch ----------------------------------------------------------------------------

    def snapshot(self, repo: str, revision: str = "") -> Snapshot:
        """The repository at `revision` (a commit, branch or tag; empty: main), pinned to its commit."""
        with self._explained(repo, revision):
            info = self._api.model_info(
                repo, revision=revision or None, timeout=TIMEOUT_S, files_metadata=True
            )
        commit = info.sha or ""
        pinned_to = revision if _COMMIT.fullmatch(revision) else ""
        if not _COMMIT.fullmatch(commit) or commit != (pinned_to or commit):
            expected = pinned_to or "a commit of 40 hex digits"
            raise Corrupt(
                f"{self.endpoint} says that {repo} is at {commit!r}, expected {expected}; use another Hub"
            )
        pinned = self._pinned.get(commit, {})
        files = {
            s.rfilename: File(
                s.rfilename,
                s.size or 0,
                pinned.get(s.rfilename) or (s.lfs.sha256 if s.lfs else ""),
                s.blob_id or "",
            )
            for s in info.siblings or ()
            if "/" not in s.rfilename  # the official layout is flat
        }
        licence = info.card_data.get("license") if info.card_data else None
        return Snapshot(
            repo, commit, files, licence, self.folder / repo.replace("/", "--") / commit
        )

    def fetch(self, snapshot: Snapshot, names: Sequence[str], progress: Progress) -> None:
        """Bring these files into the snapshot's folder. Raises Corrupt for one that is not what the Hub described.

        What an earlier process left half is continued; what lies there whole is checked again.
        """
        with self._explained(snapshot.repo, snapshot.commit):
            snapshot.folder.mkdir(parents=True, exist_ok=True)
            with locked(snapshot.folder / ".lock"):
                for name in names:
                    file, path = snapshot.files[name], snapshot.folder / name
                    report = partial(progress, f"{snapshot.repo} {name}")
                    if not path.exists():
                        self._download(snapshot, file, report)
                    _check(snapshot, file, path)
                    report(file.size, file.size)

    def _download(
        self, snapshot: Snapshot, file: File, advance: Callable[[int, int], None]
    ) -> None:
        path = snapshot.folder / f"{file.name}.incomplete"
        url = hf_hub_url(snapshot.repo, file.name, revision=snapshot.commit, endpoint=self._url)
        left = ATTEMPTS
        while (have := _size(path)) < file.size or not path.exists():
            try:
                self._stream(url, path, file.size, advance)
                break
            except httpx2.HTTPError as error:
                left = ATTEMPTS if _size(path) > have else left - 1
                if not (left and _passing(error)):
                    raise
                time.sleep(PAUSE_S)
        path.replace(snapshot.folder / file.name)

    def _stream(self, url: str, path: Path, size: int, advance: Callable[[int, int], None]) -> None:
        """Append to `path` what it lacks."""
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if have := _size(path):
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            hf_raise_for_status(response)
            with path.open("ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    advance(file.tell(), size)
                    if file.tell() > size:  # _check says so; the disk is not filled with it
                        return

    # --- send -----------------------------------------------------------------------------

    def send(
        self, repo: str, folder: Path, message: str, *, private: bool, progress: Progress
    ) -> str:
        """Commit that holds the files of `folder`; the repository is made when there is none."""
        if not self._token:
            raise BadInput("set HF_TOKEN to a token of the Hub that may write", code="HUB_DENIED")
        with self._explained(repo), ExitStack() as stack:
            self._api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not self._api.model_info(repo, timeout=TIMEOUT_S).private:
                raise Conflict(
                    f"{repo} exists and is public, --private was asked for; name another repository"
                )
            files = [stack.enter_context(_Counted(path)) for path in sorted(folder.iterdir())]
            operations = [
                CommitOperationAdd(file.path.name, file) for file in files
            ]  # reads them: their sha256
            for file in files:
                file.report(f"{repo} {file.path.name}", progress)
            return str(self._api.create_commit(repo, operations, commit_message=message).oid)

    # --- what went wrong ------------------------------------------------------------------

    @contextmanager
    def _explained(self, repo: str, revision: str = "") -> Iterator[None]:
        """Errors of the Hub and its library as ours, without the token."""
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise KronosError(
                "HF_HUB_OFFLINE is set; unset it to reach the Hub", code="HUB_UNREACHABLE"
            ) from error
        except HFValidationError as error:
            raise _no_repository(repo) from error
        except RuntimeError as error:  # the library wraps what an upload raises
            if not isinstance(error.__cause__, httpx2.HTTPError):
                raise
            raise self._explain(error.__cause__, repo, revision) from error
        except httpx2.HTTPError as error:
            raise self._explain(error, repo, revision) from error
        except OSError as error:
            where = error.filename or self.folder
            raise KronosError(
                f"cannot write {where}: {error.strerror or error}", code="NOT_WRITABLE"
            ) from error
        except (httpx2.InvalidURL, ValueError, KeyError) as error:
            raise KronosError(
                f"{self.endpoint} does not answer as a Hub does ({type(error).__name__}); check HF_ENDPOINT and proxies"
            ) from error

    def _explain(self, error: httpx2.HTTPError, repo: str, revision: str) -> KronosError:
        if not isinstance(error, HfHubHTTPError):
            return KronosError(
                f"{self.endpoint} cannot be reached ({type(error).__name__}); check the connection, HF_ENDPOINT and "
                "proxies, then try again: a cut download is continued. Registered versions need no Hub",
                code="HUB_UNREACHABLE",
            )
        status = error.response.status_code
        mine = "that of HF_TOKEN" if self._token else "none, set HF_TOKEN"
        if isinstance(error, GatedRepoError):
            return BadInput(
                f"{repo} is gated: accept its terms at {self.endpoint}/{repo} with the account of your token ({mine})",
                code="HUB_DENIED",
            )
        if isinstance(error, RevisionNotFoundError):
            return NotFound(
                f"{repo} has no revision {revision}; expected a commit, branch or tag of it"
            )
        if status == 401 and self._token and not isinstance(error, RepositoryNotFoundError):
            return BadInput(
                f"{self.endpoint} refuses the token in HF_TOKEN; make a new one under Settings, Access Tokens",
                code="HUB_DENIED",
            )
        if status in (401, 404):
            return NotFound(
                f"{self.endpoint} has no repository {repo}, or it is private and your token ({mine}) may not read it"
            )
        if status == 403:
            return BadInput(
                f"your token ({mine}) has no right to do this with {repo}; give it one under Settings, Access Tokens",
                code="HUB_DENIED",
            )
        said = " ".join((error.server_message or "").split())
        said = said.replace(self._token, "HF_TOKEN") if self._token else said
        return KronosError(
            f"{self.endpoint} answered {status} for {repo}: {said[:300] or 'no reason'}; try again later"
        )


def check_name(repo: str) -> None:
    """Raise BadParameter unless it is ORG/NAME; the library takes a name alone for one of the token's owner."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise _no_repository(repo) from error
    if "/" not in repo:
        raise _no_repository(repo)


def _no_repository(repo: str) -> BadParameter:
    return BadParameter(
        f"{repo!r} is no repository; expected ORG/NAME, as in NeoQuasar/Kronos-mini"
    )


class _Counted(io.BufferedReader):
    """A file that says how far it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.path = path
        self._advance: Callable[[int], None] = lambda _: None

    def report(self, what: str, progress: Progress) -> None:
        size = self.path.stat().st_size
        self._advance = lambda done: progress(what, done, size)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._advance(self.tell())
        return data


def _passing(error: httpx2.HTTPError) -> bool:
    """Whether it may be gone in a second: a broken connection, a busy server."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in (
        429,
        500,
        502,
        503,
        504,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(snapshot: Snapshot, file: File, path: Path) -> None:
    """Raise Corrupt, and remove the file, unless it is what was described."""
    algorithm, found, expected = "size", str(_size(path)), str(file.size)
    if found == expected:
        algorithm, found, expected = file.digest(path)
    if found != expected:
        path.unlink()
        raise Corrupt(
            f"{file.name} of {snapshot} has {algorithm} {found}, expected {expected}; it was removed, try again"
        )
