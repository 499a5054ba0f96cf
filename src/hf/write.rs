//! Writes a safetensors file as a stream from borrowed slices: no copy of the weights, the same
//! bytes every time.

use anyhow::{Context, Result, bail};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// One `f32` tensor to write.
pub(crate) struct Tensor<'a> {
    /// Name in the file.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major: as many as the shape says.
    pub values: &'a [f32],
}

/// Writes `tensors` to `path` in order of their names, as Transformers does, with the metadata it
/// looks for. The file gets the permissions any new file gets. Errors: a length that is not the
/// shape's; the disk.
pub(crate) fn write_safetensors(path: &Path, mut tensors: Vec<Tensor>) -> Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let header = header(&tensors).with_context(|| format!("cannot write {}", path.display()))?;
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    stream(file, &header, &tensors).with_context(|| {
        let bytes: usize = tensors
            .iter()
            .map(|tensor| size_of_val(tensor.values))
            .sum();
        format!(
            "cannot write {} ({bytes} bytes of weights): is the disk full?",
            path.display()
        )
    })
}

/// Length prefix and JSON, padded so that the data is aligned to 8 bytes.
fn header(tensors: &[Tensor]) -> Result<Vec<u8>> {
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let elements: usize = tensor.shape.iter().product();
        if elements != tensor.values.len() {
            bail!(
                "tensor {} has {} values, its shape {:?} needs {elements}",
                tensor.name,
                tensor.values.len(),
                tensor.shape
            );
        }
        let end = offset + size_of_val(tensor.values);
        infos.push((
            tensor.name.clone(),
            TensorInfo {
                dtype: Dtype::F32,
                shape: tensor.shape.clone(),
                data_offsets: (offset, end),
            },
        ));
        offset = end;
    }
    // Transformers refuses a file without it. One entry: a second one would make the bytes depend
    // on the map's order.
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let mut json = serde_json::to_vec(&Metadata::new(Some(format), infos)?)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn stream(file: File, header: &[u8], tensors: &[Tensor]) -> Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    writer.write_all(header)?;
    for tensor in tensors {
        if cfg!(target_endian = "little") {
            writer.write_all(bytemuck::cast_slice(tensor.values))?;
        } else {
            for value in tensor.values {
                writer.write_all(&value.to_le_bytes())?;
            }
        }
    }
    writer.flush()?;
    Ok(())
}
