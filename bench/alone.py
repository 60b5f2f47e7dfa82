#!/usr/bin/env python3
"""walcast by itself, scenario by scenario, with more and more sockets, so that one sees how cost grows: what
`make bench-alone` runs. Each row is one run against a fresh server.
"""

import argparse
import glob
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Callable

from measuring import REPOSITORY, STARTING_SECONDS, Walcast, machine, median, named, write_page

MARKS = ("<!-- the table of make bench-alone -->", "<!-- end of the rows -->")
DURATION = ("--duration", "5")

POLICY = """
drop policy if exists bench on realtime.messages;
create policy bench on realtime.messages for all to authenticated using ({allows}) with check (true);
"""
IN_PROCESS = POLICY.format(allows="realtime.topic() like 'bench-%'")
ASKED = (
    "create or replace function bench_may(topic text) returns boolean language plpgsql stable as "
    "$$ begin return topic like 'bench-%'; end $$;" + POLICY.format(allows="bench_may(realtime.topic())")
)


@dataclass(frozen=True)
class Scenario:
    """One table: a line for each number of sockets."""

    title: str
    arguments: Callable[[int], tuple[str, ...]]
    # Heading, figure, digits.
    figures: tuple[tuple[str, str, int], ...]
    sockets: tuple[int, ...] = (100, 1_000, 5_000, 15_000)
    sql: str = ""
    # A database must be told to `walcast bench` itself.
    writes: bool = False


LATENCY = (("p50, ms", "p50_ms", 2), ("p99, ms", "p99_ms", 1))
DELIVERIES = (
    ("deliveries/s", "deliveries_per_second", 0),
    ("server CPU per delivery, µs", "server_cpu_us_each", 2),
    *LATENCY,
)
ROWS = (("rows/s", "rows_per_second", 0), ("server CPU per row, µs", "server_cpu_us_each", 1), *LATENCY)
JOINS = (("joins/s", "joins_per_second", 0), ("server CPU per join, µs", "server_cpu_us_each", 0), *LATENCY)


def scenarios():
    return [
        Scenario("fan-out, 200 B, one message in flight", lambda n: ("fan-out", *DURATION), DELIVERIES),
        Scenario("fan-out, sixteen in flight", lambda n: ("fan-out", "--in-flight", "16", *DURATION), DELIVERIES),
        Scenario(
            "rooms: an own topic and one of six, 2 messages/s of each (0.5 of 15,000)",
            lambda n: ("rooms", "--rate", "2" if n <= 5_000 else "0.5", *DURATION),
            DELIVERIES,
        ),
        Scenario(
            "rooms: the highest rate of each whose p99 stays below 100 ms",
            lambda n: ("rooms", "--rate", "2", "--search-p99", "100", *DURATION),
            (("messages/s of each", "rate_each", 2), *DELIVERIES),
            sockets=(1_000, 5_000),
        ),
        Scenario(
            "idle, a heartbeat every 25 s",
            lambda n: ("idle", "--heartbeat", "25", "--duration", "25"),
            (
                ("bytes per open socket", "bytes_per_open_socket", 0),
                ("bytes with a joined topic", "bytes_per_joined_socket", 0),
                ("CPU, % of a core", "server_cpu_percent", 1),
            ),
        ),
        Scenario("joins of public channels, 100 under way", lambda n: ("joins", "--channels", "4"), JOINS),
        Scenario(
            "joins of private channels, a policy that is decided in process",
            lambda n: ("joins", "--private", "--channels", "4"),
            JOINS,
            sql=IN_PROCESS,
        ),
        Scenario(
            "joins of private channels, a PL/pgSQL policy, which PostgreSQL is asked about",
            lambda n: ("joins", "--private"),
            JOINS,
            sql=ASKED,
        ),
        Scenario("reconnects: handshake and join, all at once", lambda n: ("joins", "--reconnect", "--in-flight", str(n)), JOINS),
        Scenario(
            "changes under `user_id = auth.uid()`, 1,000 rows/s, each for one of them",
            lambda n: ("changes", "--rate", "1000", *DURATION),
            ROWS,
            writes=True,
        ),
        Scenario(
            "changes: the highest rate whose p99 stays below 50 ms",
            lambda n: ("changes", "--rate", "8000", "--search-p99", "50", *DURATION),
            ROWS,
            sockets=(1_000,),
            writes=True,
        ),
        Scenario(
            "changes of a public table, each for all, 50,000 deliveries/s wanted",
            lambda n: ("changes", "--public", "--rate", str(50_000 / n), *DURATION),
            DELIVERIES,
            writes=True,
        ),
        Scenario(
            "changes of a public table, each for all, 300,000 deliveries/s wanted",
            lambda n: ("changes", "--public", "--rate", str(300_000 / n), *DURATION),
            DELIVERIES,
            writes=True,
        ),
        Scenario(
            "presence: topics of 25, 200 changes/s",
            lambda n: ("presence", "--topic-size", "25", "--churn", "200"),
            (
                ("everybody seen after, s", "all_seen_after_seconds", 2),
                ("MiB of diffs", "diff_mib", 1),
                ("MiB of one diff per join", "diff_mib_of_one_per_join", 1),
                ("MiB of states", "state_mib", 1),
                ("CPU under churn, % of a core", "churn_server_cpu_percent", 1),
            ),
        ),
        Scenario(
            "presence: one topic, all join within 10 s",
            lambda n: ("presence", "--over", "10"),
            (
                ("diffs", "diffs", 0),
                ("MiB of diffs", "diff_mib", 1),
                ("MiB of one diff per join", "diff_mib_of_one_per_join", 1),
                ("MiB of states", "state_mib", 1),
                ("server CPU per member, µs", "server_cpu_us_per_member", 0),
            ),
            sockets=(100, 1_000),
        ),
    ]


