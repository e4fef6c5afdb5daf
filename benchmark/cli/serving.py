"""Serving the site to its authors: built again when something changes, and shown again by open pages."""

import functools
import http.server
import os
import sys
import threading
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import watchfiles

from pruneboard.benchmark.cli.tables import build
from pruneboard.benchmark.errors import PruneboardError

_SITE = Path(__file__).resolve().parents[2] / "site"
_RELOAD = "/_reload"
_SCRIPT = b'<script src="/_reload.js"></script></head>'
_POLICY = (b"connect-src 'none'", b"connect-src 'self'")
_RELOADER = b"""new EventSource("/_reload").onmessage = () => location.reload();\n"""


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """What the site is built from, and where.

    Attributes:
        runs: run folder beside the published tables.
        results: published tables.
        out: folder of the site.
        local: leave the published rows out.
        suite_files: files of suites beside those that come with pruneboard.
    """

    runs: Path | None
    results: Path
    out: Path
    local: bool
    suite_files: tuple[Path, ...] = ()

    def build(self) -> Path:
        """Build the site, and return its front page."""
        return build(self.runs, self.results, self.out, local=self.local, suite_files=self.suite_files)

    @property
    def watched(self) -> tuple[Path, ...]:
        """Folders and files whose changes change the site."""
        paths = (self.results, *([] if self.runs is None else [self.runs]), _SITE, *self.suite_files)
        return tuple(path for path in paths if path.exists())


class Builds:
    """Counts the builds, and lets pages wait for the next one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0

    def add(self) -> None:
        """Say that there is a new build."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def wait(self, number: int, seconds: float) -> int:
        """Wait until there are other than `number` builds, or for a time, and return how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._number != number, seconds)
            return self._number


def serve(options: SiteOptions, port: int, *, watch: bool) -> None:
    """Build the site and serve it on 127.0.0.1 until Ctrl-C.

    Args:
        options: what is built.
        port: port; 0 picks a free one.
        watch: whether to build again when something changes.

    Raises:
        PruneboardError: the site cannot be built, or the port is taken.
    """
    options.build()
    builds = Builds()
    handler = functools.partial(_Handler, builds if watch else None, directory=os.fspath(options.out))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise PruneboardError(f"`--port` must be free, but {port} is not: {error.strerror}; choose another.") from error
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C to stop)", flush=True)
    stop = threading.Event()
    watcher = threading.Thread(target=_rebuild, args=(options, builds, stop), daemon=True)
    if watch:
        watcher.start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        server.server_close()


def _rebuild(options: SiteOptions, builds: Builds, stop: threading.Event) -> None:
    """Build again at every change until `stop`; what cannot be built is said, and the last site stays."""
    for _ in watchfiles.watch(*options.watched, stop_event=stop, debounce=400, raise_interrupt=False):
        try:
            options.build()
        except PruneboardError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            print("built again", flush=True)
            builds.add()


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, pages with a script that loads them again after each build."""

    def __init__(self, builds: Builds | None, *arguments: Any, **options: Any) -> None:
        self._builds = builds
        super().__init__(*arguments, **options)

    def log_message(self, *_: object) -> None:
        """Leave the terminal to builds and errors."""

    def do_GET(self) -> None:
        """Answer with a file, the script, or events."""
        if self._builds is None:
            super().do_GET()
        elif self.path == _RELOAD:
            self._send_events(self._builds)
        elif self.path == f"{_RELOAD}.js":
            self._send(_RELOADER, "text/javascript")
        elif (page := self._page()) is not None:
            # The policy of the published site allows no connection at all.
            self._send(page.replace(*_POLICY).replace(b"</head>", _SCRIPT, 1), "text/html; charset=utf-8")
        else:
            super().do_GET()

    def _page(self) -> bytes | None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        return path.read_bytes() if path.suffix == ".html" and path.is_file() else None

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _send_events(self, builds: Builds) -> None:
        # Before the answer begins, so that no build after it is missed.
        number = builds.wait(-1, 0)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            while True:
                if (now := builds.wait(number, 15)) != number:
                    number = now
                    self.wfile.write(b"data: built\n\n")
                else:
                    self.wfile.write(b": still here\n\n")
                self.wfile.flush()
        except OSError:
            # The page was left.
            return
