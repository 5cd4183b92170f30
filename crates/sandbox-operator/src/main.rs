//! `sandbox-operator`: see `--help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use sandbox_operator::config::{Args, Command, LogFormat, RunArgs};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args = Args::read();
    match args.command {
        Some(Command::Crds) => print_crds(),
        Some(Command::Run(run)) => run_operator(*run),
        None => run_operator(args.run),
    }
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a command"
)]
fn print_crds() -> ExitCode {
    match sandbox_operator::crds::yaml() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sandbox-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn run_operator(args: RunArgs) -> ExitCode {
    log(&args);
    let config = match args.check() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("sandbox-operator: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sandbox-operator: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: sandbox_operator::config::Config) -> anyhow::Result<()> {
    for flag in &config.without_meaning {
        tracing::warn!("--{flag} has no meaning here and is passed over");
    }
    let client = sandbox_operator::connect::client(config.kubeconfig.as_deref()).await?;
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = std::pin::pin!(sandbox_operator::run(config, client, stop.clone()));
    for signals in 0.. {
        tokio::select! {
            result = &mut running => return result,
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        if signals > 0 {
            anyhow::bail!("told to stop twice");
        }
        tracing::info!("told to stop");
        stop.cancel();
    }
    Ok(())
}

fn log(args: &RunArgs) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(args.log_level)
        .with_target(false)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
