"""Downloads a file by HTTP within a time limit, and unpacks zip archives."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from overparam.data._extras import import_extra
from overparam.data.errors import ContentError

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 20.0
TOTAL_SECONDS = 300.0


def fetch_content(url: str) -> bytes:
    """The content of one file on a server.

    Raises:
        ConnectionError: the server does not answer, or does not send the whole file.
        OSError: there is no room for the file.
    """
    with tempfile.TemporaryDirectory(prefix="overparam-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "download"
        fetch_url(url, path)
        return path.read_bytes()


def fetch_url(url: str, target: Path, total_seconds: float = TOTAL_SECONDS) -> None:
    """Download one file; never waits longer than ``total_seconds``.

    The download runs in a thread, because the timeouts of a socket limit neither the look-up of a
    name nor a server that sends one byte at a time.

    Raises:
        ConnectionError: the server does not answer, or does not send the whole file.
        OSError: the target cannot be written.
    """
    # Not streamed: pooch leaves the connection of a streamed response open when it fails.
    fetch = import_extra("pooch").HTTPDownloader(
        timeout=(CONNECT_SECONDS, SILENCE_SECONDS), stream=False
    )
    network_error = import_extra("requests").exceptions.RequestException
    failures: list[Exception] = []

    def work() -> None:
        try:
            fetch(url, str(target), None)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(total_seconds)
    host = urlsplit(url).netloc
    if thread.is_alive():
        raise ConnectionError(f"{host} did not send the file within {total_seconds:g} s")
    if not failures:
        return
    error = failures[0]
    if not isinstance(error, network_error):
        raise error
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = type(error).__name__ if status is None else f"HTTP status {status}"
    raise ConnectionError(f"{host} does not provide the file ({reason})") from error


def zip_members(archive: bytes, names: Iterable[str]) -> dict[str, bytes]:
    """Members of a zip archive by file name, in any folder or inner zip archive.

    Raises:
        ContentError: the archive is broken or a member is missing.

    Example:
        >>> buffer = io.BytesIO()
        >>> with zipfile.ZipFile(buffer, "w") as file:
        ...     file.writestr("folder/a.dat", "text")
        >>> zip_members(buffer.getvalue(), ["a.dat"])
        {'a.dat': b'text'}
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    pending = [archive]
    try:
        while pending:
            with zipfile.ZipFile(io.BytesIO(pending.pop())) as file:
                for info in file.infolist():
                    name = PurePosixPath(info.filename).name
                    if name in wanted and name not in found:
                        found[name] = file.read(info)
                    elif name.lower().endswith(".zip"):
                        pending.append(file.read(info))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise ContentError(f"the archive is not a readable zip file ({error})") from error
    if missing := sorted(wanted - found.keys()):
        raise ContentError(f"the archive has no file {', '.join(missing)}")
    return found
