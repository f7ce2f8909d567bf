//! How many connections the limit of open files allows.

use crate::callback::Share;

/// What is kept for the API server, the calls to apps, the admin port and connections that end.
const KEPT: usize = 700;

/// As many connections as were asked for, if the process may open so many files; each that is in its
/// handshake is one more. Beyond the limit the process could not even talk to the API server.
pub fn within_limit(asked: Share) -> Share {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(files) = open_files(&limits) else {
        return asked;
    };
    let most = most_connections(files);
    if most >= asked.total {
        return asked;
    }
    tracing::warn!(
        open_files = files,
        connections = most,
        "the limit of open files allows fewer connections than callback.maxConnections"
    );
    Share {
        total: most,
        ..asked
    }
}

fn most_connections(files: usize) -> usize {
    (files.saturating_sub(KEPT) / 3 * 2).max(16)
}

/// The soft limit; none where it is unlimited, or not told.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"));
    line?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             127041               127041               processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        let unlimited = "Max open files            unlimited            unlimited            files";
        assert_eq!(open_files(unlimited), None);
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn something_is_left_for_everything_else() {
        for (files, connections) in [(0, 16), (1024, 216), (8192, 4994)] {
            assert_eq!(most_connections(files), connections);
        }
    }
}
