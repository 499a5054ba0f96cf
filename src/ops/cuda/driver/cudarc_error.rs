//! What the CUDA driver says when a call fails.

use anyhow::anyhow;
use cudarc::driver::result::DriverError;

pub(super) fn driver_error(what: &str) -> impl FnOnce(DriverError) -> anyhow::Error + '_ {
    move |error| {
        let name = error.error_name().map(|name| name.to_string_lossy());
        let text = error.error_string().map(|text| text.to_string_lossy());
        anyhow!(
            "{what}: the CUDA driver says {}: {}",
            name.unwrap_or_default(),
            text.unwrap_or_default()
        )
    }
}
