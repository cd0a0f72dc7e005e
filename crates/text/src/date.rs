//! A day of the calendar, for the date line of a prompt.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A day in UTC. Displayed as Llama's prompts have it: `23 Nov 2026`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: i32,
    /// From 1.
    month: u8,
    /// From 1.
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MILLIS_A_DAY: i64 = 86_400_000;
/// Days before the month, in a year that is not a leap year.
const DAYS_BEFORE: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

impl Date {
    /// Today by the machine's clock.
    #[must_use]
    pub fn today() -> Date {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Date::from_days(i64::try_from(seconds / 86_400).unwrap_or(0))
    }

    /// A point in time, in milliseconds after 1 January 1970 UTC, as RFC 3339 has it: `2026-11-23T07:05:09.123Z`.
    #[must_use]
    pub fn timestamp(millis: i64) -> String {
        let day = Date::from_days(millis.div_euclid(MILLIS_A_DAY));
        let millis = millis.rem_euclid(MILLIS_A_DAY);
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z", day.format("%F"))
    }

    /// The day so many days after 1 January 1970; days out of reach of the calendar's years give the nearest one in it.
    #[must_use]
    pub fn from_days(days: i64) -> Date {
        // The Gregorian calendar repeats every 400 years of 146,097 days. Count from 1 March of year 0, so that the leap
        // day is the last of a year.
        let days = days.clamp(-700_000, 2_900_000) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // From March on, five months have 153 days.
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Date { year: (400 * era + year_of_era + next_year) as i32, month: month as u8, day: day as u8 }
    }

    /// A day by its numbers; `None` if the calendar has no such day.
    #[must_use]
    pub fn new(year: i32, month: u8, day: u8) -> Option<Date> {
        let last = match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        (1..=9999).contains(&year).then_some(())?;
        (1..=last).contains(&day).then_some(Date { year, month, day })
    }

    /// Days from 1 January 1970 to this day; below 0 before it.
    #[must_use]
    pub fn days(self) -> i64 {
        let before = i64::from(self.year) - 1;
        let days = 365 * before + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        // From 1 January of year 1 on.
        days + i64::from(self.day_of_year()) - 1 - 719_162
    }

    /// Reads `23 Nov 2026`, `23 November 2026` or `2026-11-23`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Date> {
        if let [year, month, day] = text.trim().split('-').collect::<Vec<_>>()[..] {
            let digits = |part: &str, n| part.len() == n && part.bytes().all(|byte| byte.is_ascii_digit());
            (digits(year, 4) && digits(month, 2) && digits(day, 2)).then_some(())?;
            return Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
        }
        let mut words = text.split_ascii_whitespace();
        let (day, name, year) = (words.next()?, words.next()?, words.next()?);
        let month = MONTHS.iter().position(|month| *month == name || month.get(..3) == Some(name))?;
        if words.next().is_some() {
            return None;
        }
        Date::new(year.parse().ok()?, month as u8 + 1, day.parse().ok()?)
    }

    fn month_name(self) -> &'static str {
        MONTHS.get(usize::from(self.month) - 1).copied().unwrap_or_default()
    }

    /// Days since the year began, from 1.
    fn day_of_year(self) -> u16 {
        let before = DAYS_BEFORE.get(usize::from(self.month) - 1).copied().unwrap_or(0);
        before + u16::from(self.day) + u16::from(self.month > 2 && is_leap(self.year))
    }

    /// 0 for Monday.
    fn weekday(self) -> usize {
        // 1 January 1970 was a Thursday.
        (self.days() + 3).rem_euclid(7) as usize
    }

    /// What C's `strftime` makes of the day; a time of day is midnight, and what is not known stays as it is.
    #[must_use]
    pub fn format(self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut code = rest.next();
            let plain = code == Some('-');
            if plain {
                code = rest.next();
            }
            let number = |number: u16| if plain { number.to_string() } else { format!("{number:02}") };
            match code {
                Some('d') => text += &number(self.day.into()),
                Some('m') => text += &number(self.month.into()),
                Some('H' | 'M' | 'S') => text += &number(0),
                Some('I') => text += &number(12),
                Some('p') => text += "AM",
                Some('j') if plain => text += &self.day_of_year().to_string(),
                Some('j') => text += &format!("{:03}", self.day_of_year()),
                Some('Y') => text += &self.year.to_string(),
                Some('y') => text += &number(self.year.rem_euclid(100) as u16),
                Some('B') => text += self.month_name(),
                Some('b' | 'h') => text += self.month_name().get(..3).unwrap_or_default(),
                Some('A') => text += WEEKDAYS.get(self.weekday()).copied().unwrap_or_default(),
                Some('a') => text += WEEKDAYS.get(self.weekday()).and_then(|day| day.get(..3)).unwrap_or_default(),
                Some('F') => text += &format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('%') => text.push('%'),
                other => {
                    text.push('%');
                    if plain {
                        text.push('-');
                    }
                    text.extend(other);
                }
            }
        }
        text
    }
}

fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format("%d %b %Y"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_through_the_calendar() {
        assert_eq!(Date::from_days(0).to_string(), "01 Jan 1970");
        assert_eq!(Date::from_days(20_780).to_string(), "23 Nov 2026");
        assert_eq!(Date::from_days(11_016).to_string(), "29 Feb 2000");
        assert_eq!(Date::from_days(47_540).to_string(), "28 Feb 2100");
        assert_eq!(Date::from_days(47_541).to_string(), "01 Mar 2100");
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..60_000 {
            let expected = Date::new(year, month, day).unwrap();
            assert_eq!(Date::from_days(days), expected);
            assert_eq!(expected.days(), days);
            assert_eq!(expected.weekday(), (days as usize + 3) % 7, "1 January 1970 was a Thursday");
            day += 1;
            if Date::new(year, month, day).is_none() {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        assert_eq!(Date::new(1, 1, 1).unwrap().days(), -719_162);
        assert!(Date::today() > Date::new(2024, 1, 1).unwrap());
    }

    #[test]
    fn formats_like_strftime() {
        let date = Date::new(2024, 7, 6).unwrap();
        assert_eq!(
            date.format("%d %B %Y|%-d %b %y|%A %a|%j|%F|%H:%M|100%%|%Q|%"),
            "06 July 2024|6 Jul 24|Saturday Sat|188|2024-07-06|00:00|100%|%Q|%"
        );
    }

    #[test]
    fn parses_what_it_prints() {
        let date = Date::new(2026, 11, 23).unwrap();
        assert_eq!(Date::parse("23 Nov 2026"), Some(date));
        assert_eq!(Date::parse(" 23 November 2026"), Some(date));
        assert_eq!(Date::parse(&date.format("%F")), Some(date));
        for text in ["", "23 Nov", "31 Nov 2026", "23 Nov 2026 x", "0 Nov 2026", "29 Feb 2100", "23 nov 2026"] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
        for text in ["2026-11-31", "2026-11", "2026-1-1", "26-01-01", "2026-11-23-1", "+026-11-23", "0000-01-01"] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
