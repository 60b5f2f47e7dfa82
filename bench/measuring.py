"""Servers under measurement, the load that `walcast bench` puts on them, and the page that the tables go to."""

import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "performance.md"
STARTING_SECONDS = 60

# What a benchmark must not be held up by.
UNLIMITED = {
    "TENANT_MAX_JOINS_PER_SECOND": "1000000",
    "TENANT_MAX_EVENTS_PER_SECOND": "0",
    "WALCAST_MAX_CLIENT_EVENTS_PER_SECOND": "0",
    "WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND": "0",
    "WALCAST_MAX_CONNECTIONS_PER_ADDRESS": "0",
    "WALCAST_MAX_HANDSHAKES_PER_SECOND_PER_ADDRESS": "0",
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """A server process on a free port, ended at the end of the block."""

    def __init__(self, command, environment, directory):
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile()
        command = [str(self.port) if part == "PORT" else part for part in command]
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment, "PORT": str(self.port)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self):
        deadline = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    sys.exit(f"{self.process.args[0]} does not start:\n{self.said()}")
                time.sleep(0.05)

    def said(self):
        # Not through the file that the server writes to: both would move in it.
        return pathlib.Path(self.log.name).read_text()

    def told(self, what):
        """What the server has written behind this at the beginning of a line."""
        deadline = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < deadline:
            for line in self.said().splitlines():
                if line.startswith(what):
                    return line.removeprefix(what).strip()
            time.sleep(0.05)
        sys.exit(f"{self.process.args[0]} has not told: {what}")

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Walcast:
    """The binary that is measured, and that measures: each measurement has a server of its own."""

    def __init__(self, binary, scratch):
        self.binary = str(binary)
        self.data = scratch / "data"

    @classmethod
    @contextlib.contextmanager
    def in_scratch(cls, binary):
        with tempfile.TemporaryDirectory() as scratch:
            # The private PostgreSQL runs under another account when this one is root.
            os.chmod(scratch, 0o755)
            yield cls(binary, pathlib.Path(scratch))

    def server(self):
        """A fresh process, with a private PostgreSQL that is the same for all of them."""
        return Running((self.binary, "dev", "--port", "PORT", "--data-dir", str(self.data)), UNLIMITED, REPOSITORY)

    def measure(self, arguments, *options):
        with self.server() as server:
            return self.load("walcast", server.port, arguments, *options)

    def load(self, name, port, arguments, *options, environment=None):
        """What `walcast bench` says of the server on a port; `None`, with the reason on the screen, where it fails."""
        secret = self.data / "jwt-secret"
        environment = {**os.environ, **(environment or {})}
        if secret.exists():
            environment["JWT_SECRET"] = secret.read_text().strip()
        outcome = subprocess.run(
            [self.binary, "bench", *arguments, *options, "--url", f"ws://127.0.0.1:{port}", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if outcome.returncode != 0:
            print(f"  {name}: {outcome.stderr.strip()}", file=sys.stderr)
            return None
        return json.loads(outcome.stdout)["runs"][0]


def median(runs, figure):
    values = [run[figure] for run in runs if run and figure in run]
    return statistics.median(values) if values else None


def output(*command):
    """What a program prints, on one line."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY).stdout.strip()


def machine(walcast, shares, versions, command, rounds):
    """Where and how a table came to be."""
    version = f"{output(str(walcast), '--version')} ({output('git', 'describe', '--always', '--dirty')})"
    return (
        f"{os.cpu_count()} cores ({processor()}), Linux {platform.release()}, {shares} on the same cores; "
        f"{', '.join([version, *versions])}. `{command}`, {rounds}, {time.strftime('%Y-%m-%d')}. "
        f"Load of the machine at the beginning: {os.getloadavg()[0]:.1f}."
    )


def named(words, name):
    """Whether a name has one of some words with commas in between; any has where there are none."""
    words = [word.lower() for word in words.split(",") if word]
    return not words or any(word in name.lower() for word in words)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def write_page(marks, blocks):
    """Puts the blocks between two marks of the page."""
    page = PAGE.read_text()
    pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: marks[0] + "\n\n" + "\n\n".join(blocks) + "\n\n" + marks[1], page))
    print(f"\nwritten to {PAGE.relative_to(REPOSITORY)}")
