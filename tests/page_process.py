"""The process in which a page's blocks of Python are run, in their order, as one growing script.

    page_process.py SOCKET PAGE

The script is `page.py` of the working folder. Its lines have the numbers that they have in the page, so a traceback
points into the page. A request is one line of JSON, `{"line": 12, "text": "..."}`; so is the answer, `{"error": "..."}`.
"""

from __future__ import annotations

import json
import linecache
import os
import socket
import sys
import traceback
import types
from pathlib import Path


def main(address: str) -> None:
    script = Path.cwd() / "page.py"
    script.write_text("", encoding="utf-8")
    sys.path[0] = os.getcwd()
    sys.argv = [str(script)]
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    sys.modules["__main__"] = module
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        with line.makefile("rw", encoding="utf-8") as stream:
            for request in stream:
                stream.write(json.dumps({"error": run(module, script, **json.loads(request))}) + "\n")
                stream.flush()


def run(module: types.ModuleType, script: Path, line: int, text: str) -> str:
    """Run a block; return the traceback of what went wrong, "" if nothing did."""
    so_far = script.read_text(encoding="utf-8")
    missing = "\n" * (line - 1 - so_far.count("\n"))
    script.write_text(f"{so_far}{missing}{text}\n", encoding="utf-8")
    linecache.checkcache(str(script))
    try:
        exec(compile("\n" * (line - 1) + text + "\n", str(script), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit, KeyboardInterrupt):
        return traceback.format_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
