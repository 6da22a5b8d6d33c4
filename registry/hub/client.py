"""Client of the Hugging Face Hub: pin a repository to a commit, fetch and check its files, push.

Files are streamed here because `hf_hub_download` (2.4.0) restarts an interrupted download in every
new process.
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
from urllib.parse import urlsplit

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
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in __all__
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
ENDPOINT = "https://huggingface.co"  # without HF_ENDPOINT
TIMEOUT_S = 30.0
ATTEMPTS = 5  # in a row without a new byte; then a download fails
PAUSE_S = 1.0  # between two attempts

# Redirects that lead nowhere. HF_ENDPOINT itself has a scheme.
UNFOLLOWED = (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol)

_COMMIT = re.compile(r"[0-9a-f]{40}")

Progress = Callable[[str, int, int], None]  # name of the transfer, bytes done, total bytes


@dataclass(frozen=True)
class File:
    """A file as the Hub describes it: large files have a sha256, small ones git's blob hash."""

    name: str
    size: int | None  # bytes; None if the Hub states none
    sha256: str = ""
    blob: str = ""

    def digest(self, path: Path) -> tuple[str, str, str]:
        """(algorithm, actual, expected) of the file at `path`."""
        if self.sha256:
            return "sha256", sha256(path), self.sha256
        content = path.read_bytes()
        blob = b"blob %d\0%b" % (len(content), content)
        return "git sha1", hashlib.sha1(blob).hexdigest(), self.blob


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit. Files come from this commit even if branches move."""

    repo: str
    commit: str
    files: Mapping[str, File]
    licence: Any = None  # according to the Hub; the card takes precedence
    folder: Path = field(default=Path(), compare=False)  # of the fetched files

    def __str__(self) -> str:
        return f"{self.repo} at {self.commit[:12]}"


class Hub:
    """The Hub at HF_ENDPOINT, by default huggingface.co. Files stay in var/hub until deleted."""

    def __init__(
        self, settings: Settings, pinned: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """`pinned`: sha256 by file name, by commit; they override what the Hub says."""
        token = settings.hf_token.get_secret_value().strip()
        # The HTTP library would quote such a token in its error.
        if not re.fullmatch(r"[!-~]*", token):
            raise BadConfig(
                "HF_TOKEN holds a blank or a character that tokens do not have; copy it again"
            )
        # Telemetry asks the Hub for the calling coding agent and writes the answer to the user's
        # home. Xet reports no progress per file.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        constants.HF_HUB_DISABLE_XET = True
        disable_progress_bars()
        # The library's warnings repeat URLs with their passwords.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self._url = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
        # Messages show the endpoint without user and password.
        self.endpoint = re.sub(r"^(\w+://)?.*@", r"\1", self._url)
        if not _is_endpoint(self._url):
            raise BadConfig(
                f"HF_ENDPOINT is {self.endpoint!r}, expected a URL such as {ENDPOINT}; "
                "without it, this one is used"
            )
        self.folder = settings.var_dir / "hub"
        self._token = token
        self._pinned = pinned or {}
        # False, since None would send the token in the user's home.
        self._api = HfApi(endpoint=self._url, token=token or False)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Run the block in one process at a time; others wait. `name` must be a file name."""
        with ExitStack() as stack:
            with self._translated_errors(name):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / f"{name}.lock"))
            yield

    # --- fetch ----------------------------------------------------------------------------

    def snapshot(self, repo: str, revision: str = "") -> Snapshot:
        """Pin a repository to the commit of `revision`: a commit, branch or tag; empty: main.

        The snapshot has the repository's present name, also if `repo` is a former one.
        """
        with self._translated_errors(repo, revision):
            info = self._api.model_info(
                repo, revision=revision or None, timeout=TIMEOUT_S, files_metadata=True
            )
        commit = info.sha or ""
        pinned_to = revision if _COMMIT.fullmatch(revision) else ""
        if not _COMMIT.fullmatch(commit) or commit != (pinned_to or commit):
            expected = pinned_to or "a commit of 40 hex digits"
            raise Corrupt(
                f"{self.endpoint} says that {repo} is at {commit!r}, expected {expected}; "
                "use another Hub"
            )
        name = str(info.id)
        if not _is_repo_id(name):  # it becomes the name of a folder
            raise self._bad_answer(f"says that {repo} is named {name[:100]!r}")
        pinned = self._pinned.get(commit, {})
        files = {}
        for sibling in info.siblings or ():
            file = sibling.rfilename
            if "/" in file:  # the official layout is flat
                continue
            hub_sha256 = sibling.lfs.sha256 if sibling.lfs else ""
            digest = pinned.get(file) or hub_sha256
            size = sibling.size if isinstance(sibling.size, int) else None
            files[file] = File(file, size, digest, sibling.blob_id or "")
        licence = info.card_data.get("license") if info.card_data else None
        folder = self.folder / name.replace("/", "--") / commit
        return Snapshot(name, commit, files, licence, folder)

    def fetch(self, snapshot: Snapshot, names: Sequence[str], progress: Progress) -> None:
        """Download these files into the snapshot's folder and check them.

        Partial downloads of earlier processes continue. Raises Corrupt if a file differs from the
        Hub's description, also if it was downloaded before, and KronosError (HUB_ANSWER) if the Hub
        does not describe it.
        """
        with self._translated_errors(snapshot.repo, snapshot.commit):
            snapshot.folder.mkdir(parents=True, exist_ok=True)
            with locked(snapshot.folder / ".lock"):
                for name in names:
                    file, path = snapshot.files[name], snapshot.folder / name
                    size = self._described_size(snapshot, file)
                    report = partial(progress, f"{snapshot.repo} {name}")
                    if not path.exists():
                        self._download(snapshot, file, size, report)
                    _check(snapshot, file, path)
                    report(size, size)

    def _described_size(self, snapshot: Snapshot, file: File) -> int:
        """Size of a file in bytes. Raises KronosError unless the Hub states size and digest."""
        if file.size is None or not (file.sha256 or file.blob):
            missing = "size" if file.size is None else "digest"
            raise self._bad_answer(f"states no {missing} of {file.name} of {snapshot}")
        return file.size

    def _download(
        self, snapshot: Snapshot, file: File, size: int, advance: Callable[[int, int], None]
    ) -> None:
        path = snapshot.folder / f"{file.name}.incomplete"
        if path.is_symlink():  # bytes would be appended to a file elsewhere
            path.unlink()
        url = hf_hub_url(snapshot.repo, file.name, revision=snapshot.commit, endpoint=self._url)
        attempts_left = ATTEMPTS
        while not path.exists() or _size(path) < size:
            size_before = _size(path)
            try:
                self._stream(url, path, size, advance)
                break
            except httpx2.HTTPError as error:
                has_grown = _size(path) > size_before
                attempts_left = ATTEMPTS if has_grown else attempts_left - 1
                if not attempts_left or not _is_temporary(error):
                    raise
                time.sleep(PAUSE_S)
        path.replace(snapshot.folder / file.name)

    def _stream(self, url: str, path: Path, size: int, advance: Callable[[int, int], None]) -> None:
        """Append the missing bytes to `path`."""
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if size_before := _size(path):
            headers["Range"] = f"bytes={size_before}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            hf_raise_for_status(response)
            with path.open("ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    advance(file.tell(), size)
                    if file.tell() > size:  # stop before the disk is full; _check raises
                        return

    # --- send -----------------------------------------------------------------------------

    def send(
        self, repo: str, folder: Path, message: str, *, private: bool, progress: Progress
    ) -> str:
        """Send the files of `folder` and return their commit; create the repository if needed."""
        if not self._token:
            raise BadInput("set HF_TOKEN to a Hub token with write access", code="HUB_DENIED")
        with self._translated_errors(repo), ExitStack() as stack:
            self._api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not self._api.model_info(repo, timeout=TIMEOUT_S).private:
                raise Conflict(
                    f"{repo} is public, expected a private repository (--private); name another one"
                )
            files = [stack.enter_context(_CountedFile(path)) for path in sorted(folder.iterdir())]
            # CommitOperationAdd reads each file for its sha256; progress starts after that.
            operations = [CommitOperationAdd(file.path.name, file) for file in files]
            for file in files:
                file.report_to(progress, f"{repo} {file.path.name}")
            commit = self._api.create_commit(repo, operations, commit_message=message)
            return str(commit.oid)

    # --- errors ---------------------------------------------------------------------------

    @contextmanager
    def _translated_errors(self, repo: str, revision: str = "") -> Iterator[None]:
        """Turn errors of the Hub and its library into KronosErrors without the token."""
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise KronosError(
                "HF_HUB_OFFLINE is set; unset it to reach the Hub", code="HUB_UNREACHABLE"
            ) from error
        except HFValidationError as error:
            raise _bad_name(repo) from error
        except RuntimeError as error:  # the library wraps what an upload raises
            if not isinstance(error.__cause__, httpx2.HTTPError):
                raise
            raise self._translate(error.__cause__, repo, revision) from error
        except httpx2.HTTPError as error:
            raise self._translate(error, repo, revision) from error
        except OSError as error:
            path = error.filename or self.folder
            raise KronosError(
                f"cannot write {path}: {error.strerror or error}", code="NOT_WRITABLE"
            ) from error
        except (httpx2.InvalidURL, ValueError, KeyError) as error:
            raise self._bad_answer(
                f"does not answer like a Hub ({type(error).__name__})"
            ) from error

    def _bad_answer(self, fault: str) -> KronosError:
        return KronosError(
            f"{self.endpoint} {fault}; check HF_ENDPOINT and proxies, or use another Hub",
            code="HUB_ANSWER",
        )

    def _translate(self, error: httpx2.HTTPError, repo: str, revision: str) -> KronosError:
        if isinstance(error, UNFOLLOWED):
            return self._bad_answer(
                f"sends requests for {repo} to other addresses without end or to one that is no "
                f"https ({type(error).__name__})"
            )
        if not isinstance(error, HfHubHTTPError):
            return KronosError(
                f"{self.endpoint} cannot be reached ({type(error).__name__}); "
                "check the connection, HF_ENDPOINT and proxies, then try again: "
                "an interrupted download continues. "
                "Registered versions need no Hub",
                code="HUB_UNREACHABLE",
            )
        status = error.response.status_code
        token_source = "that of HF_TOKEN" if self._token else "none, set HF_TOKEN"
        if isinstance(error, GatedRepoError):
            return BadInput(
                f"{repo} is gated: accept its terms at {self.endpoint}/{repo} "
                f"with the account of your token ({token_source})",
                code="HUB_DENIED",
            )
        if isinstance(error, RevisionNotFoundError):
            return NotFound(
                f"{repo} has no revision {revision}; expected a commit, branch or tag of it"
            )
        if status == 401 and self._token and not isinstance(error, RepositoryNotFoundError):
            return BadInput(
                f"{self.endpoint} refuses the token in HF_TOKEN; "
                "make a new one under Settings, Access Tokens",
                code="HUB_DENIED",
            )
        if status in (401, 404):
            return NotFound(
                f"{self.endpoint} has no repository {repo}, or it is private and "
                f"your token ({token_source}) may not read it"
            )
        if status == 403:
            return BadInput(
                f"your token ({token_source}) has no right to do this with {repo}; "
                "grant it under Settings, Access Tokens",
                code="HUB_DENIED",
            )
        reason = " ".join((error.server_message or "").split())
        if self._token:
            reason = reason.replace(self._token, "HF_TOKEN")
        return KronosError(
            f"{self.endpoint} answered {status} for {repo}: {reason[:300] or 'no reason'}; "
            "try again later"
        )


def check_name(repo: str) -> None:
    """Raise BadParameter unless `repo` is ORG/NAME.

    The library also takes a NAME alone, as a repository of the token's owner.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise _bad_name(repo) from error
    if "/" not in repo:
        raise _bad_name(repo)


def _bad_name(repo: str) -> BadParameter:
    return BadParameter(
        f"{repo!r} is not a repository name; expected ORG/NAME, as in NeoQuasar/Kronos-mini"
    )


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query


class _CountedFile(io.BufferedReader):
    """A file that reports how many bytes were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.path = path
        self._advance: Callable[[int], None] = lambda _: None

    def report_to(self, progress: Progress, transfer: str) -> None:
        size = self.path.stat().st_size
        self._advance = lambda done: progress(transfer, done, size)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._advance(self.tell())
        return data


def _is_temporary(error: httpx2.HTTPError) -> bool:
    """Whether a retry may succeed: the connection broke or the server is busy."""
    if isinstance(error, UNFOLLOWED):
        return False
    if not isinstance(error, HfHubHTTPError):
        return True
    return error.response.status_code in (429, 500, 502, 503, 504)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(snapshot: Snapshot, file: File, path: Path) -> None:
    """Remove a file that differs from the Hub's description and raise Corrupt."""
    measure, actual, expected = "size", str(_size(path)), str(file.size)
    if actual == expected:
        measure, actual, expected = file.digest(path)
    if actual != expected:
        path.unlink()
        raise Corrupt(
            f"{file.name} of {snapshot} has {measure} {actual}, expected {expected}; "
            "it was removed, try again"
        )
