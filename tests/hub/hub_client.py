"""A client process that runs snippets of a test, each in a fork: imports cost once, every snippet starts clean.

The process reads one JSON line a snippet, `{"code", "names"}`, and forks; the child runs the code and answers
`{"pid"}` when it starts and `{"result"}` (the variable `result`) or `{"error", "message"}` when it ends. A snippet with
`"kept": true` runs in the process itself, and leaves its names to the kept snippets after it, as in an interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback


def run(snippet: dict, names: dict) -> dict:
    names.update(snippet["names"])
    try:
        exec(snippet["code"], names)
    except Exception as error:
        traceback.print_exc()
        return {"error": type(error).__name__, "message": str(error)}
    return {"result": names.get("result")}


def main() -> None:
    # The stream of answers is ours alone: whatever a snippet prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    kept: dict = {}
    for line in sys.stdin:
        snippet = json.loads(line)
        pid = 0 if snippet["kept"] else os.fork()
        if pid == 0:
            print(json.dumps({"pid": os.getpid()}), file=answers, flush=True)
            names = kept if snippet["kept"] else {}
            print(json.dumps(run(snippet, names), default=str), file=answers, flush=True)
            if snippet["kept"]:
                continue
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            print(json.dumps({"error": "Killed", "message": f"status {status}"}), file=answers, flush=True)
    os._exit(0)  # taking down torch and its threads would last seconds


if __name__ == "__main__":
    main()
