//! How `build.rs` reads kernels: right ones, and mistakes that must not become launchers.

#[path = "../../build/signatures.rs"]
#[allow(dead_code)]
pub mod parser;

use parser::{Kind, Pointer, parse};

#[test]
fn entry_points_are_read() {
    let text = r#"
        // extern "C" __global__ void commented(int a) {}
        template <class T> __device__ void helper(T* x) {}
        extern "C" __global__ void __launch_bounds__(128, 2) MAX_DYN_SMEM(65536)
            scale_fwd_f16(__half* __restrict__ out, const __half* in, /* how
            much */ float by, unsigned int n, const uint32_t* index, int* counts) { helper(out); }
    "#;
    let kernels = parse(text).unwrap();
    assert_eq!(kernels.len(), 1);
    let kernel = &kernels[0];
    assert_eq!(
        (kernel.name.as_str(), kernel.threads, kernel.dynamic),
        ("scale_fwd_f16", 128, 65536)
    );
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

#[test]
fn mistakes_are_named_with_their_line() {
    let head = "\nextern \"C\" __global__ void __launch_bounds__(64)";
    for (text, word) in [
        (format!("{head} f(double x) {{}}"), "line 2: `double`"),
        (format!("{head} f(__half x) {{}}"), "x is a half by value"),
        (format!("{head} f(int) {{}}"), "without a type or a name"),
        (format!("{head} f(int x"), "ends within"),
        (
            "extern \"C\" __global__ void f(int x) {}".into(),
            "__launch_bounds__",
        ),
        (
            "extern \"C\" __global__ void __launch_bounds__(kThreads) f(int x) {}".into(),
            "`kThreads` must be a plain number",
        ),
        (
            "extern \"C\" __global__ void __launch_bounds__(2048) f(int x) {}".into(),
            "1 to 1024",
        ),
        ("__global__ void f(int x) {}".into(), "not extern"),
    ] {
        let message = parse(&text).unwrap_err();
        assert!(message.contains(word), "{text}: {message}");
    }
}

/// Every launcher belongs to a kernel that a source declares, in the order in which the table has them.
#[test]
fn the_table_is_what_the_sources_declare() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let sources = parser::read_folder(&folder).unwrap();
    let declared: Vec<_> = sources
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
