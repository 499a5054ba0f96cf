//! What the model is trained to say and the assistant accepts from it: one place for both, so that
//! the guard knows every sentence of the training set.

pub mod answers;
pub mod courtesy;
pub mod office_naming;
pub mod patterns;
pub mod references;
pub mod referring;
