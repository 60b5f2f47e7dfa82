#!/usr/bin/env python3
"""walcast beside other servers, all on this machine, in turn, loaded by one client: what `make bench` runs.

A case is measured with every server before the next round begins, and each server is a fresh process for each case and
round. The table has medians, and what they are as ratios to walcast's.
"""

import argparse
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
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PAGE = REPOSITORY / "docs" / "performance.md"
MARKS = ("<!-- the table of make bench -->", "<!-- end of the table -->")
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


@dataclass(frozen=True)
class Peer:
    """A server that walcast is compared with."""

    name: str
    protocol: str
    command: tuple[str, ...]


def peers():
    bun = HERE / "node_modules" / ".bin" / "bun"
    daphne = HERE / ".venv" / "bin" / "daphne"
    return [
        Peer("uWebSockets (Bun)", "plain", (str(bun), "uwebsockets.js")),
        Peer("ws (Node.js)", "plain", ("node", "ws.js")),
        Peer("Socket.IO", "socket-io", ("node", "socket-io.js")),
        Peer("Django Channels", "plain", (str(daphne), "-v", "0", "-b", "127.0.0.1", "-p", "PORT", "channels_server:application")),
    ]


@dataclass(frozen=True)
class Case:
    """A scenario of `walcast bench` with its options, and the figures that are looked at."""

    title: str
    arguments: tuple[str, ...]
    # Slow servers are left out where a case would only wait for them.
    slow: bool = True


def cases(arguments):
    duration = str(arguments.duration)
    found = []
    for sockets in arguments.sockets:
        for in_flight in arguments.in_flight:
            options = ("fan-out", "--sockets", str(sockets), "--in-flight", str(in_flight), "--duration", duration)
            found.append(Case(f"fan-out, {sockets:,} sockets, 200 B, {in_flight} in flight", options, sockets <= 1_000))
    large = ("fan-out", "--sockets", "1000", "--payload-bytes", "10000", "--duration", duration)
    found.append(Case("fan-out, 1,000 sockets, 10 kB, 1 in flight", large, False))
    if arguments.idle:
        options = ("idle", "--sockets", str(arguments.idle), "--heartbeat", "25", "--duration", duration)
        found.append(Case(f"idle, {arguments.idle:,} sockets", options, False))
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """A server process on a free port, ended at the end of the block."""

    def __init__(self, command, environment, directory):
        self.port = free_port()
        self.log = tempfile.TemporaryFile(mode="w+")
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
                    self.log.seek(0)
                    sys.exit(f"{self.process.args[0]} does not start:\n{self.log.read()}")
                time.sleep(0.05)

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


