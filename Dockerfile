# Builds halfhitch and puts the one binary into an image without a shell.
FROM rust:1.95-bookworm AS build
WORKDIR /build
# Dependencies first: they are built again only when the lock file changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && mkdir -p tests/it && touch tests/it/main.rs \
    && cargo build --release --locked --bin halfhitch \
    && rm -r src
COPY src src
COPY examples/data examples/data
# The stand-ins above are newer than the sources: without `touch` cargo would keep them.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin halfhitch && mkdir /store

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/halfhitch /usr/local/bin/halfhitch
# Owned by the user that writes to it, so that a fresh volume is writable.
COPY --from=build --chown=65532:65532 /store /var/lib/halfhitch
ENV HALFHITCH_LISTEN=0.0.0.0:50051 \
    HALFHITCH_STORE=/var/lib/halfhitch
USER 65532:65532
VOLUME /var/lib/halfhitch
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/usr/local/bin/halfhitch", "health"]
ENTRYPOINT ["/usr/local/bin/halfhitch"]
CMD ["serve"]
