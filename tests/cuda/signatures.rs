//! How `build.rs` reads kernels: right ones, and mistakes that must not become launchers.

use super::parser::constants::Scope;
use super::parser::signatures::{Kernel, Kind, Pointer, parse, read_folder};
use std::path::Path;

fn kernels(text: &str) -> Result<Vec<Kernel>, String> {
    parse(text, &Scope::default()).map(|(kernels, _)| kernels)
}

#[test]
fn entry_points_are_read() {
    let text = r#"
        // extern "C" __global__ void commented(int a) {}
        constexpr int kThreads = 128;
        template <class T> __device__ void helper(T* x) {}
        extern "C" __global__ void __launch_bounds__(kThreads, 2) MAX_DYN_SMEM(512 * kThreads)
            scale_fwd_f16(__half* __restrict__ out, const __half* in, /* how
            much */ float by, unsigned int n, const uint32_t* index, int* counts) { helper(out); }
    "#;
    let kernels = kernels(text).unwrap();
    assert_eq!(kernels.len(), 1);
    let kernel = &kernels[0];
    assert_eq!(
        (kernel.name.as_str(), kernel.threads, kernel.dynamic),
        ("scale_fwd_f16", 128, 65536)
    );
    assert_eq!(kernel.entry, None);
    let found: Vec<_> = kernel
        .parameters
        .iter()
        .map(|p| (p.name.as_str(), p.kind, p.pointer))
        .collect();
    assert_eq!(
        found,
        [
            ("out", Kind::Half, Pointer::Mutable),
            ("in", Kind::Half, Pointer::Const),
            ("by", Kind::Float, Pointer::No),
            ("n", Kind::Unsigned, Pointer::No),
            ("index", Kind::Unsigned, Pointer::Const),
            ("counts", Kind::Int, Pointer::Mutable),
        ]
    );
}

const TILES: &str = r"
    namespace gemm {
    constexpr int kThreads = 128;
    template <int M_> struct Tile { static constexpr int M = M_, Bytes = 384 * M; };
    using Large = Tile<128>;
    using Small = Tile<64>;
    }";

#[test]
fn a_declaration_becomes_an_entry_point_for_each_variant() {
    let text = format!(
        "{TILES}
        VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
        LAUNCH_BOUNDS(gemm::kThreads, 4)
        MAX_DYN_SMEM(S::Bytes)
        template <class T, class S>
        KERNEL linear_fwd(
            T* __restrict__ y, const T* x, int rows) {{ }}"
    );
    let kernels = kernels(&text).unwrap();
    let found: Vec<_> = kernels
        .iter()
        .map(|k| (k.name.as_str(), k.threads, k.dynamic, k.parameters[1].kind))
        .collect();
    assert_eq!(
        found,
        [
            ("linear_fwd_f16", 128, 49_152, Kind::Half),
            ("linear_small_fwd_f16", 128, 24_576, Kind::Half),
            ("linear_fwd_bf16", 128, 49_152, Kind::Bfloat),
            ("linear_small_fwd_bf16", 128, 24_576, Kind::Bfloat),
        ]
    );
    assert_eq!(
        kernels[3].entry.as_deref().unwrap(),
        "extern \"C\" __global__ void __launch_bounds__(128, 4) linear_small_fwd_bf16(\
         __nv_bfloat16* __restrict__ y, const __nv_bfloat16* x, int rows) {\n  \
         linear_fwd<__nv_bfloat16, gemm::Small>(y, x, rows);\n}\n"
    );
}

#[test]
fn numbers_and_switches_of_a_variant_go_into_its_name() {
    let text = "
        VARIANTS((D, KEYS, KEEP) = (64, 32, true) | (128, 16, false), Trans = false | true)
        LAUNCH_BOUNDS(64)
        MAX_DYN_SMEM(4 * KEYS * D + (KEEP ? 0 : 2 * D))
        template <int D, int KEYS, bool KEEP, bool Trans>
        KERNEL attention_dkv(int* out) {}";
    let kernels = kernels(text).unwrap();
    let found: Vec<_> = kernels
        .iter()
        .map(|k| (k.name.as_str(), k.dynamic))
        .collect();
    assert_eq!(
        found,
        [
            ("attention_dkv_d64", 8192),
            ("attention_dkv_d64_trans", 8192),
            ("attention_dkv_d128", 8448),
            ("attention_dkv_d128_trans", 8448),
        ]
    );
    let entry = kernels[1].entry.as_deref().unwrap();
    assert!(
        entry.contains("attention_dkv<64, 32, true, true>(out);"),
        "{entry}"
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    let head = "\nextern \"C\" __global__ void __launch_bounds__(64)";
    let variants = |axes: &str| {
        format!(
            "VARIANTS({axes})
LAUNCH_BOUNDS(64)
\
             template <class T, int D>
KERNEL f_fwd(T* x) {{}}"
        )
    };
    for (text, word) in [
        (format!("{head} f(double x) {{}}"), "line 2: `double`"),
        (format!("{head} f(__half x) {{}}"), "x is a half by value"),
        (format!("{head} f(int) {{}}"), "without a type or a name"),
        (format!("{head} f(int x"), "ends within"),
        (
            "extern \"C\" __global__ void f(int x) {}".into(),
            "launch bounds",
        ),
        (
            "extern \"C\" void __launch_bounds__(64) f(int x) {}".into(),
            "__global__",
        ),
        (
            "extern \"C\" __global__ void __launch_bounds__(kThreads) f(int x) {}".into(),
            "`kThreads` is no integer constant",
        ),
        (
            "extern \"C\" __global__ void __launch_bounds__(2048) f(int x) {}".into(),
            "1 to 1024",
        ),
        ("__global__ void f(int x) {}".into(), "not extern"),
        (
            "VARIANTS(T = f16)\ntemplate <class T>\nKERNEL f(T* x) {}".into(),
            "launch bounds",
        ),
        (
            "template <class T>\nKERNEL f(T* x) {}".into(),
            "line 2: a KERNEL without VARIANTS",
        ),
        (
            "VARIANTS(T = f16)\nLAUNCH_BOUNDS(64)\ntemplate <class T>\nvoid f(T* x) {}".into(),
            "KERNEL must stand before",
        ),
        (variants("T = f16"), "the template has"),
        (variants("D = 1, T = f16"), "the template has"),
        (variants("T = f16, D = f16"), "f16 is no argument for int D"),
        (variants("T = f16, D = (1, 2)"), "of another length"),
        (variants("T = f16; D = 1"), "`;` in VARIANTS"),
    ] {
        let message = kernels(&text).unwrap_err();
        assert!(message.contains(word), "{text}: {message}");
    }
}

/// Every launcher belongs to a kernel that a source declares, in the order in which the table has
/// them.
#[test]
fn the_table_is_what_the_sources_declare() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let declared = read_folder(&folder).unwrap();
    let declared: Vec<_> = declared
        .sources
        .iter()
        .flat_map(|source| source.kernels.iter().map(|kernel| kernel.name.clone()))
        .collect();
    let table = muni_engine::ops::cuda::kernels::KERNELS;
    let found: Vec<_> = table
        .iter()
        .map(|kernel| kernel.name().to_owned())
        .collect();
    assert_eq!(found, declared);
    assert!(found.len() >= 20, "{found:?}");
}