class Bench:
    def __init__(self, walcast, scratch):
        self.walcast = str(walcast)
        self.data = scratch / "data"
        self.scratch = scratch

    def measure(self, name, protocol, command, environment, case):
        with Running(command, environment, HERE) as server:
            options = ["--protocol", protocol, "--url", f"ws://127.0.0.1:{server.port}", "--json"]
            secret = self.data / "jwt-secret"
            if secret.exists():
                environment = {**environment, "JWT_SECRET": secret.read_text().strip()}
            outcome = subprocess.run(
                [self.walcast, "bench", *case.arguments, *options],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        if outcome.returncode != 0:
            print(f"  {name}: {outcome.stderr.strip()}", file=sys.stderr)
            return None
        return json.loads(outcome.stdout)["runs"][0]

    def measure_walcast(self, protocol, case):
        command = (self.walcast, "dev", "--port", "PORT", "--data-dir", str(self.data))
        return self.measure(f"walcast {protocol}", protocol, command, UNLIMITED, case)

    def measure_peer(self, peer, case):
        return self.measure(peer.name, peer.protocol, peer.command, {}, case)


def median(runs, figure):
    values = [run[figure] for run in runs if run and figure in run]
    return statistics.median(values) if values else None


FIGURES = {
    "fan-out": [
        ("deliveries/s", "deliveries_per_second", 0, True),
        ("server CPU per delivery, µs", "server_cpu_us_each", 2, False),
        ("client CPU per delivery, µs", "client_cpu_us_each", 2, None),
        ("p50, ms", "p50_ms", 2, False),
        ("p99, ms", "p99_ms", 2, False),
    ],
    "idle": [
        ("bytes per socket", "bytes_per_joined_socket", 0, False),
        ("CPU, % of a core", "server_cpu_percent", 1, False),
    ],
}


def cell(value, digits, of_walcast, with_ratio):
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    if with_ratio and of_walcast:
        text += f" ({value / of_walcast:.2f}x)"
    return text


def table(case, measured):
    """One line a server; in parentheses what its figure is to walcast's."""
    figures = FIGURES[case.arguments[0]]
    lines = [f"**{case.title}**", ""]
    lines.append("| server | " + " | ".join(title for title, *_ in figures) + " |")
    lines.append("|---" * (len(figures) + 1) + "|")
    first = next(iter(measured.values()))
    for name, runs in measured.items():
        cells = [
            cell(median(runs, figure), digits, median(first, figure), better is not None and runs is not first)
            for _, figure, digits, better in figures
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine(arguments, walcast):
    cpu = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    output = lambda *command: subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE).stdout.strip()
    versions = [
        output(walcast, "--version") + f" ({output('git', 'describe', '--always', '--dirty')})",
        f"Bun {output(str(HERE / 'node_modules' / '.bin' / 'bun'), '--version')}",
        f"Node.js {output('node', '--version')}",
        *(f"{name} {version}" for name, version in json.loads((HERE / "package.json").read_text())["dependencies"].items() if name != "bun"),
        *(line.replace("==", " ") for line in (HERE / "requirements.txt").read_text().split()),
    ]
    # Where the binary lies, and that the page was written, says nothing of the numbers.
    shown = [part for part in sys.argv[1:] if part not in ("--write", "--walcast", arguments.walcast)]
    return (
        f"{os.cpu_count()} cores ({cpu}), Linux {platform.release()}, server and client on the same cores; "
        f"{', '.join(versions)}. `make bench{' ARGS=' + repr(' '.join(shown)) if shown else ''}`, "
        f"{arguments.rounds} rounds of {arguments.duration} s, {time.strftime('%Y-%m-%d')}; medians, and in parentheses "
        "what they are to walcast's. Load of the machine at the beginning: "
        f"{os.getloadavg()[0]:.1f}."
    )


def numbers(text):
    return [int(part) for part in text.split(",") if part]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walcast", default=str(REPOSITORY / "target" / "release" / "walcast"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of a measurement")
    parser.add_argument("--sockets", type=numbers, default=[100, 1_000, 5_000])
    parser.add_argument("--in-flight", type=numbers, default=[1, 16])
    parser.add_argument("--idle", type=int, default=15_000, help="sockets of the idle case; 0 for none")
    parser.add_argument("--only", default="", help="peers whose names contain one of these words, with commas; none for walcast alone")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    words = [word.lower() for word in arguments.only.split(",") if word]
    wanted = [peer for peer in peers() if not words or any(word in peer.name.lower() for word in words)]

    blocks = [machine(arguments, arguments.walcast)]
    with tempfile.TemporaryDirectory() as scratch:
        # The private PostgreSQL runs under another account when this one is root.
        os.chmod(scratch, 0o755)
        bench = Bench(arguments.walcast, pathlib.Path(scratch))
        for case in cases(arguments):
            measured = {"walcast, V2": [], "walcast, V1": []}
            measured.update({peer.name: [] for peer in wanted if case.slow or "uWeb" in peer.name or "ws" in peer.name})
            for number in range(arguments.rounds):
                print(f"{case.title}: round {number + 1} of {arguments.rounds}", file=sys.stderr)
                measured["walcast, V2"].append(bench.measure_walcast("v2", case))
                measured["walcast, V1"].append(bench.measure_walcast("v1", case))
                for peer in wanted:
                    if peer.name in measured:
                        measured[peer.name].append(bench.measure_peer(peer, case))
            blocks.append(table(case, measured))
            print("\n" + blocks[-1], flush=True)
    if arguments.write:
        page = PAGE.read_text()
        pattern = re.compile(re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1]), re.DOTALL)
        PAGE.write_text(pattern.sub(lambda _: MARKS[0] + "\n\n" + "\n\n".join(blocks) + "\n\n" + MARKS[1], page))
        print(f"\nwritten to {PAGE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
