//! The Prometheus text exposition format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::catalog::{Kind, Metric};

/// Collects samples and writes them sorted by metric, so that several sources may add to one metric.
#[derive(Debug, Default)]
pub struct Encoder {
    families: BTreeMap<&'static str, (&'static Metric, String)>,
}

impl Encoder {
    /// A sample of a counter: what was counted since the start of the process (or of the thing counted).
    pub fn counter(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.sample(metric, "", labels, None, &value);
    }

    /// A sample of a counter that is not whole, such as seconds.
    pub fn counter_f64(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.sample(metric, "", labels, None, &Number(value));
    }

    /// A sample of a gauge.
    pub fn gauge(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.sample(metric, "", labels, None, &value);
    }

    /// A sample of a gauge that is not whole.
    pub fn gauge_f64(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.sample(metric, "", labels, None, &Number(value));
    }

    /// A histogram: `counts[i]` observations were at most `bounds[i]` and more than the bound before it (not cumulative); the
    /// last count is of those above all bounds. `sum` is of all observations.
    pub fn histogram(&mut self, metric: &'static Metric, labels: &[&str], bounds: &[f64], counts: &[u64], sum: f64) {
        debug_assert_eq!(metric.kind, Kind::Histogram, "{}", metric.name);
        debug_assert_eq!(counts.len(), bounds.len() + 1, "{}", metric.name);
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let mut total = 0_u64;
        for (bound, count) in bounds.zip(counts) {
            total = total.saturating_add(*count);
            self.sample(metric, "_bucket", labels, Some(bound), &total);
        }
        self.sample(metric, "_sum", labels, None, &Number(sum));
        self.sample(metric, "_count", labels, None, &total);
    }

    fn sample(
        &mut self,
        metric: &'static Metric,
        suffix: &str,
        labels: &[&str],
        bound: Option<f64>,
        value: &dyn fmt::Display,
    ) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "labels of {}", metric.name);
        let (_, text) = self.families.entry(metric.name).or_insert_with(|| (metric, String::new()));
        text.push_str(metric.name);
        text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in metric.labels.iter().zip(labels) {
            text.push(separator);
            separator = ',';
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value, true);
            text.push('"');
        }
        if let Some(bound) = bound {
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}le=\"{}\"", Number(bound));
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        let mut out = String::new();
        for (name, (metric, samples)) in self.families {
            out.push_str("# HELP ");
            out.push_str(name);
            out.push(' ');
            escape(&mut out, metric.help, false);
            out.push_str("\n# TYPE ");
            out.push_str(name);
            out.push(' ');
            out.push_str(metric.kind.name());
            out.push('\n');
            out.push_str(&samples);
        }
        out
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

/// A number as the format wants it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value == f64::INFINITY => f.write_str("+Inf"),
            value if value == f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTER: Metric =
        Metric { name: "b_total", help: "Back\\slash and\nline.", kind: Kind::Counter, labels: &["x", "y"] };
    static GAUGE: Metric = Metric { name: "a", help: "A \"gauge\".", kind: Kind::Gauge, labels: &[] };
    static HISTOGRAM: Metric = Metric { name: "c_seconds", help: "Times.", kind: Kind::Histogram, labels: &["disk"] };

    #[test]
    fn the_format_is_exact() {
        let mut out = Encoder::default();
        out.counter(&COUNTER, &["1", "q\"\\\n"], 7);
        out.gauge_f64(&GAUGE, &[], 0.25);
        out.histogram(&HISTOGRAM, &["d"], &[0.001, 1.0], &[2, 0, 1], 3.5);
        out.counter(&COUNTER, &["2", ""], 0);
        assert_eq!(
            out.finish(),
            concat!(
                "# HELP a A \"gauge\".\n# TYPE a gauge\na 0.25\n",
                "# HELP b_total Back\\\\slash and\\nline.\n# TYPE b_total counter\n",
                "b_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 7\nb_total{x=\"2\",y=\"\"} 0\n",
                "# HELP c_seconds Times.\n# TYPE c_seconds histogram\n",
                "c_seconds_bucket{disk=\"d\",le=\"0.001\"} 2\nc_seconds_bucket{disk=\"d\",le=\"1\"} 2\n",
                "c_seconds_bucket{disk=\"d\",le=\"+Inf\"} 3\nc_seconds_sum{disk=\"d\"} 3.5\n",
                "c_seconds_count{disk=\"d\"} 3\n",
            )
        );
    }
}
