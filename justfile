# Shortcuts for the commands in CONTRIBUTING.md. https://just.systems

# List the shortcuts
default:
    @just --list

# Train, encode and decode real digits
quickstart:
    cargo run --release -- quickstart

# Run the tests, or those whose names contain FILTER
test *FILTER:
    cargo test --locked {{ FILTER }}

# Run all checks of the project
check:
    .ci/run

# Run the unsafe kernels under AddressSanitizer and valgrind
memory-checks:
    .ci/memory-checks

# Run a benchmark: just bench serving --quick
bench NAME *ARGS:
    cargo bench --bench {{ NAME }} -- {{ ARGS }}
