//! Cron schedules, as upstream reads them (`robfig/cron` v3, `ParseStandard`): five fields, or a word such as `@daily`
//! or `@every 1h30m`.
//!
//! A schedule here is a pure thing: it tells the next time after a given one, in a given time zone.

use std::fmt;

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// By the calendar.
    Calendar(Calendar),
    /// Every so often, from whenever one asks.
    Every(SignedDuration),
}

/// The five fields, as sets of bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The day of the month was left open with `*`: the weekday alone counts. Otherwise either suffices.
    any_day: bool,
    any_weekday: bool,
}

/// Why a text is no schedule, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError(String);

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CronError {}

fn wrong<T>(message: String) -> Result<T, CronError> {
    Err(CronError(message))
}

/// The bounds of a field, and its names.
struct Field {
    low: u32,
    high: u32,
    names: &'static [(&'static str, u32)],
}

const MINUTES: Field = Field { low: 0, high: 59, names: &[] };
const HOURS: Field = Field { low: 0, high: 23, names: &[] };
const DAYS: Field = Field { low: 1, high: 31, names: &[] };
const MONTHS: Field = Field {
    low: 1,
    high: 12,
    names: &[
        ("jan", 1),
        ("feb", 2),
        ("mar", 3),
        ("apr", 4),
        ("may", 5),
        ("jun", 6),
        ("jul", 7),
        ("aug", 8),
        ("sep", 9),
        ("oct", 10),
        ("nov", 11),
        ("dec", 12),
    ],
};
const WEEKDAYS: Field = Field {
    low: 0,
    high: 6,
    names: &[("sun", 0), ("mon", 1), ("tue", 2), ("wed", 3), ("thu", 4), ("fri", 5), ("sat", 6)],
};

/// How far ahead a time is looked for: some days never come (the 30th of February).
const MAX_YEARS: i16 = 5;

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// Upstream's words.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.is_empty() {
            return wrong("empty spec string".to_owned());
        }
        if let Some(word) = text.strip_prefix('@') {
            return described(word, text);
        }
        let fields: Vec<_> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return wrong(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Self::Calendar(Calendar {
            minutes: MINUTES.parse(minutes)?,
            hours: HOURS.parse(hours)?,
            days: DAYS.parse(days)?,
            months: MONTHS.parse(months)?,
            weekdays: WEEKDAYS.parse(weekdays)?,
            any_day: is_open(days),
            any_weekday: is_open(weekdays),
        }))
    }

    /// The first time after `after` that it is due; `None` if that is never.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*delay).ok()
            }
            Self::Calendar(calendar) => calendar.next(after, zone),
        }
    }
}

/// Whether a field says nothing (`*`, `?`, also with a step).
fn is_open(field: &str) -> bool {
    field.split(',').any(|part| matches!(part.split('/').next(), Some("*" | "?")))
}

fn described(word: &str, whole: &str) -> Result<Schedule, CronError> {
    let fields = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => {
            let Some(text) = word.strip_prefix("every ") else {
                return wrong(format!("unrecognized descriptor: {whole}"));
            };
            return match go_duration(text) {
                Some(delay) => Ok(Schedule::Every(delay.max(SignedDuration::from_secs(1)))),
                None => wrong(format!("failed to parse duration {whole}: time: invalid duration \"{text}\"")),
            };
        }
    };
    Schedule::parse(fields)
}

/// Go's way of writing durations: `1h30m`, `90s`. Whole seconds count.
fn go_duration(text: &str) -> Option<SignedDuration> {
    let mut total = 0f64;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // More than a few centuries is not meant.
    (total < 1e10).then(|| SignedDuration::from_secs(total as i64))
}

