//! What stands between a citizen and the model: understanding what is asked, the prompt, and a
//! guard that lets nothing out which the knowledge base does not say.
//!
//! - [`understand`](Assistant::understand) finds service, intent and form of address of a question
//!   (`retrieval` is the search behind it);
//! - [`prompt`](Assistant::prompt) lays the conversation out as the model was trained;
//! - [`guard`](Assistant::guard) watches one answer while it is generated and fills in the city's
//!   own values;
//! - `automaton` holds every answer that may be given, so that the model only chooses between true
//!   wordings;
//! - [`exchange`] is the way from a question to its reply, without I/O: every command and the
//!   server drive it;
//! - [`session`] is a conversation in one place.

mod arithmetic;
mod assistant;
mod automaton;
mod classifier;
mod contact;
mod courtesy;
mod emergency;
pub mod exchange;
mod guard;
mod intents;
mod judge;
mod prompt;
mod reference;
mod reply;
mod retrieval;
pub mod session;
mod spelling;
mod topics;
mod understanding;
mod wordings;
mod words;

pub use crate::german::Register;
pub use assistant::{Assistant, OfficeContact, OfficeRef, ServiceRef};
pub use reply::{GuardMode, Reply, Role, ServiceOption, Turn, Verdict};
pub use understanding::Understanding;
