//! Model folders: what Transformers saved is read, what is saved is what Transformers would have
//! saved, damage is named.

use muni_engine::hf::{LoadedModel, load_folder, replace_folder, save_folder};
use muni_engine::model::{Batch, Model, ModelConfig, Parameters, Workspace, random_weights};
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::tokenizer::Tokenizer;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Integers of a tensor in a fixture.
pub fn integers(path: &Path, name: &str) -> Vec<u32> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I32);
    bytemuck::pod_collect_to_vec(tensor.data())
}

fn floats(path: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
}

pub fn upload(device: &CpuDevice, loaded: LoadedModel) -> Model<CpuDevice> {
    let parameters = Parameters::upload(device, &loaded.config, &loaded.fused).unwrap();
    Model::new(loaded.config, parameters).unwrap()
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, TensorView)| {
        (
            name.to_string(),
            (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
        )
    };
    file.iter().map(tensor).collect()
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn copy_folder(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// A copy of the smallest float32 fixture.
fn small() -> tempfile::TempDir {
    copy_folder(&fixture("mha"))
}

fn error_of(dir: &Path) -> String {
    match load_folder(dir) {
        Ok(_) => panic!("{} was loaded", dir.display()),
        Err(error) => format!("{error:#}"),
    }
}

fn assert_names(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[test]
fn logits_of_what_transformers_saved() {
    for (name, file) in [
        ("gqa", "oracle.safetensors"),
        ("odd", "oracle.safetensors"),
        ("mha", "oracle.safetensors"),
        ("gqa_f16", "logits.safetensors"),
        ("gqa_bf16", "logits.safetensors"),
        ("gqa_sharded", "logits.safetensors"),
    ] {
        let path = fixture(name).join(file);
        let tokens = integers(&path, "input_ids");
        let segments = match file {
            "oracle.safetensors" => integers(&path, "segments"),
            _ => vec![0, tokens.len() as u32],
        };
        let mut batch = Batch::new();
        for ends in segments.windows(2) {
            let example = &tokens[ends[0] as usize..ends[1] as usize];
            batch.push_segment(example, example).unwrap();
        }
        let device = CpuDevice::new();
        let model = upload(&device, load_folder(&fixture(name)).unwrap());
        let count = tokens.len();
        let mut workspace =
            Workspace::for_inference(&device, &model.config, count, segments.len(), 1).unwrap();
        let ours = model.logits(&device, &batch, &mut workspace).unwrap();
        let theirs = floats(&path, "logits");
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            values.map(|v| f64::from(v) * f64::from(v)).sum()
        };
        let difference = square(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
        let error = (difference / square(&mut theirs.iter().copied())).sqrt();
        assert!(error < 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn saving_gives_back_every_tensor_that_transformers_wrote() {
    for name in ["gqa", "odd", "mha"] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("runs/a/best_model");
        let loaded = load_folder(&fixture(name)).unwrap();
        save_folder(&target, &loaded.config, &loaded.fused, None).unwrap();
        let file = target.join("model.safetensors");
        let theirs = read_tensors(&fixture(name).join("model.safetensors"));
        assert_eq!(read_tensors(&file), theirs, "{name}");
        let bytes = fs::read(&file).unwrap();
        let (length, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let format = HashMap::from([("format".to_string(), "pt".to_string())]);
        assert_eq!(metadata.metadata(), &Some(format));
        assert_eq!(length % 8, 0);

        let again = load_folder(&target).unwrap();
        assert_eq!(again.config, loaded.config);
        assert_eq!(again.fused, loaded.fused);
    }
}

/// Vocabulary of GPT-2, everything else tiny.
pub fn tiny_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        num_local_experts: 3,
        max_position_embeddings: 48,
        ..ModelConfig::default_47m()
    }
}

#[test]
fn a_saved_folder_is_whole_and_the_same_every_time() {
    let config = tiny_config();
    let weights = random_weights(&config, 1);
    let tokenizer = Tokenizer::gpt2().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    save_folder(&a, &config, &weights, Some(&tokenizer)).unwrap();
    save_folder(&b, &config, &weights, Some(&tokenizer)).unwrap();
    // Over an existing one, too.
    save_folder(&b, &config, &weights, Some(&tokenizer)).unwrap();
    let files = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    ];
    for file in files {
        let same = fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap();
        assert!(same, "{file}");
    }
    let generation: Value =
        serde_json::from_slice(&fs::read(a.join("generation_config.json")).unwrap()).unwrap();
    assert_eq!(generation["eos_token_id"], json!(50256));
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "leftovers: {names:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |file: &str| fs::metadata(a.join(file)).unwrap().permissions().mode();
        assert_eq!(mode("model.safetensors"), mode("config.json"));
    }
}

#[test]
fn weights_that_are_not_the_configurations_are_not_saved() {
    let config = tiny_config();
    let mut weights = random_weights(&config, 1);
    weights[1].pop();
    let folder = tempfile::tempdir().unwrap();
    let error = save_folder(&folder.path().join("a"), &config, &weights, None).unwrap_err();
    assert_names(&format!("{error:#}"), &["[804112, 15,", "[804112, 16,"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn marked_folder(dir: &Path, content: &str) {
    replace_folder(dir, "config.json", |partial| {
        Ok(fs::write(partial.join("config.json"), content)?)
    })
    .unwrap();
}

fn content(dir: &Path) -> String {
    let found = muni_engine::hf::find_folder(dir).unwrap();
    fs::read_to_string(found.join("config.json")).unwrap()
}

#[test]
fn a_save_that_fails_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    for existing in [false, true] {
        let error = replace_folder(&dir, "config.json", |partial| {
            fs::write(partial.join("config.json"), "half")?;
            anyhow::bail!("no space left on device")
        })
        .unwrap_err();
        assert_names(&format!("{error:#}"), &["model", "no space left"]);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, usize::from(existing));
        if existing {
            assert_eq!(content(&dir), "old");
        } else {
            marked_folder(&dir, "old");
        }
    }
}

#[test]
fn a_save_that_is_killed_leaves_a_good_folder_at_every_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let dir = path("model");
    // Killed while writing.
    marked_folder(&dir, "old");
    fs::create_dir(path(".model.partial")).unwrap();
    fs::write(path(".model.partial/config.json"), "half").unwrap();
    assert_eq!(content(&dir), "old");
    // Killed between the two renames: the old one is found, and stays until a save is whole.
    fs::rename(&dir, path(".model.previous")).unwrap();
    assert_eq!(content(&dir), "old");
    let failed = replace_folder(&dir, "config.json", |_| anyhow::bail!("full"));
    assert!(failed.is_err());
    assert_eq!(content(&dir), "old");
    assert!(dir.is_dir());
    // Killed before the old one was removed.
    fs::rename(&dir, path(".model.previous")).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.json"), "new").unwrap();
    assert_eq!(content(&dir), "new");
    marked_folder(&dir, "newer");
    assert_eq!(content(&dir), "newer");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_not_a_model_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let error = replace_folder(folder.path(), "config.json", |_| Ok(())).unwrap_err();
    assert_names(&format!("{error:#}"), &["holds no config.json"]);
    assert!(folder.path().join("letter.txt").exists());
}

#[test]
fn experts_may_be_fused_as_transformers_holds_them() {
    let folder = small();
    let path = folder.path().join("model.safetensors");
    let mut fused = Tensors::new();
    for (name, (dtype, shape, data)) in read_tensors(&path) {
        let Some((layer, part)) = name.split_once(".block_sparse_moe.") else {
            fused.insert(name, (dtype, shape, data));
            continue;
        };
        if part == "gate.weight" {
            fused.insert(format!("{layer}.mlp.gate.weight"), (dtype, shape, data));
            continue;
        }
        // Sorted by name: w1, w2, w3 of expert 0, then of expert 1 (there are fewer than ten).
        let target = match part.ends_with(".w2.weight") {
            true => format!("{layer}.mlp.experts.down_proj"),
            false => format!("{layer}.mlp.experts.gate_up_proj"),
        };
        let entry = fused
            .entry(target)
            .or_insert((dtype, vec![0, 0, shape[1]], Vec::new()));
        entry.2.extend(data);
    }
    let config = load_folder(folder.path()).unwrap();
    for (name, (_, shape, data)) in &mut fused {
        if name.contains("mlp.experts") {
            shape[0] = config.config.num_local_experts;
            shape[1] = data.len() / 4 / shape[0] / shape[2];
        }
    }
    write_tensors(&path, &fused);
    assert_eq!(load_folder(folder.path()).unwrap().fused, config.fused);
}

#[test]
fn data_may_begin_at_any_byte() {
    let folder = small();
    let path = folder.path().join("model.safetensors");
    let expected = load_folder(folder.path()).unwrap().fused;
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for more in 1..4 {
        let mut shifted = ((length + more) as u64).to_le_bytes().to_vec();
        shifted.extend(&bytes[8..8 + length]);
        shifted.extend(vec![b' '; more]);
        shifted.extend(&bytes[8 + length..]);
        fs::write(&path, shifted).unwrap();
        assert!(load_folder(folder.path()).unwrap().fused == expected);
    }
}

#[test]
fn a_stored_head_must_be_the_embedding() {
    let folder = small();
    let path = folder.path().join("model.safetensors");
    let mut tensors = read_tensors(&path);
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), embedding);
    write_tensors(&path, &tensors);
    load_folder(folder.path()).unwrap();
    tensors.get_mut("lm_head.weight").unwrap().2[0] ^= 1;
    write_tensors(&path, &tensors);
    assert_names(
        &error_of(folder.path()),
        &["model.safetensors", "lm_head.weight", "untied"],
    );
}

