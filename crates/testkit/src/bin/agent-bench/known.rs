//! What is known beside the figures of a run: why a bar may be missed, and what others have published.

/// Beginnings of figures' names, why such a figure misses its bar, and what to try next.
const CAUSES: [(&str, &str); 9] = [
    (
        "short tasks, 64 in flight",
        "A journaling file system pays for each file that a task makes and removes, and ext4 passes over inodes that were \
         freed in the last minutes one by one: compare the rates by file system. The rest is the processor: server, launcher \
         and load generator share the cores with shims and tasks, those of the floor do not. Next: use log files again too, where a lease shows that nobody has them open.",
    ),
    (
        "short tasks one after another",
        "Each task waits for its records, one process after the other; nothing is in flight meanwhile. On ext4 its files cost \
         most of that. Next: use log files again too, where a lease shows that nobody has them open.",
    ),
    (
        "per running task",
        "A shim is a copy of the launcher: its stack, its heap, the pages that its C library has written to, and its page \
         tables. Next: a static program of its own for the shim, without a runtime, or less in the launcher before it forks.",
    ),
    (
        "create → executing",
        "Made up of the record on disk, one fork of the launcher and one of the shim. Compare the floor of the same run: where \
         that is high too, the machine was busy. Next: records of a task in one file.",
    ),
    (
        "exit → visible",
        "One record on disk and one hint to the server. Compare the floor of the same run: where that is high too, the machine \
         was busy. Next: an exit record without a rename.",
    ),
    (
        "DELETE → gone",
        "The shim ends the tree, and the directory is emptied after. Next: answer watchers before the directory is emptied.",
    ),
    (
        "getTasks",
        "One thread copies the list to each client. Next: a second thread for connections.",
    ),
    (
        "agent idle",
        "Init, server and launcher together, with all that is compiled in. Next: init without what the server needs.",
    ),
    (
        "cold start",
        "The program starts twice, as init and as server. Compare the floor of the same run. Next: the server as a fork of init.",
    ),
];

/// Why a figure may miss its bar, and what to try next.
pub(crate) fn cause(figure: &str) -> &'static str {
    let known = CAUSES.iter().find(|(name, _)| figure.starts_with(name));
    known.map_or(
        "Not looked into yet. Next: measure it alone, with `--only`, on a machine that does nothing else.",
        |(_, cause)| cause,
    )
}

/// Figures that are known of the Go agent: what, its value, and the beginning of the
/// name of this agent's figure.
pub(crate) const GO_AGENT: [(&str, &str, &str); 12] = [
    (
        "create → executing, p50",
        "3.1 ms",
        "create → executing, p50",
    ),
    (
        "create → executing, p99",
        "5.2 ms",
        "create → executing, p99",
    ),
    (
        "sidecar mode: create → executing, p50",
        "6.4 ms",
        "sidecar, shared PID namespace: create → executing, p50",
    ),
    (
        "exit → visible, p50",
        "241 ms",
        "exit → visible to a waiting client, p50",
    ),
    (
        "exit → visible, p99",
        "498 ms",
        "exit → visible to a waiting client, p99",
    ),
    (
        "DELETE → gone, p50",
        "718 ms",
        "DELETE → gone, for `sleep`, p50",
    ),
    (
        "short tasks, each awaited",
        "2/s",
        "short tasks one after another",
    ),
    (
        "short tasks, not awaited",
        "120–290/s",
        "short tasks, 64 in flight, /bin/true",
    ),
    (
        "idle, PSS",
        "9.3 MB",
        "agent idle, init, server and launcher: PSS",
    ),
    (
        "idle, private dirty",
        "1.4 MB",
        "agent idle, init, server and launcher: private dirty",
    ),
    (
        "idle, threads",
        "7",
        "agent idle, init, server and launcher: threads",
    ),
    ("cold start", "6 ms", "cold start to /health 200, p50"),
];

/// What is to be said above and below that table.
pub(crate) const GO_AGENT_HEAD: &str = "\
Not side by side: these were measured elsewhere, in another run, on a machine with 2 cores, and are repeated here as they
were published. They tell orders of magnitude, not ratios.
";

/// The same, below.
pub(crate) const GO_AGENT_TAIL: &str = "\
There, 1,000 finished tasks cost 37 ms of processor time every second.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_without_a_known_cause_says_so() {
        assert!(cause("short tasks, 64 in flight, /bin/true").contains("ext4"));
        assert!(cause("something new").starts_with("Not looked into"));
    }
}
