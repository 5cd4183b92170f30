//! Tests of the record formats: round trips, torn files, forged fields.

use proptest::prelude::*;

use super::*;

fn dir() -> (tempfile::TempDir, File) {
    let dir = tempfile::tempdir().expect("a temp dir");
    let handle = File::open(dir.path()).expect("opens");
    (dir, handle)
}

fn exit() -> ExitRecord {
    ExitRecord {
        uid: "u-1".to_owned(),
        outcome: Outcome::Ended,
        code: 137,
        signal: Some(9),
        started_at: Some(1_700_000_000),
        finished_at: 1_700_000_009,
        message: "first\n\nlast line with = and ü".to_owned(),
    }
}

fn run() -> RunRecord {
    let leader = Identity {
        boot: "b-1".to_owned(),
        pid_namespace: 4_026_531_836,
        pid: 42,
        start_ticks: 77,
    };
    RunRecord {
        uid: "u-1".to_owned(),
        leader,
        phase: Phase::Main,
        started_at: 1_700_000_000,
    }
}

#[test]
fn records_read_back_as_they_were_written() {
    assert_eq!(
        ExitRecord::decode(&exit().encode()).expect("decodes"),
        exit()
    );
    let bare = ExitRecord {
        signal: None,
        started_at: None,
        message: String::new(),
        ..exit()
    };
    assert_eq!(ExitRecord::decode(&bare.encode()).expect("decodes"), bare);
    assert_eq!(RunRecord::decode(&run().encode()).expect("decodes"), run());
    for post in [PostRecord::Started, PostRecord::Done] {
        assert_eq!(PostRecord::decode(&post.encode()).expect("decodes"), post);
    }
}

#[test]
fn an_exit_record_torn_anywhere_is_unreadable_and_never_a_success() {
    let whole = exit().encode();
    for length in 0..whole.len() {
        assert!(
            ExitRecord::decode(&whole[..length]).is_err(),
            "cut at {length}"
        );
    }
    assert!(
        ExitRecord::decode(&[0; 4096]).is_err(),
        "an untouched slot is no record"
    );
    for index in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[index] ^= 0x01;
        assert!(
            ExitRecord::decode(&flipped).is_err(),
            "bit flipped in byte {index}"
        );
    }
}

#[test]
fn a_record_of_a_newer_version_is_refused() {
    let newer = frame("run", 2, b"uid=u\n");
    let refused = RunRecord::decode(&newer)
        .expect_err("must refuse")
        .to_string();
    assert!(refused.contains("newer version"), "{refused}");
}

#[test]
fn an_exit_record_is_written_into_its_reserved_room() {
    let (_dir, handle) = dir();
    reserve(&handle, EXIT_SLOT).expect("reserves");
    assert_eq!(read(&handle, EXIT_FILE).expect("reads"), None);
    write_exit(&handle, &exit(), true).expect("writes");
    let bytes = read(&handle, EXIT_FILE).expect("reads").expect("is there");
    assert_eq!(bytes.len(), 4096);
    assert_eq!(ExitRecord::decode(&bytes).expect("decodes"), exit());
    assert!(!exists(&handle, EXIT_SLOT));
}

#[test]
fn the_longest_exit_record_fits_its_room() {
    let long = ExitRecord {
        uid: "u".repeat(64),
        message: "x".repeat(MESSAGE_BYTES_MAX),
        ..exit()
    };
    assert!(long.encode().len() < 4096);
}

#[test]
fn replacing_leaves_no_temporary_file() {
    let (dir, handle) = dir();
    replace(&handle, RUN_FILE, b"one", false).expect("writes");
    replace(&handle, RUN_FILE, b"two", true).expect("writes");
    assert_eq!(
        read(&handle, RUN_FILE).expect("reads").expect("is there"),
        b"two"
    );
    assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let (dir, handle) = dir();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join(EXIT_FILE)).expect("links");
    assert!(read(&handle, EXIT_FILE).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = RunRecord::decode(&bytes);
        let _ = ExitRecord::decode(&bytes);
        let _ = PostRecord::decode(&bytes);
    }

    #[test]
    fn any_exit_reads_back(code in any::<i32>(), signal in proptest::option::of(any::<i32>()), message in ".{0,200}") {
        let record = ExitRecord { code, signal, message, ..exit() };
        prop_assert_eq!(ExitRecord::decode(&record.encode()).expect("decodes"), record);
    }
}
