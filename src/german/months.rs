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

/// Whether a folded word is a month.
pub(crate) fn is_month(folded: &str) -> bool {
    folded == "maerz"
        || MONTHS
            .iter()
            .any(|month| month.eq_ignore_ascii_case(folded))
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
