//! Writes `kernels.rs`: a table of all kernels, one typed launcher for each or for each pair
//! `_f16`/`_bf16`, and the constants that the host shares with them.

use std::fs;
use std::path::Path;

use crate::constants;
use crate::nvcc::Fatbins;
use crate::signatures::{Kernel, Kernels, Kind, Parameter, Pointer, Source};
use crate::simulator::Simulator;
use crate::{display, literal};

pub fn write(
    path: &Path,
    kernels: &Kernels,
    fatbins: &Fatbins,
    simulator: &Simulator,
) -> Result<(), String> {
    let all: Vec<Entry> = kernels
        .sources
        .iter()
        .enumerate()
        .flat_map(|(module, source)| source.kernels.iter().map(move |kernel| (module, kernel)))
        .collect();
    for (at, (_, kernel)) in all.iter().enumerate() {
        if all[..at].iter().any(|(_, other)| other.name == kernel.name) {
            return Err(format!("two kernels are named {}", kernel.name));
        }
    }
    let mut text = String::from("// Made by build.rs from the declarations in kernels/.\n\n");
    text += &facts(fatbins, simulator);
    text += &modules(&kernels.sources, fatbins);
    text += &table(&all);
    if matches!(simulator, Simulator::Built) {
        text += &simulated(&all);
    }
    text += &launchers(&kernels.sources, &all)?;
    text += &dynamic_shared(&all);
    for (file, constants) in &kernels.constants {
        text += &constants::rust_module(file, constants);
    }
    fs::write(path, text).map_err(|e| format!("{}: {e}", display(path)))
}

/// A kernel, and the number of its source.
type Entry<'k> = (usize, &'k Kernel);

/// What was built, and why not.
fn facts(fatbins: &Fatbins, simulator: &Simulator) -> String {
    let option = |reason: Option<&String>| match reason {
        None => "None".to_owned(),
        Some(reason) => format!("Some({})", literal(reason)),
    };
    let (archs, no_kernels) = match fatbins {
        Fatbins::Built { archs, .. } => (archs.as_str(), None),
        Fatbins::None(reason) => ("", Some(reason)),
    };
    let no_simulator = match simulator {
        Simulator::Built => None,
        Simulator::None(reason) => Some(reason),
    };
    format!(
        "/// Architectures of the machine code, e.g. `80,86`; empty without kernels for cards.\n\
         pub const ARCHITECTURES: &str = {};\n\
         /// Why this build has no kernels for cards.\n\
         pub const NO_KERNELS: Option<&str> = {};\n\
         /// Why this build has no simulator.\n\
         pub const NO_SIMULATOR: Option<&str> = {};\n\n",
        literal(archs),
        option(no_kernels),
        option(no_simulator)
    )
}

fn modules(sources: &[Source], fatbins: &Fatbins) -> String {
    let images = match fatbins {
        Fatbins::Built { files, .. } => files.as_slice(),
        Fatbins::None(_) => &[],
    };
    let mut text =
        String::from("/// One per file of `kernels/`.\npub static MODULES: &[Module] = &[\n");
    for (at, source) in sources.iter().enumerate() {
        let (image, report) = match images.get(at) {
            Some((image, report)) => (
                format!("include_bytes!({})", literal(&display(image))),
                format!("include_str!({})", literal(&display(report))),
            ),
            None => ("&[]".to_owned(), "\"\"".to_owned()),
        };
        text += &format!(
            "    Module {{ source: {}, image: {image}, ptxas_report: {report} }},\n",
            literal(&format!("{}.cu", source.name))
        );
    }
    text + "];\n\n"
}

fn table(all: &[Entry]) -> String {
    let mut text = String::from("/// All kernels.\npub static KERNELS: &[Kernel] = &[\n");
    for (index, (module, kernel)) in all.iter().enumerate() {
        text += &format!(
            "    Kernel {{ index: {index}, module: {module}, name: c{}, threads: {}, \
             dynamic_shared: {}, parameters: &[{}] }},\n",
            literal(&kernel.name),
            kernel.threads,
            kernel.dynamic,
            parameters(kernel)
        );
    }
    text + "];\n\n"
}

fn simulated(all: &[Entry]) -> String {
    let mut text = String::from("#[cfg(simulator)]\nunsafe extern \"C\" {\n");
    for (_, kernel) in all {
        text += &format!(
            "    fn muni_sim_invoke_{}(arguments: *mut *mut std::ffi::c_void);\n",
            kernel.name
        );
    }
    text += "}\n\n/// The kernels as functions of the simulator, in the order of [`KERNELS`].\n\
             #[cfg(simulator)]\npub static SIMULATED: \
             &[unsafe extern \"C\" fn(*mut *mut std::ffi::c_void)] = &[\n";
    for (_, kernel) in all {
        text += &format!("    muni_sim_invoke_{},\n", kernel.name);
    }
    text + "];\n\n"
}

