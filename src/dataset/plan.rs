//! Which example is about what: offices take turns, within an office its subjects, within a subject
//! its phrasings and templates. So every office, service and intent gets its even share, however
//! many combinations it could give.

use super::catalog::{Catalog, Phrasing};
use super::techniques::{TEMPLATES, Template, VALIDATION_TEMPLATES};

/// One in N training examples is a request that belongs elsewhere.
const OUT_OF_REMIT_ONE_IN: usize = 25;
/// One in N examples is for validation, and at least one per office.
const VALIDATION_ONE_IN: usize = 20;
/// More validation examples than this tell nothing new and cost time in every epoch.
const MOST_VALIDATION: usize = 5000;
/// One in N validation examples is a request that belongs elsewhere, and at least one.
const OOD_ONE_IN: usize = 10;

/// What one example is to be made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    /// Index into the catalogue's subjects.
    pub subject: usize,
    /// The question to start from.
    pub phrasing: &'a Phrasing,
    /// How to put it together.
    pub template: Template,
    /// Whether it is the subject's first example, which has the default layout: the question most
    /// citizens ask, put as the product puts it.
    pub first: bool,
}

/// How many of `examples` are for validation: within the offices' remit, and outside of it.
pub(crate) fn validation_counts(catalog: &Catalog, examples: usize) -> (usize, usize) {
    let has_held_out = |subjects: &[usize]| {
        subjects
            .iter()
            .any(|&subject| !catalog.subjects[subject].held_out.is_empty())
    };
    let (foreign, offices) = match catalog.turns.split_last() {
        Some((foreign, offices)) => (has_held_out(foreign), offices),
        None => (false, &[][..]),
    };
    let sources = offices
        .iter()
        .filter(|subjects| has_held_out(subjects))
        .count();
    let all = examples
        .div_ceil(VALIDATION_ONE_IN)
        .clamp(
            sources + usize::from(foreign),
            MOST_VALIDATION.max(sources + 1),
        )
        .min(examples / 2);
    let ood = if foreign {
        (all / OOD_ONE_IN).max(1).min(all)
    } else {
        0
    };
    (if sources > 0 { all - ood } else { 0 }, ood)
}

/// The turn order of the offices: which office the `index`-th example is about, and its how-many-th
/// there.
struct RoundRobin {
    offices: Vec<usize>,
    foreign: Option<usize>,
}

impl RoundRobin {
    // Offices for which `has_any` is false take no turns.
    fn new(catalog: &Catalog, has_any: impl Fn(usize) -> bool) -> RoundRobin {
        let last = catalog.offices.len() - 1;
        RoundRobin {
            offices: (0..last).filter(|&office| has_any(office)).collect(),
            foreign: has_any(last).then_some(last),
        }
    }

    fn turn(&self, index: usize) -> Option<(usize, usize)> {
        let foreign_before = index / OUT_OF_REMIT_ONE_IN;
        match self.foreign {
            Some(foreign)
                if index % OUT_OF_REMIT_ONE_IN == OUT_OF_REMIT_ONE_IN - 1
                    || self.offices.is_empty() =>
            {
                Some((
                    foreign,
                    if self.offices.is_empty() {
                        index
                    } else {
                        foreign_before
                    },
                ))
            }
            foreign => {
                let index = if foreign.is_some() {
                    index - foreign_before
                } else {
                    index
                };
                let office = self.offices.get(index.checked_rem(self.offices.len())?)?;
                Some((*office, index / self.offices.len()))
            }
        }
    }
}

/// Plans the training examples.
pub(crate) struct TrainingPlan<'a> {
    catalog: &'a Catalog<'a>,
    turns: RoundRobin,
}

impl<'a> TrainingPlan<'a> {
    /// A plan over the whole catalogue.
    pub(crate) fn new(catalog: &'a Catalog<'a>) -> TrainingPlan<'a> {
        TrainingPlan {
            catalog,
            turns: RoundRobin::new(catalog, |office| !catalog.turns[office].is_empty()),
        }
    }

    /// The slot of the `index`-th example. Later attempts take other phrasings, then other
    /// templates, then other subjects of the same office. `None` if the catalogue is empty.
    pub(crate) fn slot(&self, index: usize, attempt: usize) -> Option<Slot<'a>> {
        let (office, turn) = self.turns.turn(index)?;
        let subjects = &self.catalog.turns[office];
        let rank = (turn + attempt / ATTEMPTS_PER_SUBJECT) % subjects.len();
        let subject = subjects[rank];
        let round = turn / subjects.len() + attempt % ATTEMPTS_PER_SUBJECT;
        let phrasings = &self.catalog.subjects[subject].train;
        let phrasing = phrasings.get(phrasings_used(round).checked_rem(phrasings.len())?)?;
        Some(Slot {
            subject,
            phrasing,
            template: template(round, rank),
            first: round == 0,
        })
    }
}

// Every subject starts with its plain question; beyond that, neighbours are at different places of
// the templates.
fn template(round: usize, rank: usize) -> Template {
    if round == 0 {
        Template::Plain
    } else {
        TEMPLATES[(round + rank * 11) % TEMPLATES.len()]
    }
}

