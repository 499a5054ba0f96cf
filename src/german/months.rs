//! The months.

/// Their names, January first.
const MONTHS: [&str; 12] = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
];

/// The name of a month given as digits, `1` or `01` for January.
pub(crate) fn month_name(digits: &str) -> Option<&'static str> {
    let number: usize = digits.parse().ok()?;
    MONTHS.get(number.checked_sub(1)?).copied()
}

/// The number of a month by its folded name, 1 for January.
pub(crate) fn month_number(folded: &str) -> Option<u32> {
    let is_named = |month: &str| month.eq_ignore_ascii_case(folded);
    let place = match folded {
        "maerz" => Some(2),
        _ => MONTHS.iter().position(|month| is_named(month)),
    };
    place.map(|place| place as u32 + 1)
}

/// Whether a folded word is a month.
pub(crate) fn is_month(folded: &str) -> bool {
    month_number(folded).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_have_names() {
        assert_eq!(month_name("07"), Some("Juli"));
        assert_eq!(month_name("12"), Some("Dezember"));
        for wrong in ["0", "13", "", "x"] {
            assert_eq!(month_name(wrong), None, "{wrong}");
        }
        assert!(
            MONTHS
                .iter()
                .all(|month| is_month(&crate::german::fold(month)))
        );
        assert!(!is_month("monat"));
    }
}