#[test]
fn wrong_tensors_are_named() {
    let norm = "model.norm.weight";
    type Change = fn(&mut Tensors);
    let cases: [(Change, &[&str]); 7] = [
        (
            |t| {
                t.remove("model.norm.weight");
            },
            &["model.norm.weight is missing", "[32]"],
        ),
        (
            |t| {
                let head = t["model.norm.weight"].clone();
                t.insert("model.layers.7.extra".into(), head);
            },
            &["model.layers.7.extra", "unknown"],
        ),
        (
            |t| t.get_mut("model.norm.weight").unwrap().1 = vec![4, 8],
            &["model.norm.weight has shape [4, 8]", "expected [32]"],
        ),
        (
            |t| t.get_mut("model.norm.weight").unwrap().0 = Dtype::I32,
            &["model.norm.weight has dtype I32", "BF16"],
        ),
        (
            |t| {
                let tensor = t.get_mut("model.norm.weight").unwrap();
                *tensor = (Dtype::F64, vec![32], vec![0; 256]);
            },
            &["model.norm.weight has dtype F64"],
        ),
        (
            |t| {
                let tensor = t.get_mut("model.norm.weight").unwrap();
                *tensor = (Dtype::I8, vec![32], vec![0; 32]);
            },
            &["model.norm.weight has dtype I8"],
        ),
        (
            |t| {
                let data = &mut t.get_mut("model.norm.weight").unwrap().2;
                data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            },
            &["model.norm.weight holds NaN"],
        ),
    ];
    for (change, parts) in cases {
        let folder = small();
        let path = folder.path().join("model.safetensors");
        let mut tensors = read_tensors(&path);
        assert!(tensors.contains_key(norm));
        change(&mut tensors);
        write_tensors(&path, &tensors);
        assert_names(&error_of(folder.path()), parts);
    }
}

