//! The custom resource definitions as text.

use sandbox_api::crd;

/// All definitions as YAML documents, in the order in which they are installed.
///
/// # Errors
/// When one can't be written as YAML.
pub fn yaml() -> anyhow::Result<String> {
    let mut text = String::new();
    for definition in crd::all() {
        text += "---\n";
        text += &document(&definition)?;
    }
    Ok(text)
}

/// One definition as a YAML document.
///
/// # Errors
/// When it can't be written as YAML.
pub fn document<T: serde::Serialize>(definition: &T) -> anyhow::Result<String> {
    // By way of a JSON value, in which members are sorted.
    Ok(serde_saphyr::to_string(&serde_json::to_value(definition)?)?)
}
