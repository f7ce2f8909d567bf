//! What came of a run: printed as it is found, and summed up at the end.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

/// A run's findings.
pub struct Report {
    began: Instant,
    lines: Vec<String>,
    violations: Vec<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            lines: Vec::new(),
            violations: Vec::new(),
        }
    }
}

impl Report {
    /// Something was not as it must be.
    pub fn violation(&mut self, what: &str, problem: &str) {
        println!("VIOLATED {what}: {problem}");
        self.violations.push(format!("{what}: {problem}"));
    }

    /// A figure.
    pub fn line(&mut self, text: &str) {
        println!("{text}");
        self.lines.push(text.to_owned());
    }

    /// Prints the sum and writes all of it to a file; whether nothing was violated.
    pub fn end(&self, name: &str, directory: &Path) -> bool {
        let took = self.began.elapsed().as_secs();
        let count = self.violations.len();
        println!("\n{name}: {count} violations, in {took} s");
        let file = directory.join(format!("{name}.json"));
        let text = json!({"seconds": took, "lines": self.lines, "violations": self.violations});
        if let Err(error) = std::fs::write(&file, format!("{text:#}\n")) {
            eprintln!("{}: {error}", file.display());
        }
        count == 0
    }
}
