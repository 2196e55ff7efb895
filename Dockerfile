# Builds halfhitch and copies the single binary into an image without a shell.
FROM rust:1.95-bookworm AS build
WORKDIR /build
# Dependencies first: Docker rebuilds this layer only when the manifest, the lock file or the API changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && mkdir -p tests/it && touch tests/it/main.rs \
    && cargo build --profile dist --locked --bin halfhitch \
    && rm -r src
COPY src src
COPY examples/data examples/data
# The placeholder sources above are newer than the real ones. Without `touch`, cargo would keep their build.
RUN touch src/main.rs src/lib.rs && cargo build --profile dist --locked --bin halfhitch && mkdir /store

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/dist/halfhitch /usr/local/bin/halfhitch
# The server's user owns the folder, so that a fresh volume is writable.
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
