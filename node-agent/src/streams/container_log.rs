//! Reading the CRI log format: a line is `TIME STREAM TAG TEXT`, where tag `P` says that the text goes on in the next
//! line of that stream, and `F` that it ends.

use jiff::Timestamp;

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Not what was written before.
    pub since: Option<Timestamp>,
    /// The time before each line.
    pub timestamps: bool,
    /// `stdout` or `stderr` only.
    pub stream: Option<&'static str>,
    /// At most so many bytes.
    pub limit_bytes: Option<usize>,
}

/// Turns lines of a log file into what the client sees.
pub(super) struct Formatter {
    wanted: Wanted,
    written: usize,
    /// The line before was a part: this one goes on without a time of its own.
    continued: bool,
}

impl Formatter {
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, written: 0, continued: false }
    }

    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.wanted.limit_bytes.is_some_and(|limit| self.written >= limit)
    }

    /// Adds what is to be seen of a whole line of the file (without its newline). A line that is not in the format is
    /// passed over.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next()) else { return };
        let text = parts.next().unwrap_or_default();
        if self.wanted.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.wanted.since {
            let written: Option<Timestamp> = std::str::from_utf8(time).ok().and_then(|t| t.parse().ok());
            if written.is_none_or(|written| written < since) {
                return;
            }
        }
        let start = out.len();
        if self.wanted.timestamps && !self.continued {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.continued = tag == b"P";
        if !self.continued {
            out.push(b'\n');
        }
        if let Some(limit) = self.wanted.limit_bytes {
            let room = limit.saturating_sub(self.written);
            out.truncate(start + room.min(out.len() - start));
        }
        self.written += out.len() - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
        2026-01-01T00:00:01Z stderr F o\nrubbish\n2026-01-01T00:00:02.123456789+00:00 stdout F \n";

    fn format(wanted: Wanted) -> String {
        let mut formatter = Formatter::new(wanted);
        let mut out = Vec::new();
        LOG.lines().for_each(|line| formatter.line(line.as_bytes(), &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_are_joined_and_times_shown() {
        assert_eq!(format(Wanted::default()), "one\ntwo\n\n");
        let timestamps = Wanted { timestamps: true, ..Wanted::default() };
        assert_eq!(
            format(timestamps),
            "2026-01-01T00:00:00.5Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02.123456789+00:00 \n"
        );
    }

    #[test]
    fn a_stream_a_time_and_a_limit() {
        assert_eq!(format(Wanted { stream: Some("stderr"), ..Wanted::default() }), "two\n");
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(format(Wanted { since, ..Wanted::default() }), "two\n\n");
        assert_eq!(format(Wanted { limit_bytes: Some(5), ..Wanted::default() }), "one\nt");
        assert_eq!(format(Wanted { limit_bytes: Some(0), ..Wanted::default() }), "");
    }
}
