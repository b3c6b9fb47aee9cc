//! Findings: a mark, what was looked at, and what was found.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What was found, in the order in which it was looked at.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// Whether it is no problem.
    ok: bool,
    /// What was found, for people.
    found: String,
}

impl Report {
    /// Something that is as it should be, or that is only told.
    pub(super) fn fine(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, true, found.into());
    }

    /// Something that keeps a broker from its work.
    pub(super) fn problem(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, false, found.into());
    }

    pub(super) fn add(&mut self, check: &'static str, ok: bool, found: String) {
        self.findings.push(Finding { check, ok, found });
    }

    /// There is no problem.
    pub(super) fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.ok)
    }

    /// `{"ok", "findings": [{"check", "ok", "found"}]}`.
    pub(super) fn to_json(&self) -> String {
        let value = serde_json::json!({ "ok": self.is_ok(), "findings": self.findings });
        format!("{value:#}\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, ok, found } in &self.findings {
            let mark = if *ok { "ok" } else { "PROBLEM" };
            // Names and certificates may hold anything: a line stays a line.
            let found = found.replace(char::is_control, "?");
            writeln!(f, "{mark:7}  {check:width$}  {found}")?;
        }
        Ok(())
    }
}

/// A time that something took.
pub(super) fn took(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// A number of bytes, rounded.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_each_and_one_problem_is_enough() {
        let mut report = Report::default();
        report.fine("user", "65532");
        assert!(report.is_ok());
        report.problem("name servers", "none\nok  really");
        assert!(!report.is_ok());
        assert_eq!(report.to_string(), "ok       user          65532\nPROBLEM  name servers  none?ok  really\n");
        assert!(report.to_json().contains(r#""ok": false"#));
    }

    #[test]
    fn sizes_are_rounded() {
        let shown: Vec<String> = [0, 1023, 1024, 5 << 30, 3 << 41].map(size).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "5.0 GiB", "6.0 TiB"]);
    }
}
