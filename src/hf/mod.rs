//! Model folders as Hugging Face Transformers writes and reads them. Knows the model's
//! configuration and parameters, not how they are computed with.
//!
//! - `folder` saves and loads whole folders;
//! - `weights` reads safetensors files, `mod@write` writes them.

pub(crate) mod folder;
pub(crate) mod weights;
pub(crate) mod write;

pub use folder::{LoadedModel, find_folder, load_folder, replace_folder, save_folder};
pub(crate) use folder::{load_folder_into, write_files};