def psql(url, sql):
    found = shutil.which("psql") or sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"))[-1]
    subprocess.run([found, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", url], input=sql, text=True, check=True)


def until_ready(server):
    """What the rows of an earlier run have left in the log is read first; a new one would wait for that."""
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5).close()
        except urllib.error.HTTPError as error:
            if time.monotonic() > deadline:
                sys.exit(f"the server is not ready: {error.read().decode()}")
            time.sleep(0.1)


def measure(walcast, scenario, sockets):
    with walcast.server() as server:
        url = server.told("database url: ")
        until_ready(server)
        if scenario.writes:
            # The disk's time to sync is not what is measured; commits still wait for the log to be written.
            psql(url, "alter system set fsync = off; select pg_reload_conf();")
        if scenario.sql:
            psql(url, scenario.sql)
            # Policies are known to the server with its next look at the catalog, where no event trigger tells it.
            time.sleep(6)
        arguments = (*scenario.arguments(sockets), "--sockets", str(sockets))
        environment = {"DATABASE_URL": url} if scenario.writes else {}
        return walcast.load("walcast", server.port, arguments, environment=environment)


def table(scenario, measured):
    lines = [f"**{scenario.title}**", ""]
    lines.append("| sockets | " + " | ".join(title for title, *_ in scenario.figures) + " |")
    lines.append("|---" * (len(scenario.figures) + 1) + "|")
    for sockets, runs in measured.items():
        values = [(median(runs, figure), digits) for _, figure, digits in scenario.figures]
        cells = ["–" if value is None else f"{value:,.{digits}f}" for value, digits in values]
        lines.append(f"| {sockets:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walcast", default=str(REPOSITORY / "target" / "release" / "walcast"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="scenarios whose titles contain one of these words, with commas")
    parser.add_argument("--sockets", type=int, default=15_000, help="rows up to so many sockets")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    arguments = parser.parse_args()

    rounds = "one run each" if arguments.rounds == 1 else f"medians of {arguments.rounds} runs"
    blocks = [machine(arguments.walcast, "server, client and PostgreSQL", [], "make bench-alone", rounds)]
    with Walcast.in_scratch(arguments.walcast) as walcast:
        for scenario in (one for one in scenarios() if named(arguments.only, one.title)):
            measured = {}
            for sockets in (count for count in scenario.sockets if count <= arguments.sockets):
                print(f"{scenario.title}: {sockets:,} sockets", file=sys.stderr)
                measured[sockets] = [measure(walcast, scenario, sockets) for _ in range(arguments.rounds)]
            blocks.append(table(scenario, measured))
            print("\n" + blocks[-1], flush=True)
    if arguments.write:
        write_page(MARKS, blocks)


if __name__ == "__main__":
    main()
