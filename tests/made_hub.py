"""A hub on this machine for tests: data sets out of a dict, over HTTP, as far as the real client of the hub asks."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

COMMIT = "0" * 39 + "1"


@contextlib.contextmanager
def serve(files: Mapping[str, Mapping[str, bytes] | str]) -> Iterator[SimpleNamespace]:
    """files: hub id -> {path: content}, or "gated". Yields the address and the list of what was asked for."""
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def give(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            asked.append(f"{self.command} {url}")
            found = re.fullmatch(r"(?:/api)?/datasets/([^/]+/[^/]+?)(/.*)?", url)
            if not found or found[1] not in files:
                return self.give(status=404, X_Error_Code="RepoNotFound")
            here, rest = files[found[1]], (found[2] or "").replace("refs/convert/parquet", "convert")
            if here == "gated":
                return self.give(status=403, X_Error_Code="GatedRepo")
            if url.startswith("/api"):
                deep = "recursive=true" in self.path.lower()
                told = self.tree(here, rest, deep) if rest.startswith("/tree/") else self.card(found[1], here)
                if told is None:
                    return self.give(status=404, X_Error_Code="EntryNotFound")
                return self.give(json.dumps(told).encode(), Content_Type="application/json")
            return self.file(here, rest.split("/", 3)[3])

        @staticmethod
        def card(name: str, here: Mapping[str, bytes]) -> dict:
            plain = {"private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
            return {"_id": "x", "id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in here], **plain}

        @staticmethod
        def tree(here: Mapping[str, bytes], rest: str, recursive: bool) -> list | None:
            inside = "/".join(rest.split("/")[3:])
            entries = {}
            for path, content in here.items():
                if not inside or path.startswith(f"{inside}/"):
                    oid = hashlib.sha1(content).hexdigest()
                    steps = path.removeprefix(f"{inside}/" if inside else "").split("/")
                    for depth in range(1, len(steps) + 1 if recursive else 2):
                        name = "/".join([inside, *steps[:depth]] if inside else steps[:depth])
                        kind = {"type": "file", "size": len(content)} if name == path else {"type": "directory", "size": 0}
                        entries[name] = {**kind, "path": name, "oid": oid}
            return list(entries.values()) if entries or not inside else None

        def file(self, here: Mapping[str, bytes], path: str) -> None:
            if path not in here:
                return self.give(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            content = here[path]
            headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept_Ranges": "bytes"}
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if not part:
                return self.give(content, **headers)
            start, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            where = f"bytes {start}-{end}/{len(content)}"
            return self.give(content[start : end + 1], 206, Content_Range=where, **headers)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
