import functools
import http.server
import threading
import urllib.request

import pytest

from pruneboard.benchmark.cli.serving import Builds, SiteOptions, _Handler, serve
from pruneboard.benchmark.errors import PruneboardError

PAGE = (
    "<html><head><meta content=\"default-src 'none'; connect-src 'none'\"></head>"
    "<body>connect-src 'none' as text</body></html>"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "style.css").write_text("body {}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def served(folder):
    """Serve a folder, and give what fetches an address and what counts builds."""
    builds = Builds()
    handler = functools.partial(_Handler, builds, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def fetch(path):
        return urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=30)

    yield fetch, builds
    server.shutdown()
    server.server_close()


def test_served_pages_may_hear_of_new_builds(served):
    fetch, _ = served
    with fetch("/") as answer:
        text = answer.read().decode()

    assert "default-src 'none'; connect-src 'self'" in text
    assert '<script src="/_reload.js"></script></head>' in text
    with fetch("/_reload.js") as answer:
        assert b"EventSource" in answer.read()
    with fetch("/style.css") as answer:
        assert answer.read() == b"body {}"


def test_a_build_is_an_event(served):
    fetch, builds = served
    with fetch("/_reload") as answer:
        builds.add()
        assert answer.readline() == b"data: built\n"


def test_a_taken_port_is_one_clear_error(folder, monkeypatch):
    taken = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    options = SiteOptions(runs=None, results=folder, out=folder, local=False)
    monkeypatch.setattr(SiteOptions, "build", lambda self: folder / "index.html")
    with pytest.raises(PruneboardError, match="`--port` must be free, but .* is not"):
        serve(options, taken.server_port, watch=False)
    taken.server_close()
