#!/usr/bin/env bash
# Checks what a user of the published crate gets: the declared Rust version builds it, each feature builds alone, and a crate outside of
# this workspace builds and runs against the package with one database.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The declared Rust version.
declared=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if [[ $(rustc --version) != "rustc $declared."* ]]; then
    rustup run --install "$declared" cargo check --locked --all-features --lib
fi

# Each feature alone, then each database and combination that compiles code of its own.
features=$(sed -n '/^\[features\]/,/^\[/s/^\([a-z-]*\) = \[.*/\1/p' Cargo.toml)
for feature in $features; do
    cargo clippy --locked --lib --no-default-features --features "$feature" -- -D warnings
done
for several in idempotency,sqlite queue,postgres,mysql,sqlite testing,sqlite metrics,tracing,sqlite axum,postgres sea-orm,mysql; do
    cargo clippy --locked --lib --no-default-features --features "$several" -- -D warnings
done

# The package, without a warning.
packaging=$(cargo package --locked --allow-dirty --no-verify 2>&1) || { echo "$packaging" >&2; exit 1; }
if grep -q '^warning' <<<"$packaging"; then
    echo "$packaging" >&2
    exit 1
fi
version=$(sed -n '0,/^version = "\(.*\)"$/s//\1/p' Cargo.toml)
downstream=$(mktemp -d)
trap 'rm -rf "$downstream"' EXIT
tar -xzf "target/package/atomically-$version.crate" -C "$downstream"

# A crate of its own, as a user would write it.
mkdir -p "$downstream/app/src"
cat >"$downstream/app/Cargo.toml" <<EOF
[package]
name = "app"
version = "0.0.0"
edition = "2024"

[dependencies]
atomically = { path = "../atomically-$version", features = ["sqlite"] }
sqlx = { version = "0.9", default-features = false, features = ["runtime-tokio", "sqlite"] }
tokio = { version = "1", features = ["macros", "rt"] }

[workspace]
EOF
cat >"$downstream/app/src/main.rs" <<'EOF'
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::sqlite::SqlitePoolOptions;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    let db = Pessimistic::default().on(&pool);
    let two: i64 = db
        .run(async |tx| Ok::<_, Error>(sqlx::query_scalar("SELECT 1 + 1").fetch_one(&mut *tx).await?))
        .await?;
    assert_eq!(two, 2);
    Ok(())
}
EOF
cp Cargo.lock "$downstream/app/"
CARGO_TARGET_DIR=target/downstream cargo run --quiet --manifest-path "$downstream/app/Cargo.toml"
