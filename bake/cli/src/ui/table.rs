//! Tables whose columns line up whatever script is in them. Main type: [`Table`].

use unicode_width::UnicodeWidthStr;

use super::style::Palette;

/// Rows under a head.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new<const N: usize>(head: [&'static str; N]) -> Self {
        Self { head: head.into(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len(), "a cell for each column");
        self.rows.push(cells.into());
    }

    /// The table as text, two spaces between columns. The last column is not padded.
    pub(crate) fn render(&self, palette: Palette) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].as_str());
            cells.chain([self.head[column]]).map(UnicodeWidthStr::width).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[&str], widths: &[usize]| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
            }
            line.trim_end().to_owned()
        };
        let mut text = palette.dim(line(&self.head, &widths)) + "\n";
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            text.push_str(&line(&cells, &widths));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["IMAGE", "SIZE"]);
        table.row(["web".into(), "1 B".into()]);
        table.row(["日本語".into(), String::new()]);
        assert_eq!(table.render(Palette { enabled: false }), "IMAGE   SIZE\nweb     1 B\n日本語\n");
    }
}
