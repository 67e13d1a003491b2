#!/usr/bin/python3
"""hello: a small HTTP service that says which image it runs from.

    GET /        JSON: greeting, version, host, and the image, variant and digest it was started from
    GET /health  200 while it serves, 503 while it drains; the body carries the digest

A parent binds the port once and forks workers that accept from it, so a worker that dies is replaced without
a refused connection. Signals to the parent: HUP reads the configuration again, TERM drains: no new connections,
requests under way are finished, idle ones are closed.

Configuration is /etc/hello/hello.toml (or HELLO_CONFIG); HELLO_GREETING, HELLO_VERSION, HELLO_ADDRESS,
HELLO_PORT and HELLO_WORKERS win over it. The image's identity is read from /etc/olbake/instance.json whenever
that file changes; without the file the three fields are null.
"""

import datetime
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
import tomllib

CONFIG = os.environ.get("HELLO_CONFIG", "/etc/hello/hello.toml")
IDENTITY = os.environ.get("HELLO_IDENTITY", "/etc/olbake/instance.json")
KEYS = {
    "greeting": str,
    "version": str,
    "address": str,
    "port": int,
    "workers": int,
    "data": str,
    "access_log": bool,
    "access_log_bytes": int,
    "drain_seconds": float,
}
DEFAULTS = {
    "greeting": "hello",
    "version": "0",
    "address": "127.0.0.1",
    "port": 8080,
    "workers": 1,
    "data": "/var/lib/hello",
    "access_log": True,
    "access_log_bytes": 64 << 20,
    "drain_seconds": 10.0,
}


def log(message):
    print(message, file=sys.stderr, flush=True)


def read_config():
    """The settings in force; raises ValueError or OSError with what is wrong."""
    with open(CONFIG, "rb") as file:
        written = tomllib.load(file)
    unknown = sorted(set(written) - set(KEYS))
    if unknown:
        raise ValueError(f"{CONFIG}: unknown keys: {', '.join(unknown)}")
    config = DEFAULTS | written
    for key in ("greeting", "version", "address", "port", "workers"):
        if value := os.environ.get(f"HELLO_{key.upper()}"):
            config[key] = KEYS[key](value)
    for key, kind in KEYS.items():
        fine = isinstance(config[key], (int, float) if kind is float else kind)
        if not fine or (kind is not bool and isinstance(config[key], bool)):
            raise ValueError(f"{CONFIG}: `{key}` must be a {kind.__name__}, found {config[key]!r}")
    if config["workers"] < 1 or not 1 <= config["port"] <= 65535:
        raise ValueError(f"{CONFIG}: `workers` must be at least 1 and `port` a port")
    return config


