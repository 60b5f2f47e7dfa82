#!/usr/bin/env python3
"""walcast beside other servers, all on this machine, in turn, loaded by one client: what `make bench` runs.

A case is measured with every server before the next round begins, and each server is a fresh process for each case and
round. The table has medians, and what they are as ratios to walcast's.
"""

import argparse
import json
import sys
from dataclasses import dataclass

from measuring import REPOSITORY, Running, Walcast, machine, median, named, output, write_page

PEERS = REPOSITORY / "bench" / "peers"
MARKS = ("<!-- the table of make bench -->", "<!-- end of the table -->")


@dataclass(frozen=True)
class Peer:
    """A server that walcast is compared with."""

    name: str
    protocol: str
    command: tuple[str, ...]


def peers():
    bun = PEERS / "node_modules" / ".bin" / "bun"
    daphne = PEERS / ".venv" / "bin" / "daphne"
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


def measure_peer(walcast, peer, case):
    with Running(peer.command, {}, PEERS) as server:
        return walcast.load(peer.name, server.port, case.arguments, "--protocol", peer.protocol)


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


def described(arguments):
    dependencies = json.loads((PEERS / "package.json").read_text())["dependencies"]
    versions = [
        f"Bun {output(str(PEERS / 'node_modules' / '.bin' / 'bun'), '--version')}",
        f"Node.js {output('node', '--version')}",
        *(f"{name} {version}" for name, version in dependencies.items() if name != "bun"),
        *(line.replace("==", " ") for line in (PEERS / "requirements.txt").read_text().split()),
    ]
    # Where the binary lies, and that the page was written, says nothing of the numbers.
    shown = [part for part in sys.argv[1:] if part not in ("--write", "--walcast", arguments.walcast)]
    command = f"make bench{' ARGS=' + repr(' '.join(shown)) if shown else ''}"
    rounds = f"{arguments.rounds} rounds of {arguments.duration} s; medians, and in parentheses what they are to walcast's"
    return machine(arguments.walcast, "server and client", versions, command, rounds)


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
    wanted = [peer for peer in peers() if named(arguments.only, peer.name)]

    blocks = [described(arguments)]
    with Walcast.in_scratch(arguments.walcast) as walcast:
        for case in cases(arguments):
            measured = {"walcast, V2": [], "walcast, V1": []}
            measured.update({peer.name: [] for peer in wanted if case.slow or "uWeb" in peer.name or "ws" in peer.name})
            for number in range(arguments.rounds):
                print(f"{case.title}: round {number + 1} of {arguments.rounds}", file=sys.stderr)
                for protocol in ("v2", "v1"):
                    measured[f"walcast, {protocol.upper()}"].append(walcast.measure(case.arguments, "--protocol", protocol))
                for peer in wanted:
                    if peer.name in measured:
                        measured[peer.name].append(measure_peer(walcast, peer, case))
            blocks.append(table(case, measured))
            print("\n" + blocks[-1], flush=True)
    if arguments.write:
        write_page(MARKS, blocks)


if __name__ == "__main__":
    main()
