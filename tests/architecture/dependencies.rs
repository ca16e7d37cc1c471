//! What comes with the crate: drivers, TLS, licences.

use std::collections::BTreeSet;
use std::process::Command;

use crate::source::PACKAGE;

const DATABASES: [&str; 3] = ["mysql", "postgres", "sqlite"];

/// Licences that ask for attribution at most. Of an "OR" one is enough, of an "AND" all are needed.
const LICENCES: [&str; 6] = ["Apache-2.0", "BSD-3-Clause", "MIT", "Unicode-3.0", "Unlicense", "Zlib"];

/// Lists what the crate depends on with these features, one package per line in cargo's `format`.
fn dependencies(features: &[&str], format: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", "atomically", "--edges", "normal", "--no-default-features"])
        .args(["--features", &features.join(","), "--prefix", "none", "--no-dedupe", "--format", format])
        .current_dir(PACKAGE)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn one_database_brings_one_driver_and_no_tls() {
    for database in DATABASES {
        let packages = dependencies(&[database], "{lib}");
        let drivers: Vec<_> =
            DATABASES.into_iter().filter(|driver| packages.contains(&format!("sqlx_{driver}"))).collect();
        assert_eq!(drivers, [database]);
        let tls: Vec<_> = packages
            .iter()
            .filter(|name| {
                ["rustls", "native_tls", "openssl", "ring", "aws_lc"].iter().any(|tls| name.starts_with(tls))
            })
            .collect();
        assert!(tls.is_empty(), "{database} brings {tls:?}");
    }
}

#[test]
fn features_bring_what_they_name_only() {
    let packages = dependencies(&["sqlite"], "{lib}");
    for name in ["axum", "http", "metrics", "petgraph", "sea_orm", "serde_json", "sqlparser"] {
        assert!(!packages.contains(name), "{name} comes without the feature that needs it");
    }
}

#[test]
fn licences_are_permissive() {
    let every_feature = [
        "mysql",
        "postgres",
        "sqlite",
        "axum",
        "idempotency",
        "metrics",
        "queue",
        "sea-orm",
        "testing",
        "tracing",
    ];
    let packages = dependencies(&every_feature, "{l}|{p}");
    assert!(packages.len() > 100, "only {} packages were listed", packages.len());
    let others: Vec<_> = packages.iter().filter(|package| !is_permissive(licence(package))).collect();
    assert!(others.is_empty(), "{others:#?}");
}

fn licence(package: &str) -> &str {
    package.split('|').next().unwrap_or_default()
}

/// Reads an SPDX expression, and the older form with slashes.
fn is_permissive(expression: &str) -> bool {
    let expression = expression.replace(['(', ')'], "").replace(" / ", " OR ").replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        part.split(" OR ").any(|name| LICENCES.iter().any(|known| name.trim().starts_with(known)))
    })
}

#[test]
fn other_licences_are_found() {
    for accepted in ["MIT", "MIT/Apache-2.0", "LGPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
        assert!(is_permissive(accepted), "{accepted}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-3.0", "SSPL-1.0", ""] {
        assert!(!is_permissive(refused), "{refused}");
    }
}
