//! Tiles in plain Rust.

use super::Tile;

/// A tile of `M` rows.
///
/// # Safety
/// As [`super::run_tile`] with `M` rows and 16 columns.
pub(crate) unsafe fn tile<const M: usize>(tile: &Tile) {
    let t = *tile;
    let mut acc = [[0.0f32; 16]; M];
    // SAFETY: every address lies inside the extents promised to `run_tile`.
    unsafe {
        for p in 0..t.k {
            let b = std::slice::from_raw_parts(t.b.add(p * 16), 16);
            for (r, row) in acc.iter_mut().enumerate() {
                let x = *t.a.add(r * t.a_row + p * t.a_col);
                for (sum, &y) in row.iter_mut().zip(b) {
                    *sum += x * y;
                }
            }
        }
        for (r, row) in acc.iter_mut().enumerate() {
            if !t.init.is_null() {
                for (sum, x) in row
                    .iter_mut()
                    .zip(std::slice::from_raw_parts(t.init.add(r * t.init_row), 16))
                {
                    *sum += x;
                }
            }
            std::slice::from_raw_parts_mut(t.c.add(r * t.c_row), 16).copy_from_slice(row);
        }
    }
}
