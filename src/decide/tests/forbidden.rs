//! `decide` is pure: it cannot name what would make it otherwise.

use std::fs;
use std::path::{Path, PathBuf};

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
    "of_environment",
    "env!(",
    "std::fs",
    "tracing",
    "async fn",
    ".await",
    "println!",
];

/// Ways to look into a text.
const LOOKS_INTO: &[&str] = &[
    "contains(",
    "starts_with(",
    "ends_with(",
    "find(",
    "split",
    "strip_prefix(",
    "strip_suffix(",
    "matches(",
    "eq_ignore_ascii_case(",
];

/// What is written for people, and may be worded anew at any time.
const WORDS: &[&str] = &["message", "note", "said(error)", "to_string()"];

/// The sources below a directory, without tests.
fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let mut rooms = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(room)];
    let mut found = Vec::new();
    while let Some(room) = rooms.pop() {
        for entry in fs::read_dir(&room).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "tests" && name != "testing" {
                rooms.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") {
                let code = code(&fs::read_to_string(&path).unwrap());
                found.push((path, code));
            }
        }
    }
    found
}

/// The code without its comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = text.unwrap_or_default().lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn decide_names_nothing_that_is_not_pure() {
    let sources = sources("src/decide");
    for (path, code) in &sources {
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
    let below = |path: &Path| path.parent().is_some_and(|room| !room.ends_with("decide"));
    assert!(sources.len() > 20, "only {} files", sources.len());
    assert!(sources.iter().any(|(path, _)| below(path)), "no room below");
}

#[test]
fn nothing_is_decided_by_the_words_of_a_message() {
    for (path, code) in sources("src") {
        let code: String = code.split_whitespace().collect();
        let code = code
            .replace("&error.source", "error")
            .replace("&error", "error");
        for word in WORDS {
            for way in LOOKS_INTO {
                let read = format!("{word}.{way}");
                assert!(!code.contains(&read), "{}: {read}", path.display());
            }
            let compared = format!("{word}==\"");
            assert!(!code.contains(&compared), "{}: {compared}", path.display());
        }
    }
}

/// A reason of ours is an enum; one of the API server's has no other form than its word.
#[test]
fn reasons_are_compared_as_what_they_are() {
    for room in ["src/decide", "src/controllers"] {
        for (path, code) in sources(room) {
            let code: String = code.split_whitespace().collect();
            assert!(!code.contains("reason==\""), "{}", path.display());
        }
    }
}

/// What a hook was found to be in an earlier look is for people; this look may find another thing.
#[test]
fn nothing_is_decided_by_an_earlier_phase() {
    let kept = "self.status.phase.or(self.seen.status().phase)";
    for (path, code) in sources("src/decide") {
        let code = code.replace(kept, "");
        assert!(!code.contains("status().phase"), "{}", path.display());
    }
}
