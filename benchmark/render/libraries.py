"""Scripts of others that the site needs, out of installed packages."""

import functools
import importlib.util
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import vl_convert

from pruneboard.benchmark.errors import SiteError

_EXPORTS = re.compile(r"\bexport\s*\{([^}]*)\}\s*;?")


def vega_script() -> "Future[str]":
    """Start to bundle Vega, Vega-Lite and vega-embed, which takes seconds, in a thread of its own.

    The script makes `vegaEmbed` known to the page.
    """
    pool = ThreadPoolExecutor(1)
    bundle = pool.submit(_vega_script)
    pool.shutdown(wait=False)
    return bundle


@functools.cache
def _vega_script() -> str:
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


@functools.cache
def tables_script() -> str:
    """Return DataTables as itables bundles it, as a script that makes `DataTable` known to the page.

    Browsers load modules from a server only, so the module's exports become a property of the window.

    Raises:
        SiteError: the installed itables has another bundle than is expected.
    """
    # The package's `__init__` imports IPython and more, of which nothing is needed here.
    found = importlib.util.find_spec("itables")
    if found is None or found.origin is None:
        raise SiteError("the site needs the package `itables`, which is not installed; install what pruneboard needs.")
    path = Path(found.origin).parent / "html" / "dt_bundle.js"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    exports = list(_EXPORTS.finditer(text))
    named = {} if not exports else _names(exports[-1].group(1))
    if "default" not in named:
        raise SiteError(
            f"`itables` must bundle DataTables as a module with a default export, but `{path}` is none; install the "
            "version that requirements.lock names."
        )
    last = exports[-1]
    script = f"{text[: last.start()]}window.DataTable={named['default']};{text[last.end() :]}"
    return f"(()=>{{{script}\n}})();\n"


def _names(exports: str) -> dict[str, str]:
    """Return the inner name of each exported one, of `a as b, c`."""
    pairs = [entry.split(" as ") for entry in exports.split(",") if entry.strip()]
    return {pair[-1].strip(): pair[0].strip() for pair in pairs}