#[test]
fn damaged_files_are_named() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 9] = [
        (|b| b.truncate(b.len() - 1), "cut off or damaged"),
        (|b| b.truncate(100), "the header claims"),
        (|b| b.clear(), "0 bytes"),
        (|b| b.push(0), "cut off or damaged"),
        (|b| b[..8].fill(0xff), "the header claims"),
        (|b| b[8] = b'x', "the header is damaged"),
        (|b| b[9] = 0xff, "the header is damaged"),
        (
            |b| *b = b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "Git LFS",
        ),
        (
            |b| {
                let at = b.windows(5).position(|w| w == b"\"F32\"").unwrap();
                b[at + 2..at + 4].copy_from_slice(b"99");
            },
            "F99",
        ),
    ];
    for (change, part) in cases {
        let folder = small();
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        assert_names(&error_of(folder.path()), &["model.safetensors", part]);
    }
}

#[test]
fn no_single_damaged_header_byte_panics() {
    let folder = small();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for at in (0..600).step_by(3) {
        for flip in [1, 0x10, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            fs::write(&path, damaged).unwrap();
            let _ = load_folder(folder.path());
        }
    }
}

#[test]
fn missing_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    assert_names(&error_of(&dir.join("none")), &["none does not exist"]);
    assert_names(&error_of(&fixture("mha/config.json")), &["is a file"]);
    assert_names(&error_of(dir), &["config.json is missing"]);
    fs::copy(fixture("mha/config.json"), dir.join("config.json")).unwrap();
    assert_names(&error_of(dir), &["holds no weights"]);
    for (name, part) in [
        ("model-q8.gguf", "model-q8.gguf"),
        ("pytorch_model.bin", "safe_serialization"),
        ("weights.safetensors", "rename"),
    ] {
        for old in ["model-q8.gguf", "pytorch_model.bin"] {
            let _ = fs::remove_file(dir.join(old));
        }
        fs::write(dir.join(name), "").unwrap();
        assert_names(&error_of(dir), &[name, part]);
    }
}

