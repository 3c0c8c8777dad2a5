//! Durations and sizes as people write them in configuration: `10s`, `1h30m`, `16MiB`.
//!
//! For serde: `#[serde(with = "crate::model::units::duration")]` on a `Duration`, `units::duration_option` on an
//! `Option<Duration>`, `units::bytes` on a `u64` and `units::bytes_option` on an `Option<u64>`.

use std::time::Duration;

/// The text was not a number with a unit we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("`{0}` is not a duration; write for example 500ms, 10s, 5m, 1h30m or 7d")]
    Duration(String),
    #[error("`{0}` is not a size; write for example 512, 64KiB, 16MiB, 10GB or 1.5TiB")]
    Bytes(String),
}

const DURATIONS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

const BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a duration: numbers with units, summed (`1h30m`), each `d h m s ms us`; a fraction is allowed (`1.5s`). A
/// bare `0` needs no unit.
///
/// *Errors*: another unit, none, or more than 2^64 microseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut micros: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let tail = tail.trim_start();
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, scale) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let part = scaled(number, *scale).ok_or_else(wrong)?;
        micros = micros.checked_add(part).ok_or_else(wrong)?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_micros(micros))
}

/// Writes a duration so that `parse_duration` reads it back to the microsecond.
pub fn format_duration(duration: Duration) -> String {
    let mut micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, scale) in DURATIONS {
        let count = micros / scale;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
            micros %= scale;
        }
    }
    out
}

/// Reads a size in bytes: `B kB MB GB TB` by thousands, `KiB MiB GiB TiB` by 1,024, case ignored; no unit is bytes.
///
/// *Errors*: another unit, or more than 2^64 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError::Bytes(text.to_owned());
    let (number, unit) = split_number(text.trim());
    let unit = unit.trim();
    let scale = match unit {
        "" => 1,
        _ => BYTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
    };
    scaled(number, scale).ok_or_else(wrong)
}

/// Writes a size with the largest unit that divides it, so that `parse_bytes` reads back the same number.
pub fn format_bytes(bytes: u64) -> String {
    let whole = BYTES.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    match whole {
        Some((unit, scale)) if *scale > 1 => format!("{}{unit}", bytes / scale),
        _ => bytes.to_string(),
    }
}

/// Writes a size for people: two or three digits and a unit.
pub fn rounded_bytes(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, scale)| bytes >= *scale) {
        Some((unit, scale)) => {
            let value = bytes as f64 / *scale as f64;
            format!("{value:.*} {unit}", if value < 10.0 { 1 } else { 0 })
        }
        None => format!("{bytes} B"),
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// `number` (digits, perhaps a fraction) times `scale`, without rounding errors in the whole part.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || (fraction.is_empty() && number.contains('.')) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let (mut sum, mut divisor) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(15) {
        sum = sum * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    let fraction = sum * u128::from(scale) / divisor;
    whole.checked_add(u64::try_from(fraction).ok()?)
}

/// serde for a `Duration` written as text.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// serde for an `Option<Duration>` written as text.
pub mod duration_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => to.serialize_some(&super::format_duration(*duration)),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| super::parse_duration(&text)).transpose().map_err(D::Error::custom)
    }
}

/// serde for a size: text with a unit, or a plain number of bytes.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_bytes(*bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        super::Size::deserialize(from)?.bytes().map_err(D::Error::custom)
    }
}

/// serde for an optional size.
pub mod bytes_option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_some(&super::format_bytes(*bytes)),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let size = Option::<super::Size>::deserialize(from)?;
        size.map(super::Size::bytes).transpose().map_err(D::Error::custom)
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "a size such as 16MiB, or a number of bytes")]
enum Size {
    Number(u64),
    Text(String),
}

impl Size {
    fn bytes(self) -> Result<u64, UnitError> {
        match self {
            Size::Number(bytes) => Ok(bytes),
            Size::Text(text) => parse_bytes(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let cases = [
            ("10s", 10_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("1.5s", 1_500),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "10 parsecs", "-1s", "1.s", "1.2.3s", "99999999999999999999d", "1h30"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        let cases = [
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("16mib", 16 << 20),
            ("10GB", 10_000_000_000),
            ("1.5 KiB", 1_536),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1 furlong", "-1", "1.KiB", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for micros in [0, 1, 999, 1_000, 61_000_000, 90_061_001_001] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1000, 1024, 65_536, 1 << 40, 12_345_678, u64::MAX] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(format_bytes(16 << 20), "16MiB");
        assert_eq!(format_duration(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn sizes_for_people_have_two_or_three_digits() {
        for (size, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (182 << 20, "182 MiB"), (5 << 40, "5.0 TiB")]
        {
            assert_eq!(rounded_bytes(size), text);
        }
    }

    #[test]
    fn serde_takes_text_and_numbers() {
        #[derive(serde::Deserialize, serde::Serialize, PartialEq, Debug)]
        #[serde(default)]
        struct Settings {
            #[serde(with = "duration")]
            wait: Duration,
            #[serde(with = "bytes")]
            size: u64,
            #[serde(with = "bytes_option")]
            most: Option<u64>,
            #[serde(with = "duration_option")]
            grace: Option<Duration>,
        }
        impl Default for Settings {
            fn default() -> Settings {
                Settings { wait: Duration::from_secs(2), size: 1, most: None, grace: None }
            }
        }
        let read: Settings = toml::from_str("wait = \"10s\"\nsize = 4096\nmost = \"1GiB\"").expect("reads");
        assert_eq!(read, Settings { wait: Duration::from_secs(10), size: 4096, most: Some(1 << 30), grace: None });
        let again: Settings = toml::from_str(&toml::to_string(&read).expect("writes")).expect("reads");
        assert_eq!(again, read);
        assert!(toml::from_str::<Settings>("wait = \"soon\"").is_err());
    }
}
