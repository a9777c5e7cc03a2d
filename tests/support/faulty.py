"""A registry in memory that does as a script says: drops, stalls, truncates, corrupts, redirects, limits and lies.

It speaks enough of the OCI distribution-spec to pull from and push to. Before it does what the spec says it asks the
test's `script`, which may answer in its place; afterwards it tells what it was asked (`requests`), so that tests can
see not only what came of a fault but how many requests it took and what was in them.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.support.images import BuiltImage


@dataclass(frozen=True)
class Request:
    """What the server was asked.

    Attributes:
        method: of HTTP.
        path: decoded, without the query.
        query: the pairs of the query, in order.
        headers: by name in lower case.
        body: its bytes.
        target: path and query as they came, not decoded.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    target: str = ""

    @property
    def line(self) -> str:
        """`METHOD PATH`, with `bytes=…` when a range was asked for."""
        return " ".join(filter(None, (self.method, self.path, self.headers.get("range"))))

    def values(self, name: str) -> list[str]:
        """All values of a query's key."""
        return [value for key, value in self.query if key == name]


@dataclass(frozen=True)
class Answer:
    """What the server says.

    Attributes:
        status: of HTTP.
        headers: without Content-Length.
        body: its bytes.
        length: what Content-Length says; None says the truth, -1 leaves the header out and closes the connection.
        cut: the connection is broken after so many bytes of the body.
        stall: seconds of silence before that, or before the answer when nothing is cut.
        raw: all of the answer, byte for byte, instead.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    cut: int | None = None
    stall: float = 0
    raw: bytes | None = None


Script = Callable[[Request], Answer | None]


def error(status: int, code: str, message: str = "", **headers: str) -> Answer:
    """An error document of the distribution-spec."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/json", **named}, body)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Upload:
    """An upload session; its location is another one after each chunk, and older ones are refused."""

    data: bytes = b""
    state: str = "a/b"


class FaultyRegistry:
    """See the module.

    Attributes:
        host: `ADDRESS:PORT`.
        script: may answer in place of the registry.
        requests: all that were read whole, in order.
        blobs: by repository and digest.
        manifests: by repository and tag or digest: media type and bytes.
        uploads: sessions that are open.
        chunk_minimum: what `OCI-Chunk-Min-Length` says; None leaves it out.
        knows_referrers: whether it has the referrers API.
        sent: bytes of bodies that were sent.
        break_uploads: the next bodies of uploads are taken so far, then the connection is broken.
        broken: the uploads that were broken.
        connections: how many there were.
    """

    def __init__(self, host: str, script: Script | None = None) -> None:
        self.host = host
        self.script: Script = script or (lambda request: None)
        self.requests: list[Request] = []
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.uploads: dict[str, Upload] = {}
        self.chunk_minimum: int | None = None
        self.knows_referrers = True
        self.sent = 0
        self.break_uploads: list[int] = []
        self.broken: list[str] = []
        self.connections = 0
        self._sessions = 0
        self.scheme = "http"
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def lines(self) -> list[str]:
        """`Request.line` of all requests so far."""
        return [request.line for request in self.requests]

    def sent_at_last(self, expected: int) -> int:
        """`sent`, once it is no more than expected, or after 20 s: a body that nobody takes counts until then."""
        deadline = time.monotonic() + 20
        while self.sent > expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.sent

    def put(self, image: BuiltImage, name: str) -> str:
        """Puts an image here as `NAME:TAG`; returns the full reference."""
        repository, _, tag = name.rpartition(":")
        self.blobs.setdefault(repository, {}).update(image.all_blobs())
        manifests = self.manifests.setdefault(repository, {})
        for digest, document in image.documents().items():
            manifests[digest] = (document.media_type, document.raw)
        manifests[tag] = (image.media_type, image.raw)
        return f"{self.host}/{name}"

    def note(self, request: Request) -> Answer:
        """Writes a request down and decides on its answer."""
        with self._lock:
            self.requests.append(request)
        return self.script(request) or self.obey(request)

    def obey(self, request: Request) -> Answer:
        """What the spec says."""
        if request.path in ("/v2/", "/v2"):
            return Answer(200, {"Content-Type": "application/json"}, b"{}")
        for pattern, handler in _ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found:
                with self._lock:
                    answer: Answer = handler(self, request, *found.groups())
                    return answer
        return error(404, "NAME_UNKNOWN")

    def _manifest(self, request: Request, repository: str, reference: str) -> Answer:
        manifests = self.manifests.setdefault(repository, {})
        if request.method == "PUT":
            digest = digest_of(request.body)
            stored = (request.headers.get("content-type", ""), request.body)
            manifests[reference] = manifests[digest] = stored
            subject = json.loads(request.body).get("subject")
            known = {"OCI-Subject": subject["digest"]} if subject and self.knows_referrers else {}
            return Answer(201, {"Docker-Content-Digest": digest, **known})
        if reference not in manifests:
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, raw = manifests[reference]
        if request.method == "DELETE":
            for name in [name for name, (_, other) in manifests.items() if other == raw]:
                del manifests[name]
            return Answer(202)
        return Answer(200, {"Content-Type": media_type, "Docker-Content-Digest": digest_of(raw)}, raw)

    def _blob(self, request: Request, repository: str, digest: str) -> Answer:
        data = self.blobs.get(repository, {}).get(digest)
        if data is None:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return partial(request, Answer(200, {"Content-Type": "application/octet-stream"}, data))

    def _start(self, request: Request, repository: str) -> Answer:
        mount, origin = request.values("mount"), request.values("from")
        if mount and origin and mount[0] in self.blobs.get(origin[0], {}):
            self.blobs.setdefault(repository, {})[mount[0]] = self.blobs[origin[0]][mount[0]]
            return Answer(201)
        name = f"session{self._sessions}"
        self._sessions += 1
        self.uploads[name] = Upload()
        minimum = {} if self.chunk_minimum is None else {"OCI-Chunk-Min-Length": str(self.chunk_minimum)}
        return Answer(202, {"Location": f"/v2/{repository}/blobs/uploads/{name}?state=a%2Fb", **minimum})

    def _session(self, request: Request, repository: str, name: str) -> Answer:
        upload = self.uploads.get(name)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        if request.values("state") != [upload.state]:
            return error(400, "BLOB_UPLOAD_INVALID", "stale upload state")
        if request.method == "DELETE":
            del self.uploads[name]
            return Answer(204)
        if request.method in ("PATCH", "PUT"):
            stated = request.headers.get("content-range")
            if stated and int(stated.partition("-")[0]) != len(upload.data):
                return error(416, "BLOB_UPLOAD_INVALID")
            upload.data += request.body
        if request.method == "PUT":
            digest = request.values("digest")[0]
            if digest_of(upload.data) != digest:
                return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            self.blobs.setdefault(repository, {})[digest] = upload.data
            del self.uploads[name]
            return Answer(201)
        if request.method == "PATCH":
            upload.state = f"a/b{len(upload.data)}"
        location = f"/v2/{repository}/blobs/uploads/{name}?state={quote(upload.state, safe='')}"
        there = {"Location": location, "Range": f"0-{max(0, len(upload.data) - 1)}"}
        return Answer(202 if request.method == "PATCH" else 204, there)

    def _tags(self, request: Request, repository: str) -> Answer:
        if repository not in self.manifests:
            return error(404, "NAME_UNKNOWN", "repository name not known to registry")
        tags = sorted(tag for tag in self.manifests[repository] if ":" not in tag)
        return Answer(200, {"Content-Type": "application/json"}, json.dumps({"tags": tags}).encode())

    def _referrers(self, request: Request, repository: str, digest: str) -> Answer:
        if not self.knows_referrers:
            return error(404, "NOT_FOUND")
        found = []
        for name, (media_type, raw) in self.manifests.get(repository, {}).items():
            document = json.loads(raw)
            if ":" in name and document.get("subject", {}).get("digest") == digest:
                found.append({"mediaType": media_type, "digest": name, "size": len(raw)})
        media_type = "application/vnd.oci.image.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": found}
        return Answer(200, {"Content-Type": media_type}, json.dumps(index).encode())


