//! `--print-config`: the effective values, under the names of their flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::Args;
use super::duration;

/// One field per flag, in the order of the help.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Printed<'a> {
    data_dir: &'a Path,
    reconcile_interval: String,
    max_concurrent_tasks: usize,
    max_tasks: usize,
    termination_grace_period: String,
    task_ttl_after_finished: String,
    log_max_bytes: u64,
    durability: &'static str,
    shutdown_policy: Option<&'static str>,
    volume: BTreeMap<&'a str, &'a Path>,
    enable_sidecar_mode: bool,
    main_container_name: &'a str,
    enable_container_mode: bool,
    cri_socket: &'a Path,
    listen_addr: String,
    max_request_bytes: usize,
    auth_token_file: &'a Option<PathBuf>,
    tls_cert_file: &'a Option<PathBuf>,
    tls_key_file: &'a Option<PathBuf>,
    tls_client_ca_file: &'a Option<PathBuf>,
    log_format: &'static str,
    log_level: String,
}

/// The values as one JSON object, a flag a line. A path that is not UTF-8 is left out, and said so.
pub(super) fn as_json(args: &Args) -> String {
    let ttl = args.task_ttl_after_finished.0;
    let printed = Printed {
        data_dir: &args.data_dir,
        reconcile_interval: duration::show(args.reconcile_interval),
        max_concurrent_tasks: args.max_concurrent_tasks,
        max_tasks: args.max_tasks,
        termination_grace_period: duration::show(args.termination_grace_period),
        task_ttl_after_finished: ttl.map_or_else(|| "off".to_owned(), duration::show),
        log_max_bytes: args.log_max_bytes,
        durability: args.durability.0.as_str(),
        shutdown_policy: args.shutdown_policy.map(|policy| policy.0.as_str()),
        volume: args
            .volume
            .iter()
            .map(|v| (v.name.as_str(), v.host_path.as_path()))
            .collect(),
        enable_sidecar_mode: args.enable_sidecar_mode,
        main_container_name: &args.main_container_name,
        enable_container_mode: args.enable_container_mode,
        cri_socket: &args.cri_socket,
        listen_addr: args.listen_addr.to_string(),
        max_request_bytes: args.max_request_bytes,
        auth_token_file: &args.auth_token_file,
        tls_cert_file: &args.tls_cert_file,
        tls_key_file: &args.tls_key_file,
        tls_client_ca_file: &args.tls_client_ca_file,
        log_format: args.log_format.0.as_str(),
        log_level: args.log_level.to_string(),
    };
    match serde_json::to_string_pretty(&printed) {
        Ok(json) => format!("{json}\n"),
        Err(error) => format!("{{\"error\":{:?}}}\n", error.to_string()),
    }
}