impl Field {
    /// The set of a field: a list of ranges.
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        let mut bits = 0;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            bits |= self.range(part)?;
        }
        Ok(bits)
    }

    /// `5`, `1-5`, `*/15`, `mon-fri/2`.
    fn range(&self, text: &str) -> Result<u64, CronError> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        if step.is_some_and(|step| step.contains('/')) {
            return wrong(format!("too many slashes: {text}"));
        }
        let (low, high, single) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (self.low, self.high, false),
            Some((_, high)) if high.contains('-') => return wrong(format!("too many hyphens: {text}")),
            Some((low, high)) => (self.number(low)?, self.number(high)?, false),
            None => {
                let one = self.number(range)?;
                (one, one, true)
            }
        };
        let (high, step) = match step {
            None => (high, 1),
            // `5/15` is from 5 on.
            Some(step) => (if single { self.high } else { high }, number(step)?),
        };
        if low < self.low {
            return wrong(format!("beginning of range ({low}) below minimum ({}): {text}", self.low));
        }
        if high > self.high {
            return wrong(format!("end of range ({high}) above maximum ({}): {text}", self.high));
        }
        if low > high {
            return wrong(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
        }
        if step == 0 {
            return wrong(format!("step of range should be a positive number: {text}"));
        }
        Ok((low..=high).step_by(step as usize).fold(0, |bits, n| bits | 1 << n))
    }

    fn number(&self, text: &str) -> Result<u32, CronError> {
        let lower = text.to_lowercase();
        match self.names.iter().find(|(name, _)| *name == lower) {
            Some((_, number)) => Ok(*number),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, CronError> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => wrong(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => u32::try_from(number).or_else(|_| wrong(format!("number too large: {text}"))),
        Err(_) => wrong(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")),
    }
}

impl Calendar {
    fn has(bits: u64, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|n| bits & (1 << n) != 0)
    }

    fn is_day(&self, day: i8, weekday: i8) -> bool {
        let (by_month, by_week) = (Self::has(self.days, day), Self::has(self.weekdays, weekday));
        if self.any_day || self.any_weekday { by_month && by_week } else { by_month || by_week }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(after);
        // The next whole minute.
        let start = local.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        let last = local.year().checked_add(MAX_YEARS)?;
        let mut here = start;
        loop {
            here = self.on_or_after(here, last)?;
            let found = zone.to_ambiguous_timestamp(here);
            // A time that the clocks skip does not come: the next one does. One that comes twice counts once.
            if !found.is_ambiguous() {
                let found = found.compatible().ok()?;
                if found > after {
                    return Some(found);
                }
            } else if let Ok(found) = found.compatible()
                && zone.to_datetime(found) == here
                && found > after
            {
                return Some(found);
            }
            here = here.checked_add(1.minute()).ok()?;
        }
    }

    /// The first minute on the calendar that is not before `here`.
    fn on_or_after(&self, here: DateTime, last_year: i16) -> Option<DateTime> {
        let mut here = here;
        while here.year() <= last_year {
            if !Self::has(self.months, here.month()) {
                let next = if here.month() == 12 {
                    date(here.year().checked_add(1)?, 1, 1)
                } else {
                    date(here.year(), here.month() + 1, 1)
                };
                here = next.at(0, 0, 0, 0);
            } else if !self.is_day(here.day(), here.weekday().to_sunday_zero_offset()) {
                here = here.date().tomorrow().ok()?.at(0, 0, 0, 0);
            } else if !Self::has(self.hours, here.hour()) {
                here = here.date().at(here.hour(), 0, 0, 0).checked_add(1.hour()).ok()?;
            } else if !Self::has(self.minutes, here.minute()) {
                here = here.checked_add(1.minute()).ok()?;
            } else {
                return Some(here);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &TimeZone) -> String {
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), zone);
        next.map_or_else(|| "never".to_owned(), |time| time.to_string())
    }

    #[test]
    fn the_next_time_comes() {
        let cases = [
            ("*/15 * * * *", "2026-01-02T03:04:05Z", "2026-01-02T03:15:00Z"),
            ("0 0 * * *", "2026-01-02T03:04:05Z", "2026-01-03T00:00:00Z"),
            ("0 0 1 * *", "2026-12-02T03:04:05Z", "2027-01-01T00:00:00Z"),
            ("5/20 * * * *", "2026-01-02T03:26:00Z", "2026-01-02T03:45:00Z"),
            ("0 12 * * mon-fri", "2026-01-02T13:00:00Z", "2026-01-05T12:00:00Z"),
            // Day and weekday: either.
            ("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", "never"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
            ("0 0 * DEC ?", "2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("30 1-3 * * *", "2026-01-01T03:30:00Z", "2026-01-02T01:30:00Z"),
        ];
        for (schedule, after, expected) in cases {
            assert_eq!(next(schedule, after, &TimeZone::UTC), expected, "{schedule}");
        }
    }

    #[test]
    fn clocks_that_are_moved_are_heeded() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        // 02:30 does not come on the 29th of March 2026.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", &zone), "2026-03-30T00:30:00Z");
        // 02:30 comes twice on the 25th of October, and counts once.
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00Z", &zone), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2026-10-25T00:30:00Z", &zone), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn what_is_wrong_is_said_as_upstream_says_it() {
        let cases = [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
        ];
        for (text, message) in cases {
            assert_eq!(Schedule::parse(text).unwrap_err().to_string(), message);
        }
    }

    proptest::proptest! {
        /// Whatever is asked, there is an answer, and it is later.
        #[test]
        fn anything_is_an_answer(text in "[-0-9*/, @a-z]{0,20}", seconds in 0i64..4_000_000_000) {
            if let Ok(schedule) = Schedule::parse(&text) {
                let after = Timestamp::from_second(seconds).unwrap();
                if let Some(next) = schedule.next(after, &TimeZone::UTC) {
                    proptest::prop_assert!(next > after);
                }
            }
        }
    }
}
