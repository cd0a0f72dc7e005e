//! Points in time, as the database keeps them, and as people give them on a command line.

use puna_text::Date;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MILLIS_A_DAY: i64 = 86_400_000;

/// A point in time, in milliseconds. Displayed in UTC: `2026-11-23 07:05`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(i64);

impl Time {
    /// Now by the machine's clock.
    #[must_use]
    pub fn now() -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// So many milliseconds after 1 January 1970 UTC.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Time {
        Time(millis)
    }

    /// Milliseconds since 1 January 1970 UTC.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1 January 1970 UTC, as OpenAI's API gives times.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// So much later, or the last time that can be kept.
    #[must_use]
    pub fn after(self, span: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// So much earlier, or the first time that can be kept.
    #[must_use]
    pub fn before(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Time {
    /// As other programs' APIs want it: `2026-11-23T07:05:09.123Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        Date::timestamp(self.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.rem_euclid(MILLIS_A_DAY) / 60_000;
        let day = Date::from_days(self.0.div_euclid(MILLIS_A_DAY));
        write!(f, "{} {:02}:{:02}", day.format("%F"), minutes / 60, minutes % 60)
    }
}

impl ToSql for Time {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Time> {
        i64::column_result(value).map(Time)
    }
}

/// A time as people give it: a span from now, or a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long from now, into the future or the past.
    Span(Duration),
    /// The beginning of a day in UTC.
    Day(Date),
}

impl When {
    /// The time, if spans go into the future.
    #[must_use]
    pub fn ahead_of(self, now: Time) -> Time {
        match self {
            When::Span(span) => now.after(span),
            When::Day(day) => beginning(day),
        }
    }

    /// The time, if spans go into the past.
    #[must_use]
    pub fn back_from(self, now: Time) -> Time {
        match self {
            When::Span(span) => now.before(span),
            When::Day(day) => beginning(day),
        }
    }
}

fn beginning(day: Date) -> Time {
    Time(day.days().saturating_mul(MILLIS_A_DAY))
}

/// A text that is no [`When`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a span such as 90m, 12h, 30d or 2w, or a day such as 2027-01-01, found {0:?}")]
pub struct WhenError(String);

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<When, WhenError> {
        let error = || WhenError(text.to_owned());
        if let Some(day) = Date::parse(text) {
            return Ok(When::Day(day));
        }
        let seconds = match text.chars().next_back() {
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            Some('w') => 7 * 86_400,
            _ => return Err(error()),
        };
        // The unit is one byte.
        let number = &text[..text.len() - 1];
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let number: u32 = number.parse().map_err(|_| error())?;
        Ok(When::Span(Duration::from_secs(u64::from(number) * seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(Time::from_millis(0).to_string(), "1970-01-01 00:00");
        assert_eq!(
            Time::from_millis(20_780 * MILLIS_A_DAY + 7 * 3_600_000 + 5 * 60_000 + 59_999).to_string(),
            "2026-11-23 07:05"
        );
        assert_eq!(Time::from_millis(-1).to_string(), "1969-12-31 23:59");
        assert_eq!((Time::from_millis(-1).seconds(), Time::from_millis(1999).seconds()), (-1, 1));
        for extreme in [i64::MIN, i64::MAX] {
            let _ = Time::from_millis(extreme).to_string();
        }
    }

    #[test]
    fn people_give_spans_and_days() {
        let now = Time::from_millis(20_780 * MILLIS_A_DAY + 5);
        let when = |text: &str| text.parse::<When>().unwrap();
        assert_eq!(when("2d").ahead_of(now), Time::from_millis(20_782 * MILLIS_A_DAY + 5));
        assert_eq!(when("1w").back_from(now), Time::from_millis(20_773 * MILLIS_A_DAY + 5));
        assert_eq!(when("90m").ahead_of(now).millis() - now.millis(), 5_400_000);
        assert_eq!(when("12h").ahead_of(now).millis() - now.millis(), 43_200_000);
        for time in [when("2026-11-24").ahead_of(now), when("2026-11-24").back_from(now)] {
            assert_eq!(time, Time::from_millis(20_781 * MILLIS_A_DAY));
        }
        assert_eq!(when("4294967295w").ahead_of(Time::from_millis(i64::MAX)), Time::from_millis(i64::MAX));
        for text in ["", "d", "3", "-3d", "+3d", "3 d", "3y", "2026-02-30", "4294967296d", "3ü"] {
            let error = text.parse::<When>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("found {text:?}")), "{error}");
        }
    }
}
