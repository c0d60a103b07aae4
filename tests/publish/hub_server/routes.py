"""What is asked of the Hub: a function for each address. It returns JSON, or what writes the reply."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.publish.hub_server.messages import Answer, User
from tests.publish.hub_server.repository import Blob, Repository, describe

if TYPE_CHECKING:
    from tests.publish.hub_server.server import Handler

REPO, REV = r"(?P<repo>[^/]+/[^/]+)", r"(?P<rev>[^/]+)"
SIGNATURE = "X-Amz-Signature=0123456789abcdef"


# Who asks, and for what


def sender(ask: Handler) -> User | None:
    token = (ask.headers.get("Authorization") or "").removeprefix("Bearer ")
    if token and token not in ask.hub.users:
        raise Answer(401, "Invalid credentials in Authorization header")
    return ask.hub.users.get(token)


def signed_in(ask: Handler) -> User:
    """Who asks, where someone must."""
    found = sender(ask)
    if found is None:
        raise Answer(401, "Invalid username or password.")
    return found


def owns(ask: Handler, namespace: str) -> bool:
    user = sender(ask)
    return user is not None and namespace in (user.name, *user.organizations)


def readable(ask: Handler, repo: str) -> Repository:
    found = ask.hub.repositories.get(repo)
    if found is None or (found.private and not owns(ask, repo.split("/")[0])):
        raise Answer(401 if sender(ask) is None else 404, "Repository not found", "RepoNotFound")
    return found


def writable(ask: Handler, repo: str) -> Repository:
    found, user = readable(ask, repo), signed_in(ask)
    if user.role == "read" or not owns(ask, repo.split("/")[0]):
        raise Answer(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return found


def at(repository: Repository, revision: str) -> str:
    sha = repository.resolve(revision)
    if sha is None:
        raise Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return sha


# Routes


def whoami(ask: Handler) -> object:
    user = signed_in(ask)
    organizations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.organizations]
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
    return {"type": "user", "id": "1", "name": user.name, "orgs": organizations, "auth": access}


def create(ask: Handler) -> object:
    asked, user = json.loads(ask.body), signed_in(ask)
    owner = asked.get("organization") or user.name
    name, address = f"{owner}/{asked['name']}", f"{ask.hub.url}/{owner}/{asked['name']}"
    if user.role == "read" or not owns(ask, owner):
        raise Answer(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    if name in ask.hub.repositories:
        raise Answer(409, "You already created this model repo", url=address)
    ask.hub.repositories[name] = Repository(name, asked.get("visibility") == "private")
    return {"url": address, "name": name, "id": "1"}


def validate_yaml(ask: Handler) -> object:
    found = re.match(r"---\n(.*?)\n---", json.loads(ask.body)["content"], re.DOTALL)
    try:
        about = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise Answer(400, "Invalid YAML", errors=[{"message": str(error)}], warnings=[]) from error
    return {"errors": [], "warnings": [] if about else [{"message": "empty or missing yaml metadata"}]}


def info(ask: Handler, repo: str, rev: str = "main") -> object:
    repository = readable(ask, repo)
    sha = at(repository, rev)
    siblings = [{"rfilename": path} for path in sorted(repository.commits[sha].files)]
    return {"_id": "1", "id": repo, "modelId": repo, "sha": sha, "private": repository.private, "tags": []} | {
        "author": repo.split("/")[0],
        "siblings": siblings,
        "downloads": 0,
        "likes": 0,
    }


def list_refs(ask: Handler, repo: str) -> object:
    refs = readable(ask, repo).refs
    groups: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
    for ref, sha in refs.items():
        group = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}[ref.split("/")[1]]
        groups[group].append({"name": ref.split("/", 2)[2], "ref": ref, "targetCommit": sha})
    return groups


def tree(ask: Handler, repo: str, rev: str, folder: str = "") -> object:
    repository = readable(ask, repo)
    entries = repository.tree(at(repository, rev), folder)
    if ask.query.get("recursive", "").lower() != "true":
        entries = [e for e in entries if "/" not in str(e["path"]).removeprefix(f"{folder}/")]
    start = int(ask.query.get("cursor", 0))
    following = f"{ask.hub.url}{urlsplit(ask.path).path}?recursive={ask.query.get('recursive')}&cursor="
    link = {"Link": f'<{following}{start + ask.hub.page}>; rel="next"'}
    more = len(entries) > start + ask.hub.page
    return lambda: ask.answer(200, entries[start : start + ask.hub.page], **(link if more else {}))


def paths_info(ask: Handler, repo: str, rev: str) -> object:
    repository = readable(ask, repo)
    files = repository.commits[at(repository, rev)].files
    return [describe(path, files[path]) for path in parse_qs(ask.body.decode())["paths"] if path in files]


def branch(ask: Handler, repo: str, rev: str) -> object:
    repository = writable(ask, repo)
    if rev.startswith("refs/") or re.search(r"\s|\.\.|[~^:?*\[\\]", rev):
        raise Answer(400, f"Invalid reference for a branch: {rev}")
    if f"refs/heads/{rev}" in repository.refs:
        raise Answer(409, "Reference already exists")
    start = (json.loads(ask.body) if ask.body else {}).get("startingPoint", "main")
    repository.refs[f"refs/heads/{rev}"] = at(repository, start)
    return {}


def preupload(ask: Handler, repo: str, rev: str) -> object:
    repository = _to_commit(ask, repo)
    files = repository.commits[at(repository, rev)].files
    answers = []
    for file in json.loads(ask.body)["files"]:
        path = file["path"]
        large = path.endswith(".safetensors") or file["size"] > ask.hub.lfs_over
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        answers.append({**answer, "oid": files[path].etag if path in files else None})
    return {"files": answers}


def _to_commit(ask: Handler, repo: str) -> Repository:
    """Who may read may also open a pull request."""
    if "create_pr" not in ask.query:
        return writable(ask, repo)
    signed_in(ask)
    return readable(ask, repo)


def commit(ask: Handler, repo: str, rev: str) -> object:
    repository, user = _to_commit(ask, repo), signed_in(ask)
    items = [json.loads(line) for line in ask.body.splitlines()]
    header = next(item["value"] for item in items if item["key"] == "header")
    head, parent = at(repository, rev), header.get("parentCommit")
    opens = "create_pr" in ask.query
    if not opens and f"refs/heads/{rev}" not in repository.refs and not rev.startswith("refs/pr/"):
        raise Answer(400, f"{rev} is not a branch")
    if parent and parent != head and not opens:
        raise Answer(412, "A commit has happened since. Please refresh and try again.")
    number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
    ref = f"refs/pr/{number}" if opens else rev if rev.startswith("refs/pr/") else f"refs/heads/{rev}"
    adds = {i["value"]["path"]: _blob(ask, repository, i) for i in items if i["key"] in {"file", "lfsFile"}}
    removes = {item["value"]["path"] for item in items if item["key"] == "deletedFile"}
    if missing := removes - set(repository.commits[head].files):
        raise Answer(404, f"A file with this name doesn't exist: {missing}", "EntryNotFound")
    sha = repository.commit(ref, parent or head, adds, removes, header["summary"], user.name)
    answer = {"success": True, "commitOid": sha, "commitUrl": f"{ask.hub.url}/{repo}/commit/{sha}"}
    return answer | ({"pullRequestUrl": f"{ask.hub.url}/{repo}/discussions/{number}"} if opens else {})


def _blob(ask: Handler, repository: Repository, item: dict[str, Any]) -> Blob:
    value = item["value"]
    if item["key"] == "lfsFile":
        if value["oid"] not in repository.objects:
            raise Answer(400, f"Your push was rejected because an LFS pointer has no file: {value['path']}")
        return Blob(repository.objects[value["oid"]], lfs=True)
    return Blob(base64.b64decode(value["content"]))


# Large files


def batch(ask: Handler, repo: str) -> object:
    repository, asked = readable(ask, repo), json.loads(ask.body)
    signed_in(ask)
    in_parts = "multipart" in asked["transfers"]
    objects = [_upload(ask, repository, o["oid"], o["size"], in_parts) for o in asked["objects"]]
    return {"transfer": "basic", "objects": objects}


def _upload(ask: Handler, repository: Repository, oid: str, size: int, in_parts: bool) -> dict[str, Any]:
    if oid in repository.objects:
        return {"oid": oid, "size": size}
    where, part = f"{ask.hub.storage}/{repository.name}/{oid}", ask.hub.part_size
    actions: dict[str, Any] = {"verify": {"href": f"{ask.hub.url}/{repository.name}.git/info/lfs/verify"}}
    if part and in_parts and size > part:
        urls = {f"{n + 1:05d}": f"{where}/{n + 1}?{SIGNATURE}" for n in range(-(-size // part))}
        whole = f"{ask.hub.url}/api/complete_multipart/{repository.name}/{oid}?{SIGNATURE}"
        actions["upload"] = {"href": whole, "header": {"chunk_size": str(part), **urls}}
    else:
        actions["upload"] = {"href": f"{where}?{SIGNATURE}"}
    return {"oid": oid, "size": size, "authenticated": True, "actions": actions}


def put(ask: Handler, repo: str, oid: str, part: str = "") -> object:
    """Storage knows no user, only whether the address is signed."""
    repository = ask.hub.repositories[repo]
    if SIGNATURE not in ask.path or "Authorization" in ask.headers:
        raise Answer(400, "Only one auth mechanism allowed, and the address must be signed")
    if part:
        repository.parts[oid, int(part)] = ask.body
    elif hashlib.sha256(ask.body).hexdigest() != oid:
        raise Answer(400, "XAmzContentSHA256Mismatch")
    else:
        repository.objects[oid] = ask.body
    return lambda: ask.send(200, b"", {"ETag": f'"{hashlib.md5(ask.body).hexdigest()}"'})


def complete(ask: Handler, repo: str, oid: str) -> object:
    repository = ask.hub.repositories[repo]
    numbers = [part["partNumber"] for part in json.loads(ask.body)["parts"]]
    whole = b"".join(repository.parts[oid, number] for number in numbers)
    if hashlib.sha256(whole).hexdigest() != oid:
        raise Answer(400, "the parts do not make the file")
    repository.objects[oid] = whole
    return {"status": "success"}


def verify(ask: Handler, repo: str) -> object:
    asked = json.loads(ask.body)
    if len(writable(ask, repo).objects.get(asked["oid"], b"")) != asked["size"]:
        raise Answer(404, "no such object, or of another size")
    return {}


# Downloads


def resolve(ask: Handler, repo: str, rev: str, path: str) -> object:
    repository = readable(ask, repo)
    sha = at(repository, rev)
    blob = repository.commits[sha].files.get(path)
    if blob is None:
        raise Answer(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return lambda: _send_range(ask, blob.data, headers)
    headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    headers["Location"] = f"{ask.hub.storage}/{repo}/{blob.sha256}?{SIGNATURE}"
    return lambda: ask.send(302, b"", headers)


def get(ask: Handler, repo: str, oid: str) -> object:
    if SIGNATURE not in ask.path or "Authorization" in ask.headers:
        raise Answer(400, "Only one auth mechanism allowed, and the address must be signed")
    data = ask.hub.repositories[repo].objects[oid]
    return lambda: _send_range(ask, data, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _send_range(ask: Handler, data: bytes, headers: dict[str, str]) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", ask.headers.get("Range") or "")
    if not asked:
        return ask.send(200, data, headers)
    start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if start > end:
        return ask.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return ask.send(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


OID = r"(?P<oid>[0-9a-f]{64})"
ROUTES: list[tuple[str, str, Callable[..., object]]] = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("GET", rf"/api/models/{REPO}", info),
    ("GET", rf"/api/models/{REPO}/revision/{REV}", info),
    ("GET", rf"/api/models/{REPO}/refs", list_refs),
    ("GET", rf"/api/models/{REPO}/tree/{REV}(?:/(?P<folder>.+))?", tree),
    ("POST", rf"/api/models/{REPO}/paths-info/{REV}", paths_info),
    ("POST", rf"/api/models/{REPO}/branch/{REV}", branch),
    ("POST", rf"/api/models/{REPO}/preupload/{REV}", preupload),
    ("POST", rf"/api/models/{REPO}/commit/{REV}", commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", batch),
    ("POST", rf"/{REPO}\.git/info/lfs/verify", verify),
    ("POST", rf"/api/complete_multipart/{REPO}/{OID}", complete),
    ("PUT", rf"/storage/{REPO}/{OID}(?:/(?P<part>\d+))?", put),
    ("GET HEAD", rf"/storage/{REPO}/{OID}", get),
    ("GET HEAD", rf"/{REPO}/resolve/{REV}/(?P<path>.+)", resolve),
]