// Each pass over the templates begins one phrasing further on: else a template would always meet
// the same phrasings.
fn phrasings_used(round: usize) -> usize {
    round + round / TEMPLATES.len()
}

/// Attempts at one subject, after which an example turns to the next subject of its office.
const ATTEMPTS_PER_SUBJECT: usize = 24;
/// Attempts after which an example is given up.
pub(crate) const ATTEMPTS: usize = 24 * 40;

/// Plans the validation examples of one kind: held-out phrasings only, of subjects that the
/// training examples have touched.
pub(crate) struct ValidationPlan<'a> {
    held_out: Vec<Vec<(usize, &'a Phrasing)>>,
    offices: Vec<usize>,
}

impl<'a> ValidationPlan<'a> {
    /// A plan over the held-out phrasings, within the offices' remit or outside of it. `trained`
    /// says whether a subject is among the training examples; where an office has no such subject
    /// with a held-out phrasing, all its held-out phrasings are taken.
    pub(crate) fn new(
        catalog: &'a Catalog<'a>,
        out_of_remit: bool,
        trained: impl Fn(usize) -> bool,
    ) -> ValidationPlan<'a> {
        let collect = |office: usize, only_trained: bool| -> Vec<(usize, &'a Phrasing)> {
            let subjects = catalog.turns[office]
                .iter()
                .filter(|&&subject| !only_trained || trained(subject));
            subjects
                .flat_map(|&index| {
                    catalog.subjects[index]
                        .held_out
                        .iter()
                        .map(move |phrasing| (index, phrasing))
                })
                .collect()
        };
        let last = catalog.offices.len() - 1;
        let held_out: Vec<_> = (0..=last)
            .map(|office| {
                Some(collect(office, true))
                    .filter(|found| !found.is_empty())
                    .unwrap_or_else(|| collect(office, false))
            })
            .collect();
        let offices = (0..=last)
            .filter(|&office| (office == last) == out_of_remit && !held_out[office].is_empty())
            .collect();
        ValidationPlan { held_out, offices }
    }

    /// The slot of the `index`-th validation example, as for training.
    pub(crate) fn slot(&self, index: usize, attempt: usize) -> Option<Slot<'a>> {
        let office = self.offices.get(index.checked_rem(self.offices.len())?)?;
        let turn = index / self.offices.len();
        let phrasings = &self.held_out[*office];
        let rank = (turn + attempt / ATTEMPTS_PER_SUBJECT).checked_rem(phrasings.len())?;
        let (subject, phrasing) = phrasings[rank];
        let round = turn / phrasings.len() + attempt % ATTEMPTS_PER_SUBJECT;
        Some(Slot {
            subject,
            phrasing,
            template: VALIDATION_TEMPLATES[round % VALIDATION_TEMPLATES.len()],
            first: round == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::small_knowledge;
    use std::collections::BTreeMap;

    #[test]
    fn offices_and_subjects_take_even_turns() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let plan = TrainingPlan::new(&catalog);
        let mut by_office: BTreeMap<usize, usize> = BTreeMap::new();
        let mut by_subject: BTreeMap<usize, usize> = BTreeMap::new();
        for index in 0..1000 {
            let slot = plan.slot(index, 0).unwrap();
            *by_office
                .entry(catalog.subjects[slot.subject].office)
                .or_default() += 1;
            *by_subject.entry(slot.subject).or_default() += 1;
        }
        assert_eq!(
            by_office.values().copied().collect::<Vec<_>>(),
            [480, 480, 40]
        );
        for turns in &catalog.turns {
            let counts: Vec<usize> = turns.iter().map(|subject| by_subject[subject]).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{counts:?}");
        }
    }

    #[test]
    fn every_training_phrasing_gets_a_turn() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let plan = TrainingPlan::new(&catalog);
        let seen: std::collections::BTreeSet<&str> = (0..400)
            .map(|index| plan.slot(index, 0).unwrap().phrasing.text.as_str())
            .collect();
        let missing: Vec<&str> = catalog
            .subjects
            .iter()
            .flat_map(|subject| &subject.train)
            .map(|phrasing| phrasing.text.as_str())
            .filter(|text| !seen.contains(text))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn validation_uses_held_out_phrasings_of_every_office() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let (within, outside) = validation_counts(&catalog, 75);
        assert_eq!((within, outside), (3, 1));
        let mut offices = std::collections::BTreeSet::new();
        for (count, out_of_remit) in [(within, false), (outside, true)] {
            let plan = ValidationPlan::new(&catalog, out_of_remit, |_| true);
            for index in 0..count {
                let slot = plan.slot(index, 0).unwrap();
                let subject = &catalog.subjects[slot.subject];
                assert!(subject.held_out.contains(slot.phrasing));
                assert_eq!(subject.service().is_none(), out_of_remit);
                offices.insert(subject.office);
            }
        }
        assert_eq!(offices.len(), 3);
    }

    #[test]
    fn large_sets_are_validated_on_enough() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        assert_eq!(validation_counts(&catalog, 2000), (90, 10));
        assert_eq!(validation_counts(&catalog, 500_000), (4500, 500));
        assert_eq!(validation_counts(&catalog, 2), (0, 1));
    }
}
