//! The requests of `ausserhalb.toml` that name whom to call where somebody is in danger. Answers
//! look for them before everything else, so a knowledge base should have them all.

/// All of them.
pub(crate) const DANGERS: [&str; 9] = [
    MEDICAL, FIRE, POLICE, GAS, POISON, VIOLENCE, CHILD, MISSING, SUICIDE,
];

pub(crate) const MEDICAL: &str = "notfall_medizin";
pub(crate) const FIRE: &str = "notfall_brand";
pub(crate) const POLICE: &str = "notfall_polizei";
pub(crate) const GAS: &str = "gasgeruch";
pub(crate) const POISON: &str = "gift";
pub(crate) const VIOLENCE: &str = "gewalt_frauen";
pub(crate) const CHILD: &str = "kind_in_not";
pub(crate) const MISSING: &str = "person_vermisst";
pub(crate) const SUICIDE: &str = "seelsorge";
