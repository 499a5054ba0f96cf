//! Words of German that several modules count with.

/// The months.
pub const MONTHS: [&str; 12] = [
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

/// Numbers as words, folded as [`fold`](super::fold) does, with the digits that they stand for.
pub const NUMBER_WORDS: [(&str, &str); 25] = [
    ("ein", "1"),
    ("eine", "1"),
    ("einem", "1"),
    ("einen", "1"),
    ("einer", "1"),
    ("eines", "1"),
    ("zwei", "2"),
    ("zweier", "2"),
    ("drei", "3"),
    ("dreier", "3"),
    ("vier", "4"),
    ("fuenf", "5"),
    ("sechs", "6"),
    ("sieben", "7"),
    ("acht", "8"),
    ("neun", "9"),
    ("zehn", "10"),
    ("elf", "11"),
    ("zwoelf", "12"),
    ("dreizehn", "13"),
    ("vierzehn", "14"),
    ("fuenfzehn", "15"),
    ("achtzehn", "18"),
    ("zwanzig", "20"),
    ("dreissig", "30"),
];
