//! Tables of plain text.

use std::fmt;

/// Rows under a header, each column as wide as its widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row with one cell for each column; an empty cell is shown as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // What nodes tell may hold anything: a line stays a line.
        let clean = |cell: String| {
            if cell.is_empty() { "-".to_owned() } else { cell.replace(char::is_control, "?") }
        };
        let row: Vec<String> = cells.into_iter().map(clean).collect();
        debug_assert_eq!(row.len(), self.rows[0].len());
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&["ID", "NAME", "LEADS"]);
        table.row(["7".into(), "raftmq-0".into(), String::new()]);
        table.row(["12".into(), "é".into(), "meta\nx".into()]);
        assert_eq!(table.to_string(), "ID  NAME      LEADS\n7   raftmq-0  -\n12  é         meta?x\n");
    }
}
