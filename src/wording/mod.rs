//! What the model is trained to say and the assistant accepts from it: one place for both, so that
//! the guard knows every sentence of the training set.

pub(crate) mod answers;
pub(crate) mod contact;
pub(crate) mod courtesy;
pub(crate) mod office_naming;
pub(crate) mod patterns;
pub(crate) mod references;
pub(crate) mod referring;
