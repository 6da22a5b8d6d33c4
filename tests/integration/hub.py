"""A Hugging Face Hub on loopback: the part of its HTTP interface that huggingface_hub 2.4 uses.

Large files lie on a second server, as on the real Hub (a CDN), and are reached by redirect.
"""

import base64
import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".pt", ".ckpt", ".pkl")
API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|preupload|commit)/([^/]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
BATCH = re.compile(r"/(.+)\.git/info/lfs/objects/batch")

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """Commits, oldest first. `token`, if any, protects everything, or only files if `gated`."""

    commits: dict[str, Files] = field(default_factory=dict)
    token: str = ""
    gated: bool = False
    claims: str = ""  # the commit that it claims to be at, for any request
    renamed: str = ""  # the name that it claims to have
    private: bool = False

    @property
    def head(self) -> str:
        return list(self.commits)[-1] if self.commits else "0" * 40


@dataclass(frozen=True)
class Request:
    server: str  # hub or cdn
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case


@dataclass
class Hub:
    """Repositories behind HTTP, the requests for them, and the faults of the connection."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    # By file name: the content that is sent in its place, the bytes after which each answer
    # breaks off, and the bytes after which an answer waits.
    replaced: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    undescribed: dict[str, str] = field(default_factory=dict)  # file name: what is left out of it
    zipped: bool = False  # bytes of files are sent as gzip, though nobody asks for it
    moved: dict[str, str] = field(default_factory=dict)  # former name: the present one, after URL|
    writer: str = ""  # token that may create and commit
    refuses_with: int = 403  # status for any other token
    portal: bytes = b""  # a page that answers every request, like the login page of a hotel
    after_info: Callable[[], object] = lambda: None  # called after a repository was described
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by sha256
    released: threading.Event = field(default_factory=threading.Event)

    def commit(self, repo: str, files: Files, oid: str = "") -> str:
        """Add a commit whose tree is `files`; returns its id."""
        repository = self.repositories.setdefault(repo, Repository())
        if not oid:
            text = repr((repo, len(repository.commits), sorted(files.items())))
            oid = hashlib.sha1(text.encode()).hexdigest()
        repository.commits[oid] = dict(files)
        for content in files.values():
            self.objects[hashlib.sha256(content).hexdigest()] = content
        return oid

    def files(self, repo: str) -> Files:
        repository = self.repositories[repo]
        return repository.commits[repository.head]

    def downloads(self, name: str) -> list[Request]:
        """Requests for bytes of the large file `name`."""
        return [r for r in self.requests if r.server == "cdn" and r.path.endswith(f"/{name}")]

    def __enter__(self) -> Self:
        self._servers = {name: _Server(self, name) for name in ("hub", "cdn")}
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in self._servers.values():
            server.close()

    def url(self, server: str = "hub") -> str:
        return f"http://127.0.0.1:{self._servers[server].server_port}"


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: Hub, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.name = hub, name
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Print nothing: a killed client is no error of the server."""


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(self._cdn_get if self.server.name == "cdn" else self._hub_get)

    def do_POST(self) -> None:
        self._handle(self._hub_post)

    def do_PUT(self) -> None:
        self._handle(self._cdn_put)

    def _handle(self, answer: Callable[[str, bytes], None]) -> None:
        url = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server.hub.requests.append(Request(self.server.name, self.command, url.path, headers))
        try:
            answer(unquote(url.path), self._body())
        except _Refused as refused:
            self._send(refused.status, b"", refused.headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def _json(self, data: Any, status: int = 200) -> None:
        content = json.dumps(data, default=str).encode()  # the YAML of a card may hold a date
        self._send(status, content, {"Content-Type": "application/json"})

    # --- permissions ------------------------------------------------------------------------

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repository(self, name: str) -> Repository:
        repository = self.server.hub.repositories.get(name)
        token = self._token
        if token and not token.startswith("hf_"):
            raise _Refused(401, message="Invalid credentials in Authorization header")
        if repository is None:
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.token not in ("", token) and not repository.gated:
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        return repository

    def _readable(self, name: str) -> Repository:
        """A repository whose files may be downloaded. Anybody may list a gated repository."""
        repository = self._repository(name)
        token = self._token
        if repository.gated and repository.token not in ("", token):
            status = 403 if token else 401
            raise _Refused(status, "GatedRepo", "Access to this repository is restricted")
        return repository

    def _may_write(self) -> None:
        token = self._token
        if not token:
            raise _Refused(401, message="Invalid username or password.")
        if token != self.server.hub.writer:
            # A careless server: it repeats the token.
            message = f"{'Denied. ' * 34}The token {token} has no write access"
            raise _Refused(self.server.hub.refuses_with, message=message)

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.head if revision in ("", "main") else revision
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # --- the hub ----------------------------------------------------------------------------

    def _hub_get(self, path: str, _: bytes) -> None:
        moved = self.server.hub.moved
        if self.server.hub.portal:
            self._send(200, self.server.hub.portal, {"Content-Type": "text/html"})
        elif (match := API.fullmatch(path) or FILE.fullmatch(path)) and match[1] in moved:
            base, _, name = moved[match[1]].rpartition("|")
            self._send(307, b"", {"Location": base + self.path.replace(match[1], name, 1)})
        elif match := API.fullmatch(path):
            self._info(match[1], match[3] or "")
        elif match := FILE.fullmatch(path):
            repository = self._readable(match[1])
            self._file(match[3], repository.commits[self._commit(repository, match[2])])
        else:
            raise _Refused(404, message=f"the tests' hub has no {path}")

    def _info(self, name: str, revision: str) -> None:
        hub, repository = self.server.hub, self._repository(name)
        commit = self._commit(repository, revision) if repository.commits else repository.head
        files = repository.commits.get(commit, {})
        siblings = [_sibling(file, content) for file, content in files.items()]
        for sibling in siblings:
            for key in hub.undescribed.get(sibling["rfilename"], "").split():
                sibling.pop(key, None)
        card = _front_matter(files.get("README.md", b"").decode())
        answer = {
            "id": repository.renamed or name,
            "sha": repository.claims or commit,
            "siblings": siblings,
            "tags": [],
            "private": repository.private,
        }
        if card:
            answer["cardData"] = card
        self._json(answer)
        hub.after_info()

    def _file(self, name: str, files: Files) -> None:
        if name not in files:
            raise _Refused(404, "EntryNotFound", f"no {name}")
        if name.endswith(LARGE):
            oid = hashlib.sha256(files[name]).hexdigest()
            self._send(302, b"", {"Location": f"{self.server.hub.url('cdn')}/{oid}/{name}"})
        else:
            self._content(name, files[name])

    def _hub_post(self, path: str, body: bytes) -> None:
        hub = self.server.hub
        if path == "/api/validate-yaml":
            _front_matter(json.loads(body)["content"])
            self._json({"warnings": [], "errors": []})
            return
        self._may_write()
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            uploads = [self._upload(obj["oid"], obj["size"]) for obj in objects]
            self._json({"transfer": "basic", "objects": uploads})
        elif (match := API.fullmatch(path)) and match[2] == "preupload":
            files = json.loads(body)["files"]
            self._json({"files": [self._preupload(match[1], file["path"]) for file in files]})
        elif match and match[2] == "commit":
            oid = self._write_commit(match[1], [json.loads(line) for line in body.splitlines()])
            self._json({"commitOid": oid, "commitUrl": f"{hub.url()}/{match[1]}/commit/{oid}"})
        else:
            raise _Refused(404, message=f"the tests' hub has no {path}")

    def _write_commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        hub = self.server.hub
        files = dict(hub.files(repo)) if hub.repositories[repo].commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
        return hub.commit(repo, files)

    def _preupload(self, repo: str, name: str) -> dict[str, Any]:
        """How to send a file, and the id of the present file of this name."""
        repository = self.server.hub.repositories[repo]
        mode = "lfs" if name.endswith(LARGE) else "regular"
        answer = {"path": name, "uploadMode": mode, "shouldIgnore": False}
        content = repository.commits.get(repository.head, {}).get(name)
        if content is not None:
            sibling = _sibling(name, content)
            answer["oid"] = sibling["lfs"]["sha256"] if "lfs" in sibling else sibling["blobId"]
        return answer

    def _create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        url = {"url": f"{self.server.hub.url()}/{name}"}
        if name in self.server.hub.repositories:
            self._json(url, 409)
            return
        private = request.get("visibility") == "private"
        token = self.server.hub.writer if private else ""
        self.server.hub.repositories[name] = Repository(private=private, token=token)
        self._json(url)

    def _upload(self, oid: str, size: int) -> dict[str, Any]:
        """Where to upload a large file, unless it exists already."""
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in self.server.hub.objects:
            answer["actions"] = {"upload": {"href": f"{self.server.hub.url('cdn')}/{oid}/put"}}
        return answer

    # --- large files ------------------------------------------------------------------------

    def _cdn_get(self, path: str, _: bytes) -> None:
        _, oid, name = path.split("/")
        self._content(name, self.server.hub.objects[oid])

    def _cdn_put(self, path: str, body: bytes) -> None:
        oid = path.split("/")[1]
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, message="sha256 differs")
        self.server.hub.objects[oid] = body
        self._send(200, b"")

    def _content(self, name: str, content: bytes) -> None:
        """The bytes of a file from the start of Range, with the faults of the test."""
        hub = self.server.hub
        content = hub.replaced.get(name, content)
        byte_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(byte_range[1]) if byte_range else 0
        if hub.zipped:
            self._send(200, gzip.compress(content), {"Content-Encoding": "gzip"})
            return
        self.send_response(206 if byte_range else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if byte_range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        content = content[start:]
        if hub.cuts.get(name):
            self.wfile.write(content[: hub.cuts[name].pop(0)])
            self.close_connection = True
        elif name in hub.stalls:
            cut = hub.stalls.pop(name)
            self.wfile.write(content[:cut])
            hub.released.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(content)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
    described = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith(LARGE):
        oid = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"sha256": oid, "size": len(content), "pointerSize": 134}
    return described


def _front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    data = yaml.safe_load(match[1]) if match else {}
    return data if isinstance(data, dict) else {}