/// A launcher for each kernel, or for each pair.
fn launchers(sources: &[Source], all: &[Entry]) -> Result<String, String> {
    let mut text = String::new();
    for (index, (module, kernel)) in all.iter().enumerate() {
        let source = &sources[*module];
        if let Some(stem) = kernel.name.strip_suffix("_bf16") {
            if !all.iter().any(|(_, k)| k.name == format!("{stem}_f16")) {
                return Err(format!("{}: there is no {stem}_f16", kernel.name));
            }
        } else if let Some(stem) = kernel.name.strip_suffix("_f16") {
            let other = all
                .iter()
                .position(|(_, k)| k.name == format!("{stem}_bf16"))
                .ok_or_else(|| format!("{}: there is no {stem}_bf16", kernel.name))?;
            same_signature(kernel, all[other].1)?;
            text += &launcher(source, stem, kernel, &[index, other]);
        } else {
            if kernel.parameters.iter().any(|p| is_half(p.kind)) {
                return Err(format!(
                    "{} has a half parameter: name it {0}_f16 or {0}_bf16",
                    kernel.name
                ));
            }
            text += &launcher(source, &kernel.name, kernel, &[index]);
        }
    }
    Ok(text)
}

/// Dynamic shared memory by launcher.
fn dynamic_shared(all: &[Entry]) -> String {
    let mut text = String::from(
        "/// Most bytes of dynamic shared memory, by launcher.\npub mod dynamic_shared {\n",
    );
    // Both of a pair have the same.
    let ones = all
        .iter()
        .filter(|(_, kernel)| !kernel.name.ends_with("_bf16"));
    for (_, kernel) in ones.filter(|(_, kernel)| kernel.dynamic > 0) {
        let name = kernel.name.strip_suffix("_f16").unwrap_or(&kernel.name);
        text += &format!(
            "    /// Of `{name}`.\n    pub const {}: u32 = {};\n",
            name.to_uppercase(),
            kernel.dynamic
        );
    }
    text + "}\n\n"
}

/// The parameters as the table has them.
fn parameters(kernel: &Kernel) -> String {
    let texts = kernel.parameters.iter().map(|parameter| {
        let bytes = if is_half(parameter.kind) { 2 } else { 4 };
        let kind = match parameter.pointer {
            Pointer::No => "Value".to_owned(),
            Pointer::Const => format!("Read({bytes})"),
            Pointer::Mutable => format!("Write({bytes})"),
        };
        format!(
            "Parameter {{ name: {}, kind: ParameterKind::{kind} }}",
            literal(&parameter.name)
        )
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn is_half(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::Bfloat)
}

/// The `_bf16` twin differs from the `_f16` one in its type only.
fn same_signature(f16: &Kernel, bf16: &Kernel) -> Result<(), String> {
    let turned: Vec<Parameter> = f16
        .parameters
        .iter()
        .map(|parameter| Parameter {
            kind: match parameter.kind {
                Kind::Half => Kind::Bfloat,
                kind => kind,
            },
            ..parameter.clone()
        })
        .collect();
    let same = turned == bf16.parameters
        && (f16.threads, f16.dynamic) == (bf16.threads, bf16.dynamic)
        && f16.parameters.iter().all(|p| p.kind != Kind::Bfloat);
    match same {
        true => Ok(()),
        false => Err(format!(
            "{} and {} differ in more than __half and __nv_bfloat16",
            f16.name, bf16.name
        )),
    }
}

/// A C++ name as a Rust one.
fn identifier(name: &str) -> String {
    const KEYWORDS: [&str; 9] = [
        "in", "fn", "let", "loop", "match", "mod", "move", "ref", "type",
    ];
    match KEYWORDS.contains(&name) {
        true => format!("r#{name}"),
        false => name.to_owned(),
    }
}

fn launcher(source: &Source, name: &str, kernel: &Kernel, indices: &[usize]) -> String {
    let generic = indices.len() > 1;
    let mut parameters = String::new();
    let mut pointers = String::new();
    for parameter in &kernel.parameters {
        let base = match parameter.kind {
            Kind::Half | Kind::Bfloat => "E",
            Kind::Float => "f32",
            Kind::Int => "i32",
            Kind::Unsigned => "u32",
        };
        let kind = match parameter.pointer {
            Pointer::No => base.to_owned(),
            Pointer::Const => format!("Ptr<{base}>"),
            Pointer::Mutable => format!("PtrMut<{base}>"),
        };
        let name = identifier(&parameter.name);
        parameters += &format!("    {name}: {kind},\n");
        pointers += &format!("        (&raw const {name}).cast_mut().cast(),\n");
    }
    let (generics, which) = match generic {
        true => (
            "<E: Element>",
            format!(
                "E::pick(&KERNELS[{}], &KERNELS[{}])",
                indices[0], indices[1]
            ),
        ),
        false => ("", format!("&KERNELS[{}]", indices[0])),
    };
    format!(
        "/// Launches `{name}` of `kernels/{file}.cu` in blocks of {threads} threads.\n\
         ///\n/// # Errors\n/// Where the launch is impossible, or the driver fails.\n\
         ///\n/// # Safety\n\
         /// What the kernel reads and writes by its contract lies in live buffers of the driver.\n\
         #[allow(clippy::too_many_arguments)]\n\
         pub unsafe fn {name}{generics}(\n    driver: &dyn Driver,\n    grid: [u32; 3],\n    \
         shared_bytes: u32,\n{parameters}) -> anyhow::Result<()> {{\n    \
         let mut arguments: [*mut std::ffi::c_void; {count}] = [\n{pointers}    ];\n    \
         // SAFETY: the arguments are of the kernel's types, by its signature; the rest is\n    \
         // the caller's promise.\n    \
         unsafe {{ launch(driver, {which}, grid, shared_bytes, &mut arguments) }}\n}}\n\n",
        file = source.name,
        threads = kernel.threads,
        count = kernel.parameters.len(),
    )
}
