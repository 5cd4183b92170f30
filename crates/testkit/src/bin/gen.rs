//! Writes the committed files that are made from the code: the `OpenAPI` document and the help text.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = sandbox_api::openapi::document(env!("CARGO_PKG_VERSION"));
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    std::fs::write(root.join("docs/openapi.json"), text).context("write docs/openapi.json")?;
    let me = std::env::current_exe()?;
    let agent = me.with_file_name("task-executor");
    let help = Command::new(&agent)
        .arg("--help")
        .output()
        .with_context(|| {
            format!(
                "run {}; build it first: cargo build -p task-executor",
                agent.display()
            )
        })?;
    anyhow::ensure!(help.status.success(), "--help failed");
    std::fs::write(root.join("docs/task-executor.help.txt"), help.stdout)
        .context("write docs/task-executor.help.txt")
}
