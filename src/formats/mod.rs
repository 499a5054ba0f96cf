//! Model folders as Hugging Face Transformers writes and reads them. Knows the model's configuration and parameters,
//! not how they are computed with.
//!
//! - [`hf`] saves and loads whole folders;
//! - [`weights`] reads safetensors files, [`mod@write`] writes them;
//! - [`folder`] replaces a folder so that an interruption never leaves half of one.

pub mod folder;
pub mod hf;
pub mod weights;
pub mod write;

pub use folder::{find_folder, replace_folder};
pub use hf::{LoadedModel, load_folder, load_folder_into, save_folder, write_files};
