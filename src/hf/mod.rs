//! Model folders as Hugging Face Transformers writes and reads them. Knows the model's
//! configuration and parameters, not how they are computed with.
//!
//! - [`folder`] saves and loads whole folders;
//! - [`weights`] reads safetensors files, [`mod@write`] writes them.

pub mod folder;
pub mod weights;
pub mod write;

pub use folder::{
    LoadedModel, find_folder, load_folder, load_folder_into, replace_folder, save_folder,
    write_files,
};
