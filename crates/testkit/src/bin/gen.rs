//! Writes the committed files that are made from the code: the `OpenAPI` document, the help texts and the CRDs.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = sandbox_api::openapi::document(env!("CARGO_PKG_VERSION"));
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    write(&root.join("docs/openapi.json"), &text)?;
    let help = output("task-executor", &["--help"])?;
    write(&root.join("docs/task-executor.help.txt"), &help)?;
    let help = output("sandbox-operator", &["--help"])?;
    write(&root.join("docs/sandbox-operator.help.txt"), &help)?;
    for definition in output("sandbox-operator", &["crds"])?
        .split("---\n")
        .skip(1)
    {
        let name = definition
            .lines()
            .find_map(|line| line.strip_prefix("  name: "))
            .context("a definition has a name")?;
        write(&root.join(format!("crds/{name}.yaml")), definition)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// What a program of ours, built beside this one, prints.
fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let path = std::env::current_exe()?.with_file_name(program);
    let output = Command::new(&path)
        .env_clear() // A help text shows what variables are set to.
        .args(arguments)
        .output()
        .with_context(|| {
            format!(
                "run {}; build it first: cargo build -p {program}",
                path.display()
            )
        })?;
    anyhow::ensure!(output.status.success(), "{program} {arguments:?} failed");
    Ok(String::from_utf8(output.stdout)?)
}
