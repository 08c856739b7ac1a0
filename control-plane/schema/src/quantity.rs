//! Quantities of resources: `500m`, `1.5Gi`, `1e3` (apimachinery `api/resource`).
//!
//! Arithmetic is exact, in billionths. A value has the canonical form that upstream stores and prints: the suffix it was
//! written with is kept in kind (decimal, binary, exponent) and made as large as it can be without a fraction.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;

/// Which suffixes a quantity is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `n u m "" k M G T P E`.
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`, `E-3`.
    DecimalExponent,
}

/// A quantity. Equality and order are those of the value; the format does not matter.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not have the form of one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number is beyond what can be held (10^29).
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// `value` units.
    pub fn new(value: i64, format: Format) -> Self {
        Self { nano: i128::from(value) * NANO, format }
    }

    /// `value` thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { nano: i128::from(value) * (NANO / 1000), format }
    }

    /// Reads a quantity. What is smaller than a billionth is rounded up, away from zero; a binary one is capped at
    /// 2^63 - 1.
    ///
    /// # Errors
    /// If the text is no quantity, or too large.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(unsigned);
        let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        let (base, exponent, mut format) = suffix(rest)?;
        let magnitude = magnitude(whole, fraction, base, exponent)?;
        let mut nano = magnitude;
        if format == Format::BinarySi {
            nano = nano.min(i128::from(i64::MAX) * NANO);
            if nano > 0 && nano < NANO {
                format = Format::DecimalSi;
            }
        }
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// A number of billionths.
    pub fn from_nano(nano: i128, format: Format) -> Self {
        Self { nano, format }
    }

    /// What a JSON value writes: text, or a number. `None` if it is neither, or no quantity.
    pub fn of_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text).ok(),
            Value::Number(number) => Self::parse(&number.to_string()).ok(),
            _ => None,
        }
    }

    /// The value in whole units, rounded up away from zero, and capped at what an int64 holds.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// The value in thousandths, likewise.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// The value in billionths.
    pub fn nano(&self) -> i128 {
        self.nano
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// The sum, in the format of the first that is not zero. Saturates at what can be held.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }

    /// The difference, likewise.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&Self { nano: other.nano.saturating_neg(), format: other.format })
    }

    fn scaled(&self, unit: i128) -> i64 {
        let up = div_up(self.nano.saturating_abs(), unit);
        let signed = if self.nano < 0 { -up } else { up };
        i64::try_from(signed).unwrap_or(if signed < 0 { i64::MIN } else { i64::MAX })
    }
}

/// The form in which upstream keeps a quantity that a client wrote: the canonical one, except that what has the right
/// exponent already stays as it is, and so `1.500`, `+1` and `1E3` do.
///
/// # Errors
/// As [`Quantity::parse`].
pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    let quantity = Quantity::parse(text)?;
    if stays(text).unwrap_or(false) { Ok(text.into()) } else { Ok(quantity.to_string().into()) }
}

/// How many digits an int64 surely holds.
const SURE_DIGITS: usize = 18;

/// Whether upstream takes a well-formed quantity to be canonical by its looks.
fn stays(text: &str) -> Option<bool> {
    let (whole, rest) = split_digits(text.trim_start_matches(['+', '-']));
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let (_, exponent, format) = suffix(rest).ok()?;
    let digits = format!("{whole}{fraction}");
    if format == Format::BinarySi {
        let room = 15_i32.checked_sub(i32::try_from(whole.len()).ok()?)?.checked_sub(exponent * 3 / 10 + 1)?;
        return Some(fraction.is_empty() && room >= 0 && digits.parse::<i64>().ok()? % 8 != 0);
    }
    let scale = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let sure = digits.len() <= SURE_DIGITS && scale >= -9;
    Some(sure && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0'))
}

fn div_up(value: i128, by: i128) -> i128 {
    value / by + i128::from(value % by != 0)
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Base, exponent and format of a suffix.
fn suffix(text: &str) -> Result<(u8, i32, Format), QuantityError> {
    let decimal = |exponent| Ok((10, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((2, exponent, Format::BinarySi));
    match text {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => exponent_suffix(text),
    }
}

fn exponent_suffix(text: &str) -> Result<(u8, i32, Format), QuantityError> {
    // The form: letters of suffixes, a sign, digits; whatever else is not even that.
    let letters = text.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['-', '+']).unwrap_or(letters);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let number = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent: i64 = number.parse().map_err(|_| QuantityError::Suffix)?;
    let exponent = i32::try_from(exponent).map_err(|_| QuantityError::Suffix)?;
    Ok((10, exponent, Format::DecimalExponent))
}

/// `whole.fraction * base^exponent` in billionths, rounded up.
fn magnitude(whole: &str, fraction: &str, base: u8, exponent: i32) -> Result<i128, QuantityError> {
    let fraction = fraction.trim_end_matches('0');
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = i128::from(digit - b'0');
        value = value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or(QuantityError::Numeric)?;
    }
    if value == 0 {
        return Ok(0);
    }
    let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::Numeric)?;
    let mut power = 9 - places;
    if base == 2 {
        value = value.checked_mul(1 << exponent).ok_or(QuantityError::Numeric)?;
    } else {
        power = power.saturating_add(exponent);
    }
    let factor = 10_i128.checked_pow(power.unsigned_abs());
    if power < 0 {
        // Beyond any divisor that can be held, what is left is the least there is.
        return Ok(factor.map_or(1, |f| div_up(value, f)));
    }
    factor.and_then(|f| value.checked_mul(f)).ok_or(QuantityError::Numeric)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano % NANO == 0;
        let units = self.nano / NANO;
        if self.format == Format::BinarySi && whole && units.abs() >= 1024 {
            let (mut value, mut step) = (units, 0);
            while value % 1024 == 0 && step < 6 {
                value /= 1024;
                step += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step];
            return write!(f, "{value}{suffix}");
        }
        let (mut value, mut exponent) = (self.nano, -9);
        while value % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            value /= 1000;
            exponent += 3;
        }
        write!(f, "{value}")?;
        if exponent == 0 {
            return Ok(());
        }
        if self.format == Format::DecimalExponent {
            return write!(f, "e{exponent}");
        }
        f.write_str(match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        })
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, expected) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("100", "100"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("12000", "12k"),
            ("0.1Ki", "102400m"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("1500e3", "1500e3"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+1", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("8Ei", "9223372036854775807"),
            ("007", "7"),
            ("100E", "100E"),
            ("1e-3", "1e-3"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn what_looks_canonical_stays() {
        for (text, expected) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.500", "1.500"),
            ("1.50", "1500m"),
            ("+1", "+1"),
            ("1E3", "1E3"),
            ("1e2", "100"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("0.100", "100m"),
            ("0Gi", "0"),
            ("1000000", "1M"),
        ] {
            assert_eq!(super::canonical(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for text in ["", "1.2.3", "abc", "1 Gi", "1Gib", "1e3m"] {
            assert_eq!(Quantity::parse(text), Err(QuantityError::Format), "{text}");
        }
        for text in ["1mm", "1K", "1kk", "1Gi5", "1e", "1i"] {
            assert_eq!(Quantity::parse(text), Err(QuantityError::Suffix), "{text}");
        }
        assert_eq!(Quantity::parse("1e40"), Err(QuantityError::Numeric));
    }

    #[test]
    fn values_round_up() {
        assert_eq!(Quantity::parse("1500m").unwrap().value(), 2);
        assert_eq!(Quantity::parse("1").unwrap().milli_value(), 1000);
        assert_eq!(Quantity::parse("1u").unwrap().milli_value(), 1);
        assert_eq!(Quantity::parse("-1500m").unwrap().value(), -2);
        assert_eq!(Quantity::parse("1000000E").unwrap().value(), i64::MAX);
    }

    #[test]
    fn sums_keep_the_first_format() {
        let sum = Quantity::parse("1Gi").unwrap().add(&Quantity::parse("1048576k").unwrap());
        assert_eq!(sum.value(), (1 << 30) + 1_048_576_000);
        assert_eq!(Quantity::ZERO.add(&Quantity::parse("2Gi").unwrap()).to_string(), "2Gi");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(nano in -1_000_000_000_000_000_000_000_000_000_i128..1_000_000_000_000_000_000_000_000_000, which in 0_usize..3) {
            let format = [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent][which];
            let nano = if format == Format::BinarySi { nano % (i128::from(i64::MAX) * NANO) } else { nano };
            let quantity = Quantity { nano, format };
            let text = quantity.to_string();
            let back = Quantity::parse(&text).unwrap();
            prop_assert_eq!(back, quantity);
            prop_assert_eq!(back.to_string(), text);
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eEinumkKMGTP x]{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let kept = super::canonical(&text).unwrap();
                prop_assert_eq!(Quantity::parse(&kept).unwrap(), quantity);
                prop_assert_eq!(&super::canonical(&kept).unwrap(), &kept);
                prop_assert_eq!(Quantity::parse(&quantity.to_string()).unwrap(), quantity);
            }
        }
    }
}
