"""Downloads an archive from the package index that pip is configured to use."""

import ast
import hashlib
import os
import pathlib
import subprocess
import sys

import pypi_simple
import requests

from adnerf_jax.common.progress import Bar

_TIMEOUT = (15.0, 60.0)  # seconds: to connect, and between two reads


class FetchError(Exception):
    """An index could not provide the file. The message holds no URL, which could contain a password."""


def pip_settings() -> dict[str, str]:
    """pip's options by their long names, from `PIP_*` variables or, with lower priority, its configuration files."""
    by_section: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for line in _pip_config_list().splitlines():
        key, equals, value = line.partition("=")
        section, _, option = key.partition(".")
        if equals and section in by_section:
            by_section[section][option] = str(ast.literal_eval(value))
    variables = {k[4:].lower().replace("_", "-"): v for k, v in os.environ.items() if k.startswith("PIP_") and v}
    return by_section["global"] | by_section["install"] | variables


def _pip_config_list() -> str:
    """Lines `section.option='value'`; empty if pip is missing, as in environments made by some other tools."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def indexes(settings: dict[str, str]) -> list[str]:
    """The URLs of the simple APIs that pip would use; local folders among them are left out."""
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return []
    addresses = [settings.get("index-url", pypi_simple.PYPI_SIMPLE_ENDPOINT)]
    addresses += settings.get("extra-index-url", "").split()
    return [address for address in addresses if address.startswith(("http://", "https://"))]


def _client(index: str, settings: dict[str, str]) -> pypi_simple.PyPISimple:
    session = requests.Session()  # reads HTTPS_PROXY, REQUESTS_CA_BUNDLE and netrc
    session.verify = settings.get("cert", True)
    if proxy := settings.get("proxy"):
        session.proxies = {"http": proxy, "https": proxy}
    return pypi_simple.PyPISimple(index, session=session)


def download(index: str, settings: dict[str, str], project: str, archive: str, target: pathlib.Path, what: str) -> None:
    """Downloads a distribution archive and checks it against the digests of the index.

    Args:
      index: URL of a simple API, one of `indexes`.
      settings: result of `pip_settings`.
      project: name of the package.
      archive: file name of the distribution.
      target: path to write.
      what: description for the progress bar.

    Raises:
      FetchError: the index cannot be reached, has no such file, or sends a file with other digests.
      OSError: the file cannot be written.
    """
    try:
        with _client(index, settings) as client:
            page = client.get_project_page(project, timeout=_TIMEOUT)
            package = next((p for p in page.packages if p.filename == archive), None)
            if package is None:
                raise FetchError(f"the index has no {archive}")
            checkable = not hashlib.algorithms_available.isdisjoint(package.digests)
            client.download_package(
                package, target, verify=checkable, timeout=_TIMEOUT, progress=lambda size: _Progress(what, size)
            )
    except pypi_simple.NoSuchProjectError:
        raise FetchError(f"the index has no package {project}") from None
    except pypi_simple.DigestMismatchError:
        raise FetchError(f"{archive} does not match the digest of the index") from None
    except requests.HTTPError as error:
        raise FetchError(f"the index answers with status {error.response.status_code}") from None
    except requests.exceptions.SSLError:
        raise FetchError("the certificate of the index is not trusted: see pip's `cert` option") from None
    except requests.RequestException:
        raise FetchError("the connection to the index failed") from None
    except (pypi_simple.UnsupportedContentTypeError, pypi_simple.UnsupportedRepoVersionError):
        raise FetchError("the index does not speak the simple API") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise FetchError("the configured file of certificates is missing") from None  # requests raises it without errno


class _Progress:
    """Progress of a download on a bar in MiB, as the client's context manager."""

    def __init__(self, what: str, size: int | None):
        total = None if size is None else max(round(size / 2**20), 1)
        self._bar = Bar(f"fetching {what}", total, "MiB")
        self._bytes = 0

    def __enter__(self) -> "_Progress":
        return self

    def update(self, increment: int) -> None:
        self._bytes += increment
        self._bar.update(round(self._bytes / 2**20) - self._bar.done)

    def __exit__(self, kind, error, trace) -> None:
        self._bar.close()
