//! Children end with their owner, and with this process.

use super::*;

/// Set for a process that is to be killed, and what its children are to sleep for.
const VICTIM: &str = "TESTKIT_KUBE_VICTIM";
const VICTIM_TEST: &str = "process::tests::a_victim_starts_children_until_it_is_killed";

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn sleeper(dir: &Path) -> Program {
    Program::new("sleep", "sleep", dir.join("log")).arg("600")
}

#[test]
fn a_dropped_child_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let running = sleeper(dir.path()).start().unwrap();
    let pid = running.pid();
    assert!(is_alive(pid));
    drop(running);
    assert!(!is_alive(pid));
}

#[test]
fn an_early_end_is_an_error_that_shows_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Program::new("ls", "ls", dir.path().join("log"))
        .arg("/not-there")
        .start()
        .unwrap();
    running.child.wait().unwrap();
    let error = running.check().unwrap_err().to_string();
    assert!(error.contains("/not-there"), "{error}");
}

#[test]
fn a_child_outlives_the_thread_that_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mut running = thread::spawn(move || sleeper(&path).start().unwrap())
        .join()
        .unwrap();
    running.check().unwrap();
    assert!(is_alive(running.pid()));
}

/// Not a test of its own: what the next test runs as another process and kills.
#[test]
fn a_victim_starts_children_until_it_is_killed() {
    let Ok(seconds) = std::env::var(VICTIM) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    loop {
        let child = Program::new("sleep", "sleep", dir.path().join("log"))
            .arg(&seconds)
            .start();
        std::mem::forget(child.unwrap());
    }
}

#[test]
fn children_end_with_their_process_at_whatever_moment_that_is_killed() {
    for round in 0..20_u32 {
        // What no other process sleeps for.
        let seconds = format!("600.{}{round:02}", std::process::id());
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", VICTIM_TEST])
            .env(VICTIM, &seconds)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("it has a child", || with_word(&seconds).first().copied());
        thread::sleep(Duration::from_micros(u64::from(round) * 700));
        victim.kill().unwrap();
        victim.wait().unwrap();
        // A child that has just been forked still looks like its parent.
        let ended =
            || (with_word(&seconds).is_empty() && with_word(VICTIM_TEST).is_empty()).then_some(());
        until("its children have ended", ended);
    }
}

/// The processes that have this word among their arguments. Those that have ended have none.
fn with_word(word: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_word = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|found| found == word.as_bytes())
    };
    pids.filter(has_word).collect()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(LOOK);
    }
}
