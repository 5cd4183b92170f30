//! Tests of the module above.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const ALL: Selection = Selection {
    streams: Streams::Stdout,
    tail_lines: None,
    since_bytes: 0,
    limit_bytes: None,
};

/// A task's directory, its end in the test's hands.
struct Task {
    dir: TempDir,
    end: Option<oneshot::Sender<()>>,
}

impl Task {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            end: None,
        }
    }

    fn with(stdout: impl AsRef<[u8]>) -> Self {
        let task = Self::new();
        task.append("stdout", stdout);
        task
    }

    fn path(&self, stream: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{stream}.log"))
    }

    fn append(&self, stream: &str, text: impl AsRef<[u8]>) -> File {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(stream))
            .unwrap();
        file.write_all(text.as_ref()).unwrap();
        file
    }

    /// Cuts the first bytes off as the log cap does: offsets stay what they were.
    fn punch(&self, stream: &str, bytes: i64) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.path(stream))
            .unwrap();
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, flags, 0, bytes).unwrap();
    }

    fn source(&mut self) -> LogSource {
        let (end, ended) = oneshot::channel();
        self.end = Some(end);
        LogSource {
            dir: self.dir.path().to_owned(),
            ended,
        }
    }

    /// Everything that a reader without `follow` gets, and where it begins.
    async fn read(&mut self, selection: Selection) -> (Vec<u8>, String) {
        let reader = Reader::open(self.source(), selection, false).await;
        let offset = reader.offset();
        let (out, mut pieces) = Out::for_tests(1);
        let mut all = Vec::new();
        let reading = async {
            while let Some(piece) = pieces.recv().await {
                assert!(piece.len() <= file::PIECE_BYTES_MAX);
                all.extend_from_slice(&piece);
            }
        };
        let (copied, ()) = tokio::join!(reader.copy_to(out), reading);
        copied.unwrap();
        (all, offset)
    }

    async fn text(&mut self, selection: Selection) -> String {
        String::from_utf8(self.read(selection).await.0).unwrap()
    }

    async fn follow(&mut self, selection: Selection) -> Followed {
        let reader = Reader::open(self.source(), selection, true).await;
        let (out, pieces) = Out::for_tests(1);
        Followed {
            pieces,
            all: Vec::new(),
            task: tokio::spawn(reader.copy_to(out)),
        }
    }
}

struct Followed {
    pieces: mpsc::Receiver<Bytes>,
    all: Vec<u8>,
    task: JoinHandle<Result<(), ReaderGone>>,
}

impl Followed {
    async fn next(&mut self) -> Option<Bytes> {
        timeout(Duration::from_secs(20), self.pieces.recv())
            .await
            .expect("it must come soon")
    }

    /// Reads until what was read ends with `end`.
    async fn until(&mut self, end: &str) {
        while !self.all.ends_with(end.as_bytes()) {
            let piece = self.next().await.expect("more");
            self.all.extend_from_slice(&piece);
        }
    }

    /// Reads to the end; gives everything.
    async fn rest(mut self) -> String {
        while let Some(piece) = self.next().await {
            self.all.extend_from_slice(&piece);
        }
        self.task.await.unwrap().unwrap();
        String::from_utf8(self.all).unwrap()
    }
}

/// Numbered lines.
fn lines(name: &str, count: usize, digits: usize) -> String {
    (0..count).fold(String::new(), |text, n| {
        text + &format!("{name} {n:0digits$}\n")
    })
}

fn tail(lines: u64) -> Selection {
    Selection {
        tail_lines: Some(lines),
        ..ALL
    }
}

#[tokio::test]
async fn a_log_is_read_as_it_is() {
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    let mut task = Task::with(&bytes);
    assert_eq!(task.read(ALL).await, (bytes, "0".to_owned()));
    assert_eq!(Task::new().read(ALL).await, (Vec::new(), "0".to_owned()));
}

#[tokio::test]
async fn the_last_lines_are_found() {
    let mut task = Task::with("one\ntwo\n\nfour");
    for (lines, text) in [
        (0, ""),
        (1, "four"),
        (2, "\nfour"),
        (3, "two\n\nfour"),
        (4, "one\ntwo\n\nfour"),
        (99, "one\ntwo\n\nfour"),
    ] {
        assert_eq!(task.text(tail(lines)).await, text, "{lines}");
    }
    let mut task = Task::with("one\ntwo\n");
    for (lines, text) in [(1, "two\n"), (2, "one\ntwo\n"), (u64::MAX, "one\ntwo\n")] {
        assert_eq!(task.text(tail(lines)).await, text, "{lines}");
    }
    for only in ["\n", "\n\n\n", "x"] {
        let mut task = Task::with(only);
        assert_eq!(task.text(tail(1)).await, &only[only.len() - 1..]);
    }
    assert_eq!(Task::with("").text(tail(3)).await, "");
}

