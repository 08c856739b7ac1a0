//! A comparison as a picture.

use std::fmt::Write as _;

use super::Way;
use super::rows::{Measure, Row};

const WIDTH: f64 = 640.0;
const LEFT: f64 = 190.0;
const BAR: f64 = 16.0;
const HEAD: f64 = 34.0;

fn colour(way: Way) -> &'static str {
    match way {
        Way::Bare => "#9aa0a6",
        Way::Xebec => "#1a73e8",
        Way::Iptables => "#e8710a",
        Way::Nftables => "#b06000",
    }
}

/// Short, and exact enough.
fn number(value: f64) -> String {
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.places$}")
}

/// An SVG: a bar for each way, in groups by path and number of services.
pub fn draw(rows: &[Row], measure: &Measure) -> String {
    let most = rows.iter().map(|r| (measure.of)(&r.median)).fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = HEAD;
    let mut group = None;
    // Formatting into a string has no way to fail.
    for row in rows {
        if group != Some((row.path, row.services)) {
            group = Some((row.path, row.services));
            y += BAR / 2.0;
            let services = match row.services {
                0 => String::new(),
                1 => ", 1 service".to_owned(),
                n => format!(", {n} services"),
            };
            let _ =
                writeln!(body, r##"<text x="8" y="{:.0}" font-weight="bold">{}{services}</text>"##, y + 12.0, row.path);
            y += BAR + 4.0;
        }
        let value = (measure.of)(&row.median);
        let width = value / most * (WIDTH - LEFT - 80.0);
        let name = row.way.name();
        let _ = writeln!(
            body,
            r##"<text x="{:.0}" y="{:.0}" text-anchor="end">{name}</text><rect x="{LEFT}" y="{y:.0}" width="{width:.1}" height="{:.0}" fill="{}"/><text x="{:.1}" y="{:.0}">{}</text>"##,
            LEFT - 8.0,
            y + 12.0,
            BAR - 2.0,
            colour(row.way),
            LEFT + width + 6.0,
            y + 12.0,
            number(value),
        );
        y += BAR;
    }
    let height = y + 12.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="8" y="20" font-size="14">{}</text>
{body}</svg>
"##,
        measure.title
    )
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Measures, PICTURED};
    use super::*;

    #[test]
    fn every_row_has_a_bar() {
        let row = |way, connections_per_second| {
            Row::new(1, "ClusterIP", way, vec![Measures { connections_per_second, ..Measures::default() }])
        };
        let svg = draw(&[row(Way::Bare, 100.0), row(Way::Xebec, 50.0)], &PICTURED[0]);
        assert_eq!(svg.matches(r##"height="14""##).count(), 2);
        assert!(svg.contains("ClusterIP, 1 service<"));
        assert!(svg.contains(r##"width="370.0""##) && svg.contains(r##"width="185.0""##), "{svg}");
    }
}