_NAME = r"([a-z0-9/._-]+)"
_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (rf"/v2/{_NAME}/manifests/([^/]+)", FaultyRegistry._manifest),
    (rf"/v2/{_NAME}/blobs/uploads/", FaultyRegistry._start),
    (rf"/v2/{_NAME}/blobs/uploads/([^/]+)", FaultyRegistry._session),
    (rf"/v2/{_NAME}/blobs/([^/]+)", FaultyRegistry._blob),
    (rf"/v2/{_NAME}/tags/list", FaultyRegistry._tags),
    (rf"/v2/{_NAME}/referrers/([^/]+)", FaultyRegistry._referrers),
]


def partial(request: Request, answer: Answer) -> Answer:
    """The part of an answer's body that the request asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return answer
    size = len(answer.body)
    start, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
    if start >= size:
        return Answer(416, {"Content-Range": f"bytes */{size}"})
    headers = {**answer.headers, "Content-Range": f"bytes {start}-{end}/{size}"}
    return replace(answer, status=206, headers=headers, body=answer.body[start : end + 1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # As real servers do: a head and a body that are sent apart would wait 40 ms for each other.
    disable_nagle_algorithm = True
    registry: FaultyRegistry

    def setup(self) -> None:
        self.registry.connections += 1
        super().setup()

    def _handle(self) -> None:
        try:
            self._answer(self.registry.note(self._request()))
        except (ConnectionError, ssl.SSLError, TimeoutError):
            self.close_connection = True

    def _request(self) -> Request:
        target = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        session = target.path.rpartition("/")[2]
        if session in self.registry.uploads and length and self.registry.break_uploads:
            taken = self.rfile.read(min(length, self.registry.break_uploads.pop(0)))
            self.registry.uploads[session].data += taken
            self.registry.broken.append(f"{self.command} {target.path} broken after {len(taken)}")
            raise ConnectionError
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client went away")
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = tuple(parse_qsl(target.query, keep_blank_values=True))
        return Request(self.command, unquote(target.path), query, headers, body, self.path)

    def _answer(self, answer: Answer) -> None:
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        if answer.cut is None and answer.stall:
            time.sleep(answer.stall)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.length != -1 and answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
        if answer.length == -1:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        # Before it is sent: who has it may look at once.
        self.registry.sent += len(body)
        try:
            self.wfile.write(body)
        except OSError:
            self.registry.sent -= len(body)
            raise
        if answer.cut is not None or (answer.length not in (None, -1) and answer.length != len(body)):
            self.wfile.flush()
            time.sleep(answer.stall)
            self.close_connection = True
            # Whatever is in flight arrives; then the connection breaks.
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def __getattr__(self, name: str) -> Any:
        """`do_GET` and its kind, for every method."""
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *args: Any, **named: Any) -> None:
        """Silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no failure of a test."""


@contextmanager
def serve_faulty(
    script: Script | None = None, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[FaultyRegistry]:
    """Runs a registry in threads until the block ends.

    Args:
        script: asked before every answer; may be set later, too (`registry.script`).
        address: of loopback; another one makes another host.
        tls: speaks HTTPS.
    """
    handler = type("Handler", (_Handler,), {})
    server = _Server((address, 0), handler)
    registry = FaultyRegistry(f"{address}:{server.server_address[1]}", script)
    handler.registry = registry  # type: ignore[attr-defined]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        registry.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
