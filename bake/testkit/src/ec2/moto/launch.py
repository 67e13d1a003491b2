"""Runs moto for the test cloud: on a free port of the loopback, until standard input ends.

Its first line of output is the port. Below `/_olbake/` it lets the proxy see and change records that no AWS call
changes; `mends.py` has those, and puts right what moto's records get wrong.
"""

import json
import logging
import os
import sys
import threading


def end_with_our_owner():
    """Whoever started us holds the other end: when it is gone, however it went, so are we."""
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_our_owner, daemon=True).start()
logging.getLogger("werkzeug").setLevel(logging.ERROR)

from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server  # noqa: E402

import mends  # noqa: E402

mends.apply()
moto = DomainDispatcherApplication(create_backend_app)


def application(environ, start_response):
    """moto, and the records beside it."""
    path = environ.get("PATH_INFO", "")
    if not path.startswith("/_olbake/"):
        return moto(environ, start_response)
    length = int(environ.get("CONTENT_LENGTH") or 0)
    asked = json.loads(environ["wsgi.input"].read(length) or b"{}")
    try:
        status, answer = "200 OK", mends.RECORDS[path.removeprefix("/_olbake/")](**asked)
    except Exception as error:  # it is told to the proxy, whose caller sees it
        status, answer = "500 Internal Server Error", {"error": f"{type(error).__name__}: {error}"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
os.environ["MOTO_PORT"] = str(server.port)
print(server.port, flush=True)
sys.stdout = sys.stderr
server.serve_forever()
