//! The command line of the benchmark.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// What is printed for `--help`.
pub(crate) const HELP: &str = "\
Usage: agent-bench --agent PATH [--helper PATH] [--out FILE] [--only NAME[,NAME]] [--runs N] [--quick]

  --agent PATH    the agent to measure: the static binary that ships
  --helper PATH   bench-task, built as the agent is; default: beside the agent
  --out FILE      also write the page there
  --only NAMES    measure these groups only
  --runs N        runs per figure; default 3
  --quick         few samples, one run: under a minute
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) agent: PathBuf,
    pub(crate) helper: PathBuf,
    pub(crate) out: Option<PathBuf>,
    /// Names of groups; empty for all.
    pub(crate) only: Vec<String>,
    pub(crate) runs: usize,
    pub(crate) quick: bool,
}

impl Options {
    /// Parses the arguments, without the program's name. `None`: help was asked for.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> anyhow::Result<Option<Self>> {
        let mut words = words.into_iter();
        let (mut agent, mut helper, mut out) = (None, None, None);
        let (mut only, mut runs, mut quick) = (Vec::new(), None, false);
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--agent" => agent = Some(PathBuf::from(value()?)),
                "--helper" => helper = Some(PathBuf::from(value()?)),
                "--out" => out = Some(PathBuf::from(value()?)),
                "--only" => only.extend(value()?.split(',').map(str::to_owned)),
                "--runs" => runs = Some(value()?.parse().context("--runs needs a number")?),
                "--quick" => quick = true,
                "--help" => return Ok(None),
                other => bail!("unknown argument {other}; see --help"),
            }
        }
        let agent = agent.context("--agent is needed; see --help")?;
        let runs = runs.unwrap_or(if quick { 1 } else { 3 });
        anyhow::ensure!(runs > 0, "--runs needs at least 1");
        Ok(Some(Self {
            helper: helper.unwrap_or_else(|| agent.with_file_name("bench-task")),
            agent,
            out,
            only,
            runs,
            quick,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Option<Options>> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_helper_is_beside_the_agent_unless_it_is_said() {
        let options = parse("--agent a/b").expect("parses").expect("is no help");
        assert_eq!(options.helper, PathBuf::from("a/bench-task"));
        assert_eq!(options.runs, 3);
        let options = parse("--agent a/b --helper h --quick --only x,y")
            .expect("parses")
            .expect("is no help");
        assert_eq!(options.helper, PathBuf::from("h"));
        assert_eq!((options.runs, options.only.len()), (1, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "--agent",
            "--agent a --runs 0",
            "--agent a --runs x",
            "--agent a b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--help").expect("parses").is_none());
    }
}
