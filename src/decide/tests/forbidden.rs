//! `decide` is pure: it cannot name what would make it otherwise.

use std::fs;
use std::path::Path;

/// Words that stand for a client, a clock, randomness, the environment, logging, or waiting.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "kube::Client",
    "kube::Api",
    "kube::api::",
    "Client",
    "Timestamp::now",
    "SystemTime",
    "Instant",
    "rand::",
    "std::env",
    "planted::is",
    "of_environment",
    "env!(",
    "std::fs",
    "tracing",
    "async fn",
    ".await",
    "println!",
];

/// The code without its comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn decide_names_nothing_that_is_not_pure() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/decide");
    let mut looked_at = 0;
    for entry in fs::read_dir(&room).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let code = code(&fs::read_to_string(&path).unwrap());
        looked_at += 1;
        for word in FORBIDDEN {
            // A whole word: `ClientLeaf` is a certificate, not a client.
            let named = code.match_indices(word).any(|(at, _)| {
                let next = code[at + word.len()..].chars().next();
                !(word.ends_with(char::is_alphanumeric)
                    && next.is_some_and(|c| c.is_alphanumeric() || c == '_'))
            });
            assert!(!named, "{} names {word}", path.display());
        }
    }
    assert!(
        looked_at > 8,
        "only {looked_at} files in {}",
        room.display()
    );
}
