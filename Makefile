# Everything a developer does here. `make` alone lists it.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run test test-matrix lint deny conformance faults soak oracle bench bench-alone bench-check bench-policies slow-sockets clients fuzz vendor

# Where rustup puts cargo, and where scripts/setup.sh puts a newer Node.js if Debian's is too old.
export PATH := $(HOME)/.cargo/bin:$(CURDIR)/.walcast/node/bin:$(PATH)

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

run: ## start walcast with a private Postgres and the demo page; options: ARGS="--port 5000"
	@scripts/setup.sh run
	cargo run --bin walcast -- dev $(ARGS)

test: ## everything that must hold: formatting, lints, tests of all kinds
	@scripts/test.sh

test-matrix: ## tests against the database on Postgres 14 to 18; VERSIONS="14 18" for some, TESTS="row_changes deletes" for a part
	@scripts/test-matrix.sh

lint: ## formatting, lints and dependencies only
	@scripts/setup.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	@scripts/deny.sh

deny: ## licences, duplicates, sources and known vulnerabilities of dependencies
	@scripts/setup.sh lint
	@scripts/deny.sh

conformance: ## the 300 numbered cases of the reference server, each a test; prints how many
	@scripts/conformance.sh

faults: ## everything that may break, breaks, and every row is accounted for; ARGS="--broken 3 --calm 2 killed" for a part
	@scripts/setup.sh faults
	cargo build --quiet --bin walcast --bin faults
	target/debug/faults $(ARGS)

soak: ## 2,000 sockets that come and go under 2,000 rows a second, and what the server holds at the end; MINUTES=30
	@scripts/setup.sh run
	cargo build --quiet --release --bin walcast
	cargo build --quiet --bin soak
	WALCAST_BINARY=target/release/walcast target/debug/soak --minutes $(or $(MINUTES),30) $(ARGS)

oracle: ## policies decided by walcast and by Postgres, until N=1000000 random decisions of each kind agree; SEED=7 repeats a run
	@scripts/setup.sh run
	POLICY_DECISIONS=$(or $(N),100000) POLICY_SEED=$(or $(SEED),$$(date +%s)) \
		cargo test --package walcast-policy --test differential -- --nocapture random_

bench: ## walcast beside uWebSockets, ws, Socket.IO and Channels, one client for all; ARGS="--rounds 1 --only uweb" for a quick look
	@scripts/bench.sh $(ARGS)

bench-alone: ## walcast by itself, with 100 to 15,000 sockets, so that one sees how cost grows; ARGS="--only rooms --sockets 1000" for a part
	@scripts/setup.sh run
	cargo build --release --package walcast
	python3 bench/alone.py $(ARGS)

bench-check: ## instructions of fixed pieces of work, compared with those that are kept; WRITE=1 keeps the new ones
	@scripts/bench-check.sh

bench-policies: ## policies and filters against pg_recvlogical, from one log; ARGS="-n 100 --rows 5000" for a quick look
	@scripts/setup.sh run
	cargo run --release --package walcast-bench --bin policies -- $(ARGS)

slow-sockets: ## 100 sockets that do not read among 5,000, and what the others notice; SOCKETS=2000 STALLED=50, ROWS=1000000 in one transaction
	@scripts/setup.sh run
	ROWS=$(or $(ROWS),1000000) cargo test --release --package walcast-tests --test slow_sockets -- \
		--include-ignored --nocapture --test-threads 1

clients: ## install the stock clients and the browser driver that the tests use
	@scripts/setup.sh test
	@scripts/clients.sh

fuzz: ## run every fuzz target for a minute each, or SECONDS_EACH=10; needs nightly and cargo-fuzz
	@scripts/fuzz.sh $(SECONDS_EACH)

vendor: ## rebuild the bundled supabase-js of the demo page after raising its version
	@scripts/vendor-supabase.sh
