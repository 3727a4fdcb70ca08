"""Small made-up data in the format of UCI 270, a data set of them, and a faulty server."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path

from overparam.data._dataset import RegressionDataset
from overparam.data.ethanol import ETHANOL, parse_ethanol
from overparam.data.regression import fingerprint


def batches(rows: int = 4, seed: int = 0) -> dict[str, bytes]:
    """Ten batch files with gas classes 1 to 6, half of the rows of class 1."""
    source = random.Random(seed)
    files = {}
    for number in range(1, 11):
        lines = []
        for row in range(rows):
            gas = 1 if row % 2 == 0 else source.randint(2, 6)
            fields = (f"{index}:{source.gauss(0, 100):.6f}" for index in range(1, 129))
            lines.append(f"{gas};{source.uniform(2, 1000):.6f} {' '.join(fields)} \n")
        files[f"batch{number}.dat"] = "".join(lines).encode()
    return files


def ethanol_lines(files: dict[str, bytes]) -> bytes:
    """What the cache must hold, found by the first character of each line alone."""
    joined = b"".join(files[f"batch{number}.dat"] for number in range(1, 11))
    return b"".join(line for line in joined.splitlines(keepends=True) if line.startswith(b"1;"))


def zipped(files: dict[str, bytes], folder: str = "Dataset/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(folder + name), content)
    return buffer.getvalue()


def small_ethanol(url: str = "http://127.0.0.1:9/none.zip", **changes: object) -> RegressionDataset:
    """The Ethanol data set, with the pinned facts of :func:`batches`."""
    files = batches()
    content = ethanol_lines(files)
    labels = [float(line.split()[0].split(b";")[1]) for line in content.splitlines()]
    parse = functools.partial(
        parse_ethanol,
        rows=len(labels),
        mean=statistics.fmean(labels),
        std=statistics.stdev(labels),
    )
    facts: dict[str, object] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "numbers": fingerprint(*parse(content)),
        "urls": (url,),
        "archive_sha256": hashlib.sha256(zipped(files)).hexdigest(),
        "parser": parse,
    }
    file = dataclasses.replace(ETHANOL.files[0], **(facts | changes))  # type: ignore[arg-type]
    return dataclasses.replace(ETHANOL, rows=len(labels), files=(file,))


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = zipped(batches())
        fault = self.path.strip("/").removesuffix(".zip")
        if fault == "missing":
            self.send_error(404)
            return
        if fault == "silent":
            time.sleep(2)
        body = b"<html>log in</html>" if fault == "page" else content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "dropped":
            body = body[: len(body) // 2]
        if fault == "drip":
            for byte in body[:20]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
            return
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Serve the zip of :func:`batches`; the requested name chooses the fault."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _fetch_and_die(url: str, cache: str, moment: str) -> None:
    """Fetch in this process and kill it at a moment: ``replace 1`` is the first renaming."""
    os.environ["OVERPARAM_CACHE"] = cache
    name, _, count = moment.partition(" ")
    left = int(count or 0)
    owner, real = (os, os.fsync) if name == "fsync" else (Path, Path.replace)

    def counted(*args: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)  # type: ignore[operator]

    setattr(owner, real.__name__, counted)
    small_ethanol(url).fetch(force=True)


def fetch_in_processes(url: str, runs: list[tuple[Path, str]]) -> list[int]:
    """One process for each (cache, moment), all at once; their return codes, -9 for a kill."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, __file__, url, *(f"{cache}={moment}" for cache, moment in runs)],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def _main(url: str, *runs: str) -> None:
    children = []
    for run in runs:  # forked, so that torch is imported once for all
        child = os.fork()
        if child == 0:
            try:
                _fetch_and_die(url, *run.rsplit("=", 1))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])


if __name__ == "__main__":
    _main(*sys.argv[1:])
