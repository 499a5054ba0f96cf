//! Reads the weights of a model folder: one safetensors file or several with an index,
//! memory-mapped, in `f32`, `f16` or `bf16`. Nothing a header says is believed before it is held
//! against the file's length.

use anyhow::{Context, Result, anyhow, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A whole model in one file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// Which of several files holds which tensor.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The safetensors format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// An index names each tensor once; a model that this engine can hold has a few thousand.
const MAX_INDEX_BYTES: u64 = 100_000_000;
/// Elements one task converts: few enough that one tensor keeps all cores busy, enough to be worth
/// a task.
const CHUNK: usize = 1 << 16;

/// The open weight files of one folder.
pub(crate) struct Weights {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

/// A tensor as it lies in its file.
pub(crate) struct StoredTensor<'a> {
    /// File it lies in.
    pub path: &'a Path,
    /// Name in the file.
    pub name: &'a str,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// Element type.
    pub dtype: Dtype,
    /// Little-endian elements.
    pub bytes: &'a [u8],
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
}

impl Weights {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let mut weights = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if dir.join(SINGLE_FILE).exists() {
            weights.add_file(&dir.join(SINGLE_FILE))?;
        } else if dir.join(INDEX_FILE).exists() {
            weights.add_indexed(&dir.join(INDEX_FILE), dir)?;
        } else {
            return Err(no_weights(dir));
        }
        Ok(weights)
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub(crate) fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (name, (file, info)) = self.tensors.get_key_value(name)?;
        let file = &self.files[*file];
        let (start, end) = info.data_offsets;
        Some(StoredTensor {
            path: &file.path,
            name,
            shape: &info.shape,
            dtype: info.dtype,
            bytes: &file.map[file.data_start + start..file.data_start + end],
        })
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let (file, metadata) = MappedFile::open(path)?;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            if let Some((other, _)) = self.tensors.get(&name) {
                bail!(
                    "tensor {name} stands in {} and in {}: expected it once, save the model again",
                    self.files[*other].path.display(),
                    path.display()
                );
            }
            self.tensors.insert(name, (index, info.clone()));
        }
        self.files.push(file);
        Ok(())
    }

    fn add_indexed(&mut self, index: &Path, dir: &Path) -> Result<()> {
        let map = read_index(index)?;
        let names: BTreeSet<&String> = map.values().collect();
        for name in names {
            // An index must not lead out of its folder.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                bail!(
                    "{}: file name {name:?}, expected a plain name in the same folder",
                    index.display()
                );
            }
            if !dir.join(name).exists() {
                bail!(
                    "{} is missing, {} names it: copy all files of the model",
                    dir.join(name).display(),
                    index.display()
                );
            }
            self.add_file(&dir.join(name))?;
        }
        for (tensor, name) in &map {
            let found = self
                .tensors
                .get(tensor)
                .map(|(file, _)| &self.files[*file].path);
            if found != Some(&dir.join(name)) {
                bail!(
                    "{} says that tensor {tensor} is in {name}, it is {}: the files are not of \
                    one model, copy them again",
                    index.display(),
                    found.map_or("in none of the files".to_string(), |path| format!(
                        "in {}",
                        path.display()
                    ))
                );
            }
        }
        Ok(())
    }
}

impl StoredTensor<'_> {
    /// Converts the elements from `first` on into `out`, on all cores. Errors: a dtype that is none
    /// of the three, a range outside the tensor, NaN or infinity.
    pub(crate) fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let width = match self.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => bail!(
                "{}: tensor {} has dtype {other:?}, expected F32, F16 or BF16: save the model \
                unquantized in one of them",
                self.path.display(),
                self.name
            ),
        };
        let bytes = first
            .checked_mul(width)
            .and_then(|start| {
                self.bytes
                    .get(start..start.checked_add(out.len().checked_mul(width)?)?)
            })
            .with_context(|| {
                format!(
                    "{}: tensor {} has {} elements, elements {first}..{first}+{} were asked for",
                    self.path.display(),
                    self.name,
                    self.bytes.len() / width,
                    out.len()
                )
            })?;
        let finite = out
            .par_chunks_mut(CHUNK)
            .zip(bytes.par_chunks(CHUNK * width))
            .map(|(out, bytes)| {
                convert(self.dtype, bytes, out);
                // Branch-free, so that it costs nothing beside the memory traffic.
                out.iter()
                    .fold(true, |finite, value| finite & value.is_finite())
            })
            .reduce(|| true, |a, b| a & b);
        if !finite {
            bail!(
                "{}: tensor {} holds NaN or infinity, expected finite weights: the training \
                diverged or the file is damaged, use another checkpoint",
                self.path.display(),
                self.name
            );
        }
        Ok(())
    }
}

