//! Money in whole cents: floats would make a report differ from its recomputation.

use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest price read from a file, and the largest quantity. Bounded at the door, no sum over a file of
/// [`crate::files::FILE_LIMIT_BYTES`] can leave 64 bits, so sums need no checks.
pub(crate) const PRICE_LIMIT_CENTS: i64 = 10_000_000;
pub(crate) const QUANTITY_LIMIT: i64 = 100_000;

/// An amount in hundredths of the currency's unit; negative for refunds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cents(pub(crate) i64);

impl Cents {
    pub(crate) fn times(self, count: i64) -> Self {
        Self(self.0 * count)
    }

    /// A share of the amount, a half cent rounded away from zero.
    pub(crate) fn percent(self, percent: u32) -> Self {
        let hundredfold = self.0 * i64::from(percent);
        let half = if hundredfold < 0 { -50 } else { 50 };
        Self((hundredfold + half) / 100)
    }
}

impl Add for Cents {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Cents {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

/// The text is not a price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a price with two decimals, such as 12.30, below 100000.00")]
pub(crate) struct NotAPrice;

impl FromStr for Cents {
    type Err = NotAPrice;

    fn from_str(text: &str) -> Result<Self, NotAPrice> {
        let (whole, cents) = text.split_once('.').ok_or(NotAPrice)?;
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(cents) || cents.len() != 2 {
            return Err(NotAPrice);
        }
        let whole: i64 = whole.parse().map_err(|_| NotAPrice)?;
        let cents: i64 = cents.parse().map_err(|_| NotAPrice)?;
        // Compared before multiplying, so that no number of digits can overflow.
        if whole >= PRICE_LIMIT_CENTS / 100 {
            return Err(NotAPrice);
        }
        Ok(Self(whole * 100 + cents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_need_two_decimals_and_nothing_else() {
        let parsed = |text: &str| text.parse::<Cents>().ok().map(|cents| cents.0);
        assert_eq!(parsed("12.30"), Some(1_230));
        assert_eq!(parsed("99999.99"), Some(PRICE_LIMIT_CENTS - 1));
        for wrong in [
            "",
            "12",
            "12.3",
            "12.345",
            ".50",
            "1e3.00",
            "+1.00",
            "1,00",
            "-1.00",
            "100000.00",
            "99999999999999999999.00",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_half_cent_is_rounded_away_from_zero() {
        assert_eq!(Cents(50).percent(19), Cents(10));
        assert_eq!(Cents(-50).percent(19), Cents(-10));
        assert_eq!(Cents(40).percent(19), Cents(8));
    }
}
