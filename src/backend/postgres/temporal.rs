//! Formats dates and times, which the driver counts from the year 2000.

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Days from 0000-03-01, the beginning of a cycle of the calendar, to 2000-01-01.
const TO_2000: i64 = 730_425;

/// Formats a date, `days` after 2000-01-01.
pub(super) fn date(days: i32) -> String {
    match days {
        i32::MAX => String::from("infinity"),
        i32::MIN => String::from("-infinity"),
        days => {
            let (date, era) = civil(days.into());
            format!("{date}{era}")
        }
    }
}

/// Formats a time of day.
pub(super) fn time(micros: i64) -> String {
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Formats a point in time, in the zone of `offset`.
pub(super) fn timestamp(micros: i64, offset: &str) -> String {
    match micros {
        i64::MAX => String::from("infinity"),
        i64::MIN => String::from("-infinity"),
        micros => {
            let (date, era) = civil(micros.div_euclid(MICROS_PER_DAY));
            format!("{date} {}{offset}{era}", time(micros.rem_euclid(MICROS_PER_DAY)))
        }
    }
}

/// Converts days to a date of the Gregorian calendar, and the suffix of the years before the first.
///
/// The algorithm is [Howard Hinnant's](https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
fn civil(days: i64) -> (String, &'static str) {
    let days = days + TO_2000;
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_cycle = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day_of_month:02}"), era)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        for (days, text) in [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (59, "2000-02-29"),
            (60, "2000-03-01"),
            (-10_957, "1970-01-01"),
            (2_921_939, "9999-12-31"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (i32::MAX, "infinity"),
        ] {
            assert_eq!(date(days), text, "{days}");
        }
    }

    #[test]
    fn points_in_time_keep_their_microseconds() {
        assert_eq!(timestamp(-1, "+00"), "1999-12-31 23:59:59.999999+00");
        assert_eq!(timestamp(i64::MIN, ""), "-infinity");
        assert_eq!(time(MICROS_PER_DAY), "24:00:00.000000");
    }
}