#[tokio::test]
async fn the_last_lines_may_be_longer_than_a_piece() {
    let long = "x".repeat(3 * file::PIECE_BYTES_MAX + 17);
    let mut task = Task::with(format!("first\n{long}\nlast\n"));
    assert_eq!(task.text(tail(2)).await, format!("{long}\nlast\n"));
    // A newline right at the border of a piece.
    for shift in 0..3 {
        let text = format!("a\n{}", "y".repeat(file::PIECE_BYTES_MAX - 1 - shift));
        let mut task = Task::with(format!("{text}\n"));
        assert_eq!(task.text(tail(1)).await, format!("{}\n", &text[2..]));
    }
}

#[tokio::test]
async fn an_offset_and_a_limit_narrow_it_down() {
    let mut task = Task::with("0123456789");
    let since = |since_bytes, limit_bytes| Selection {
        since_bytes,
        limit_bytes,
        ..ALL
    };
    for (selection, text, offset) in [
        (since(4, None), "456789", "4"),
        (since(4, Some(3)), "456", "4"),
        (since(10, None), "", "10"),
        (since(99, None), "", "10"),
        (since(0, Some(0)), "", "0"),
        (since(0, Some(u64::MAX)), "0123456789", "0"),
    ] {
        assert_eq!(
            task.read(selection).await,
            (text.as_bytes().to_vec(), offset.to_owned())
        );
    }
    let mut lines = Task::with("a\nb\nc\n");
    let both = Selection {
        since_bytes: 4,
        tail_lines: Some(2),
        ..ALL
    };
    assert_eq!(lines.text(both).await, "c\n");
}

#[tokio::test]
async fn both_files_come_one_after_the_other() {
    let mut task = Task::with("out 1\nout 2\n");
    task.append("stderr", "err 1\nerr 2\n");
    let both = Selection {
        streams: Streams::Both,
        ..ALL
    };
    assert_eq!(task.text(both).await, "out 1\nout 2\nerr 1\nerr 2\n");
    let (text, offset) = task
        .read(Selection {
            tail_lines: Some(1),
            ..both
        })
        .await;
    assert_eq!(
        (text.as_slice(), offset.as_str()),
        (&b"out 2\nerr 2\n"[..], "stdout=6, stderr=6")
    );
    assert_eq!(
        task.text(Selection {
            limit_bytes: Some(14),
            ..both
        })
        .await,
        "out 1\nout 2\ner"
    );
    assert_eq!(
        task.text(Selection {
            streams: Streams::Stderr,
            ..ALL
        })
        .await,
        "err 1\nerr 2\n"
    );
}

#[tokio::test]
async fn a_punched_head_is_left_out() {
    let text = lines("line", 4000, 6);
    let mut task = Task::with(&text);
    task.punch("stdout", 16384);
    let (read, offset) = task.read(ALL).await;
    assert_eq!(
        (String::from_utf8(read).unwrap().as_str(), offset.as_str()),
        (&text[16384..], "16384")
    );
    let since = |since_bytes| Selection { since_bytes, ..ALL };
    assert_eq!(task.read(since(5)).await.1, "16384");
    assert_eq!(task.read(since(20_000)).await.1, "20000");
    assert_eq!(task.text(tail(2)).await, "line 003998\nline 003999\n");
    assert_eq!(task.text(tail(1_000_000)).await, text[16384..]);
    // Zeros that a task has written are not a hole.
    let mut zeros = Task::with([0; 10_000]);
    assert_eq!(zeros.read(ALL).await, (vec![0; 10_000], "0".to_owned()));
}

#[tokio::test]
async fn a_log_that_is_nothing_but_a_hole_is_empty() {
    let mut task = Task::with("x".repeat(8192));
    task.punch("stdout", 8192);
    assert_eq!(task.read(ALL).await, (Vec::new(), "8192".to_owned()));
    assert_eq!(task.read(tail(3)).await, (Vec::new(), "8192".to_owned()));
}

#[tokio::test]
async fn a_hole_that_is_punched_while_reading_is_left_out() {
    let mut task = Task::with("a".repeat(40_960));
    task.append("stdout", "b".repeat(8192));
    let mut followed = task.follow(ALL).await;
    let first = followed.next().await.unwrap();
    assert!(first.iter().all(|byte| *byte == b'a'));
    task.punch("stdout", 40_960);
    task.append("stdout", "end");
    followed.until("end").await;
    assert!(!followed.all.contains(&0), "a hole was read");
    drop(task.end.take());
    followed.rest().await;
}

#[tokio::test]
async fn following_ends_when_the_task_has_and_all_is_read() {
    let mut task = Task::with("one\n");
    let mut followed = task.follow(ALL).await;
    followed.until("one\n").await;
    let mut writer = task.append("stdout", "two\n");
    followed.until("two\n").await;
    writer.write_all(b"three\n").unwrap();
    drop(task.end.take());
    assert_eq!(followed.rest().await, "one\ntwo\nthree\n");
}