/// `bytes` holds exactly `out.len()` elements of one of the three dtypes.
fn convert(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    // A file made elsewhere may place its data at any byte; the fast ways need alignment and this
    // machine's byte order.
    let fast = cfg!(target_endian = "little");
    match dtype {
        Dtype::F32 => match bytemuck::try_cast_slice::<u8, f32>(bytes) {
            Ok(values) if fast => out.copy_from_slice(values),
            _ => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        },
        Dtype::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(values) if fast => values.convert_to_f32_slice(out),
            _ => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
        },
        _ => match bytemuck::try_cast_slice::<u8, bf16>(bytes) {
            Ok(values) if fast => values.convert_to_f32_slice(out),
            _ => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
        },
    }
}

impl MappedFile {
    fn open(path: &Path) -> Result<(Self, Metadata)> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let len = file
            .metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?
            .len();
        if len < 8 {
            bail!(
                "{} has {len} bytes, expected a safetensors file: copy it again",
                path.display()
            );
        }
        // SAFETY: the map is read-only. It stays valid while the file keeps its length: this engine
        // replaces weight files by renaming, never by writing into them; a person who truncates a
        // file under a running program gets a signal.
        let map = unsafe { Mmap::map(&file) }
            .with_context(|| format!("cannot map {}", path.display()))?;
        let (data_start, metadata) = read_header(path, &map)?;
        let data = map.len() - data_start;
        if data != metadata.data_len() {
            bail!(
                "{} holds {data} bytes of weights, its header describes {}: the file is cut off \
                or damaged, copy it again",
                path.display(),
                metadata.data_len()
            );
        }
        Ok((
            Self {
                path: path.to_path_buf(),
                map,
                data_start,
            },
            metadata,
        ))
    }
}

/// Where the data begins, and the header.
fn read_header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata)> {
    if bytes.starts_with(b"version https://git-lfs") {
        bail!(
            "{} is a Git LFS pointer, expected the weights themselves: run `git lfs pull`",
            path.display()
        );
    }
    let prefix = bytes
        .first_chunk::<8>()
        .with_context(|| format!("{} is too short", path.display()))?;
    let length = u64::from_le_bytes(*prefix);
    let rest = (bytes.len() - 8) as u64;
    if length > rest.min(MAX_HEADER_BYTES) {
        bail!(
            "{}: the header claims {length} bytes, {rest} follow (at most {MAX_HEADER_BYTES} are \
            allowed): not a safetensors file, or cut off",
            path.display()
        );
    }
    let data_start = 8 + length as usize;
    let metadata = serde_json::from_slice(&bytes[8..data_start]).with_context(|| {
        format!(
            "{}: the header is damaged, or names a dtype other than F32, F16 and BF16: copy \
            the file or save the model again",
            path.display()
        )
    })?;
    Ok((data_start, metadata))
}

/// Tensor name -> file name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = read_text(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not an index (expected {{\"weight_map\": {{tensor: file}}}}): copy it again",
            path.display()
        )
    })?;
    if index.weight_map.is_empty() {
        bail!(
            "{} names no tensor, expected those of a Mixtral model: copy it again",
            path.display()
        );
    }
    Ok(index.weight_map)
}

/// A whole text file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let length = fs::metadata(path)
        .with_context(|| format!("cannot open {}", path.display()))?
        .len();
    if length > limit {
        bail!(
            "{} has {length} bytes, expected at most {limit}: not the file of a model",
            path.display()
        );
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Says what the folder holds instead of weights that can be read.
fn no_weights(dir: &Path) -> anyhow::Error {
    let other = fs::read_dir(dir).ok().and_then(|entries| {
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.into_iter().find(|name| {
            [".bin", ".pt", ".pth", ".gguf", ".safetensors"]
                .iter()
                .any(|end| name.ends_with(end))
        })
    });
    let expected = format!("expected {SINGLE_FILE} or {INDEX_FILE}");
    match other {
        Some(name) if name.ends_with(".safetensors") => anyhow!(
            "{} holds {name}, {expected}: rename a single file, or copy the index of several",
            dir.display()
        ),
        Some(name) => anyhow!(
            "{} holds {name}, {expected}: load the model in Transformers and save it with \
            save_pretrained(DIR, safe_serialization=True)",
            dir.display()
        ),
        None => anyhow!(
            "{} holds no weights, {expected}: copy the whole model folder",
            dir.display()
        ),
    }
}
