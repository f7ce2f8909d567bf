//! Rules for all sources: which room may use which, what `decide` may not name, and what nothing is decided
//! by.

use std::fs;
use std::path::{Path, PathBuf};

/// All rooms, the lowest first. One may use those that stand before it, and none after it.
const FLOORS: &[&str] = &[
    "pki",
    "api",
    "config",
    "decide",
    "clock",
    "cluster",
    "metrics",
    "callout",
    "callback",
    "admin",
    "controllers",
    "release",
    "run",
    "telemetry",
    "cli",
];

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

/// The rooms that some code uses, by the paths it names.
fn rooms_in(code: &str) -> Vec<&'static str> {
    let code: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = code
        .match_indices("crate::")
        .map(|(at, word)| &code[at + word.len()..]);
    let named = named.flat_map(|path| match path.strip_prefix('{') {
        Some(group) => group.split('}').next().unwrap_or_default().split(','),
        None => path.split("::").next().unwrap_or_default().split(','),
    });
    let first = |path: &str| {
        let word = path
            .trim()
            .split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let word = word.into_iter().next().unwrap_or_default().to_owned();
        FLOORS.iter().copied().find(|room| *room == word)
    };
    named.filter_map(first).collect()
}

#[test]
fn a_room_uses_only_those_below_it() {
    let lib = include_str!("lib.rs");
    let rooms = lib.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let rooms: Vec<_> = rooms
        .filter(|room| !room.ends_with("_tests") && *room != "testing")
        .collect();
    assert_eq!(rooms.len(), FLOORS.len(), "a floor for each room");
    for room in rooms {
        let floor = FLOORS.iter().position(|other| *other == room);
        let floor = floor.unwrap_or_else(|| panic!("{room} has no floor"));
        for (path, code) in sources("src")
            .into_iter()
            .filter(|(path, _)| is_in(room, path))
        {
            let above = rooms_in(&code)
                .into_iter()
                .find(|used| FLOORS[floor + 1..].contains(used));
            assert_eq!(above, None, "{} uses a room above {room}", path.display());
        }
    }
}

fn is_in(room: &str, path: &Path) -> bool {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let first = inside.ok().and_then(|inside| inside.iter().next());
    first.is_some_and(|first| first == room || *first == *format!("{room}.rs"))
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
    for (path, code) in sources("src/decide") {
        let read = ["status().phase", "status.phase", "stored.phase"];
        let read = read.iter().any(|read| code.contains(read));
        assert!(!read || path.ends_with("step.rs"), "{}", path.display());
    }
}
