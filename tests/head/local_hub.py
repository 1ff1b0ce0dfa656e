"""A Hub on this machine for tests: repositories are folders `root/organisation/name`, uploads are regular files.

    python tests/local_hub.py ROOT TOKEN

Repositories whose name ends in `-private` ask for the token, and so does everything that writes. Prints its address.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse


ROOT, TOKEN = Path(), ""


def files_of(repo: Path) -> dict[str, bytes]:
    return {path.relative_to(repo).as_posix(): path.read_bytes() for path in sorted(repo.rglob("*")) if path.is_file()}


def commit_of(repo: Path) -> str:
    return hashlib.sha1(repr(sorted(files_of(repo).items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        kind, *parts = self._parts()
        if kind == "api" and parts[:1] == ["whoami-v2"]:
            return self._json({"name": "me", "type": "user", "orgs": []})
        # Models and datasets live side by side.
        parts = parts[1:] if kind == "api" else parts if kind == "datasets" else [kind, *parts]
        repo, rest = ROOT.joinpath(*parts[:2]), parts[2:]
        # Like the Hub, a private repository cannot be told from one that is not there.
        if len(parts) < 2 or not repo.is_dir() or (repo.name.endswith("-private") and not self._is_authorised()):
            return self._refuse(401 if not self._is_authorised() else 404, "RepoNotFound")
        if len(rest) > 1 and rest[1] not in ("main", commit_of(repo)):
            return self._refuse(404, "RevisionNotFound")
        return self._api(repo, rest) if kind == "api" else self._resolve(repo, rest)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body, parts = self._body(), self._parts()
        if parts[4:5] == ["paths-info"]:
            found = files_of(ROOT.joinpath(*parts[2:4]))
            return self._json([self._entry(path, found[path]) for path in body["paths"] if path in found])
        if not self._is_authorised():
            return self._refuse(401, "Unauthorized")
        if parts == ["api", "repos", "create"]:
            name = f"{body.get('organization') or 'me'}/{body['name']}"
            (ROOT / name).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self._address()}/{name}", "name": name, "id": name})
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        repo = ROOT.joinpath(*parts[2:4])
        if parts[4] == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file["path"], **modes} for file in body["files"]]})
        for entry in body:
            if entry["key"] == "file":
                file = repo / entry["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(entry["value"]["content"]))
        name, commit = "/".join(parts[2:4]), commit_of(repo)
        url = f"{self._address()}/{name}/commit/{commit}"
        return self._json({"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": ""})

    def _api(self, repo, rest):
        files = files_of(repo)
        if rest[:1] == ["tree"]:
            under = "/".join(rest[2:])
            return self._json([self._entry(path, files[path]) for path in files if path.startswith(under)])
        name = f"{repo.parent.name}/{repo.name}"
        facts = {"id": name, "modelId": name, "sha": commit_of(repo), "private": False, "tags": [], "downloads": 0}
        return self._json({**facts, "siblings": [{"rfilename": path} for path in files]})

    def _entry(self, path, content):
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _resolve(self, repo, rest):
        content = files_of(repo).get("/".join(rest[2:]))
        if content is None:
            return self._refuse(404, "EntryNotFound")
        tag = hashlib.sha1(content).hexdigest()
        return self._reply(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit_of(repo)})

    def _parts(self):
        return unquote(urlparse(self.path).path).strip("/").split("/")

    def _address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def _is_authorised(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self):
        if (length := self.headers.get("Content-Length")) is not None:
            raw = self.rfile.read(int(length))
        else:
            raw = b""
            while size := int(self.rfile.readline(), 16):
                raw += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if "urlencoded" in self.headers.get("Content-Type", ""):
            return parse_qs(raw.decode())
        if "ndjson" in self.headers.get("Content-Type", ""):
            return [json.loads(line) for line in raw.splitlines()]
        return json.loads(raw) if raw else {}

    def _json(self, answer):
        self._reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status, code):
        self._reply(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _reply(self, status, content, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


if __name__ == "__main__":
    ROOT, TOKEN = Path(sys.argv[1]), sys.argv[2]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