#[test]
fn config_that_does_not_fit_the_weights_allocates_nothing() {
    for (field, value, part) in [
        (
            "vocab_size",
            json!(4_000_000_000u32),
            "model.embed_tokens.weight",
        ),
        ("num_hidden_layers", json!(9_000_000), "9000000 layers"),
        ("num_local_experts", json!(80_000_000), "80000000 experts"),
        ("num_hidden_layers", json!(3), "model.layers.2."),
        ("num_hidden_layers", json!(1), "unknown"),
        (
            "intermediate_size",
            json!(17),
            "shape [16, 32], expected [17, 32]",
        ),
    ] {
        let folder = small();
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert_names(&error_of(folder.path()), &[part]);
    }
}

#[test]
fn damaged_indexes_are_named() {
    let index = "model.safetensors.index.json";
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 5] = [
        (
            |v| v["weight_map"]["model.norm.weight"] = json!("../x.safetensors"),
            &["\"../x.safetensors\"", "plain name"],
        ),
        (
            |v| v["weight_map"]["model.norm.weight"] = json!("model-9.safetensors"),
            &["model-9.safetensors is missing"],
        ),
        (
            |v| v["weight_map"]["ghost"] = json!("model-00001-of-00005.safetensors"),
            &["ghost", "in none of the files"],
        ),
        (|v| v["weight_map"] = json!({}), &["names no tensor"]),
        (|v| *v = json!([1]), &["not an index"]),
    ];
    for (change, parts) in cases {
        let folder = copy_folder(&fixture("gqa_sharded"));
        let path = folder.path().join(index);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        assert_names(&error_of(folder.path()), parts);
    }
    let folder = copy_folder(&fixture("gqa_sharded"));
    let shard = |number: u8| {
        folder
            .path()
            .join(format!("model-0000{number}-of-00005.safetensors"))
    };
    fs::copy(shard(2), shard(3)).unwrap();
    assert_names(&error_of(folder.path()), &["stands in", "and in"]);
}
