//! RFC 3339 as Go's `time.Parse` reads it, with its errors.

use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Reads a `metav1.Time`.
///
/// # Errors
/// Go's words: `parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"`.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    Reader { text, rest: text, layout: RFC3339 }.read(false)
}

/// Reads a `metav1.MicroTime`, which has six digits of a second's fraction.
///
/// # Errors
/// As [`parse_time`].
pub fn parse_micro_time(text: &str) -> Result<Timestamp, String> {
    Reader { text, rest: text, layout: RFC3339_MICRO }.read(true)
}

/// As a `metav1.Time` is written: UTC, to the second.
pub(super) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// As a `metav1.MicroTime` is written: UTC, to the microsecond.
pub(super) fn format_micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Reader<'_> {
    fn read(mut self, micro: bool) -> Result<Timestamp, String> {
        let year = self.digits(4, "2006")?;
        self.literal("-")?;
        let month = self.ranged("01", 1..=12, "month")?;
        self.literal("-")?;
        let day = self.digits(2, "02")?;
        self.literal("T")?;
        let hour = self.ranged("15", 0..=23, "hour")?;
        self.literal(":")?;
        let minute = self.ranged("04", 0..=59, "minute")?;
        self.literal(":")?;
        let second = self.ranged("05", 0..=59, "second")?;
        let nanosecond = self.fraction(micro)?;
        let offset_seconds = self.offset()?;
        if !self.rest.is_empty() {
            return Err(format!("parsing time {:?}: extra text: {:?}", self.text, self.rest));
        }
        let out_of_range = |what: &str| format!("parsing time {:?}: {what} out of range", self.text);
        let narrow = |number: i32| i8::try_from(number).unwrap_or(-1);
        let year = i16::try_from(year).unwrap_or(-1);
        let civil =
            DateTime::new(year, narrow(month), narrow(day), narrow(hour), narrow(minute), narrow(second), nanosecond)
                .map_err(|_| out_of_range("day"))?;
        let utc = Offset::UTC.to_timestamp(civil).map_err(|_| out_of_range("year"))?;
        utc.checked_sub(SignedDuration::from_secs(i64::from(offset_seconds))).map_err(|_| out_of_range("year"))
    }

    fn wrong<T>(&self, element: &str) -> Result<T, String> {
        Err(format!("parsing time {:?} as {:?}: cannot parse {:?} as {element:?}", self.text, self.layout, self.rest))
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<i32, String> {
        match self.rest.get(..count).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok()) {
            Some(number) => {
                self.rest = &self.rest[count..];
                Ok(number)
            }
            None => self.wrong(element),
        }
    }

    fn ranged(&mut self, element: &str, range: std::ops::RangeInclusive<i32>, what: &str) -> Result<i32, String> {
        let number = self.digits(2, element)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(format!("parsing time {:?}: {what} out of range", self.text))
        }
    }

    fn literal(&mut self, text: &str) -> Result<(), String> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.wrong(text),
        }
    }

    /// The fraction of a second in nanoseconds. Digits beyond the ninth are dropped.
    fn fraction(&mut self, micro: bool) -> Result<i32, String> {
        let after = self.rest.strip_prefix(['.', ',']);
        let digits = after.map_or(0, |t| t.bytes().take_while(u8::is_ascii_digit).count());
        if micro && digits != 6 {
            return self.wrong(".000000");
        }
        let Some(after) = after.filter(|_| digits > 0) else { return Ok(0) };
        self.rest = &after[digits..];
        Ok(after[..digits.min(9)]
            .bytes()
            .chain(std::iter::repeat(b'0'))
            .take(9)
            .fold(0, |n, b| n * 10 + i32::from(b - b'0')))
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Result<i32, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let number = |range: std::ops::Range<usize>| {
            self.rest.get(range).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse::<i32>().ok())
        };
        let colon = self.rest.as_bytes().get(3) == Some(&b':');
        let sign = match self.rest.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return self.wrong("Z07:00"),
        };
        match (number(1..3), number(4..6)) {
            (Some(hours), Some(minutes)) if colon && hours <= 24 && minutes < 60 => {
                self.rest = &self.rest[6..];
                Ok(sign * (hours * 3600 + minutes * 60))
            }
            _ => self.wrong("Z07:00"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_write() {
        assert_eq!(format_time(parse_time("2024-02-29T12:00:00+02:00").unwrap()), "2024-02-29T10:00:00Z");
        assert_eq!(format_time(parse_time("2024-02-29T12:00:00.123456789Z").unwrap()), "2024-02-29T12:00:00Z");
        let micro = parse_micro_time("2024-02-29T12:00:00.000120Z").unwrap();
        assert_eq!(format_micro_time(micro), "2024-02-29T12:00:00.000120Z");
    }

    #[test]
    fn errors_are_gos() {
        assert_eq!(
            parse_time("foo").unwrap_err(),
            r#"parsing time "foo" as "2006-01-02T15:04:05Z07:00": cannot parse "foo" as "2006""#
        );
        assert_eq!(
            parse_time("2024-13-01T00:00:00Z").unwrap_err(),
            r#"parsing time "2024-13-01T00:00:00Z": month out of range"#
        );
        assert_eq!(
            parse_time("2023-02-29T00:00:00Z").unwrap_err(),
            r#"parsing time "2023-02-29T00:00:00Z": day out of range"#
        );
        assert!(parse_time("2023-02-28T00:00:00Zx").unwrap_err().ends_with(r#"extra text: "x""#));
        assert!(parse_time("2023-02-28T00:00:00").unwrap_err().ends_with(r#"cannot parse "" as "Z07:00""#));
        assert!(parse_micro_time("2023-02-28T00:00:00Z").unwrap_err().ends_with(r#"cannot parse "Z" as ".000000""#));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-0-9T:.Z+é]{0,30}") {
            let _ = parse_time(&text);
            let _ = parse_micro_time(&text);
        }
    }
}
