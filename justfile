# `just check` is what CI runs; every recipe is a plain command that works without just.

# Format, lints, tests, docs.
check:
    bash .ci/run

# Train on the bundled data; `just train --max-steps 20` for a short look.
train *arguments:
    cargo run --release -- train --shards shards/ {{arguments}}

# Tests only.
test:
    cargo test

# The register table of docs/generated/kernels.md, from ptxas' report (needs nvcc).
kernels:
    UPDATE_DOCS=1 MUNI_CUDA=require cargo test --test it cuda::ptxas

# Criterion benches: operations, training step, decoding, data set.
bench *arguments:
    cargo bench {{arguments}}

# The bundled shards again, from knowledge/.
shards:
    cargo run --release -- dataset --knowledge knowledge/ --stage super --out shards/

# Everything that needs a card, in one report (gpu-report.md, .json) and under nine minutes; `just gpu --sim` is the same on the
# simulator. On a machine without Rust: copy target/release/muni-engine, benches/gpu/, benches/peers/ and shards/.
gpu *arguments:
    python3 benches/gpu/report.py {{arguments}}
