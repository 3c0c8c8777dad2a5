//! RFC 3339 time stamps in UTC with milliseconds, made without a calendar library on the hot path.

use std::cell::Cell;

/// `2026-01-31T23:59:59.999Z`
pub const LEN: usize = 24;

/// Milliseconds since the Unix epoch as text. The second is remembered for each thread.
pub fn rfc3339(epoch_ms: i64) -> [u8; LEN] {
    thread_local! {
        static LAST: Cell<(i64, [u8; LEN])> = const { Cell::new((i64::MIN, [0; LEN])) };
    }
    let (second, millis) = (epoch_ms.div_euclid(1000), epoch_ms.rem_euclid(1000));
    LAST.with(|last| {
        let (known, mut text) = last.get();
        if known != second {
            text = whole_second(second);
            last.set((second, text));
        }
        digits(&mut text[20..23], millis);
        text
    })
}

fn whole_second(second: i64) -> [u8; LEN] {
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let (days, rest) = (second.div_euclid(86_400), second.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    digits(&mut text[0..4], year.clamp(0, 9999));
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], rest / 3600);
    digits(&mut text[14..16], rest / 60 % 60);
    digits(&mut text[17..19], rest % 60);
    text
}

/// Days since the epoch to year, month and day. *Source*: Howard Hinnant, "chrono-compatible low-level date
/// algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn digits(out: &mut [u8], mut value: i64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_123, "2024-02-29T23:59:59.123Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(std::str::from_utf8(&rfc3339(ms)), Ok(text));
        }
    }
}
