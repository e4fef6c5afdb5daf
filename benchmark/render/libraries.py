"""Scripts of others that the site needs, out of installed packages."""

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Self

from pruneboard.benchmark.errors import SiteError

_BUNDLE = (
    "import sys, vl_convert;"
    "sys.stdout.buffer.write(vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;').encode())"
)
_EXPORTS = re.compile(r"\bexport\s*\{([^}]*)\}\s*;?")


class VegaScript:
    """Bundles Vega, Vega-Lite and vega-embed, which takes seconds, in a process of its own, since that keeps the GIL.

    The script makes `vegaEmbed` known to the page.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-c", _BUNDLE]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whether or not its script was asked for."""
        self._process.kill()
        self._process.communicate()

    def result(self) -> str:
        """Wait for the script and return it.

        Raises:
            SiteError: it could not be made.
        """
        script, errors = self._process.communicate()
        if self._process.returncode:
            last = (errors.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise SiteError(
                f"the site needs Vega out of the package `vl-convert-python`, which failed ({last}); install the "
                "version that requirements.lock names."
            )
        return script.decode("utf-8")


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
