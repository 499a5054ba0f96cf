//! OpenAI's API, as far as a small model for one purpose has it: what a client asks ([`request`])
//! and what it gets ([`response`]). A field that would change the answer and is not supported is
//! refused, never ignored.

pub(super) mod fields;
pub(super) mod request;
pub(super) mod response;
