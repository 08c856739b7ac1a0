//! Points and spans of time.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Called, EvalError, Val};

const SECOND: i64 = 1_000_000_000;

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("timestamp", [value @ Val::Timestamp(_)]) => Ok(value.clone()),
        ("timestamp", [Val::Str(s)]) => parse_timestamp(s).map(Val::Timestamp),
        ("timestamp", [Val::Int(i)]) => {
            Timestamp::from_second(*i).map(Val::Timestamp).map_err(|_| EvalError::new("timestamp overflow"))
        }
        ("duration", [value @ Val::Duration(_)]) => Ok(value.clone()),
        ("duration", [Val::Str(s)]) => parse_duration(s).map(Val::Duration),
        ("duration", [Val::Int(i)]) => Ok(Val::Duration(*i)),
        ("getHours", [Val::Duration(d)]) => Ok(Val::Int(d / (3600 * SECOND))),
        ("getMinutes", [Val::Duration(d)]) => Ok(Val::Int(d / (60 * SECOND))),
        ("getSeconds", [Val::Duration(d)]) => Ok(Val::Int(d / SECOND)),
        ("getMilliseconds", [Val::Duration(d)]) => Ok(Val::Int(d % SECOND / 1_000_000)),
        (part, [Val::Timestamp(t)]) if part.starts_with("get") => field(part, *t, "UTC")?,
        (part, [Val::Timestamp(t), Val::Str(zone)]) if part.starts_with("get") => field(part, *t, zone)?,
        _ => return None,
    })
}

fn zoned(time: Timestamp, zone: &str) -> Result<Zoned, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {zone}"));
    let zone_of = match zone.split_once(':') {
        Some((hours, minutes)) => {
            let sign = if hours.starts_with('-') { -1 } else { 1 };
            let hours: i32 = hours.parse().map_err(|_| unknown())?;
            let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
            let seconds = hours.checked_mul(3600).and_then(|h| h.checked_add(sign * minutes.checked_mul(60)?));
            TimeZone::fixed(seconds.and_then(|s| Offset::from_seconds(s).ok()).ok_or_else(unknown)?)
        }
        None if zone == "UTC" => TimeZone::UTC,
        None => TimeZone::get(zone).map_err(|_| unknown())?,
    };
    Ok(time.to_zoned(zone_of))
}

fn field<'a>(part: &str, time: Timestamp, zone: &str) -> Option<Called<'a>> {
    let read = |read: fn(&Zoned) -> i64| Some(zoned(time, zone).map(|z| Val::Int(read(&z))));
    match part {
        "getFullYear" => read(|z| z.year().into()),
        "getMonth" => read(|z| i64::from(z.month()) - 1),
        "getDayOfYear" => read(|z| i64::from(z.day_of_year()) - 1),
        "getDayOfMonth" => read(|z| i64::from(z.day()) - 1),
        "getDate" => read(|z| z.day().into()),
        "getDayOfWeek" => read(|z| z.weekday().to_sunday_zero_offset().into()),
        "getHours" => read(|z| z.hour().into()),
        "getMinutes" => read(|z| z.minute().into()),
        "getSeconds" => read(|z| z.second().into()),
        "getMilliseconds" => read(|z| z.millisecond().into()),
        _ => None,
    }
}

/// Moves a point in time.
pub(super) fn shift<'a>(time: Timestamp, by_ns: i64) -> Called<'a> {
    let moved = time.checked_add(SignedDuration::from_nanos(by_ns));
    moved.map(Val::Timestamp).map_err(|_| EvalError::new("timestamp overflow"))
}

/// The span from `b` to `a`.
pub(super) fn between<'a>(a: Timestamp, b: Timestamp) -> Called<'a> {
    let span = a.as_nanosecond() - b.as_nanosecond();
    i64::try_from(span).map(Val::Duration).map_err(|_| EvalError::new("integer overflow"))
}

/// RFC 3339.
pub(in crate::cel) fn parse_timestamp(text: &str) -> Result<Timestamp, EvalError> {
    let parsed = crate::walk::parse_micro_time(text).or_else(|_| text.parse::<Timestamp>().map_err(|e| e.to_string()));
    parsed.map_err(|_| EvalError::new(format!("invalid timestamp {text:?}")))
}

/// What `format: date-time` and `format: date` fields hold.
pub(in crate::cel) fn parse_timestamp_or_date(text: &str) -> Result<Timestamp, EvalError> {
    parse_timestamp(text).or_else(|error| {
        let date: Date = text.parse().map_err(|_| error.clone())?;
        date.to_zoned(TimeZone::UTC).map(|z| z.timestamp()).map_err(|_| error)
    })
}

/// `1h30m`, as Go's `time.ParseDuration` reads it.
pub(in crate::cel) fn parse_duration(text: &str) -> Result<i64, EvalError> {
    duration_ns(text).ok_or_else(|| EvalError::new(format!("time: invalid duration {text:?}")))
}

fn duration_ns(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
            return None;
        }
        let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let fraction = &fraction[..fraction.len().min(18)];
        let power = 10i128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(parse(whole)?.checked_mul(scale)?)?;
        total = total.checked_add(parse(fraction)?.checked_mul(scale)? / power)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// As cel-go's `string(duration)`: seconds, `5400s`, `0.5s`.
pub(in crate::cel) fn print_duration(ns: i64) -> String {
    let (sign, magnitude) = if ns < 0 { ("-", ns.unsigned_abs()) } else { ("", ns.unsigned_abs()) };
    let (seconds, fraction) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
