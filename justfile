# Every recipe is a plain command that works without just.

# Format, lints, tests, docs: what CI runs. Installs nothing.
check:
    bash .ci/check

# Installs what `check` needs; see .ci/setup. Also cargo-deny.
setup:
    bash .ci/setup
    cargo deny --version || cargo install --locked cargo-deny

# Train on the bundled data; `just train --max-steps 20` for a short look.
train *arguments:
    cargo run --release -- train --shards shards/ {{arguments}}

# Tests only.
test:
    cargo test

# The generated tables of docs/: registers need nvcc.
docs:
    UPDATE_DOCS=1 MUNI_CUDA=require cargo test --test it cuda::ptxas
    UPDATE_DOCS=1 cargo test --test it cuda::counting
    UPDATE_DOCS=1 cargo test --test it cli_doctor

# The pictures of README, from the built binary and a real browser.
pictures *arguments:
    node docs/pictures/make.mjs {{arguments}}

# Criterion benches: operations, training step, decoding, data set.
bench *arguments:
    cargo bench {{arguments}}

# The bundled shards again, from knowledge/.
shards:
    cargo run --release -- dataset --knowledge knowledge/ --stage super --out shards/

# Everything that needs a card, in one report (gpu-report.md, .json) and under nine minutes;
# `just gpu --sim` is the same on the simulator. On a machine without Rust: copy
# target/release/muni-engine, benches/gpu/, benches/peers/ and shards/.
gpu *arguments:
    python3 benches/gpu/report.py {{arguments}}
