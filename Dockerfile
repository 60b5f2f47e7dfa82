# syntax=docker/dockerfile:1

# Builds the binary from the checkout, with the Rust that rust-toolchain.toml names. Both stages are the same Debian,
# because the binary is linked against its C library.
FROM rust:1.95-slim-bookworm AS build
# The image's own gcc compiles what is C: the TLS library (aws-lc) and the allocator (mimalloc).
WORKDIR /src
COPY . .
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package walcast \
    && install -D target/release/walcast /out/walcast

FROM debian:bookworm-slim
# Authorities for TLS to the database and to the issuer of a key set, and the curl that the health check of Supabase's
# compose file calls, so that nothing but the image has to be changed there.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin walcast
COPY --from=build /out/walcast /usr/local/bin/walcast
USER 10001:10001
ENV PORT=4000
EXPOSE 4000
# SIGTERM starts the graceful stop; it takes a few seconds at most (docs/operations.md).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["walcast", "healthcheck"]
ENTRYPOINT ["walcast"]
CMD ["serve"]