def notify(message):
    """Tells systemd about our state, where it asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect("\0" + path[1:] if path.startswith("@") else path)
            sender.send(message.encode())


class Identity:
    """What /etc/olbake/instance.json says, read again when the file changes."""

    EMPTY = {"image": None, "variant": None, "digest": None}

    def __init__(self):
        self.seen = None
        self.value = self.EMPTY

    def current(self):
        try:
            status = os.stat(IDENTITY)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self.seen:
                with open(IDENTITY, encoding="utf-8") as file:
                    read = json.load(file)
                self.value = {key: read.get(key) for key in self.EMPTY}
                self.seen = seen
        except (OSError, ValueError, AttributeError):
            self.seen, self.value = None, self.EMPTY
        return self.value


class AccessLog:
    """One line of JSON a request, in a file a day of bounded size; hello-cleanup removes old ones."""

    def __init__(self):
        self.day = None
        self.file = None
        self.lock = threading.Lock()

    def write(self, directory, limit, entry):
        now = datetime.datetime.now(datetime.UTC)
        line = json.dumps({"time": now.isoformat(timespec="milliseconds")} | entry) + "\n"
        with self.lock:
            if self.day != now.date():
                if self.file is not None:
                    os.close(self.file)
                    self.file = None
                path = os.path.join(directory, "access", f"{now.date()}.jsonl")
                os.makedirs(os.path.dirname(path), exist_ok=True)
                self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
                self.day = now.date()
            # Where appending ended is how large the file is: a flood of requests does not fill the disk.
            if os.lseek(self.file, 0, os.SEEK_CUR) < limit:
                os.write(self.file, line.encode())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hello"
    disable_nagle_algorithm = True
    # An idle connection is given up after this many seconds.
    timeout = 75

    def parse_request(self):
        # From here on there is a request to finish; before it, the connection is idle.
        self.server.worker.busy(self.connection, True)
        return super().parse_request()

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            self.server.worker.busy(self.connection, False)

    def do_GET(self):
        worker = self.server.worker
        identity = worker.identity.current()
        path = self.path.partition("?")[0]
        if path == "/":
            body = {"greeting": worker.config["greeting"], "version": worker.config["version"], "host": worker.host}
            self.answer(200, body | identity)
        elif path == "/health":
            status, word = (503, "draining") if worker.draining.is_set() else (200, "ok")
            self.answer(status, {"status": word, "version": worker.config["version"]} | identity)
        else:
            self.answer(404, {"error": "not found"})

    do_HEAD = do_GET

    def answer(self, status, body):
        content = (json.dumps(body) + "\n").encode()
        closing = self.server.worker.draining.is_set()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if closing:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.server.worker.record(self.command, self.path, status)

    def log_message(self, format, *args):
        """Requests go to the access log, see Worker.record."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener, worker):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.worker = worker

    def get_request(self):
        connection, address = super().get_request()
        # The listener does not block, as all workers wait on it; connections do.
        connection.setblocking(True)
        self.worker.opened(connection)
        return connection, address

    def accept_waiting(self):
        """Takes what the kernel has already accepted: closing the listener would reset it."""
        while True:
            try:
                self.process_request(*self.get_request())
            except OSError:
                return

    def shutdown_request(self, request):
        self.worker.closed(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        kind, error, _ = sys.exc_info()
        if not issubclass(kind, (ConnectionError, TimeoutError)):
            log(f"request from {client_address[0]} failed: {kind.__name__}: {error}")


class Worker:
    """One process that serves; ends when it is told to drain."""

    def __init__(self, listener, config):
        self.config = config
        self.host = socket.gethostname()
        self.identity = Identity()
        self.access = AccessLog()
        self.draining = threading.Event()
        self.lock = threading.Lock()
        # Open connections, and whether a request is under way on each.
        self.connections = {}
        self.server = Server(listener, self)

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: self.draining.set())
        signal.signal(signal.SIGHUP, lambda *_: self.reload())
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        parent = os.getppid()
        while not self.draining.wait(1.0):
            if os.getppid() != parent:
                self.draining.set()
        self.drain()

    def drain(self):
        self.server.shutdown()
        self.server.accept_waiting()
        self.server.socket.close()
        # A client that keeps its connection busy gets its answer and a `Connection: close`; closing at once
        # would cross its next request on the way. Only connections idle for that long are cut.
        started = time.monotonic()
        deadline = started + self.config["drain_seconds"]
        patience = started + min(1.0, self.config["drain_seconds"] / 2)
        while (now := time.monotonic()) < deadline:
            with self.lock:
                if not self.connections:
                    return
                for connection, busy in self.connections.items():
                    if not busy and now > patience:
                        close_idle(connection)
            time.sleep(0.02)
        log(f"drain: {len(self.connections)} connections were still open after {self.config['drain_seconds']} s")

    def reload(self):
        try:
            self.config = read_config()
        except (OSError, ValueError) as error:
            log(f"keeping the old configuration: {error}")

    def opened(self, connection):
        with self.lock:
            self.connections[connection] = False

    def closed(self, connection):
        with self.lock:
            self.connections.pop(connection, None)

    def busy(self, connection, busy):
        """Marks a connection as having a request under way, or as idle."""
        with self.lock:
            if connection in self.connections:
                self.connections[connection] = busy

    def record(self, method, path, status):
        if not self.config["access_log"] or path.startswith("/health"):
            return
        try:
            entry = {"method": method, "path": path, "status": status}
            self.access.write(self.config["data"], self.config["access_log_bytes"], entry)
        except OSError as error:
            log(f"access log: {error}")


def close_idle(connection):
    """Lets the thread that waits for the next request on this connection see its end."""
    try:
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass


class Parent:
    """Binds the port, keeps the workers running, passes signals on."""

    def __init__(self, config):
        self.config = config
        self.stopping = False
        self.workers = set()
        family = socket.AF_INET6 if ":" in config["address"] else socket.AF_INET
        self.listener = socket.create_server((config["address"], config["port"]), family=family, backlog=512)
        # All workers are woken by one connection; those that come late must not wait in accept.
        self.listener.setblocking(False)

    def run(self):
        # Blocked and waited for: no signal is lost between two looks at the state.
        wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        for _ in range(self.config["workers"]):
            self.start_worker()
        notify("READY=1")
        log(f"serving {self.config['address']}:{self.config['port']} with {len(self.workers)} workers")
        while self.workers:
            caught = signal.sigwait(wanted)
            if caught == signal.SIGHUP:
                self.reload()
            elif caught == signal.SIGCHLD:
                self.reap()
            elif not self.stopping:
                self.stop()

    def start_worker(self):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                worker = Worker(self.listener, self.config)
                signal.pthread_sigmask(signal.SIG_SETMASK, set())
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                worker.run()
                status = 0
            except Exception as error:  # the parent starts another one
                log(f"worker failed: {type(error).__name__}: {error}")
            finally:
                os._exit(status)
        self.workers.add(pid)

    def reap(self):
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.workers.discard(pid)
            if not self.stopping:
                log(f"worker {pid} ended with {os.waitstatus_to_exitcode(status)}; starting another")
                time.sleep(0.2)
                self.start_worker()

    def reload(self):
        notify("RELOADING=1")
        try:
            config = read_config()
        except (OSError, ValueError) as error:
            log(f"keeping the old configuration: {error}")
        else:
            for key in ("address", "port", "workers"):
                if config[key] != self.config[key]:
                    log(f"`{key}` changes with a restart only")
            self.config = config | {key: self.config[key] for key in ("address", "port", "workers")}
            self.signal_workers(signal.SIGHUP)
            log("configuration read again")
        notify("READY=1")

    def stop(self):
        self.stopping = True
        notify("STOPPING=1")
        self.listener.close()
        self.signal_workers(signal.SIGTERM)

    def signal_workers(self, number):
        for pid in self.workers:
            os.kill(pid, number)


def main():
    try:
        config = read_config()
    except (OSError, ValueError) as error:
        sys.exit(f"hello: {error}")
    if sys.argv[1:] == ["--check"]:
        return
    Parent(config).run()


if __name__ == "__main__":
    main()