#[tokio::test]
async fn following_a_finished_task_reads_it_once() {
    let mut task = Task::with("all\n");
    let source = task.source();
    drop(task.end.take());
    let reader = Reader::open(source, ALL, true).await;
    let (out, mut pieces) = Out::for_tests(4);
    reader.copy_to(out).await.unwrap();
    assert_eq!(pieces.recv().await.unwrap(), "all\n");
    assert_eq!(pieces.recv().await, None);
}

#[tokio::test]
async fn following_waits_for_a_log_that_is_not_there_yet() {
    let mut task = Task::new();
    let mut followed = task
        .follow(Selection {
            streams: Streams::Both,
            ..ALL
        })
        .await;
    task.append("stderr", "err\n");
    followed.until("err\n").await;
    task.append("stdout", "out\n");
    followed.until("out\n").await;
    drop(task.end.take());
    assert_eq!(followed.rest().await, "err\nout\n");
}

#[tokio::test]
async fn following_both_keeps_lines_whole() {
    let mut task = Task::new();
    task.append("stdout", lines("out", 10_000, 1));
    task.append("stderr", lines("err", 10_000, 1));
    let followed = task
        .follow(Selection {
            streams: Streams::Both,
            ..ALL
        })
        .await;
    drop(task.end.take());
    let all = followed.rest().await;
    for name in ["out", "err"] {
        let own: String = all
            .split_inclusive('\n')
            .filter(|line| line.starts_with(name))
            .collect();
        assert!(own == lines(name, 10_000, 1), "lines of {name} were torn");
    }
    assert!(
        all.find("err 0").unwrap() < all.find("out 9999").unwrap(),
        "stderr had to wait for all of stdout"
    );
}

#[tokio::test]
async fn a_log_that_was_cut_short_goes_on_from_its_new_start() {
    let mut task = Task::with("a long first text\n");
    let mut followed = task.follow(ALL).await;
    followed.until("text\n").await;
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(task.path("stdout"))
        .unwrap();
    task.append("stdout", "new\n");
    followed.until("new\n").await;
    drop(task.end.take());
    assert_eq!(followed.rest().await, "a long first text\nnew\n");
}

#[tokio::test]
async fn following_ends_when_the_directory_is_deleted() {
    let mut task = Task::with("text\n");
    let end = task.source();
    let kept_open = task.end.take();
    let reader = Reader::open(end, ALL, true).await;
    let (out, mut pieces) = Out::for_tests(4);
    let copying = tokio::spawn(reader.copy_to(out));
    assert_eq!(pieces.recv().await.unwrap(), "text\n");
    drop(task.dir);
    timeout(Duration::from_secs(20), copying)
        .await
        .expect("it must end soon")
        .unwrap()
        .unwrap();
    drop(kept_open);
}

#[tokio::test]
async fn following_stops_at_the_limit_and_with_its_reader() {
    let mut task = Task::with("12345");
    let followed = task
        .follow(Selection {
            limit_bytes: Some(7),
            ..ALL
        })
        .await;
    task.append("stdout", "67890");
    assert_eq!(followed.rest().await, "1234567");
    let followed = task.follow(ALL).await;
    drop(followed.pieces);
    assert_eq!(followed.task.await.unwrap(), Err(ReaderGone));
}

#[tokio::test]
async fn without_a_watch_the_directory_is_polled() {
    let mut task = Task::with("one\n");
    let mut reader = Reader::open(task.source(), ALL, true).await;
    reader.follow.as_mut().unwrap().changes = Changes::of(Path::new("/nonexistent"));
    assert!(matches!(
        reader.follow.as_ref().unwrap().changes,
        Changes::Polled
    ));
    let (out, pieces) = Out::for_tests(1);
    let mut followed = Followed {
        pieces,
        all: Vec::new(),
        task: tokio::spawn(reader.copy_to(out)),
    };
    followed.until("one\n").await;
    task.append("stdout", "two\n");
    followed.until("two\n").await;
    drop(task.end.take());
    assert_eq!(followed.rest().await, "one\ntwo\n");
}

#[tokio::test]
async fn only_regular_files_are_read() {
    let mut task = Task::new();
    std::os::unix::fs::symlink("/proc/self/environ", task.path("stdout")).unwrap();
    std::fs::create_dir(task.path("stderr")).unwrap();
    assert_eq!(
        task.text(Selection {
            streams: Streams::Both,
            ..ALL
        })
        .await,
        ""
    );
    nix::unistd::mkfifo(&task.dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::rename(task.dir.path().join("fifo"), task.path("stdout")).unwrap();
    assert_eq!(task.text(ALL).await, "");
}

#[tokio::test]
async fn a_log_that_grows_all_the_time_has_an_end_without_following() {
    let mut task = Task::with("x".repeat(100_000));
    let reader = Reader::open(task.source(), ALL, false).await;
    task.append("stdout", "more");
    let (out, mut pieces) = Out::for_tests(100);
    reader.copy_to(out).await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = pieces.recv().await {
        bytes += piece.len();
    }
    assert_eq!(bytes, 100_000);
}
