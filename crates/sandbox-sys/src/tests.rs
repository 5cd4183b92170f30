//! Tests of the system call wrappers, each on the real kernel.

use std::fs::File;
use std::process::{Command, Stdio};

use super::*;

fn sleeper() -> std::process::Child {
    Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .expect("sleep starts")
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"))
}

#[test]
fn a_pidfd_signals_exactly_its_process() {
    let mut child = sleeper();
    let fd = PidFd::open(pid_of(&child)).expect("opens");
    fd.signal(libc::SIGTERM).expect("is signalled");
    let status = child.wait().expect("is reaped");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(libc::SIGTERM)
    );
    let gone = fd.signal(libc::SIGTERM).expect_err("is gone");
    assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn a_pidfd_of_nobody_is_esrch() {
    let mut child = sleeper();
    let pid = pid_of(&child);
    child.kill().expect("is killed");
    child.wait().expect("is reaped");
    assert_eq!(
        PidFd::open(pid).expect_err("is gone").raw_os_error(),
        Some(libc::ESRCH)
    );
}

#[test]
fn fork_refuses_a_process_with_threads() {
    // The test harness runs each test on a thread of its own, so this process has several.
    let refused = fork().expect_err("must refuse");
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
}

#[test]
fn an_unknown_rlimit_is_einval() {
    let refused = set_rlimit(9_999, 1, 1).expect_err("must refuse");
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn closing_from_a_number_spares_those_below() {
    let file = File::open("/proc/self/status").expect("opens");
    let number = u32::try_from(file.as_raw_fd()).expect("fits");
    // Far above anything that the other tests have open.
    close_from(1 << 20);
    assert!(file.metadata().is_ok(), "descriptor {number} is still open");
}

#[test]
fn descriptors_travel_with_a_message_and_an_end_is_seen() {
    use std::io::{Read, Seek, Write};
    let (left, right) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"hello").expect("is written");
    file.rewind().expect("rewinds");
    send_fds(left.as_fd(), b"take this", &[file.as_fd()]).expect("is sent");
    let mut buffer = [0; 64];
    let (length, fds) = receive_fds(right.as_fd(), &mut buffer).expect("is received");
    assert_eq!((&buffer[..length], fds.len()), (&b"take this"[..], 1));
    let mut text = String::new();
    let received = fds.into_iter().next().expect("one");
    std::fs::File::from(received)
        .read_to_string(&mut text)
        .expect("is readable");
    assert_eq!(text, "hello");
}

#[test]
fn code_goes_on_after_its_pages_were_given_back() {
    forget_program_pages().expect("is done");
    assert_eq!((1..=10).product::<u64>(), 3_628_800);
}

#[test]
fn a_pidfd_tells_whether_its_process_has_ended() {
    let mut child = sleeper();
    let fd = PidFd::open(pid_of(&child)).expect("opens");
    assert!(!fd.has_ended().expect("is asked"));
    child.kill().expect("is killed");
    child.wait().expect("is reaped");
    assert!(fd.has_ended().expect("is asked"));
}

/// What `/proc/thread-self/status` says of a set: tests run as threads, and capabilities are
/// a thread's.
fn held(set: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("reads");
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    u64::from_str_radix(line.expect("is there").trim_matches([':', '\t']), 16).expect("is hex")
}

#[test]
fn capabilities_can_be_given_up_and_not_taken_back() {
    let before = held("CapPrm");
    let fewer = Capabilities {
        bounding: held("CapBnd") & !1,
        permitted: before & !1,
        effective: before & !3,
        inheritable: before & 4,
        ambient: before & 4,
    };
    if before != 0 {
        fewer.limit_bounding().expect("are dropped");
        assert_eq!(held("CapBnd"), fewer.bounding);
    }
    fewer.set().expect("are set");
    assert_eq!(held("CapPrm"), fewer.permitted);
    assert_eq!(held("CapEff"), fewer.effective);
    assert_eq!(held("CapInh"), fewer.inheritable);
    assert_eq!(held("CapAmb"), fewer.ambient);
    let more = Capabilities {
        permitted: u64::MAX >> 24,
        ..fewer
    };
    let refused = more.set().expect_err("are gone");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
}
